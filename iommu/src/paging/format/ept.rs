//! Extended page tables of Intel processors (SDM volume 3 section 30.3).

use super::{Format, LARGE};
use crate::address::HostPhysical;
use crate::paging::attributes::{Attributes, MemoryType, Permissions};
use crate::paging::shape::Levels;

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
/// Memory type, bits 5:3 of a leaf: 0 uncacheable, 6 write-back.
const TYPE: u64 = 7 << 3;
const TYPE_WRITE_BACK: u64 = 6 << 3;
/// The guest's PAT has no say.
const IGNORE_PAT: u64 = 1 << 6;

/// EPT entries. A write without a read would be a misconfiguration and an execute without a read needs a capability
/// that sharing with VT-d rules out, so both are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ept {
    ignore_pat: bool,
}

impl Ept {
    /// RAM is write-back whatever the guest's PAT says: right while no device reaches the guest's memory without
    /// snooping.
    pub const WRITE_BACK_ALWAYS: Self = Self { ignore_pat: true };
    /// The guest's PAT may weaken the type of RAM: needed beside devices whose accesses do not snoop.
    pub const GUEST_PAT: Self = Self { ignore_pat: false };
}

const fn bits(permissions: Permissions) -> u64 {
    permissions.bits() as u64
}

const _: () = assert!(
    Permissions::READ.bits() as u64 == READ
        && Permissions::WRITE.bits() as u64 == WRITE
        && Permissions::EXECUTE.bits() as u64 == EXECUTE
);

impl Format for Ept {
    const NAME: &'static str = "EPT";
    const LEAST_LEVELS: Levels = Levels::Four;
    const CANONICAL: bool = false;
    const PRESENT: u64 = READ | WRITE | EXECUTE;

    fn can_say(&self, permissions: Permissions) -> bool {
        permissions.contains(Permissions::READ)
    }

    fn link(&self, child: HostPhysical) -> u64 {
        child.as_u64() | READ | WRITE | EXECUTE
    }

    fn leaf(&self, level: u8, output: HostPhysical, attributes: Attributes) -> u64 {
        let large = if level > 1 { LARGE } else { 0 };
        let memory_type = match attributes.memory_type {
            MemoryType::WriteBack if self.ignore_pat => TYPE_WRITE_BACK | IGNORE_PAT,
            MemoryType::WriteBack => TYPE_WRITE_BACK,
            MemoryType::Uncached => 0,
        };
        output.as_u64() | bits(attributes.permissions) | large | memory_type
    }

    fn attributes(&self, _level: u8, leaf: u64) -> Attributes {
        let memory_type = if leaf & TYPE == 0 { MemoryType::Uncached } else { MemoryType::WriteBack };
        Attributes { permissions: Permissions::from_bits_truncate(leaf as u8), memory_type }
    }

    fn with_permissions(&self, leaf: u64, permissions: Permissions) -> u64 {
        leaf & !(READ | WRITE | EXECUTE) | bits(permissions)
    }

    fn first_part(&self, level: u8, leaf: u64) -> u64 {
        if level == 2 { leaf & !LARGE } else { leaf }
    }
}
