//! The instructions of VMX (SDM volume 3 chapter 31), each of which tells by its flags whether it failed.

use iommu::address::HostPhysical;

use crate::vcpu::state::Registers;

/// A VMX instruction failed: CF or ZF came back set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

/// INVEPT's and INVVPID's types that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Scope {
    /// One table, or one guest.
    One = 1,
    /// All of them.
    All = 2,
}

#[cfg(target_os = "none")]
mod silicon {
    use core::arch::asm;

    use super::{Failed, Scope};

    fn result(failed: u8) -> Result<(), Failed> {
        if failed == 0 { Ok(()) } else { Err(Failed) }
    }

    macro_rules! on_pointer {
        ($name:ident, $instruction:literal, $safety:literal) => {
            #[doc = concat!("# Safety\n\n", $safety)]
            pub(in super::super) unsafe fn $name(page: u64) -> Result<(), Failed> {
                let failed: u8;
                // SAFETY: the caller's promise.
                unsafe {
                    asm!(concat!($instruction, " [{}]"), "setbe {}", in(reg) &raw const page, out(reg_byte) failed,
                        options(nostack));
                }
                result(failed)
            }
        };
    }

    on_pointer!(enter_operation, "vmxon", "CR4.VMXE is set and the page is this CPU's VMXON region for good.");
    on_pointer!(clear, "vmclear", "VMX is on, and the page is a VMCS that no other CPU holds.");
    on_pointer!(make_current, "vmptrld", "VMX is on, and the page is a VMCS that no other CPU holds.");

    /// VMREAD of the current VMCS; 0 where the field does not exist.
    #[inline]
    pub(in super::super) fn read(encoding: u32) -> u64 {
        let value: u64;
        // SAFETY: reads a field of the current VMCS; without one, the instruction only fails.
        unsafe {
            asm!("xor {value:e}, {value:e}", "vmread {value}, {field}", value = out(reg) value,
                field = in(reg) u64::from(encoding), options(nostack));
        }
        value
    }

    /// VMWRITE to the current VMCS.
    ///
    /// # Safety
    ///
    /// What the field then says keeps the guest away from everything but its own.
    #[inline]
    pub(in super::super) unsafe fn write(encoding: u32, value: u64) -> Result<(), Failed> {
        let failed: u8;
        // SAFETY: the caller's promise; without a current VMCS the instruction only fails.
        unsafe {
            asm!("vmwrite {}, {}", "setbe {}", in(reg) u64::from(encoding), in(reg) value, out(reg_byte) failed,
                options(nostack));
        }
        result(failed)
    }

    /// Forgets translations by extended page tables.
    pub(in super::super) fn invalidate_tables(scope: Scope, pointer: u64) -> Result<(), Failed> {
        let operand = [pointer, 0];
        let failed: u8;
        // SAFETY: VMX is on where engines run; forgetting translations breaks nothing.
        unsafe {
            asm!("invept {}, [{}]", "setbe {}", in(reg) scope as u64, in(reg) &raw const operand,
                out(reg_byte) failed, options(nostack));
        }
        result(failed)
    }

    /// Forgets translations of guests.
    pub(in super::super) fn invalidate_guests(scope: Scope, vpid: u16) -> Result<(), Failed> {
        let operand = [u64::from(vpid), 0];
        let failed: u8;
        // SAFETY: as in `invalidate_tables`.
        unsafe {
            asm!("invvpid {}, [{}]", "setbe {}", in(reg) scope as u64, in(reg) &raw const operand,
                out(reg_byte) failed, options(nostack));
        }
        result(failed)
    }

    /// Runs NMI's handler, which ends with the IRET that lets the next one come.
    pub(in super::super) fn handle_nmi() {
        // SAFETY: vector 2 has a gate with a stack of its own, and its handler returns here.
        unsafe { asm!("int 2") }
    }
}

