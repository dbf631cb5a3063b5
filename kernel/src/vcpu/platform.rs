//! What a virtual CPU needs of its virtual machine, and how a virtual machine ends.

use core::fmt;

use iommu::address::HostPhysical;

use crate::memory::GuestPhysical;

/// The virtual machine as its virtual CPUs see it. Every method may be called by several virtual CPUs at once, on an
/// exit path: no allocation, no unbounded loop, no line of log for each call.
pub trait Platform: Sync {
    /// IN of `size` (1, 2 or 4) bytes. Nothing there: all ones.
    fn port_read(&self, vcpu: usize, port: u16, size: u8) -> u32;

    /// OUT of `size` (1, 2 or 4) bytes.
    fn port_write(&self, vcpu: usize, port: u16, size: u8, value: u32);

    /// A read of `size` (1, 2, 4 or 8) bytes where no RAM is and no local APIC. Nothing there: all ones.
    fn mmio_read(&self, vcpu: usize, address: GuestPhysical, size: u8) -> u64;

    /// A write of `size` (1, 2, 4 or 8) bytes where no RAM is and no local APIC.
    fn mmio_write(&self, vcpu: usize, address: GuestPhysical, size: u8, value: u64);

    /// Copies guest RAM (ROM areas included) into `into`. All of it or nothing.
    fn read_memory(&self, address: GuestPhysical, into: &mut [u8]) -> Result<(), NotMemory>;

    /// Copies `from` into guest RAM. All of it or nothing; ROM areas are not memory here.
    fn write_memory(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotMemory>;

    /// The host frame behind a page of guest RAM that can be written, for as long as the machine exists. For quick
    /// looks at the guest's code and page tables; `None` costs time, nothing else.
    fn host_page(&self, page: GuestPhysical) -> Option<HostPhysical> {
        let _ = page;
        None
    }

    /// The root of the nested page table: EPT's PML4 or SVM's nested CR3. Constant while the machine runs.
    fn nested_root(&self) -> HostPhysical;

    /// The page that the nested table shows at the local APIC's address, where the engine wants one. Constant while the
    /// machine runs.
    fn apic_access_page(&self) -> Option<HostPhysical> {
        None
    }

    /// Ends the machine. Returns at once; the virtual CPU that calls it does not enter the guest again, and the
    /// others are stopped by the implementor ([`Endpoint::request`](crate::vapic::Endpoint::request) with
    /// [`Requests::STOP`](crate::vapic::Requests::STOP)). The first reason counts.
    fn end(&self, reason: End);

    /// Lets those timers of the machine act that are due and that `vcpu` serves, and tells when it has to ask again, in
    /// nanoseconds of the host's clock. Asked whenever the virtual CPU looks for interrupts; when a deadline changes
    /// otherwise, the implementor requests [`Requests::TIMER`](crate::vapic::Requests::TIMER).
    fn timers(&self, vcpu: usize) -> Option<u64>;

    /// A virtual CPU finished a level-triggered interrupt: for the I/O APIC's remote IRR.
    fn broadcast_eoi(&self, vector: u8);

    /// The first virtual CPU acknowledges the interrupt that the 8259s asked for by
    /// [`Requests::EXTERNAL`](crate::vapic::Requests::EXTERNAL): its vector, or `None` when they ask for none any more. They request
    /// again when the next comes.
    fn acknowledge_external(&self) -> Option<u8>;

    /// A hypercall that the virtual CPU does not answer itself (see [`hypercall`](crate::vcpu::hypercall)). `None`:
    /// there is none with this number.
    fn hypercall(&self, vcpu: usize, number: u64, arguments: [u64; 3]) -> Option<u64>;

    /// A line that the guest gave by hypercall, at most 256 bytes, neither UTF-8 nor printable for certain. The
    /// implementor limits the rate.
    fn guest_line(&self, vcpu: usize, line: &[u8]);
}

/// The address is not (wholly) RAM of the virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMemory;

impl fmt::Display for NotMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the range is not wholly RAM of the virtual machine")
    }
}

