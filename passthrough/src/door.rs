//! The narrow door to the machine: everything that this crate asks of whoever runs it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use iommu::address::{HostPhysical, Iova, PciAddress, SourceId};
pub use iommu::door::Clock;

use crate::errno::Errno;

/// The configuration space of one function. Offsets are in bytes and naturally aligned; an access at or past
/// [`size`](Self::size) reads all ones and writes nothing, as a function that does not answer does.
pub trait ConfigurationSpace {
    /// 256 bytes, or 4096 where the extended space can be reached.
    fn size(&self) -> u16;
    /// One 1-byte read.
    fn read_u8(&self, offset: u16) -> u8;
    /// One 2-byte read.
    fn read_u16(&self, offset: u16) -> u16;
    /// One 4-byte read.
    fn read_u32(&self, offset: u16) -> u32;
    /// One 1-byte write.
    fn write_u8(&self, offset: u16, value: u8);
    /// One 2-byte write.
    fn write_u16(&self, offset: u16, value: u16);
    /// One 4-byte write.
    fn write_u32(&self, offset: u16, value: u32);
}

/// The width of one access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Word,
    /// 4 bytes.
    Double,
    /// 8 bytes.
    Quad,
}

impl Width {
    /// The width of so many bytes: 1, 2, 4 or 8.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Double),
            8 => Some(Self::Quad),
            _ => None,
        }
    }

    /// Its bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Double => 4,
            Self::Quad => 8,
        }
    }
}

/// The memory and I/O windows of one function: what its BARs decode, at the host's addresses. `bar` is 0 to 5, or 6
/// for the expansion ROM; `offset` is inside the window and naturally aligned.
pub trait Windows {
    /// One read; the value stands in the low bytes.
    fn read(&self, bar: u8, offset: u64, width: Width) -> u64;
    /// One write of the low bytes of `value`.
    fn write(&self, bar: u8, offset: u64, width: Width, value: u64);
}

/// On whose account something is held: a virtual machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The number by which memory and counters are charged.
    pub id: u16,
    /// The name that messages show.
    pub name: Arc<str>,
}

impl Owner {
    /// An owner.
    pub fn new(id: u16, name: &str) -> Self {
        Self { id, name: name.into() }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VM {}", self.name)
    }
}

/// What a mapping lets devices do. At least one of the two is set in every mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Devices may read.
    pub read: bool,
    /// Devices may write.
    pub write: bool,
}

impl Access {
    /// Both.
    pub const READ_WRITE: Self = Self { read: true, write: true };
    /// Reading alone.
    pub const READ: Self = Self { read: true, write: false };
}

/// Why a range of addresses is not free for mappings of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservedKind {
    /// The function must reach this memory at this very address (RMRR).
    Direct,
    /// As `Direct`, but firmware only needed it before the operating system (USB keyboards, framebuffers).
    DirectRelaxable,
    /// The window in which writes are interrupt messages.
    Interrupt,
    /// Otherwise not translated as memory.
    Reserved,
}

/// A range of device addresses with a meaning of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// First to last address.
    pub range: RangeInclusive<u64>,
    /// Its meaning.
    pub kind: ReservedKind,
}

/// What the remapping unit above one function can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemappingCapabilities {
    /// Interrupt messages are remapped, so a function cannot forge another's.
    pub interrupt_remapping: bool,
    /// The page sizes of its tables, one bit each (bit 12: 4 KiB). Bit 12 is always set.
    pub page_sizes: u64,
    /// The last address that its tables can translate.
    pub last_address: u64,
    /// Its tables can make every access snoop the processors' caches.
    pub snoop_control: bool,
}

/// What a function writes to raise an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Message {
    /// The address, in the interrupt window.
    pub address: u64,
    /// The data.
    pub data: u32,
}

/// Where an interrupt goes in the end: a token that the machine gave out and alone can read, as an eventfd is to VFIO.
/// A hypervisor keeps behind it a virtual processor's mailbox and a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Event(pub u64);

/// DMA and interrupt remapping. Implementations are cheap to clone: a handle on the machine's units.
///
/// Everything that an owner causes is charged to that owner. A call that fails has changed nothing. Calls that give
/// back do not fail; they return only when the hardware can no longer use what was given back.
pub trait RemappingHardware {
    /// A domain: one address space of devices.
    type Domain: Copy + Eq + fmt::Debug;
    /// A run of interrupt-remapping entries that belongs to one function.
    type Interrupts: fmt::Debug;
    /// A wire of a function (INTx), connected.
    type Line: fmt::Debug;

    /// What the unit above `function` can do.
    fn capabilities(&self, function: PciAddress) -> Result<RemappingCapabilities, RemappingError>;
    /// The ranges with a meaning of their own for `function`; the interrupt window need not be among them.
    fn reserved(&self, function: PciAddress) -> Vec<Reserved>;

    /// An empty domain that fits the unit above `function`.
    fn create_domain(&self, owner: &Owner, function: PciAddress) -> Result<Self::Domain, RemappingError>;
    /// Ends a domain that nothing is attached to; its mappings go with it.
    fn destroy_domain(&self, domain: Self::Domain);
    /// Whether every access through the domain snoops the processors' caches.
    fn enforces_snoop(&self, domain: Self::Domain) -> bool;
    /// Gives `function`, under each of its requester ids, the domain's address space. It was blocked before.
    /// [`RemappingError::Incompatible`] when the domain does not fit the unit above the function.
    fn attach(
        &self,
        domain: Self::Domain,
        function: PciAddress,
        requester_ids: &[SourceId],
    ) -> Result<(), RemappingError>;
    /// Blocks `function` again, under each of these ids.
    fn detach(&self, domain: Self::Domain, function: PciAddress, requester_ids: &[SourceId]);
    /// Maps `length` bytes. All are multiples of 4 KiB, nothing in the range is mapped yet.
    fn map(
        &self,
        domain: Self::Domain,
        iova: Iova,
        host: HostPhysical,
        length: u64,
        access: Access,
    ) -> Result<(), RemappingError>;
    /// Unmaps `length` bytes, which are whole earlier mappings.
    fn unmap(&self, domain: Self::Domain, iova: Iova, length: u64);

