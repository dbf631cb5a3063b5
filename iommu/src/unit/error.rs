//! Why a unit cannot be used.

use core::fmt;

use crate::door::{OutOfFrames, RegistersUnreachable};
use crate::queue::QueueError;
use crate::registers::WaitExpired;
use crate::registers::command::CommandExpired;

/// Why a unit cannot be used, or did not do what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// Its registers cannot be mapped.
    Unreachable,
    /// CAP or ECAP read as all ones: nothing answers there.
    Gone,
    /// Its registers lie further out than the mapping.
    Window {
        /// Bytes needed.
        needed: u64,
        /// Bytes mapped.
        mapped: u64,
    },
    /// CAP.ND is the reserved 7.
    DomainIds,
    /// It has neither an invalidation queue nor registers to invalidate by.
    NoQueue,
    /// It walks tables of no number of levels that this driver makes.
    Widths {
        /// CAP.SAGAW.
        sagaw: u8,
        /// CAP.MGAW in bits.
        width: u8,
    },
    /// No memory for its structures.
    OutOfFrames,
    /// A command did not end.
    Command(CommandExpired),
    /// An invalidation did not go through.
    Queue(QueueError),
    /// Firmware's queue does not drain.
    FirmwareQueue(WaitExpired),
    /// The protected memory ranges do not follow their switch.
    ProtectedMemory {
        /// What was asked for.
        on: bool,
        /// How long was waited.
        wait: WaitExpired,
    },
    /// Firmware's translation cannot be replaced without letting devices free for a moment, which the platform
    /// forbids.
    Gap {
        /// The mode of firmware's root table.
        mode: u8,
    },
    /// The processor that faults should be told to cannot be named.
    FaultDestination {
        /// Its APIC id.
        apic_id: u32,
    },
    /// The registers of the fault message do not hold what was written.
    FaultMessage,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => RegistersUnreachable.fmt(f),
            Self::Gone => f.write_str(
                "CAP or ECAP reads as all ones: nothing answers at its registers; firmware has switched it off or the \
                 DMAR table is wrong",
            ),
            Self::Window { needed, mapped } => {
                write!(f, "its registers need {needed:#x} bytes and {mapped:#x} are mapped; map more")
            }
            Self::DomainIds => f.write_str("its number of domain ids (CAP.ND = 7) is reserved; it cannot be trusted"),
            Self::NoQueue => f.write_str(
                "it has no queued invalidation (ECAP.QI = 0), and its version has no invalidation by register either; \
                 it cannot be used",
            ),
            Self::Widths { sagaw, width } => write!(
                f,
                "it walks no table of 3, 4 or 5 levels that its {width} address bits allow (SAGAW {sagaw:#07b}); it \
                 cannot remap DMA"
            ),
            Self::OutOfFrames => OutOfFrames.fmt(f),
            Self::Command(error) => error.fmt(f),
            Self::Queue(error) => error.fmt(f),
            Self::FirmwareQueue(wait) => write!(
                f,
                "firmware left its invalidation queue on and full, and the unit does not drain it ({wait}); reset the \
                 machine"
            ),
            Self::ProtectedMemory { on: false, wait } => {
                write!(f, "its protected memory ranges stay in force ({wait}); DMA there stays blocked")
            }
            Self::ProtectedMemory { on: true, wait } => {
                write!(f, "its protected memory ranges do not come into force ({wait}); reset the machine")
            }
            Self::Gap { mode } => write!(
                f,
                "firmware left DMA remapping on with a root table of mode {mode} and asks that DMA stays blocked \
                 (DMA_CTRL_PLATFORM_OPT_IN), and the unit has no protected memory ranges to block it while its mode \
                 changes; turn pre-boot DMA protection off in firmware setup"
            ),
            Self::FaultDestination { apic_id } => write!(
                f,
                "its fault message cannot name APIC id {apic_id:#x} without 32-bit destinations; choose a processor \
                 with an id below 255"
            ),
            Self::FaultMessage => f.write_str("its fault message registers do not hold what is written"),
        }
    }
}

impl core::error::Error for UnitError {}

impl From<OutOfFrames> for UnitError {
    fn from(OutOfFrames: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

impl From<CommandExpired> for UnitError {
    fn from(error: CommandExpired) -> Self {
        Self::Command(error)
    }
}

impl From<QueueError> for UnitError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Command(error) => Self::Command(error),
            error => Self::Queue(error),
        }
    }
}
