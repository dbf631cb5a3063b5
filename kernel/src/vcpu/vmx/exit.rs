//! VMX's exit reasons in the words of all engines (SDM volume 3 appendix C and section 28.2).

use super::field::{Field32, Field64, FieldNatural};
use super::machine::Failed;
use super::vmcs::Kept;
use super::{BLOCKED_BY_NMI, Vmx, check, machine};
use crate::cpu;
use crate::memory::GuestPhysical;
use crate::vapic::APIC_BASE;
use crate::vcpu::engine::{Exit, NestedFault, PortAccess};
use crate::vcpu::state::{Event, Exception, Register, SystemRegister};

/// Basic exit reasons that are looked for by name.
const EXCEPTION: u16 = 0;
pub(super) const EXTERNAL_INTERRUPT: u16 = 1;
const TASK_SWITCH: u16 = 9;
pub(super) const CPUID: u16 = 10;
pub(super) const HALT: u16 = 12;
pub(super) const VMCALL: u16 = 18;
pub(super) const PORT: u16 = 30;
pub(super) const READ_MSR: u16 = 31;
pub(super) const WRITE_MSR: u16 = 32;
const APIC_ACCESS: u16 = 44;
pub(super) const EPT_VIOLATION: u16 = 48;
const EPT_MISCONFIGURATION: u16 = 49;
pub(super) const APIC_WRITE: u16 = 56;
/// No reason: the processor did not enter.
const NOT_ENTERED: u16 = u16::MAX;

/// ExitReason: the entry failed when the guest's state was loaded.
const FAILED: u32 = 1 << 31;
/// Interruption information (exit, IDT-vectoring): valid; with an error code; NMIs were unblocked by IRET; the type.
const VALID: u32 = 1 << 31;
const HAS_ERROR: u32 = 1 << 11;
const UNBLOCKED: u32 = 1 << 12;
const TYPE: u32 = 7 << 8;
const TYPE_EXTERNAL: u32 = 0;
const TYPE_NMI: u32 = 2 << 8;
const TYPE_HARDWARE: u32 = 3 << 8;
const TYPE_PRIVILEGED: u32 = 5 << 8;

/// Bits of an EPT violation's qualification.
mod violation {
    pub(super) const WRITE: u64 = 1 << 1;
    pub(super) const FETCH: u64 = 1 << 2;
    pub(super) const HAS_LINEAR: u64 = 1 << 7;
    pub(super) const OF_TRANSLATED: u64 = 1 << 8;
    pub(super) const UNBLOCKED: u64 = 1 << 12;
}

/// Bits of an I/O instruction's qualification.
mod port {
    pub(super) const INPUT: u64 = 1 << 3;
    pub(super) const STRING: u64 = 1 << 4;
    pub(super) const REPEAT: u64 = 1 << 5;
}

/// Why the guest was left, as far as it was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left {
    /// The basic exit reason.
    pub(super) reason: u16,
    /// The entry failed.
    failed: bool,
    /// The exit's interruption information, for an exception.
    information: u32,
    /// What was being delivered: IDT-vectoring information; 0: nothing.
    vectoring: u32,
}

impl Left {
    /// Whether the VMCS holds the length of the instruction that was the reason.
    pub(super) const fn tells_length(&self) -> bool {
        matches!(self.reason, 10..=13 | 15 | 16 | VMCALL..=32 | 36 | 39 | 50 | 51 | 53..=55 | 57..=61)
    }

    /// Whether the exit may have interrupted the delivery of an event: others do not, or have none to tell of.
    const fn may_interrupt_delivery(&self) -> bool {
        matches!(self.reason, EXCEPTION | TASK_SWITCH | APIC_ACCESS | EPT_VIOLATION | EPT_MISCONFIGURATION)
    }

    /// Whether handlers may need RSP: not for those instructions that have no memory operand, nor for what is the
    /// host's.
    const fn concerns_stack(&self) -> bool {
        !matches!(
            self.reason,
            EXTERNAL_INTERRUPT
                | 7
                | 8
                | CPUID
                | HALT
                | PORT
                | VMCALL
                | READ_MSR
                | WRITE_MSR
                | 43
                | 45
                | 52
                | APIC_WRITE
        )
    }

    /// The vector whose delivery was interrupted.
    fn delivering(&self) -> Option<u8> {
        (self.vectoring & VALID != 0).then_some(self.vectoring as u8)
    }
}

