//! The page in which another CPU starts: from 16-bit real mode straight to 64-bit mode (SDM volume 3 sections 8.4 and
//! 10.8.5).

use core::mem::offset_of;

/// What the code in the page needs, written by the boot CPU before each start.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parameters {
    /// Empty, 64-bit code.
    descriptors: [u64; 2],
    /// For LGDT: limit, linear address.
    table_limit: u16,
    table_low: u16,
    table_high: u16,
    /// For the far jump: offset, selector.
    code_low: u16,
    code_high: u16,
    code_selector: u16,
    /// CR3, below 4 GiB.
    root: u32,
    /// RSP in 64-bit mode.
    stack: u64,
    /// Where to go, with `argument` in RDI.
    entry: u64,
    argument: u64,
}

/// Where they lie in the page.
const PARAMETERS: usize = 0xf00;

const _: () = {
    assert!(PARAMETERS + size_of::<Parameters>() <= 4096);
    assert!(offset_of!(Parameters, table_limit) == 16);
    assert!(offset_of!(Parameters, code_low) == 22);
    assert!(offset_of!(Parameters, root) == 28);
};

/// A descriptor of 64-bit code, present, ring 0.
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const CODE_SELECTOR: u16 = 8;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".section .rodata.start_page, \"a\"",
    ".balign 16",
    ".globl start_page_begin, start_page_64, start_page_end",
    "start_page_begin:",
    ".code16",
    "cli",
    "cld",
    "movw %cs, %ax",
    "movw %ax, %ds",
    // The page's linear address, for the 64-bit part.
    "xorl %ebx, %ebx",
    "movw %cs, %bx",
    "shll $4, %ebx",
    // CR4: PAE. The rest follows in Rust.
    "movl $0x20, %eax",
    "movl %eax, %cr4",
    "movl {root}, %eax",
    "movl %eax, %cr3",
    // EFER: long mode, execute-disable.
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "orl $0x900, %eax",
    "wrmsr",
    // CR0: paging, write protection, numeric error, extension type, monitor coprocessor, protection.
    "movl $0x80010033, %eax",
    "movl %eax, %cr0",
    "lgdtl {table}",
    "ljmpl *{code}",
    ".code64",
    "start_page_64:",
    "movq {stack}(%rbx), %rsp",
    "movq {argument}(%rbx), %rdi",
    "movq {entry}(%rbx), %rax",
    "xorl %ebp, %ebp",
    "xorl %ecx, %ecx",
    "movl %ecx, %ds",
    "movl %ecx, %es",
    "movl %ecx, %ss",
    // A call: the entry finds the stack as the calling convention has it. It does not return.
    "callq *%rax",
    "ud2",
    "start_page_end:",
    ".text",
    root = const PARAMETERS + offset_of!(Parameters, root),
    table = const PARAMETERS + offset_of!(Parameters, table_limit),
    code = const PARAMETERS + offset_of!(Parameters, code_low),
    stack = const PARAMETERS + offset_of!(Parameters, stack),
    argument = const PARAMETERS + offset_of!(Parameters, argument),
    entry = const PARAMETERS + offset_of!(Parameters, entry),
    options(att_syntax)
);

#[cfg(target_os = "none")]
unsafe extern "C" {
    static start_page_begin: u8;
    static start_page_64: u8;
    static start_page_end: u8;
}

/// The code, and where its 64-bit part begins in it.
#[cfg(target_os = "none")]
fn code() -> (&'static [u8], usize) {
    let begin = &raw const start_page_begin;
    let length = (&raw const start_page_end).addr() - begin.addr();
    // SAFETY: the symbols bound the code above, which is constant.
    let bytes = unsafe { core::slice::from_raw_parts(begin, length) };
    (bytes, (&raw const start_page_64).addr() - begin.addr())
}

/// An ordinary process starts no CPUs.
#[cfg(not(target_os = "none"))]
fn code() -> (&'static [u8], usize) {
    (&[], 0)
}

/// Where and how a CPU is to go on in 64-bit mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// CR3.
    pub(super) root: u32,
    /// The stack's end, a multiple of 16.
    pub(super) stack: u64,
    /// An `extern "C"` function that does not return.
    pub(super) entry: u64,
    /// Its argument.
    pub(super) argument: u64,
}

/// Fills the page, which will run at the linear address `address`.
pub(super) fn fill(page: &mut [u8; 4096], address: u32, start: &Start) {
    let (code, long) = code();
    let table = address + PARAMETERS as u32;
    let entry = address + long as u32;
    let parameters = Parameters {
        descriptors: [0, CODE_DESCRIPTOR],
        table_limit: 15,
        table_low: table as u16,
        table_high: (table >> 16) as u16,
        code_low: entry as u16,
        code_high: (entry >> 16) as u16,
        code_selector: CODE_SELECTOR,
        root: start.root,
        stack: start.stack,
        entry: start.entry,
        argument: start.argument,
    };
    let (front, back) = page.split_at_mut(PARAMETERS);
    if let Some(place) = front.get_mut(..code.len()) {
        place.copy_from_slice(code);
    }
    let place = back.as_mut_ptr().cast::<Parameters>();
    // SAFETY: the page holds the parameters behind `PARAMETERS`, asserted above.
    unsafe { place.write_unaligned(parameters) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_where_to_go() {
        let mut page = [0; 4096];
        let start = Start { root: 0x1234_5000, stack: 0xffff_f800_0000_0010, entry: 0xabcd, argument: 77 };
        fill(&mut page, 0x8_9000, &start);
        let word = |offset: usize, size: usize| {
            let mut bytes = [0; 8];
            bytes[..size].copy_from_slice(&page[PARAMETERS + offset..PARAMETERS + offset + size]);
            u64::from_le_bytes(bytes)
        };
        assert_eq!(word(8, 8), CODE_DESCRIPTOR);
        assert_eq!((word(16, 2), word(18, 4)), (15, 0x8_9f00), "LGDT's operand");
        assert_eq!((word(22, 4), word(26, 2)), (0x8_9000, 8), "the far jump's");
        assert_eq!((word(28, 4), word(32, 8), word(40, 8), word(48, 8)), (0x1234_5000, start.stack, 0xabcd, 77));
    }
}
