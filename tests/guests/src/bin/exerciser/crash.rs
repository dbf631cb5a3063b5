//! `test=crash`: what a VM cannot be carried on from.

use core::arch::asm;

use guest::instructions::disable_interrupts;
use guest::multiboot::Information;

use crate::check::Check;

/// A physical address where nothing is.
const NOWHERE: u64 = 0xFD00_0000;

/// Executes what the guest is not to survive.
macro_rules! execute {
    ($($code:tt)*) => {
        // SAFETY: the guest does not go on from here; if it does, the test has failed.
        unsafe { asm!($($code)*) }
    };
}

pub(crate) fn run(multiboot: &Information, check: &mut Check<'_>) {
    let how = multiboot.option("how").unwrap_or("fetch");
    check.note("crashes", how);
    disable_interrupts();
    match how {
        "fetch" => execute!("jmp {}", in(reg) NOWHERE),
        "tables" => execute!("mov cr3, {}", in(reg) NOWHERE),
        "descriptors" => {
            let table: [u64; 2] = [NOWHERE << 16 | 0xFFF, NOWHERE >> 48];
            execute!("lidt [{}]", "int3", in(reg) &table)
        }
        // A locked read-modify-write of 16 bytes of nothing: no device has such registers.
        "instruction" => execute!(
            "xchg rbx, {saved}", "lock cmpxchg16b [{address}]", "xchg rbx, {saved}",
            saved = inout(reg) 0u64 => _, address = in(reg) NOWHERE,
            inout("rax") 0u64 => _, inout("rdx") 0u64 => _, in("rcx") 0u64,
        ),
        "halt" => execute!("cli", "hlt"),
        _ => {}
    }
    check.that("ended", false);
}