#[cfg(target_os = "none")]
pub(super) use silicon::{
    clear, enter_operation, handle_nmi, invalidate_guests, invalidate_tables, make_current, read, write,
};

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".section .text.vmx_run, \"ax\"",
    ".globl vmx_run, vmx_left",
    // rdi: the guest's general registers; esi: not 0 where the VMCS was launched; rdx: what HOST_RSP holds.
    "vmx_run:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    // The stack is the same from one entry to the next mostly.
    "cmp rsp, [rdx]",
    "je 2f",
    "mov [rdx], rsp",
    "mov ecx, 0x6c14",
    "vmwrite rcx, rsp",
    "jbe 4f",
    "2:",
    "test esi, esi",
    // MOV leaves the flags alone.
    "mov rax, [rdi]",
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
    "jz 3f",
    "vmresume",
    "jmp 4f",
    "3:",
    "vmlaunch",
    // Not entered.
    "4:",
    "mov eax, 1",
    "pop rdi",
    "jmp 5f",
    // HOST_RIP. RSP is what it was behind the pushes.
    "vmx_left:",
    "xchg rdi, [rsp]",
    "mov [rdi], rax",
    "mov [rdi + 8], rcx",
    "mov [rdi + 16], rdx",
    "mov [rdi + 24], rbx",
    "mov [rdi + 40], rbp",
    "mov [rdi + 48], rsi",
    "pop rax",
    "mov [rdi + 56], rax",
    "mov [rdi + 64], r8",
    "mov [rdi + 72], r9",
    "mov [rdi + 80], r10",
    "mov [rdi + 88], r11",
    "mov [rdi + 96], r12",
    "mov [rdi + 104], r13",
    "mov [rdi + 112], r14",
    "mov [rdi + 120], r15",
    "xor eax, eax",
    "5:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    ".text",
);

#[cfg(target_os = "none")]
unsafe extern "C" {
    fn vmx_run(registers: *mut Registers, launched: u32, host_stack: *mut u64) -> u32;
    static vmx_left: u8;
}

/// Where the processor goes on when a guest is left.
pub(super) fn landing() -> u64 {
    #[cfg(target_os = "none")]
    return (&raw const vmx_left).expose_provenance() as u64;
    #[cfg(not(target_os = "none"))]
    0
}

/// Runs the guest until it is left; all of its general registers but RSP come from and go to `registers`.
/// `host_stack` is what HOST_RSP holds, and is kept up to date.
///
/// # Errors
///
/// The processor refused to enter: the current VMCS says why.
///
/// # Safety
///
/// The current VMCS is this guest's, names [`landing`] and the host's own state of this CPU, and lets the guest reach
/// nothing but its own; interrupts are off.
#[inline]
pub(super) unsafe fn run(registers: &mut Registers, launched: bool, host_stack: &mut u64) -> Result<(), Failed> {
    #[cfg(target_os = "none")]
    {
        // SAFETY: the caller's promise; the function keeps the registers that the calling convention keeps.
        let failed = unsafe { vmx_run(registers, launched.into(), host_stack) };
        if failed == 0 { Ok(()) } else { Err(Failed) }
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = (registers, launched, host_stack);
        Err(Failed)
    }
}

#[cfg(not(target_os = "none"))]
pub(super) mod pretended {
    //! In an ordinary process there is no VMX; in a test, a VMCS is a map.

    use super::{Failed, Scope};

    #[cfg(test)]
    std::thread_local! {
        static FIELDS: core::cell::RefCell<std::collections::BTreeMap<u32, u64>> =
            const { core::cell::RefCell::new(std::collections::BTreeMap::new()) };
    }

