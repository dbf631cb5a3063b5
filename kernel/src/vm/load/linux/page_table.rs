//! The page tables that a 64-bit entry starts with: the first 4 GiB at their own addresses, in pages of 2 MiB.

use alloc::vec::Vec;

use crate::vcpu::NotMemory;
use crate::vm::load::Target;

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 0x20_0000;
/// Present and writable.
const TABLE: u64 = 0x3;
/// The same, and large.
const LARGE: u64 = 0x83;
/// Page directories: one a GiB.
const DIRECTORIES: u64 = 4;

/// Writes six tables from `at` on; gives the value of CR3.
pub(super) fn write(target: Target<'_>, at: u64) -> Result<u64, NotMemory> {
    let (pointers, directories) = (at + PAGE, at + 2 * PAGE);
    target.write(at, &(pointers | TABLE).to_le_bytes())?;
    let entries: Vec<u8> =
        (0..DIRECTORIES).flat_map(|index| ((directories + index * PAGE) | TABLE).to_le_bytes()).collect();
    target.write(pointers, &entries)?;
    let pages: Vec<u8> =
        (0..DIRECTORIES * 512).flat_map(|index| ((index * LARGE_PAGE) | LARGE).to_le_bytes()).collect();
    target.write(directories, &pages)?;
    Ok(at)
}
