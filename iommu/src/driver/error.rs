//! Why the driver refused, as sentences.

use core::fmt;

use crate::address::{HostPhysical, PciAddress, SourceId};
use crate::door::OutOfFrames;
use crate::driver::{DomainId, NoInterruptRemapping, NoPosting, Stage};
use crate::paging::{BuildError, ChangeError, MapError};
use crate::queue::QueueError;
use crate::unit::UnitError;

/// A unit could not be brought up or shut down. Without all units there is no assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BringUpError {
    /// The unit's registers.
    pub base: HostPhysical,
    /// What is wrong.
    pub error: UnitError,
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "remapping unit {}: {}", self.base, self.error)
    }
}

impl core::error::Error for BringUpError {}

/// A unit did not confirm that something is out of its caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidationError {
    /// The unit's registers.
    pub base: HostPhysical,
    /// What went wrong.
    pub error: QueueError,
}

impl fmt::Display for InvalidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "remapping unit {}: {}", self.base, self.error)
    }
}

impl core::error::Error for InvalidationError {}

/// Why a domain cannot be made, changed or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainError {
    /// No such domain.
    Unknown {
        /// The id.
        domain: DomainId,
    },
    /// All domain ids are in use.
    OutOfIds {
        /// How many there are.
        limit: u32,
    },
    /// A device is behind no unit.
    Uncovered {
        /// The device.
        device: PciAddress,
    },
    /// The units do not agree on a number of levels, or none reaches the width asked for.
    Width {
        /// Address bits asked for; 0 for any.
        wanted: u8,
        /// Address bits that the units can have together; 0 where no number of levels suits all.
        possible: u8,
    },
    /// The table cannot be made.
    Build(BuildError),
    /// The mapping is refused. Nothing changed.
    Map(MapError),
    /// The change is refused. Nothing changed.
    Change(ChangeError),
    /// The units of the devices do not walk the stage that was asked for, or share none.
    Stage {
        /// What was asked for.
        wanted: Stage,
    },
    /// The domain passes requests through: there is no table to change.
    PassThrough {
        /// The domain.
        domain: DomainId,
    },
    /// Devices are attached.
    InUse {
        /// The domain.
        domain: DomainId,
        /// One of them.
        device: PciAddress,
    },
    /// A cache may still hold what was taken back. The tables' memory is not used again.
    Invalidation(InvalidationError),
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { domain } => write!(f, "there is no domain {domain}"),
            Self::OutOfIds { limit } => write!(f, "all {limit} domain ids are in use; end a VM first"),
            Self::Uncovered { device } => write!(
                f,
                "{device} is behind no remapping unit of the DMAR table, so nothing can isolate it; use another slot"
            ),
            Self::Width { wanted, possible: 0 } => {
                write!(f, "the devices' units share no number of table levels (for {wanted} address bits)")
            }
            Self::Width { wanted, possible } => {
                write!(f, "{wanted} address bits are needed and the devices' units translate {possible}")
            }
            Self::Build(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Change(error) => error.fmt(f),
            Self::Stage { wanted: Stage::Any } => f.write_str(
                "the devices' units share neither second-stage nor first-stage tables; give each its own domain",
            ),
            Self::Stage { wanted: Stage::PassThrough } => {
                f.write_str("a unit of the devices cannot pass requests through (ECAP.PT = 0); map what they need")
            }
            Self::Stage { wanted } => write!(
                f,
                "a unit of the devices does not walk {} tables in its mode; ask for any stage",
                if *wanted == Stage::First { "first-stage" } else { "second-stage" }
            ),
            Self::PassThrough { domain } => {
                write!(f, "domain {domain} passes all requests through and has no table; use a domain with a table")
            }
            Self::InUse { domain, device } => {
                write!(f, "{device} is still attached to domain {domain}; detach it first")
            }
            Self::Invalidation(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for DomainError {}

/// Why a device cannot be attached or detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// No such domain.
    Unknown {
        /// The id.
        domain: DomainId,
    },
    /// The device is behind no unit.
    Uncovered {
        /// The device.
        device: PciAddress,
    },
    /// The device, or a function that signs like it, is in another domain.
    Occupied {
        /// The device.
        device: PciAddress,
        /// The id that is taken.
        source: SourceId,
        /// By which domain.
        domain: DomainId,
    },
    /// The device is attached already.
    Attached {
        /// The device.
        device: PciAddress,
    },
    /// The device is attached to nothing.
    Detached {
        /// The device.
        device: PciAddress,
    },
    /// The device's unit cannot walk the domain's table.
    Unsuitable {
        /// The device.
        device: PciAddress,
        /// What the unit lacks.
        lacks: &'static str,
    },
    /// The domain lacks memory that firmware reserved for the device.
    Reserved {
        /// The device.
        device: PciAddress,
        /// The range's first byte.
        first: HostPhysical,
        /// The last.
        last: HostPhysical,
    },
    /// The device was silenced for its faults.
    Quarantined {
        /// The device.
        device: PciAddress,
        /// How often it faulted.
        faults: u64,
    },
    /// No memory for a context table. Nothing changed.
    OutOfFrames,
    /// The unit did not confirm. The device is attached to nothing.
    Invalidation(InvalidationError),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { domain } => write!(f, "there is no domain {domain}"),
            Self::Uncovered { device } => DomainError::Uncovered { device: *device }.fmt(f),
            Self::Occupied { device, source, domain } => write!(
                f,
                "{device} cannot be attached: the id {source} that it signs with is in domain {domain}; devices that \
                 sign alike go together"
            ),
            Self::Attached { device } => write!(f, "{device} is attached already; detach it first"),
            Self::Detached { device } => write!(f, "{device} is attached to no domain"),
            Self::Unsuitable { device, lacks } => {
                write!(f, "{device} is behind a unit that {lacks}, which this domain needs; make another domain")
            }
            Self::Reserved { device, first, last } => write!(
                f,
                "{device} cannot be attached: firmware reserved {first} to {last} for it (RMRR), which this domain \
                 does not have at the same addresses; leave the device to the host"
            ),
            Self::Quarantined { device, faults } => {
                write!(f, "{device} was silenced after {faults} faults; release it explicitly once it is trusted again")
            }
            Self::OutOfFrames => OutOfFrames.fmt(f),
            Self::Invalidation(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AttachError {}

impl From<OutOfFrames> for AttachError {
    fn from(OutOfFrames: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

/// Why an interrupt cannot be allocated or programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptError {
    /// Interrupts are not remapped.
    Off(NoInterruptRemapping),
    /// The device is behind no unit.
    Uncovered {
        /// The device.
        device: PciAddress,
    },
    /// No unit names this I/O APIC.
    UnknownIoApic {
        /// Its id in the MADT.
        id: u8,
    },
    /// No unit names this HPET.
    UnknownHpet {
        /// Its number.
        number: u8,
    },
    /// No block of so many entries is free.
    Full {
        /// How many.
        count: u16,
    },
    /// The handle has no such entry.
    Index {
        /// The entry.
        index: u16,
        /// How many it has.
        count: u16,
    },
    /// The processor's id does not fit.
    Destination {
        /// The APIC id.
        apic_id: u32,
    },
    /// Vectors below 16 are exceptions.
    Vector {
        /// The vector.
        vector: u8,
    },
    /// Interrupts are not posted.
    NoPosting(NoPosting),
    /// A posted-interrupt descriptor is aligned to 64 bytes.
    Misaligned {
        /// The address.
        descriptor: HostPhysical,
    },
    /// The unit did not confirm. The entry is absent.
    Invalidation(InvalidationError),
}

impl fmt::Display for InterruptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off(reason) => write!(f, "interrupt remapping is off: {reason}"),
            Self::Uncovered { device } => DomainError::Uncovered { device: *device }.fmt(f),
            Self::UnknownIoApic { id } => {
                write!(f, "no remapping unit of the DMAR table names I/O APIC {id}, so its interrupts stay blocked")
            }
            Self::UnknownHpet { number } => {
                write!(f, "no remapping unit of the DMAR table names HPET {number}, so its interrupts stay blocked")
            }
            Self::Full { count } => {
                write!(f, "the interrupt-remapping table has no {count} entries in a row left; use fewer vectors")
            }
            Self::Index { index, count } => write!(f, "entry {index} is not among the {count} of this handle"),
            Self::Destination { apic_id } => write!(
                f,
                "APIC id {apic_id:#x} cannot be named by the unit's interrupt entries; choose a processor below 255"
            ),
            Self::Vector { vector } => write!(f, "vector {vector} is an exception's; interrupts have 16 to 255"),
            Self::NoPosting(reason) => {
                write!(f, "this interrupt cannot be posted: {reason}; deliver to a host vector instead")
            }
            Self::Misaligned { descriptor } => {
                write!(f, "a posted-interrupt descriptor at {descriptor} is not aligned to 64 bytes")
            }
            Self::Invalidation(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for InterruptError {}
