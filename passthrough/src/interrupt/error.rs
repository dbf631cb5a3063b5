//! Why SET_IRQS refuses.

use core::fmt;

use super::IrqIndex;
use crate::door::InterruptError;
use crate::errno::Errno;

/// Why SET_IRQS failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetIrqsError {
    /// The device has no such index.
    UnknownIndex(u32),
    /// The vectors are not all among those of the index.
    BeyondCount {
        /// The first vector.
        start: u32,
        /// So many.
        count: u32,
        /// So many the index has.
        of: u32,
    },
    /// Fewer elements than vectors.
    ShortData,
    /// No action, several, or one that the index does not know with such data.
    NoSuchAction,
    /// Another kind of interrupt is on.
    OtherActive(IrqIndex),
    /// The interrupt is not on, so it cannot be fired, masked or disabled.
    NotEnabled(IrqIndex),
    /// The interrupt takes exactly one vector, number 0.
    OneVector,
    /// No vectors at all were asked for.
    NoVectors,
    /// MSI has so many vectors and gets no more while it is on.
    BeyondAllocation(u16),
    /// An event to unmask by is set already.
    UnmaskEventSet,
    /// The function does not answer any more.
    Poisoned,
    /// Interrupts could not be had.
    Hardware(InterruptError),
}

impl SetIrqsError {
    /// The number that VFIO's callers see. [`InterruptError::TooFew`] is no error there but a positive result.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoSuchAction => Errno::ENOTTY,
            Self::NoVectors => Errno::ERANGE,
            Self::UnmaskEventSet => Errno::EBUSY,
            Self::Poisoned => Errno::EIO,
            Self::Hardware(error) => error.errno(),
            Self::UnknownIndex(_)
            | Self::BeyondCount { .. }
            | Self::ShortData
            | Self::OtherActive(_)
            | Self::NotEnabled(_)
            | Self::OneVector
            | Self::BeyondAllocation(_) => Errno::EINVAL,
        }
    }
}

impl From<InterruptError> for SetIrqsError {
    fn from(error: InterruptError) -> Self {
        Self::Hardware(error)
    }
}

impl fmt::Display for IrqIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "INTx",
            Self::Msi => "MSI",
            Self::MsiX => "MSI-X",
            Self::Error => "the error event",
            Self::Request => "the request event",
        })
    }
}

impl fmt::Display for SetIrqsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownIndex(index) => write!(f, "there is no interrupt index {index}; use 0 to 4"),
            Self::BeyondCount { start, count, of } => {
                write!(f, "{count} vectors from {start} on are more than the {of} that the function has")
            }
            Self::ShortData => f.write_str("fewer elements than vectors"),
            Self::NoSuchAction => f.write_str("this interrupt does not know this action with this kind of data"),
            Self::OtherActive(other) => write!(f, "{other} is on; disable it first"),
            Self::NotEnabled(index) => write!(f, "{index} is not on; enable it with an event first"),
            Self::OneVector => f.write_str("this interrupt has vector 0 alone"),
            Self::NoVectors => f.write_str("at least one vector is needed"),
            Self::BeyondAllocation(count) => {
                write!(f, "MSI was enabled with {count} vectors and cannot grow; disable it first")
            }
            Self::UnmaskEventSet => f.write_str("an event to unmask by is set already; take it away first"),
            Self::Poisoned => f.write_str("the function does not answer any more"),
            Self::Hardware(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SetIrqsError {}
