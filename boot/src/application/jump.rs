//! The last step: from firmware's address space into the kernel's.
//!
//! The code that changes CR3 must lie at the same address before and after, and the new address space has no code of
//! the loader in it. So a few instructions are copied to a page of their own, the trampoline, which both spaces map
//! executable at its physical address.

use core::arch::{asm, global_asm};
use core::convert::Infallible;
use core::{ptr, slice};

use handoff::Handoff;
use loader::PAGE_SIZE;
use uefi::boot::MemoryType;

use super::error::BootError;
use super::memory::Pages;

// RDI: the new CR3, RSI: the stack's end, RDX: the kernel's entry, RCX: the handoff. Position independent.
global_asm!(
    ".global postern_trampoline_start",
    ".global postern_trampoline_end",
    "postern_trampoline_start:",
    "mov cr3, rdi",
    "mov rsp, rsi",
    "mov rdi, rcx",
    "xor ebp, ebp",
    // The return address that a called function expects: there is none.
    "push 0",
    "jmp rdx",
    "postern_trampoline_end:",
);

unsafe extern "C" {
    static postern_trampoline_start: u8;
    static postern_trampoline_end: u8;
}

const EFER: u32 = 0xC000_0080;
const EFER_NO_EXECUTE: u32 = 1 << 11;
const CR0_WRITE_PROTECT: u64 = 1 << 16;

/// The page with the code that changes CR3.
pub(super) struct Trampoline(Pages);

impl Trampoline {
    /// Copies the code to a page of its own, below 4 GiB and executable for firmware's page tables too.
    pub(super) fn prepare() -> Result<Self, BootError> {
        let start = &raw const postern_trampoline_start;
        // SAFETY: both symbols stand around the code above, in this order, in one section.
        let code =
            unsafe { slice::from_raw_parts(start, (&raw const postern_trampoline_end).offset_from_unsigned(start)) };
        let mut page = Pages::allocate_low(
            MemoryType::LOADER_CODE,
            PAGE_SIZE as usize,
            BootError::memory_for("the last instructions of the loader"),
        )?;
        if let Some(target) = page.bytes_mut().get_mut(..code.len()) {
            target.copy_from_slice(code);
        }
        Ok(Self(page))
    }

    /// Where it is.
    pub(super) fn page(&self) -> u64 {
        self.0.range().address
    }
}

/// Jumps. The boot services have ended, `root` maps all of RAM, the trampoline and the kernel, and `entry` is the
/// kernel's entry point.
pub(super) fn to_kernel(
    trampoline: Trampoline,
    root: u64,
    stack: Pages,
    entry: u64,
    handoff: &'static Handoff,
) -> Result<Infallible, BootError> {
    let stack = stack.range();
    let stack_end = stack.address.saturating_add(stack.length) / 16 * 16;
    // SAFETY: interrupts are off from here on, so firmware's handlers are not missed when its memory is reused. NX was
    // found in CPUID, and write protection of read-only pages is what the kernel's tables are made for. The
    // trampoline's code is the one above, its page is mapped executable in both address spaces, and it does not return.
    unsafe {
        asm!("cli", options(nomem, nostack));
        asm!(
            "rdmsr", "or eax, {bit}", "wrmsr",
            bit = const EFER_NO_EXECUTE, in("ecx") EFER, out("eax") _, out("edx") _, options(nostack)
        );
        let mut cr0: u64;
        asm!("mov {}, cr0", out(reg) cr0, options(nomem, nostack, preserves_flags));
        cr0 |= CR0_WRITE_PROTECT;
        asm!("mov cr0, {}", in(reg) cr0, options(nostack, preserves_flags));
        asm!(
            "jmp {code}",
            code = in(reg) trampoline.page(),
            in("rdi") root,
            in("rsi") stack_end,
            in("rdx") entry,
            in("rcx") ptr::from_ref(handoff),
            options(noreturn)
        );
    }
}
