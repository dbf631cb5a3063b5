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
