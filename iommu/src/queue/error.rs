//! What can go wrong with the invalidation queue (VT-d section 6.5.2.10).

use core::fmt;

use crate::address::SourceId;
use crate::registers::WaitExpired;
use crate::registers::command::CommandExpired;
use crate::registers::status::QueuePosition;

/// A submission that did not go through as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// The unit did not finish in time. It is given up.
    Expired {
        /// The descriptor that it stands at.
        head: QueuePosition,
        /// How long was waited.
        wait: WaitExpired,
    },
    /// The unit was given up before.
    Dead,
    /// The unit does not take a descriptor (IQE).
    Refused {
        /// The descriptor.
        descriptor: u128,
        /// Why, where the unit says so.
        reason: InvalidDescriptor,
    },
    /// A device did not answer an invalidation of its TLB (ITE).
    DeviceSilent {
        /// The device; 00:00.0 on units that do not tell.
        source: SourceId,
    },
    /// A device answered an invalidation of its TLB wrongly (ICE).
    DeviceWrong {
        /// The device; 00:00.0 on units that do not tell.
        source: SourceId,
    },
    /// The queue could not be switched.
    Command(CommandExpired),
    /// A command by register did not end. The unit is given up.
    RegisterExpired {
        /// What was to be invalidated.
        what: &'static str,
        /// How long was waited.
        wait: WaitExpired,
    },
    /// The unit refused a command by register.
    RefusedByRegister {
        /// What was to be invalidated.
        what: &'static str,
    },
    /// Only a queue could do this, and the unit has none.
    NeedsQueue,
}

impl QueueError {
    /// Whether everything but a device's own TLB is invalidated all the same.
    pub const fn is_of_a_device(self) -> bool {
        matches!(self, Self::DeviceSilent { .. } | Self::DeviceWrong { .. })
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { head, wait } => write!(
                f,
                "the unit did not finish its invalidations ({wait}, at slot {}); it is given up, and nothing that it \
                 may still reach is used again",
                head.slot()
            ),
            Self::Dead => f.write_str("the unit was given up, because it does not finish invalidations"),
            Self::Refused { descriptor, reason } => {
                write!(f, "the unit refused the invalidation descriptor {descriptor:#034x}: {reason}")
            }
            Self::DeviceSilent { source } => write!(
                f,
                "{source} did not answer the invalidation of its own TLB; turn its bus mastering off and reset it"
            ),
            Self::DeviceWrong { source } => write!(
                f,
                "{source} answered the invalidation of its own TLB wrongly; turn its bus mastering off and reset it"
            ),
            Self::Command(error) => error.fmt(f),
            Self::RegisterExpired { what, wait } => write!(
                f,
                "the unit did not finish the invalidation of {what} by register ({wait}); it is given up, and nothing \
                 that it may still reach is used again"
            ),
            Self::RefusedByRegister { what } => {
                write!(
                    f,
                    "the unit refused the invalidation of {what} by register; what it may still reach is not used again"
                )
            }
            Self::NeedsQueue => f.write_str(
                "the unit has no invalidation queue, without which neither interrupt entries nor device TLBs can be \
                 invalidated; use neither there",
            ),
        }
    }
}

impl core::error::Error for QueueError {}

/// IQERCD.IQEI: why a unit does not take a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidDescriptor {
    /// The unit does not say.
    Unknown,
    /// The tail is outside the queue.
    Tail,
    /// The descriptor could not be read.
    Fetch,
    /// Its kind is not known.
    Kind,
    /// A reserved bit is set.
    Reserved,
    /// The queue has the wrong width of descriptors.
    Width,
    /// The tail is between descriptors.
    TailAlignment,
    /// It does not suit the root table's mode.
    Mode,
}

impl InvalidDescriptor {
    /// From the field's value; unknown ones say nothing.
    pub const fn from_code(code: u64) -> Self {
        match code {
            1 => Self::Tail,
            2 => Self::Fetch,
            3 => Self::Kind,
            4 => Self::Reserved,
            5 => Self::Width,
            6 => Self::TailAlignment,
            7 => Self::Mode,
            _ => Self::Unknown,
        }
    }

    /// Whether another descriptor in its place would be taken.
    pub const fn is_of_one_descriptor(self) -> bool {
        matches!(self, Self::Unknown | Self::Kind | Self::Reserved | Self::Mode)
    }
}

impl fmt::Display for InvalidDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "it does not say why",
            Self::Tail => "the tail is outside the queue",
            Self::Fetch => "the queue cannot be read",
            Self::Kind => "its kind is not known",
            Self::Reserved => "a reserved bit is set",
            Self::Width => "the queue has the wrong width",
            Self::TailAlignment => "the tail is between descriptors",
            Self::Mode => "it does not suit the root table's mode",
        })
    }
}
