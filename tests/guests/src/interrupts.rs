//! Interrupts and exceptions: a table of 256 gates that count, and a way back from exceptions that were expected.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::instructions::out8;

/// How often each vector came, on all processors.
static COUNTS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];
/// The APIC id of the processor that took each vector last.
static LAST: [AtomicU32; 256] = [const { AtomicU32::new(u32::MAX) }; 256];

/// The first of the 16 vectors that the 8259s give; 0: they give none.
static LEGACY: AtomicU8 = AtomicU8::new(0);

/// The 8259s give 16 vectors from here on: their ends of interrupt go to them.
pub(crate) fn expect_legacy(base: u8) {
    LEGACY.store(base, Ordering::SeqCst);
}

/// How often a vector came since the start.
pub fn count(vector: u8) -> u32 {
    COUNTS.get(usize::from(vector)).map_or(0, |count| count.load(Ordering::SeqCst))
}

/// The local APIC id of the processor that took a vector last.
pub fn last_taken_by(vector: u8) -> Option<u32> {
    LAST.get(usize::from(vector)).map(|last| last.load(Ordering::SeqCst)).filter(|last| *last != u32::MAX)
}

/// What the processor and the stubs leave on the stack.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    registers: [u64; 15],
    /// The vector.
    pub vector: u64,
    /// The error code, or 0.
    pub error: u64,
    /// Where the processor was.
    pub rip: u64,
    cs: u64,
    /// Its flags.
    pub rflags: u64,
    /// Its stack pointer.
    pub rsp: u64,
    ss: u64,
}

/// Masks the two 8259 controllers: their vectors are those of exceptions, and the guests use none of their lines.
pub fn mask_legacy() {
    out8(0x21, 0xFF);
    out8(0xA1, 0xFF);
}

#[cfg(target_os = "none")]
pub use table::load;

/// Loads the table on this processor.
#[cfg(not(target_os = "none"))]
pub fn load() {}

#[cfg(target_os = "none")]
mod table {
    use core::arch::{asm, global_asm};
    use core::sync::atomic::Ordering;

    use super::{COUNTS, Frame, LAST, LEGACY};
    use crate::{apic, fault, legacy, println};

    // A stub for each vector, 16 bytes apart: they leave vector and error code and go to the common part.
    global_asm!(
        r#"
        .section .text
        .balign 16
        .global interrupt_stubs
        interrupt_stubs:
        .set vector, 0
        .rept 256
        .balign 16
        .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
        .else
        push 0
        .endif
        push vector
        jmp interrupt_common
        .set vector, vector + 1
        .endr

        interrupt_common:
        push rax
        push rcx
        push rdx
        push rbx
        push rbp
        push rsi
        push rdi
        push r8
        push r9
        push r10
        push r11
        push r12
        push r13
        push r14
        push r15
        cld
        mov rdi, rsp
        mov rbp, rsp
        and rsp, -16
        call interrupt_taken
        mov rsp, rbp
        pop r15
        pop r14
        pop r13
        pop r12
        pop r11
        pop r10
        pop r9
        pop r8
        pop rdi
        pop rsi
        pop rbp
        pop rbx
        pop rdx
        pop rcx
        pop rax
        add rsp, 16
        iretq
    "#
    );

    unsafe extern "C" {
        static interrupt_stubs: u8;
    }

    #[repr(C, align(16))]
    struct Table(core::cell::UnsafeCell<[[u64; 2]; 256]>);

    // SAFETY: every processor writes the same values.
    unsafe impl Sync for Table {}

    static TABLE: Table = Table(core::cell::UnsafeCell::new([[0; 2]; 256]));

    /// Loads the table on this processor.
    pub fn load() {
        let stubs = (&raw const interrupt_stubs) as u64;
        for vector in 0..256 {
            let stub = stubs + vector * 16;
            // Selector 8, interrupt gate, present.
            let low = stub & 0xFFFF | 8 << 16 | 0x8E00 << 32 | (stub >> 16 & 0xFFFF) << 48;
            // SAFETY: in bounds; every processor writes the same.
            unsafe { TABLE.0.get().cast::<[u64; 2]>().add(vector as usize).write([low, stub >> 32]) };
        }
        #[repr(C, packed)]
        struct Pointer(u16, u64);
        let pointer = Pointer(4095, TABLE.0.get() as u64);
        // SAFETY: the table is static and complete.
        unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) };
    }

    #[unsafe(no_mangle)]
    extern "sysv64" fn interrupt_taken(frame: &mut Frame) {
        let vector = frame.vector as u8;
        let base = LEGACY.load(Ordering::SeqCst);
        if let (Some(count), Some(last)) = (COUNTS.get(usize::from(vector)), LAST.get(usize::from(vector))) {
            last.store(apic::id(), Ordering::SeqCst);
            count.fetch_add(1, Ordering::SeqCst);
        }
        match vector {
            // NMI.
            2 => {}
            0..32 => {
                if !fault::recover(frame) {
                    println!(
                        "result exception={vector} error={:#x} rip={:#x} address={:#x}",
                        frame.error,
                        frame.rip,
                        fault::address()
                    );
                    crate::power::exit(1);
                }
            }
            apic::SPURIOUS => {}
            _ if base != 0 && vector >> 4 == base >> 4 => legacy::end_of_interrupt(vector - base),
            _ => apic::end_of_interrupt(),
        }
    }
}
