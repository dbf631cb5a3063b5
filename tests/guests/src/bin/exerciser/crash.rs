//! `test=crash`: what a VM cannot be carried on from.

use core::arch::asm;

use guest::instructions::disable_interrupts;
use guest::multiboot::Information;

use crate::check::Check;

/// A physical address where nothing is.
const NOWHERE: u64 = 0xFD00_0000;

pub(crate) fn run(multiboot: &Information, check: &mut Check<'_>) {
    let how = multiboot.option("how").unwrap_or("fetch");
    check.note("crashes", how);
    disable_interrupts();
    // SAFETY (for all): the guest does not go on from here; if it does, the test has failed.
    match how {
        "fetch" => unsafe { asm!("jmp {}", in(reg) NOWHERE) },
        "tables" => unsafe { asm!("mov cr3, {}", in(reg) NOWHERE) },
        "descriptors" => {
            let table: [u64; 2] = [NOWHERE << 16 | 0xFFF, NOWHERE >> 48];
            unsafe { asm!("lidt [{}]", "int3", in(reg) &table) }
        }
        // A locked read-modify-write of 16 bytes of nothing: no device has such registers.
        "instruction" => unsafe {
            asm!(
                "xchg rbx, {saved}", "lock cmpxchg16b [{address}]", "xchg rbx, {saved}",
                saved = inout(reg) 0u64 => _, address = in(reg) NOWHERE,
                inout("rax") 0u64 => _, inout("rdx") 0u64 => _, in("rcx") 0u64,
            )
        },
        "halt" => unsafe { asm!("cli", "hlt") },
        _ => {}
    }
    check.that("ended", false);
}
