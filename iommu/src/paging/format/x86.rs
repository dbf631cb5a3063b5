//! The bits that nested paging and VT-d's first stage share with ordinary x86-64 paging (SDM volume 3 section 5.5).

use super::LARGE;
use crate::paging::attributes::{Attributes, MemoryType, Permissions};

pub(super) const PRESENT: u64 = 1 << 0;
pub(super) const WRITABLE: u64 = 1 << 1;
/// Set in every entry: both readers, nested paging and a device's requests, count as user accesses.
pub(super) const USER: u64 = 1 << 2;
/// Write-through and cache-disable: with both, and the PAT bit clear, entry 3 of the reset value of the PAT, which is
/// uncacheable. With neither, entry 0, write-back.
pub(super) const WRITE_THROUGH: u64 = 1 << 3;
pub(super) const CACHE_DISABLE: u64 = 1 << 4;
pub(super) const ACCESSED: u64 = 1 << 5;
pub(super) const DIRTY: u64 = 1 << 6;
pub(super) const NO_EXECUTE: u64 = 1 << 63;

/// The leaf's bits beside address, accessed and dirty. A page that can be written or executed can be read.
pub(super) const fn leaf(level: u8, attributes: Attributes) -> u64 {
    let large = if level > 1 { LARGE } else { 0 };
    let memory_type = match attributes.memory_type {
        MemoryType::WriteBack => 0,
        MemoryType::Uncached => WRITE_THROUGH | CACHE_DISABLE,
    };
    PRESENT | USER | permissions(attributes.permissions) | large | memory_type
}

/// The bits that say `WRITE` and `EXECUTE`.
pub(super) const fn permissions(permissions: Permissions) -> u64 {
    (if permissions.contains(Permissions::WRITE) { WRITABLE } else { 0 })
        | (if permissions.contains(Permissions::EXECUTE) { 0 } else { NO_EXECUTE })
}

/// What a leaf says.
pub(super) fn attributes(leaf: u64) -> Attributes {
    let mut permissions = Permissions::READ;
    permissions.set(Permissions::WRITE, leaf & WRITABLE != 0);
    permissions.set(Permissions::EXECUTE, leaf & NO_EXECUTE == 0);
    let memory_type = if leaf & CACHE_DISABLE != 0 { MemoryType::Uncached } else { MemoryType::WriteBack };
    Attributes { permissions, memory_type }
}
