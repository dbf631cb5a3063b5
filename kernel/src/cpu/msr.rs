//! Model-specific registers: their names, and access to them.

/// IA32_APIC_BASE: where the local APIC is, and its mode.
pub const APIC_BASE: u32 = 0x1b;
/// IA32_PAT: the memory types that page tables choose from.
pub const PAT: u32 = 0x277;
/// IA32_TSC_DEADLINE: the TSC value at which the local APIC's timer fires.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// The first register of the local APIC in x2APIC mode; register at xAPIC offset `n` is `X2APIC + n / 16`.
pub const X2APIC: u32 = 0x800;
/// IA32_XAPIC_DISABLE_STATUS: bit 0 set where x2APIC mode is locked.
pub const XAPIC_DISABLE_STATUS: u32 = 0xbd;
/// IA32_ARCH_CAPABILITIES; bit 21 set where [`XAPIC_DISABLE_STATUS`] is there.
pub const ARCH_CAPABILITIES: u32 = 0x10a;
/// IA32_EFER: long mode, no-execute, SVM.
pub const EFER: u32 = 0xc000_0080;
/// IA32_GS_BASE: where this CPU's [`PerCpu`](super::PerCpu) lies.
pub const GS_BASE: u32 = 0xc000_0101;

/// Reads a register.
///
/// # Safety
///
/// The register exists on this processor (else #GP), and reading it has no effect that breaks somebody's invariant.
pub unsafe fn read(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a register.
///
/// # Safety
///
/// The register exists and takes this value (else #GP), and what the value does breaks nobody's invariant.
pub unsafe fn write(register: u32, value: u64) {
    // SAFETY: the caller's promise. Memory is clobbered: some registers change what memory accesses mean.
    unsafe {
        core::arch::asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

#[cfg(target_os = "none")]
core::arch::global_asm!(
    // A read that may raise #GP: `recover` then goes on at `msr_probe_failed`.
    ".section .text.msr_probe, \"ax\"",
    ".globl msr_probe, msr_probe_read, msr_probe_failed",
    "msr_probe:",
    "mov ecx, edi",
    "msr_probe_read:",
    "rdmsr",
    "mov [rsi], eax",
    "mov [rsi + 4], edx",
    "mov eax, 1",
    "ret",
    "msr_probe_failed:",
    "xor eax, eax",
    "ret",
    ".text",
);

#[cfg(target_os = "none")]
unsafe extern "C" {
    fn msr_probe(register: u32, value: &mut u64) -> u32;
    static msr_probe_read: u8;
    static msr_probe_failed: u8;
}

/// Reads a register that may not exist; `None` where the processor raises #GP.
#[cfg(target_os = "none")]
pub fn probe(register: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: the function follows the calling convention; a #GP of its read ends in `recover`. Reading a model-specific
    // register has no side effect on the registers that the manuals name.
    let there = unsafe { msr_probe(register, &mut value) };
    (there != 0).then_some(value)
}

/// An ordinary process has no such registers.
#[cfg(not(target_os = "none"))]
pub fn probe(_: u32) -> Option<u64> {
    None
}

/// Whether this #GP came from [`probe`]; then execution goes on behind it.
#[cfg(target_os = "none")]
pub(super) fn recover(frame: &mut super::trap::TrapFrame) -> bool {
    let foreseen = frame.rip == (&raw const msr_probe_read).addr() as u64;
    if foreseen {
        frame.rip = (&raw const msr_probe_failed).addr() as u64;
    }
    foreseen
}

/// An ordinary process has no exceptions to recover from.
#[cfg(not(target_os = "none"))]
pub(super) fn recover(_: &mut super::trap::TrapFrame) -> bool {
    false
}
