//! Entry formats: how one 64-bit entry says what it links or maps. No walking happens here.
//!
//! Levels count from the leaves: level 1 holds 4 KiB pages, level 2 leaves of 2 MiB, level 3 leaves of 1 GiB.

mod ept;
mod first_stage;
mod npt;
mod second_stage;
mod x86;

pub use ept::Ept;
pub use first_stage::FirstStage;
pub use npt::Npt;
pub use second_stage::SecondStage;

use super::attributes::{Attributes, Permissions};
use super::shape::Levels;
use crate::address::HostPhysical;

/// The address bits of an entry, in every format.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The bit that makes an entry above level 1 a leaf, in every format.
pub(super) const LARGE: u64 = 1 << 7;

/// One way to encode entries.
///
/// An entry of zero is "not present" in every format, and so is one whose bits 11:0 are all zero.
pub trait Format: Copy {
    /// The name, for messages.
    const NAME: &'static str;

    /// The fewest levels that the format has.
    const LEAST_LEVELS: Levels;

    /// Whether input addresses must be canonical, so that only the lower half of what the levels resolve is usable.
    const CANONICAL: bool;

    /// Bits of which a present entry has at least one and any other none.
    const PRESENT: u64;

    /// What of a leaf that the format made holds the address, together with zeros: all from bit 12 up where no leaf
    /// has a bit above the address.
    const LEAF_ADDRESS: u64 = !0xfff;

    /// Whether a leaf can say exactly these permissions.
    fn can_say(&self, permissions: Permissions) -> bool;

    /// The entry that links the table at `child` and grants everything. Bits 61:52 are 0 and ignored by hardware.
    fn link(&self, child: HostPhysical) -> u64;

    /// The leaf at `level` (1 to 3) that maps `output`, aligned to the leaf's size.
    fn leaf(&self, level: u8, output: HostPhysical, attributes: Attributes) -> u64;

    /// What a leaf at `level` says beside its address.
    fn attributes(&self, level: u8, leaf: u64) -> Attributes;

    /// The leaf with other permissions and all else kept.
    fn with_permissions(&self, leaf: u64, permissions: Permissions) -> u64;

    /// The first of the 512 leaves at `level - 1` that together say what this `leaf` at `level` says.
    fn first_part(&self, level: u8, leaf: u64) -> u64;
}

#[cfg(test)]
mod tests;