    /// `count` consecutive entries for messages of `function`, none of them present. `block` asks for one block
    /// aligned to its size that a single message and its low data bits reach (multi-message MSI).
    fn allocate_interrupts(
        &self,
        owner: &Owner,
        function: PciAddress,
        count: u16,
        block: bool,
    ) -> Result<Self::Interrupts, InterruptError>;
    /// What the function must write to reach entry `index`. It does not change while the entries are allocated.
    fn message(&self, interrupts: &Self::Interrupts, index: u16) -> Message;
    /// Lets entry `index` deliver to `event` from now on, with no message lost or delivered twice on a change.
    fn bind(&self, interrupts: &Self::Interrupts, index: u16, event: Event) -> Result<(), InterruptError>;
    /// Makes entry `index` not present.
    fn unbind(&self, interrupts: &Self::Interrupts, index: u16);
    /// Gives the entries back.
    fn free_interrupts(&self, interrupts: Self::Interrupts);

    /// Connects the wire of `function` (`pin` 1 to 4 for INTA to INTD), delivering to `event`, or to nobody.
    fn connect_line(
        &self,
        owner: &Owner,
        function: PciAddress,
        pin: u8,
        event: Option<Event>,
    ) -> Result<Self::Line, InterruptError>;
    /// Masks or unmasks the wire at the interrupt controller.
    fn mask_line(&self, line: &Self::Line, masked: bool);
    /// Changes where the wire delivers to.
    fn retarget_line(&self, line: &Self::Line, event: Option<Event>) -> Result<(), InterruptError>;
    /// Disconnects the wire.
    fn disconnect_line(&self, line: Self::Line);

    /// Delivers to `event` by software.
    fn signal(&self, event: Event);
}

/// Everything that one device object reaches.
pub trait Machine {
    /// Configuration spaces.
    type Configuration: ConfigurationSpace;
    /// BAR windows.
    type Windows: Windows;
    /// Remapping.
    type Remapping: RemappingHardware + Clone;
    /// Time.
    type Clock: Clock;
}

/// Why DMA remapping refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemappingError {
    /// The owner's memory for tables is used up.
    OutOfMemory,
    /// No domain is left in the unit.
    OutOfDomains,
    /// No unit stands above the function.
    NoUnit,
    /// The domain's tables do not fit the unit above the function.
    Incompatible,
    /// The unit did not do what it was told; the text names the step.
    Unit(&'static str),
}

impl RemappingError {
    /// The number that VFIO's callers see.
    pub const fn errno(self) -> Errno {
        match self {
            Self::OutOfMemory => Errno::ENOMEM,
            Self::OutOfDomains => Errno::ENOSPC,
            Self::NoUnit => Errno::ENODEV,
            Self::Incompatible => Errno::EINVAL,
            Self::Unit(_) => Errno::EIO,
        }
    }
}

impl fmt::Display for RemappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => {
                f.write_str("no memory is left for the owner's tables; give the VM less or the host more")
            }
            Self::OutOfDomains => f.write_str("the remapping unit has no domain left; assign fewer VMs to it"),
            Self::NoUnit => f.write_str("no remapping unit stands above the function; it cannot be assigned"),
            Self::Incompatible => f.write_str("the domain's tables do not fit the remapping unit above the function"),
            Self::Unit(step) => write!(f, "the remapping unit failed: {step}"),
        }
    }
}

impl core::error::Error for RemappingError {}

/// Why an interrupt could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptError {
    /// Fewer entries or vectors are left than were asked for.
    TooFew {
        /// How many could be had now.
        available: u16,
    },
    /// No memory is left on the owner's account.
    OutOfMemory,
    /// The machine gave out no such event.
    UnknownEvent(Event),
    /// The pin leads to no interrupt controller.
    NoLine,
    /// The wire is shared with a function of somebody else.
    LineShared(PciAddress),
}

impl InterruptError {
    /// The number that VFIO's callers see.
    pub const fn errno(self) -> Errno {
        match self {
            Self::TooFew { .. } => Errno::ENOSPC,
            Self::OutOfMemory => Errno::ENOMEM,
            Self::UnknownEvent(_) => Errno::EBADF,
            Self::NoLine => Errno::ENODEV,
            Self::LineShared(_) => Errno::EBUSY,
        }
    }
}

impl fmt::Display for InterruptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew { available } => write!(f, "only {available} interrupts are left; use fewer vectors"),
            Self::OutOfMemory => f.write_str("no memory is left on the owner's account for interrupts"),
            Self::UnknownEvent(event) => write!(f, "event {:#x} was never given out", event.0),
            Self::NoLine => f.write_str("the function's interrupt pin is not wired; use MSI or MSI-X"),
            Self::LineShared(other) => {
                write!(f, "the interrupt wire is shared with {other}, which belongs to somebody else; use MSI or MSI-X")
            }
        }
    }
}

impl core::error::Error for InterruptError {}
