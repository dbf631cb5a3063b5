//! The two sides of a vendor's engine: how it enters a guest, and what it says when the guest is left.

use iommu::address::HostPhysical;
use iommu::interrupt::posted::PostedInterruptDescriptor;

use super::state::{Event, Registers, Segment, SegmentName, SystemRegister, bits};
use crate::memory::GuestPhysical;
use crate::vapic::LocalApic;

/// Why the guest was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// CPUID.
    Cpuid,
    /// VMMCALL or VMCALL.
    Hypercall,
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// HLT.
    Halt,
    /// An I/O instruction.
    Port(PortAccess),
    /// An access that the nested page table does not allow.
    Nested(NestedFault),
    /// A physical interrupt; the host has handled it by now.
    Interrupt,
    /// A physical NMI, SMI or INIT; the host has handled it by now.
    HostEvent,
    /// The guest can take the interrupt for which the window was opened.
    InterruptWindow,
    /// The guest is about to execute IRET while NMIs are blocked.
    InterruptReturn,
    /// INVD or WBINVD.
    CacheInvalidate,
    /// A write of CR0 or CR4, or LMSW or CLTS.
    ControlWrite,
    /// A write to a control register of bits that this processor does not allow.
    ControlFault,
    /// A write of a debug register.
    DebugWrite,
    /// XSETBV.
    SetExtendedControl,
    /// An instruction that the guest's processor does not have.
    Undefined,
    /// RDPMC: there are no counters.
    Counter,
    /// An exception that was not delivered. A page fault's address is in CR2.
    Exception(super::state::Exception),
    /// A machine check.
    MachineCheck,
    /// A triple fault.
    Shutdown,
    /// The processor refused the state: which rule is broken.
    Invalid(&'static str),
    /// A code that was not asked for.
    Unknown(u64),
    /// The guest has returned from its last NMI.
    NonMaskableWindow,
    /// The processor put this value into a register of the local APIC that does more than hold it.
    ApicWrite {
        /// The register's offset in xAPIC mode.
        offset: u32,
        /// What was written.
        value: u32,
    },
    /// The processor ended an interrupt of this vector, of which others have to be told.
    EndOfInterrupt(u8),
    /// The guest's time slice is over.
    TimeSlice,
}

/// How many kinds of [`Exit`] there are.
pub const EXIT_KINDS: usize = 27;

impl Exit {
    /// The kind's number, below [`EXIT_KINDS`].
    #[inline]
    pub const fn kind(&self) -> usize {
        match self {
            Self::Cpuid => 0,
            Self::Hypercall => 1,
            Self::ReadMsr => 2,
            Self::WriteMsr => 3,
            Self::Halt => 4,
            Self::Port(_) => 5,
            Self::Nested(_) => 6,
            Self::Interrupt => 7,
            Self::HostEvent => 8,
            Self::InterruptWindow => 9,
            Self::InterruptReturn => 10,
            Self::CacheInvalidate => 11,
            Self::ControlWrite => 12,
            Self::DebugWrite => 13,
            Self::SetExtendedControl => 14,
            Self::Undefined => 15,
            Self::Counter => 16,
            Self::Exception(_) => 17,
            Self::MachineCheck => 18,
            Self::Shutdown => 19,
            Self::Invalid(_) => 20,
            Self::Unknown(_) => 21,
            Self::ControlFault => 22,
            Self::NonMaskableWindow => 23,
            Self::ApicWrite { .. } => 24,
            Self::EndOfInterrupt(_) => 25,
            Self::TimeSlice => 26,
        }
    }

    /// The name of the kind with this number.
    pub const KIND_NAMES: [&'static str; EXIT_KINDS] = [
        "cpuid",
        "hypercall",
        "rdmsr",
        "wrmsr",
        "hlt",
        "port",
        "nested fault",
        "interrupt",
        "host event",
        "interrupt window",
        "iret",
        "cache",
        "control register",
        "debug register",
        "xsetbv",
        "undefined",
        "rdpmc",
        "exception",
        "machine check",
        "shutdown",
        "invalid state",
        "unknown",
        "control fault",
        "nmi window",
        "apic write",
        "end of interrupt",
        "time slice",
    ];
}

/// An I/O instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// The first port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub repeat: bool,
}

/// An access that the nested page table does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedFault {
    /// What was accessed.
    pub address: GuestPhysical,
    /// It was a write (page-table walks count as writes).
    pub write: bool,
    /// It was an instruction fetch.
    pub fetch: bool,
    /// It was the walk of the guest's own page tables.
    pub walk: bool,
    /// It happened while this vector was being delivered, by an event or by an instruction.
    pub delivering: Option<u8>,
}

/// The exits that guests cause most, told apart before anything else is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuickExit {
    /// [`Exit::Cpuid`].
    Cpuid,
    /// [`Exit::Hypercall`].
    Hypercall,
    /// [`Exit::ReadMsr`].
    ReadMsr,
}

/// One vendor's way to run a guest. The engine holds the state of one virtual CPU; a call is a few loads and stores,
/// only `enter` runs the guest.
pub trait VcpuEngine {
    /// All state as after a processor's reset, real mode at 0xFFFF_FFF0.
    fn reset(&mut self);

