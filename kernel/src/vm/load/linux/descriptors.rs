//! The descriptor table that a 64-bit entry starts with: flat code at selector 0x10, flat data at 0x18.

use alloc::vec::Vec;

use crate::vcpu::NotMemory;
use crate::vm::load::Target;

/// Null, null, code (present, ring 0, executable and readable, 64-bit), data (present, ring 0, writable, 4 GiB).
const TABLE: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Writes the table; gives the offset of its last byte.
pub(super) fn write(target: Target<'_>, at: u64) -> Result<u16, NotMemory> {
    let bytes: Vec<u8> = TABLE.into_iter().flat_map(u64::to_le_bytes).collect();
    target.write(at, &bytes)?;
    Ok((size_of_val(&TABLE) - 1) as u16)
}