impl Vmx {
    /// The guest was left, or not entered: what cannot wait is done, with interrupts off.
    #[inline]
    pub(super) fn leave(&mut self, entered: Result<(), Failed>) {
        if entered.is_err() {
            return self.not_entered();
        }
        let reason = self.vmcs.read(Field32::ExitReason);
        self.left = Left { reason: reason as u16, failed: reason & FAILED != 0, information: 0, vectoring: 0 };
        if self.left.failed {
            return;
        }
        self.launched = true;
        match self.left.reason {
            EXTERNAL_INTERRUPT => {
                let information = self.vmcs.read(Field32::ExitInterruption);
                if information & VALID != 0 {
                    cpu::vectors::handle_acknowledged(information as u8);
                }
            }
            EXCEPTION => {
                self.left.information = self.vmcs.read(Field32::ExitInterruption);
                if self.left.information & TYPE == TYPE_NMI {
                    machine::handle_nmi();
                }
            }
            _ => {}
        }
        if self.left.may_interrupt_delivery() {
            self.left.vectoring = self.vmcs.read(Field32::IdtVectoring);
            if self.left.vectoring & VALID != 0 {
                self.deliver_again();
            }
        }
    }

    #[cold]
    fn not_entered(&mut self) {
        self.left = Left { reason: NOT_ENTERED, failed: true, ..Left::default() };
    }

    /// An event's delivery was interrupted: it is delivered again, but for those that come from an instruction, which is
    /// executed again.
    #[cold]
    fn deliver_again(&mut self) {
        let vectoring = self.left.vectoring;
        let vector = vectoring as u8;
        self.injection = match vectoring & TYPE {
            TYPE_EXTERNAL => Some(Event::Interrupt(vector)),
            TYPE_NMI => Some(Event::NonMaskable),
            TYPE_HARDWARE => {
                let error = (vectoring & HAS_ERROR != 0).then(|| self.vmcs.read(Field32::IdtVectoringErrorCode));
                Some(Event::Exception(Exception { vector, error }))
            }
            _ => None,
        };
    }

    /// The exit came from an IRET that had unblocked NMIs and is executed again: it finds them blocked.
    fn block_non_maskable_again(&self) {
        if self.left.vectoring & VALID == 0 {
            let blocked = self.part(Kept::Interruptibility);
            self.state.set(Kept::Interruptibility, blocked | BLOCKED_BY_NMI);
        }
    }

    /// Why the guest was left.
    pub(super) fn decode_exit(&mut self) -> Exit {
        if self.left.failed {
            return self.decode_failure();
        }
        if self.left.concerns_stack() {
            self.stack_pointer = self.vmcs.read(FieldNatural::GuestRsp);
            self.registers.set(Register::Rsp, self.stack_pointer);
        }
        match self.left.reason {
            EXCEPTION => self.decode_exception(),
            EXTERNAL_INTERRUPT => Exit::Interrupt,
            2 => Exit::Shutdown,
            // INIT, start-up, SMI.
            3..=6 => Exit::HostEvent,
            7 | 43 => Exit::InterruptWindow,
            8 => Exit::NonMaskableWindow,
            CPUID => Exit::Cpuid,
            HALT => Exit::Halt,
            13 | 54 => Exit::CacheInvalidate,
            15 => Exit::Counter,
            VMCALL => Exit::Hypercall,
            // GETSEC, VMX's own instructions, MWAIT, MONITOR, INVEPT, INVVPID, VMFUNC, ENCLS, ENCLV.
            11 | 19..=27 | 36 | 39 | 50 | 53 | 59 | 60 | 70 => Exit::Undefined,
            28 => Exit::ControlWrite,
            29 => Exit::DebugWrite,
            PORT => {
                let qualification = self.vmcs.read(FieldNatural::ExitQualification);
                let string = qualification & port::STRING != 0;
                if string {
                    self.stack_pointer = self.vmcs.read(FieldNatural::GuestRsp);
                    self.registers.set(Register::Rsp, self.stack_pointer);
                }
                Exit::Port(PortAccess {
                    port: (qualification >> 16) as u16,
                    size: (qualification & 7) as u8 + 1,
                    input: qualification & port::INPUT != 0,
                    string,
                    repeat: qualification & port::REPEAT != 0,
                })
            }
            READ_MSR => Exit::ReadMsr,
            WRITE_MSR => Exit::WriteMsr,
            41 => Exit::MachineCheck,
            APIC_ACCESS => self.decode_apic_access(),
            45 => Exit::EndOfInterrupt(self.vmcs.read(FieldNatural::ExitQualification) as u8),
            EPT_VIOLATION => self.decode_violation(),
            EPT_MISCONFIGURATION => {
                let address = self.vmcs.read(Field64::GuestPhysicalAddress);
                log::error!(
                    "the extended page tables are misconfigured at guest address {address:#x}; this is a defect of Postern"
                );
                Exit::Invalid("an entry of the extended page tables is not one")
            }
            52 => Exit::TimeSlice,
            55 => Exit::SetExtendedControl,
            APIC_WRITE => {
                let offset = self.vmcs.read(FieldNatural::ExitQualification) as u32 & 0xff0;
                Exit::ApicWrite { offset, value: self.apic_page.get(offset) }
            }
            reason => Exit::Unknown(reason.into()),
        }
    }

