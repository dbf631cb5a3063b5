//! Clearing frames. Guest RAM is gigabytes, so this is a cache line a step: the library's memset is one string
//! instruction, which an emulated processor takes byte by byte.

use core::arch::asm;

use iommu::address::PAGE_SIZE;

use super::{HostPhysical, to_pointer};

/// Clears `count` frames.
///
/// # Safety
///
/// The frames are RAM that the direct map covers, the caller's alone, and no Rust reference covers any of it.
pub(super) unsafe fn clear(first: HostPhysical, count: usize) {
    if count == 0 {
        return;
    }
    // SAFETY: the caller's promise: `count` times 64 lines of 64 bytes.
    unsafe {
        asm!(
            "2:",
            "mov [{at}], {zero}",
            "mov [{at} + 8], {zero}",
            "mov [{at} + 16], {zero}",
            "mov [{at} + 24], {zero}",
            "mov [{at} + 32], {zero}",
            "mov [{at} + 40], {zero}",
            "mov [{at} + 48], {zero}",
            "mov [{at} + 56], {zero}",
            "add {at}, 64",
            "dec {lines}",
            "jnz 2b",
            at = inout(reg) to_pointer(first) => _,
            lines = inout(reg) count * (PAGE_SIZE as usize / 64) => _,
            zero = in(reg) 0u64,
            options(nostack)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Owner, frames};

    #[test]
    fn every_byte_and_none_behind() {
        let owner = Owner::Vm(62);
        let first = frames().allocate(owner, 3, PAGE_SIZE).unwrap();
        let page = PAGE_SIZE as usize;
        // SAFETY: three frames that were just given to us.
        let bytes = unsafe {
            to_pointer(first).write_bytes(0xa5, 3 * page);
            clear(first, 2);
            core::slice::from_raw_parts(to_pointer(first), 3 * page)
        };
        assert!(bytes[..2 * page].iter().all(|byte| *byte == 0));
        assert!(bytes[2 * page..].iter().all(|byte| *byte == 0xa5));
        frames().free(owner, first, 3).unwrap();
    }
}
