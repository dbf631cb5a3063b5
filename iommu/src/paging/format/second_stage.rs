//! VT-d's second stage (VT-d section 9.8).

use super::{ADDRESS, Format, LARGE};
use crate::address::HostPhysical;
use crate::paging::attributes::{Attributes, MemoryType, Permissions};
use crate::paging::shape::Levels;

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
/// Forces the device's accesses to snoop. Reserved in links, and in leaves of units without ECAP.SC.
const SNOOP: u64 = 1 << 11;

/// Second-stage entries. Bits 2 (execute), 6:3 (memory type), 9:8 (accessed, dirty) and 62 stay 0: legacy mode gives
/// them no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondStage {
    snoop: bool,
}

impl SecondStage {
    /// For units of which each has snoop control (ECAP.SC): every leaf forces snooping, so that a device's no-snoop
    /// requests cannot see or leave stale memory.
    pub const SNOOPED: Self = Self { snoop: true };
    /// For any unit: leaves leave bit 11 alone.
    pub const PLAIN: Self = Self { snoop: false };

    /// By whether every unit that will walk the table has snoop control (ECAP.SC).
    pub const fn with_snoop_control(every_unit_has_it: bool) -> Self {
        Self { snoop: every_unit_has_it }
    }

    /// Whether leaves force snooping.
    pub const fn forces_snoop(self) -> bool {
        self.snoop
    }
}

const fn bits(permissions: Permissions) -> u64 {
    (if permissions.contains(Permissions::READ) { READ } else { 0 })
        | (if permissions.contains(Permissions::WRITE) { WRITE } else { 0 })
}

impl Format for SecondStage {
    const NAME: &'static str = "second-stage";
    const LEAST_LEVELS: Levels = Levels::Three;
    const CANONICAL: bool = false;
    const PRESENT: u64 = READ | WRITE;

    fn can_say(&self, permissions: Permissions) -> bool {
        permissions.intersects(Permissions::READ_WRITE)
    }

    fn link(&self, child: HostPhysical) -> u64 {
        child.as_u64() | READ | WRITE
    }

    fn leaf(&self, level: u8, output: HostPhysical, attributes: Attributes) -> u64 {
        let large = if level > 1 { LARGE } else { 0 };
        let snoop = if self.snoop { SNOOP } else { 0 };
        output.as_u64() | bits(attributes.permissions) | large | snoop
    }

    fn attributes(&self, _level: u8, leaf: u64) -> Attributes {
        let mut permissions = Permissions::empty();
        permissions.set(Permissions::READ, leaf & READ != 0);
        permissions.set(Permissions::WRITE, leaf & WRITE != 0);
        Attributes { permissions, memory_type: MemoryType::WriteBack }
    }

    fn with_permissions(&self, leaf: u64, permissions: Permissions) -> u64 {
        leaf & !(READ | WRITE) | bits(permissions)
    }

    fn first_part(&self, level: u8, leaf: u64) -> u64 {
        debug_assert!(leaf & LARGE != 0 && leaf & ADDRESS & 0x1f_f000 == 0);
        if level == 2 { leaf & !LARGE } else { leaf }
    }
}
