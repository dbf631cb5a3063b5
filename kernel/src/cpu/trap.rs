//! Where exceptions and interrupts enter: one stub a vector, one common path, one dispatcher.

use core::sync::atomic::Ordering;

use super::{apic, current, fault, timer, vectors};

pub(super) const NON_MASKABLE: u8 = 2;
pub(super) const DOUBLE_FAULT: u8 = 8;
pub(super) const GENERAL_PROTECTION: u8 = 13;
pub(super) const PAGE_FAULT: u8 = 14;
pub(super) const MACHINE_CHECK: u8 = 18;

/// What the stubs and the processor push, lowest address first.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub(crate) struct TrapFrame {
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rbp: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) rbx: u64,
    pub(crate) rax: u64,
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

/// Bytes from one stub to the next.
#[cfg(target_os = "none")]
const STUB: u64 = 16;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    // The vectors 8, 10 to 14, 17, 21, 29 and 30 come with an error code (SDM volume 3 table 6-1; AMD64 manual volume
    // 2 table 8-2); the others get a 0 in its place.
    ".section .text.trap, \"ax\"",
    ".balign 16",
    ".globl trap_stubs",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)",
    "pushq $0",
    ".endif",
    "pushq $vector",
    "jmp trap_common",
    ".set vector, vector + 1",
    ".endr",
    ".balign 16",
    "trap_common:",
    "pushq %rax",
    "pushq %rbx",
    "pushq %rcx",
    "pushq %rdx",
    "pushq %rsi",
    "pushq %rdi",
    "pushq %rbp",
    "pushq %r8",
    "pushq %r9",
    "pushq %r10",
    "pushq %r11",
    "pushq %r12",
    "pushq %r13",
    "pushq %r14",
    "pushq %r15",
    "cld",
    "movq %rsp, %rdi",
    // The processor aligned the stack to 16 before it pushed; 22 words keep it so.
    "call {dispatch}",
    "popq %r15",
    "popq %r14",
    "popq %r13",
    "popq %r12",
    "popq %r11",
    "popq %r10",
    "popq %r9",
    "popq %r8",
    "popq %rbp",
    "popq %rdi",
    "popq %rsi",
    "popq %rdx",
    "popq %rcx",
    "popq %rbx",
    "popq %rax",
    "addq $16, %rsp",
    "iretq",
    ".text",
    dispatch = sym dispatch,
    options(att_syntax)
);

#[cfg(target_os = "none")]
unsafe extern "C" {
    static trap_stubs: u8;
}

/// Where the stub of a vector begins.
#[cfg(target_os = "none")]
pub(super) fn entry(vector: u8) -> u64 {
    (&raw const trap_stubs).expose_provenance() as u64 + STUB * u64::from(vector)
}

/// An ordinary process has no stubs.
#[cfg(not(target_os = "none"))]
pub(super) fn entry(_: u8) -> u64 {
    0
}

/// What every stub ends in, with interrupts off.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "only the stubs call it"))]
extern "C" fn dispatch(frame: &mut TrapFrame) {
    match frame.vector as u8 {
        NON_MASKABLE => fault::non_maskable(frame),
        0..=31 => fault::exception(frame),
        vector => interrupt(vector),
    }
}

/// An interrupt came, through its gate or acknowledged by the processor as it left a guest. Interrupts are off.
pub(super) fn interrupt(vector: u8) {
    match vector {
        vectors::SPURIOUS => {}
        vectors::TIMER => {
            timer::fired();
            apic::end_of_interrupt();
        }
        vectors::KICK | vectors::NOTIFICATION => apic::end_of_interrupt(),
        vectors::WAKE_UP => {
            vectors::wake_up();
            apic::end_of_interrupt();
        }
        vectors::APIC_ERROR => {
            apic::note_error();
            apic::end_of_interrupt();
        }
        _ => {
            if !current().slots.run(vector) {
                current().unexpected.fetch_add(1, Ordering::Relaxed);
            }
            // The 8259s' spurious interrupts and others that the local APIC did not deliver have no EOI.
            if apic::is_in_service(vector) {
                apic::end_of_interrupt();
            }
        }
    }
}
