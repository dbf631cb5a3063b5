//! SVM's exit codes in the words of all engines (APM volume 2 appendix C).

use super::Svm;
use super::rules;
use super::vmcb::event;
use crate::memory::GuestPhysical;
use crate::vcpu::engine::{Exit, NestedFault, PortAccess};
use crate::vcpu::state::Exception;

/// Bits of EXITINFO1 for a nested page fault.
mod nested {
    pub(super) const WRITE: u64 = 1 << 1;
    pub(super) const FETCH: u64 = 1 << 4;
    pub(super) const IN_WALK: u64 = 1 << 33;
}

/// Bits of EXITINFO1 for an I/O instruction.
mod port {
    pub(super) const INPUT: u64 = 1 << 0;
    pub(super) const STRING: u64 = 1 << 2;
    pub(super) const REPEAT: u64 = 1 << 3;
}

/// The codes that are looked for on the quick way.
pub(super) const CPUID: u64 = 0x72;
pub(super) const VMMCALL: u64 = 0x81;
pub(super) const MSR: u64 = 0x7c;
/// An I/O instruction.
pub(super) const PORT: u64 = 0x7b;

/// #PF; EXITINFO2 is its address.
pub(super) const PAGE_FAULT: u64 = 0x4e;
/// The exceptions with an error code, which is EXITINFO1 (APM volume 2 table 8-2).
const HAVE_ERRORS: u32 = 1 << 8 | 0x1f << 10 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

/// VMEXIT_INVALID is -1; the emulator stores it as 32 bits.
const INVALID: u32 = u32::MAX;

impl Svm {
    /// Why the guest was left.
    pub(super) fn decode_exit(&self) -> Exit {
        let control = &self.vmcb().control;
        let (code, first, second) = (control.exit_code, control.exit_first, control.exit_second);
        match code as u32 {
            0x72 => Exit::Cpuid,
            0x81 => Exit::Hypercall,
            0x7c if first & 1 == 0 => Exit::ReadMsr,
            0x7c => Exit::WriteMsr,
            0x78 => Exit::Halt,
            0x7b => {
                // The emulator leaves out the address-size and segment bits: string instructions are decoded instead.
                Exit::Port(PortAccess {
                    port: (first >> 16) as u16,
                    // Bits 6:4 are 32, 16 and 8 bits.
                    size: (first >> 4 & 7) as u8,
                    input: first & port::INPUT != 0,
                    string: first & port::STRING != 0,
                    repeat: first & port::REPEAT != 0,
                })
            }
            0x400 => Exit::Nested(NestedFault {
                address: GuestPhysical::new(second),
                write: first & nested::WRITE != 0,
                fetch: first & nested::FETCH != 0,
                walk: first & nested::IN_WALK != 0,
                delivering: (control.exit_delivery & event::VALID != 0).then_some(control.exit_delivery as u8),
            }),
            0x60 => Exit::Interrupt,
            0x61..=0x63 => Exit::HostEvent,
            0x64 => Exit::InterruptWindow,
            0x74 => Exit::InterruptReturn,
            0x76 | 0x89 => Exit::CacheInvalidate,
            // CR0 by the selective intercept, CR4, and CR8 while an interrupt waits for it.
            0x65 | 0x10 | 0x14 | 0x18 => Exit::ControlWrite,
            0x34..=0x37 => Exit::DebugWrite,
            0x8d => Exit::SetExtendedControl,
            0x6f => Exit::Counter,
            // RSM, INVLPGA, SVM's own instructions, MONITOR, MWAIT, RDPRU.
            0x73 | 0x7a | 0x80 | 0x82..=0x86 | 0x8a..=0x8c | 0x8e => Exit::Undefined,
            0x52 => Exit::MachineCheck,
            0x40..=0x5f => {
                let vector = code as u8 & 0x1f;
                let error = HAVE_ERRORS & 1 << vector != 0;
                Exit::Exception(Exception { vector, error: error.then_some(first as u32) })
            }
            0x7f => Exit::Shutdown,
            INVALID => match rules::broken(self.vmcb()) {
                Some(rule) => Exit::Invalid(rule),
                // The emulator leaves the guest for reserved bits in CR3 where silicon raises #GP.
                None => Exit::ControlFault,
            },
            _ => Exit::Unknown(code),
        }
    }
}