impl core::error::Error for NotMemory {}

/// Why a virtual machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest asked for a reset.
    Reset(ResetCause),
    /// The guest switched itself off.
    PowerOff,
    /// The guest wrote this value to its debug-exit port.
    DebugExit(u32),
    /// The guest did what cannot be carried on from.
    Crash(CrashReason),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(cause) => write!(f, "reset by {cause}"),
            Self::PowerOff => f.write_str("powered off"),
            Self::DebugExit(value) => write!(f, "ended by its debug exit with status {value}"),
            Self::Crash(reason) => write!(f, "crashed: {reason}"),
        }
    }
}

/// How a guest asked for its reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCause {
    /// The reset register that the FADT names.
    ResetRegister,
    /// Port 0xcf9.
    ResetControl,
    /// The keyboard controller's pulse, port 0x64.
    KeyboardController,
    /// A fault while a double fault was being delivered.
    TripleFault,
}

impl fmt::Display for ResetCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ResetRegister => "its ACPI reset register",
            Self::ResetControl => "port 0xcf9",
            Self::KeyboardController => "its keyboard controller",
            Self::TripleFault => "a triple fault",
        })
    }
}

/// Bytes of the longest x86 instruction.
pub const LONGEST_INSTRUCTION: usize = 15;

/// Why a guest cannot be carried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashReason {
    /// An instruction reached a device address (or an intercept) and is not one that can be carried out here.
    Undecodable {
        /// The instruction's linear address.
        instruction: u64,
        /// Its bytes, as many as were read.
        bytes: [u8; LONGEST_INSTRUCTION],
        /// What it accessed.
        address: GuestPhysical,
    },
    /// Instruction fetch where there is no RAM.
    FetchOutsideMemory {
        /// The instruction pointer.
        instruction: u64,
        /// Where it led.
        address: GuestPhysical,
    },
    /// The guest's page tables lie where there is no RAM.
    PageTableOutsideMemory {
        /// The table entry.
        address: GuestPhysical,
    },
    /// An interrupt or exception could not be delivered because its table or stack lies where there is no RAM.
    DeliveryOutsideMemory {
        /// The vector in delivery.
        vector: u8,
        /// What it accessed.
        address: GuestPhysical,
    },
    /// Every virtual CPU halted with interrupts off, or waits for a start-up interrupt: nothing can wake them.
    HaltedForGood,
    /// The processor refused to enter the guest.
    InvalidState {
        /// The rule that the guest's state breaks.
        rule: &'static str,
    },
    /// The processor reported a machine check while the guest ran.
    MachineCheck,
    /// The processor reported an exit that was never asked for.
    UnknownExit {
        /// The vendor's code.
        code: u64,
    },
}

impl fmt::Display for CrashReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecodable { instruction, bytes, address } => {
                write!(f, "the instruction at {instruction:#x} (bytes")?;
                for byte in bytes {
                    write!(f, " {byte:02x}")?;
                }
                write!(f, ") accesses {address}, where no RAM is, in a way that cannot be emulated")
            }
            Self::FetchOutsideMemory { instruction, address } => {
                write!(f, "it executes at {instruction:#x}, which is address {address}, where no RAM is")
            }
            Self::PageTableOutsideMemory { address } => {
                write!(f, "its page tables lead to {address}, where no RAM is")
            }
            Self::DeliveryOutsideMemory { vector, address } => {
                write!(f, "delivery of vector {vector:#x} touched {address}, where no RAM is")
            }
            Self::HaltedForGood => f.write_str(
                "all of its processors have halted with interrupts off or were not started: nothing can wake them",
            ),
            Self::InvalidState { rule } => {
                write!(f, "the processor refused its state: {rule}")
            }
            Self::MachineCheck => f.write_str("the processor reported a machine check while it ran"),
            Self::UnknownExit { code } => {
                write!(f, "the processor left it with exit code {code:#x}, which was never asked for")
            }
        }
    }
}
