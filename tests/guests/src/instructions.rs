//! Single instructions with names.

use core::arch::asm;

/// IN of a byte.
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: the guest owns its machine, and a port read changes none of Rust's memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// IN of 16 bits.
pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: as for `in8`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// IN of 32 bits.
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as for `in8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// OUT of a byte.
pub fn out8(port: u16, value: u8) {
    // SAFETY: the guest owns its machine; DMA that a device begins goes where the caller told that device.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

/// OUT of 16 bits.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as for `out8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) }
}

/// OUT of 32 bits.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as for `out8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

/// RDMSR. Raises #GP for a register that does not exist: see [`crate::fault::attempt`].
pub fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading a register changes nothing of Rust's.
    unsafe { asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack)) }
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR.
///
/// # Safety
///
/// The register's new value must leave the code, stack and data of the guest where they are.
pub unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: what the value does is the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    }
}

/// CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Whether this is a VM of Postern, by the signature of the hypervisor's CPUID leaf.
pub fn in_postern() -> bool {
    let [_, b, c, d] = cpuid(0x4000_0000, 0);
    [b, c, d].map(u32::to_le_bytes).as_flattened().starts_with(b"Postern")
}

/// The time-stamp counter.
pub fn time_stamp() -> u64 {
    // SAFETY: RDTSC only reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Lets interrupts in.
pub fn enable_interrupts() {
    // SAFETY: `interrupts::load` came first, and its handlers touch only atomics of their own.
    unsafe { asm!("sti", options(nostack)) }
}

/// Keeps interrupts out.
pub fn disable_interrupts() {
    // SAFETY: holding interrupts back breaks nothing.
    unsafe { asm!("cli", options(nostack)) }
}

/// Lets interrupts in and waits for one, without a gap between the two. Interrupts are off again afterwards.
pub fn wait_for_interrupt() {
    // SAFETY: as for `enable_interrupts`; STI takes effect after HLT has begun.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// A short pause in a loop.
pub fn pause() {
    core::hint::spin_loop();
}