    fn decode_exception(&mut self) -> Exit {
        const DEBUG: u8 = 1;
        const DOUBLE_FAULT: u8 = 8;
        const ALIGNMENT: u8 = 17;
        const MACHINE_CHECK: u8 = 18;
        let information = self.left.information;
        let vector = information as u8;
        if information & TYPE == TYPE_NMI {
            return Exit::HostEvent;
        }
        if information & UNBLOCKED != 0 && vector != DOUBLE_FAULT {
            self.block_non_maskable_again();
        }
        match vector {
            DEBUG => {
                self.take_debug_state();
                if information & TYPE == TYPE_PRIVILEGED {
                    // INT1 is a trap: it is over.
                    let length = u64::from(self.vmcs.read(Field32::InstructionLength));
                    let pointer = self.part(Kept::Rip);
                    self.state.set(Kept::Rip, pointer.wrapping_add(length));
                }
                Exit::Exception(Exception::DEBUG)
            }
            ALIGNMENT => Exit::Exception(Exception::ALIGNMENT),
            MACHINE_CHECK => Exit::MachineCheck,
            vector => Exit::Unknown(u64::from(vector) << 32),
        }
    }

    /// A debug exception's exit leaves DR6 and DR7 as they were: they get here what its delivery would have put there
    /// (SDM volume 3 sections 18.2.3 and 28.1).
    fn take_debug_state(&mut self) {
        /// Breakpoints, register access, single step, task switch.
        const DR6_CAUSES: u64 = 0xe00f;
        const DR6_STEP: u64 = 1 << 14;
        const DR7_GENERAL_DETECT: u64 = 1 << 13;
        use crate::vcpu::engine::VcpuEngine;
        let causes = self.vmcs.read(FieldNatural::ExitQualification) & DR6_CAUSES;
        if causes & DR6_STEP != 0 {
            self.traced.set(true);
        }
        let dr6 = self.system(SystemRegister::Dr6);
        self.set_system(SystemRegister::Dr6, dr6 & !0xf | causes);
        let dr7 = self.part(Kept::Dr7);
        if dr7 & DR7_GENERAL_DETECT != 0 {
            self.state.set(Kept::Dr7, dr7 & !DR7_GENERAL_DETECT);
        }
    }

    fn decode_violation(&mut self) -> Exit {
        let qualification = self.vmcs.read(FieldNatural::ExitQualification);
        if qualification & violation::UNBLOCKED != 0 {
            self.block_non_maskable_again();
        }
        Exit::Nested(NestedFault {
            address: GuestPhysical::new(self.vmcs.read(Field64::GuestPhysicalAddress)),
            write: qualification & violation::WRITE != 0,
            fetch: qualification & violation::FETCH != 0,
            walk: qualification & (violation::HAS_LINEAR | violation::OF_TRANSLATED) == violation::HAS_LINEAR,
            delivering: self.left.delivering(),
        })
    }

    /// An access to the local APIC's page that the processor does not carry out.
    fn decode_apic_access(&mut self) -> Exit {
        let qualification = self.vmcs.read(FieldNatural::ExitQualification);
        let kind = qualification >> 12 & 0xf;
        Exit::Nested(NestedFault {
            address: GuestPhysical::new(APIC_BASE + (qualification & 0xfff)),
            write: kind == 1,
            fetch: kind == 2,
            walk: false,
            delivering: self.left.delivering(),
        })
    }

    /// The processor refused the guest: every rule that the VMCS breaks is said.
    #[cold]
    fn decode_failure(&mut self) -> Exit {
        let error =
            if self.left.reason == NOT_ENTERED { Some(self.vmcs.read(Field32::InstructionError)) } else { None };
        let refused = self.vmcs.take_refused();
        match error {
            Some(error) => log::error!(
                "the processor refused to enter a guest: VM-instruction error {error}, {}",
                check::instruction_error(error)
            ),
            None => log::error!(
                "the processor refused a guest's state: exit reason {}, qualification {:#x}",
                self.left.reason,
                self.vmcs.read(FieldNatural::ExitQualification)
            ),
        }
        if let Some(field) = refused {
            log::error!("VMWRITE of field {field:#x} failed; this is a defect of Postern");
        }
        let mut first = None;
        let surroundings =
            check::Surroundings { capabilities: &self.common.capabilities, physical_bits: check::physical_bits() };
        check::broken(&self.vmcs, &surroundings, &mut |broken| {
            log::error!("  {broken}");
            first.get_or_insert(broken.rule);
        });
        Exit::Invalid(first.unwrap_or("a rule that is not known here"))
    }
}
