//! Nested paging of AMD processors (APM volume 2 section 15.25): ordinary long-mode tables, all user pages.

use super::{ADDRESS, Format, LARGE, x86};
use crate::address::HostPhysical;
use crate::paging::attributes::{Attributes, Permissions};
use crate::paging::shape::Levels;

/// Nested-paging entries. The host must run with EFER.NXE, or bit 63 would be reserved. Accessed and dirty bits are
/// left to the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Npt;

impl Format for Npt {
    const NAME: &'static str = "nested-paging";
    const LEAST_LEVELS: Levels = Levels::Four;
    const CANONICAL: bool = false;
    const PRESENT: u64 = x86::PRESENT;
    const LEAF_ADDRESS: u64 = ADDRESS;

    fn can_say(&self, permissions: Permissions) -> bool {
        permissions.contains(Permissions::READ)
    }

    fn link(&self, child: HostPhysical) -> u64 {
        child.as_u64() | x86::PRESENT | x86::WRITABLE | x86::USER
    }

    fn leaf(&self, level: u8, output: HostPhysical, attributes: Attributes) -> u64 {
        output.as_u64() | x86::leaf(level, attributes)
    }

    fn attributes(&self, _level: u8, leaf: u64) -> Attributes {
        x86::attributes(leaf)
    }

    fn with_permissions(&self, leaf: u64, permissions: Permissions) -> u64 {
        leaf & !(x86::WRITABLE | x86::NO_EXECUTE) | x86::permissions(permissions)
    }

    fn first_part(&self, level: u8, leaf: u64) -> u64 {
        if level == 2 { leaf & !LARGE } else { leaf }
    }
}
