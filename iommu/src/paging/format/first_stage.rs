//! VT-d's first stage (VT-d section 9.7): ordinary x86-64 entries that a unit walks in scalable mode.

use super::{Format, LARGE, x86};
use crate::address::HostPhysical;
use crate::paging::attributes::{Attributes, Permissions};
use crate::paging::shape::Levels;

/// First-stage entries. Accessed and dirty are set from the start, so that no unit has to write them. Requests carry
/// no execute, so bit 63 stays 0 and needs no enable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstStage;

impl Format for FirstStage {
    const NAME: &'static str = "first-stage";
    const LEAST_LEVELS: Levels = Levels::Four;
    const CANONICAL: bool = true;
    const PRESENT: u64 = x86::PRESENT;

    fn can_say(&self, permissions: Permissions) -> bool {
        permissions.contains(Permissions::READ)
    }

    fn link(&self, child: HostPhysical) -> u64 {
        child.as_u64() | x86::PRESENT | x86::WRITABLE | x86::USER | x86::ACCESSED
    }

    fn leaf(&self, level: u8, output: HostPhysical, attributes: Attributes) -> u64 {
        let dirty = if attributes.permissions.contains(Permissions::WRITE) { x86::DIRTY } else { 0 };
        output.as_u64() | x86::leaf(level, attributes) & !x86::NO_EXECUTE | x86::ACCESSED | dirty
    }

    fn attributes(&self, _level: u8, leaf: u64) -> Attributes {
        let mut attributes = x86::attributes(leaf);
        attributes.permissions.remove(Permissions::EXECUTE);
        attributes
    }

    fn with_permissions(&self, leaf: u64, permissions: Permissions) -> u64 {
        let write =
            if permissions.contains(Permissions::WRITE) { x86::WRITABLE | x86::DIRTY } else { leaf & x86::DIRTY };
        leaf & !(x86::WRITABLE | x86::DIRTY) | write
    }

    fn first_part(&self, level: u8, leaf: u64) -> u64 {
        if level == 2 { leaf & !LARGE } else { leaf }
    }
}
