//! Why a table refused.

use core::fmt;

use super::attributes::Permissions;
use super::shape::Levels;
use crate::address::HostPhysical;
use crate::door::OutOfFrames;

/// A range of input addresses that no table of this width can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// The length is zero.
    Empty {
        /// The range's first address.
        start: u64,
    },
    /// Start or length is no multiple of 4 KiB.
    Misaligned {
        /// The range's first address.
        start: u64,
        /// The range's bytes.
        length: u64,
    },
    /// The range does not end below 2^bits.
    TooFar {
        /// The range's first address.
        start: u64,
        /// The range's bytes.
        length: u64,
        /// The width of input addresses.
        bits: u8,
    },
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty { start } => write!(f, "the range at {start:#x} is empty; a mapping has at least one page"),
            Self::Misaligned { start, length } => {
                write!(f, "the range at {start:#x} of {length:#x} bytes is not made of whole 4 KiB pages; align both")
            }
            Self::TooFar { start, length, bits } => write!(
                f,
                "the range at {start:#x} of {length:#x} bytes does not fit below 2^{bits}, the width of this table; \
                 use lower addresses"
            ),
        }
    }
}

impl core::error::Error for RangeError {}

/// Why [`Table::map`](super::Table::map) refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The input range cannot be.
    Range(RangeError),
    /// The output address is no multiple of 4 KiB.
    OutputMisaligned {
        /// The output address.
        output: HostPhysical,
    },
    /// The output range does not end below 2^bits.
    OutputTooFar {
        /// The first output address.
        output: HostPhysical,
        /// The range's bytes.
        length: u64,
        /// The width of output addresses.
        bits: u8,
    },
    /// Input or output touches 0xFEE0_0000 to 0xFEEF_FFFF, where a device reaches interrupts and never memory.
    InterruptWindow {
        /// The first address, input or output, of the range that touches it.
        start: u64,
        /// The range's bytes.
        length: u64,
    },
    /// The format cannot say these permissions.
    Permissions {
        /// The permissions asked for.
        permissions: Permissions,
        /// The format's name.
        format: &'static str,
    },
    /// Part of the range is mapped already.
    Overlap {
        /// The first mapped address of the range's first mapped run.
        start: u64,
        /// The bytes of that run.
        length: u64,
    },
    /// No frame is left for a table.
    OutOfFrames,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Range(error) => error.fmt(f),
            Self::OutputMisaligned { output } => {
                write!(f, "the host address {output} is not the start of a 4 KiB page; align it")
            }
            Self::OutputTooFar { output, length, bits } => write!(
                f,
                "{length:#x} bytes at host address {output} do not fit below 2^{bits}, the machine's physical width"
            ),
            Self::InterruptWindow { start, length } => write!(
                f,
                "the range at {start:#x} of {length:#x} bytes touches 0xfee00000 to 0xfeefffff, where a device \
                 reaches interrupts and never memory; leave that window out"
            ),
            Self::Permissions { permissions, format } => {
                write!(f, "the {format} format has no entry with permissions {permissions}; add read or drop the rest")
            }
            Self::Overlap { start, length } => {
                write!(f, "{length:#x} bytes at {start:#x} are mapped already; unmap them first")
            }
            Self::OutOfFrames => OutOfFrames.fmt(f),
        }
    }
}

impl core::error::Error for MapError {}

impl From<RangeError> for MapError {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl From<OutOfFrames> for MapError {
    fn from(OutOfFrames: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

/// Why [`Table::unmap`](super::Table::unmap) or [`Table::protect`](super::Table::protect) refused. Nothing was
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The range cannot be.
    Range(RangeError),
    /// The format cannot say these permissions.
    Permissions {
        /// The permissions asked for.
        permissions: Permissions,
        /// The format's name.
        format: &'static str,
    },
    /// A large page has to be split and no frame is left for the table.
    OutOfFrames,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Range(error) => error.fmt(f),
            Self::Permissions { permissions, format } => MapError::Permissions { permissions, format }.fmt(f),
            Self::OutOfFrames => {
                f.write_str("a large page has to be split and no memory is left for its table; take whole large pages")
            }
        }
    }
}

impl core::error::Error for ChangeError {}

impl From<RangeError> for ChangeError {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl From<OutOfFrames> for ChangeError {
    fn from(OutOfFrames: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

/// Why [`Table::new`](super::Table::new) refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The format has no tables of this depth.
    Levels {
        /// The depth asked for.
        levels: Levels,
        /// The format's name.
        format: &'static str,
    },
    /// A width is not in its range.
    Width {
        /// Input bits asked for (at least 13).
        input_bits: u8,
        /// Output bits asked for (13 to 52).
        output_bits: u8,
    },
    /// No frame is left for the root.
    OutOfFrames,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Levels { levels, format } => {
                write!(f, "the {format} format has no tables of {} levels; take 4", levels.count())
            }
            Self::Width { input_bits, output_bits } => write!(
                f,
                "addresses of {input_bits} bits in and {output_bits} bits out are outside what tables can hold (at \
                 least 13 in, 13 to 52 out)"
            ),
            Self::OutOfFrames => OutOfFrames.fmt(f),
        }
    }
}

impl core::error::Error for BuildError {}

impl From<OutOfFrames> for BuildError {
    fn from(OutOfFrames: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}