    pub(in super::super) unsafe fn enter_operation(_: u64) -> Result<(), Failed> {
        Err(Failed)
    }
    pub(in super::super) unsafe fn clear(_: u64) -> Result<(), Failed> {
        Ok(())
    }
    pub(in super::super) unsafe fn make_current(_: u64) -> Result<(), Failed> {
        Ok(())
    }
    #[cfg(test)]
    pub(in super::super) fn read(encoding: u32) -> u64 {
        FIELDS.with_borrow(|fields| fields.get(&encoding).copied().unwrap_or(0))
    }
    #[cfg(not(test))]
    pub(in super::super) fn read(_: u32) -> u64 {
        0
    }
    #[cfg(test)]
    pub(in super::super) unsafe fn write(encoding: u32, value: u64) -> Result<(), Failed> {
        FIELDS.with_borrow_mut(|fields| fields.insert(encoding, value));
        Ok(())
    }
    #[cfg(not(test))]
    pub(in super::super) unsafe fn write(_: u32, _: u64) -> Result<(), Failed> {
        Err(Failed)
    }
    pub(in super::super) fn invalidate_tables(_: Scope, _: u64) -> Result<(), Failed> {
        Ok(())
    }
    pub(in super::super) fn invalidate_guests(_: Scope, _: u16) -> Result<(), Failed> {
        Ok(())
    }
    pub(in super::super) fn handle_nmi() {}
}

#[cfg(not(target_os = "none"))]
pub(super) use pretended::{
    clear, enter_operation, handle_nmi, invalidate_guests, invalidate_tables, make_current, read, write,
};

/// CR2 and DR6, which no entry or exit switches, and the registers of SYSCALL and SWAPGS, which the hypervisor does not
/// use: a loaded guest's stay in the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resident {
    pub(super) cr2: u64,
    pub(super) dr6: u64,
    /// STAR, LSTAR, CSTAR, SFMASK, KernelGSBase.
    pub(super) calls: [u64; 5],
}

/// The numbers of [`Resident::calls`].
#[cfg(target_os = "none")]
const CALLS: [u32; 5] = [0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102];

#[cfg(target_os = "none")]
impl Resident {
    /// Takes them out of this processor.
    pub(super) fn take(&mut self) {
        self.cr2 = cr2();
        self.dr6 = dr6();
        for (value, number) in self.calls.iter_mut().zip(CALLS) {
            // SAFETY: the registers are on every processor with long mode; reading them has no effect.
            *value = unsafe { crate::cpu::msr::read(number) };
        }
    }

    /// Puts them into this processor.
    pub(super) fn put(&self) {
        set_cr2(self.cr2);
        set_dr6(self.dr6);
        for (at, _) in CALLS.iter().enumerate() {
            self.put_call(at);
        }
    }

    /// Puts one of [`calls`](Self::calls) into this processor.
    pub(super) fn put_call(&self, at: usize) {
        if let (Some(number), Some(value)) = (CALLS.get(at), self.calls.get(at)) {
            // SAFETY: the hypervisor has no use for these registers. The values are canonical where they are addresses:
            // they came from the processor or were checked by whoever set them.
            unsafe { crate::cpu::msr::write(*number, *value) };
        }
    }

    /// One of [`calls`](Self::calls), as this processor has it.
    pub(super) fn call(at: usize) -> u64 {
        // SAFETY: as in `take`.
        CALLS.get(at).map_or(0, |number| unsafe { crate::cpu::msr::read(*number) })
    }
}

#[cfg(target_os = "none")]
macro_rules! moves {
    ($get:ident, $set:ident, $register:literal) => {
        pub(super) fn $get() -> u64 {
            let value: u64;
            // SAFETY: reads a register.
            unsafe {
                core::arch::asm!(concat!("mov {}, ", $register), out(reg) value, options(nomem, nostack));
            }
            value
        }

        pub(super) fn $set(value: u64) {
            // SAFETY: the hypervisor keeps nothing in the register, and the callers' values are valid for it.
            unsafe {
                core::arch::asm!(concat!("mov ", $register, ", {}"), in(reg) value, options(nomem, nostack));
            }
        }
    };
}

#[cfg(target_os = "none")]
moves!(cr2, set_cr2, "cr2");
#[cfg(target_os = "none")]
moves!(dr6, set_dr6, "dr6");

/// The address of a structure's page as the instructions take it.
pub(super) const fn pointer(page: HostPhysical) -> u64 {
    page.as_u64()
}
