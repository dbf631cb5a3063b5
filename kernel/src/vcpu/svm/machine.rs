//! The instructions of SVM. In an ordinary process they are not there.

use iommu::address::HostPhysical;

use crate::vcpu::state::Registers;

#[cfg(target_os = "none")]
use crate::cpu::msr;

/// VM_CR, and its bit SVMDIS.
#[cfg(target_os = "none")]
const VM_CR: u32 = 0xc001_0114;
#[cfg(target_os = "none")]
const SVM_DISABLED: u64 = 1 << 4;
/// VM_HSAVE_PA.
#[cfg(target_os = "none")]
const HOST_SAVE: u32 = 0xc001_0117;
#[cfg(target_os = "none")]
const EFER_SVME: u64 = 1 << 12;

/// Whether firmware switched SVM off. Only where CPUID shows SVM.
pub(super) fn is_disabled_by_firmware() -> bool {
    #[cfg(target_os = "none")]
    // SAFETY: the register is there with SVM; reading it has no effect.
    return unsafe { msr::read(VM_CR) } & SVM_DISABLED != 0;
    #[cfg(not(target_os = "none"))]
    true
}

/// Switches SVM on, gives the processor its save page, and saves the host's extra state in the VMCB at `host_state`.
/// Switches on what the guest's extended state needs: FXSAVE, and XSAVE where it exists.
pub(super) fn enable(save_page: HostPhysical, host_state: HostPhysical) {
    #[cfg(target_os = "none")]
    // SAFETY: CPUID shows SVM and firmware left it on; both pages are allocated for good and used for nothing else;
    // the CR4 bits only allow instructions, and OSXSAVE is set only where CPUID shows XSAVE.
    unsafe {
        msr::write(msr::EFER, msr::read(msr::EFER) | EFER_SVME);
        msr::write(HOST_SAVE, save_page.as_u64());
        let mut cr4: u64;
        core::arch::asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
        cr4 |= 1 << 9 | 1 << 10;
        if core::arch::x86_64::__cpuid_count(1, 0).ecx & 1 << 26 != 0 {
            cr4 |= 1 << 18;
        }
        core::arch::asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
        core::arch::asm!("vmsave rax", in("rax") host_state.as_u64(), options(nostack, preserves_flags));
    }
    #[cfg(not(target_os = "none"))]
    let _ = (save_page, host_state);
}

/// Clears the global interrupt flag: neither interrupts nor NMIs come.
#[inline]
pub(super) fn hold() {
    #[cfg(target_os = "none")]
    // SAFETY: SVM is enabled where a virtual CPU is loaded; nothing depends on interrupts coming now.
    unsafe {
        core::arch::asm!("clgi", options(nostack, nomem, preserves_flags));
    }
}

/// Sets the global interrupt flag.
#[inline]
pub(super) fn release() {
    #[cfg(target_os = "none")]
    // SAFETY: as in `hold`.
    unsafe {
        core::arch::asm!("stgi", options(nostack, nomem, preserves_flags));
    }
}

/// Runs the guest until it is left, and lets the host take what waited. RAX and RSP of the guest are in its VMCB; the
/// offsets are those of [`Registers`].
///
/// Until STGI nothing interrupts this CPU: neither an interrupt nor an NMI finds the guest's FS, GS, TR or system-call
/// registers in it. VMRUN sets GIF, and as the host's IF is 1 and governs physical interrupts (V_INTR_MASKING), they
/// leave the guest.
///
/// # Safety
///
/// SVM is enabled on this CPU and `host_state` holds its extra state; `vmcb` is the physical address of a VMCB whose
/// nested page table reaches only memory of its guest; [`hold`] was called, with interrupts on.
#[inline]
pub(super) unsafe fn run(registers: &mut Registers, vmcb: u64, host_state: u64) {
    #[cfg(target_os = "none")]
    // SAFETY: the caller's promise. Every register that the guest leaves changed is saved here or declared; memory of
    // the host is reached through `registers` and the stack alone. The guest's flags do not come out.
    unsafe {
        core::arch::asm!(
            "push rbx",
            "push rbp",
            "push rdx",
            "push rdi",
            "mov rcx, [rdi + 8]",
            "mov rdx, [rdi + 16]",
            "mov rbx, [rdi + 24]",
            "mov rbp, [rdi + 40]",
            "mov rsi, [rdi + 48]",
            "mov r8, [rdi + 64]",
            "mov r9, [rdi + 72]",
            "mov r10, [rdi + 80]",
            "mov r11, [rdi + 88]",
            "mov r12, [rdi + 96]",
            "mov r13, [rdi + 104]",
            "mov r14, [rdi + 112]",
            "mov r15, [rdi + 120]",
            "mov rdi, [rdi + 56]",
            "vmload rax",
            "vmrun rax",
            "vmsave rax",
            "xchg rdi, rax",
            "pop rdi",
            "mov [rdi + 8], rcx",
            "mov [rdi + 16], rdx",
            "mov [rdi + 24], rbx",
            "mov [rdi + 40], rbp",
            "mov [rdi + 48], rsi",
            "mov [rdi + 56], rax",
            "mov [rdi + 64], r8",
            "mov [rdi + 72], r9",
            "mov [rdi + 80], r10",
            "mov [rdi + 88], r11",
            "mov [rdi + 96], r12",
            "mov [rdi + 104], r13",
            "mov [rdi + 112], r14",
            "mov [rdi + 120], r15",
            "pop rax",
            "vmload rax",
            "stgi",
            "pop rbp",
            "pop rbx",
            inout("rax") vmcb => _,
            inout("rdi") core::ptr::from_mut(registers) => _,
            inout("rdx") host_state => _,
            out("rcx") _, out("rsi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    #[cfg(not(target_os = "none"))]
    let _ = (registers, vmcb, host_state);
}