    /// The general-purpose registers.
    fn registers(&self) -> &Registers;
    /// The general-purpose registers.
    fn registers_mut(&mut self) -> &mut Registers;
    /// RIP.
    fn instruction_pointer(&self) -> u64;
    /// Sets RIP.
    fn set_instruction_pointer(&mut self, address: u64);
    /// RFLAGS.
    fn flags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_flags(&mut self, flags: u64);
    /// Whether the instruction that exited ends with RF or TF set, as far as the engine looks.
    #[inline]
    fn may_be_traced(&self) -> bool {
        self.flags() & (bits::FLAGS_TF | bits::FLAGS_RF) != 0
    }
    /// Another register.
    fn system(&self, register: SystemRegister) -> u64;
    /// Sets another register. Values are checked by the caller.
    fn set_system(&mut self, register: SystemRegister, value: u64);
    /// Whether the four entries that CR3 leads to have to be given where paging has them in the processor: it does not
    /// load them itself when a control register is written for the guest.
    fn wants_page_pointers(&self) -> bool {
        false
    }
    /// Sets those entries.
    fn set_page_pointers(&mut self, _: [u64; 4]) {}
    /// A segment or table register.
    fn segment(&self, name: SegmentName) -> Segment;
    /// Sets a segment or table register.
    fn set_segment(&mut self, name: SegmentName, segment: Segment);
    /// The current privilege level, 0 to 3.
    fn privilege(&self) -> u8;
    /// Sets the current privilege level.
    fn set_privilege(&mut self, level: u8);

    /// The address behind the instruction that exited, where the processor tells it.
    fn next_instruction(&self) -> Option<u64>;
    /// Whether STI or MOV SS holds interrupts back for one instruction.
    fn has_interrupt_shadow(&self) -> bool;
    /// Ends the interrupt shadow: the instruction behind it was carried out.
    fn end_interrupt_shadow(&mut self);
    /// Delivers an event with the next entry. Replaces an event that was to be delivered.
    fn inject(&mut self, event: Event);
    /// What will be delivered with the next entry. After [`enter`](Self::enter): an event whose delivery the exit
    /// interrupted, which is delivered again.
    fn injected(&self) -> Option<Event>;
    /// Leave the guest with [`Exit::InterruptWindow`] as soon as it could take an interrupt of this vector's class;
    /// `None`: do not.
    fn open_window(&mut self, vector: Option<u8>);
    /// Leave the guest with [`Exit::InterruptWindow`] as soon as it takes interrupts at all, whatever CR8 says. Until the
    /// next [`open_window`](Self::open_window).
    fn open_external_window(&mut self);
    /// Leave the guest with [`Exit::InterruptReturn`] before it executes IRET, or with [`Exit::NonMaskableWindow`] when it
    /// has returned from its NMI.
    fn watch_interrupt_return(&mut self, watch: bool);
    /// Leave the guest with [`Exit::Exception`] for every exception before it is delivered. Only asked of engines that
    /// report [`Exit::InterruptReturn`].
    fn watch_exceptions(&mut self, _watch: bool) {}

    /// Whether the processor delivers interrupts by itself, out of the local APIC's registers that
    /// [`give_interrupts`](Self::give_interrupts) gave it.
    fn delivers_interrupts(&self) -> bool {
        false
    }
    /// Brings the local APIC up to date with what the processor did since the last entry.
    fn take_interrupts(&mut self, _: &mut LocalApic) {}
    /// Brings the processor up to date with the local APIC, before the next entry.
    fn give_interrupts(&mut self, _: &LocalApic) {}
    /// Where interrupts for this virtual CPU are posted. It stays where it is while the virtual CPU is loaded.
    fn set_mailbox(&mut self, _: &PostedInterruptDescriptor) {}
    /// The page behind the local APIC's address, by which the processor knows accesses to it.
    fn set_apic_access(&mut self, _: Option<HostPhysical>) {}

    /// The nested page table that the guest runs on.
    fn set_nested_root(&mut self, root: HostPhysical);
    /// Forget every translation of this guest before the next entry.
    fn flush_translations(&mut self);
    /// What is added to the time-stamp counter that the guest reads.
    fn timestamp_offset(&self) -> u64;
    /// Sets what is added to the time-stamp counter.
    fn set_timestamp_offset(&mut self, offset: u64);

    /// This host CPU takes the guest over. Between `load` and [`unload`](Self::unload) the caller stays on this CPU.
    ///
    /// # Errors
    ///
    /// Why this host CPU cannot run guests.
    fn load(&mut self) -> Result<(), &'static str>;
    /// This host CPU lets the guest go.
    fn unload(&mut self);

    /// What is to be delivered and what the guest is to be left for is chosen. Unless something else comes up,
    /// [`hold`](Self::hold) and [`enter`](Self::enter) follow, and if it does, [`release`](Self::release).
    fn prepare(&mut self) {}
    /// Holds interrupts back on this host CPU until [`enter`](Self::enter) or [`release`](Self::release): what was
    /// looked at in between cannot change unseen, because its kick waits and makes the guest be left at once.
    fn hold(&mut self);
    /// Lets interrupts come again without entering.
    fn release(&mut self);
    /// Runs the guest until it is left. Between [`hold`](Self::hold) and this nothing else happens. Returns with
    /// interrupts on, after the host has handled those that came.
    fn enter(&mut self);
    /// Why the guest was left, if it is one of those.
    fn quick_exit(&self) -> Option<QuickExit>;
    /// Why the guest was left.
    fn exit(&mut self) -> Exit;
}
