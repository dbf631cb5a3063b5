//! The frames as the libraries see them: charged to one owner, zeroed, as words that hardware shares.

use core::sync::atomic::AtomicU64;

use iommu::address::{HostPhysical, PAGE_SIZE};
use iommu::door::{self, Exchange, OutOfFrames};

use super::{Owner, frames, to_pointer};
use crate::cpu;

/// Frames for the tables of one owner.
#[derive(Clone, Copy, Debug)]
pub struct KernelFrames {
    owner: Owner,
}

impl KernelFrames {
    /// Whatever is allocated through this is charged to `owner`.
    pub const fn new(owner: Owner) -> Self {
        Self { owner }
    }
}

// SAFETY: the frame allocator gives a frame to one owner at a time, and the direct map covers every frame that it
// manages. An address that it does not manage is not mapped there or holds no Rust object that `words` could reach
// without a defect of the caller, for which the door's contract makes the caller answer.
unsafe impl door::Frames for KernelFrames {
    fn allocate(&self, count: usize) -> Result<HostPhysical, OutOfFrames> {
        let size = (count as u64).checked_mul(PAGE_SIZE).ok_or(OutOfFrames)?;
        frames().allocate_zeroed(self.owner, count, size).map_err(|_| OutOfFrames)
    }

    fn free(&self, first: HostPhysical, count: usize) {
        if let Err(error) = frames().free(self.owner, first, count) {
            log::error!("a table's memory is not given back: {error}");
        }
    }

    fn words(&self, frame: HostPhysical) -> &[AtomicU64; 512] {
        assert!(frame.is_aligned(PAGE_SIZE), "a table lies at {frame}, which is no frame");
        // SAFETY: aligned, mapped by the direct map; the caller got it from `allocate`, so only words of atomics are
        // made of it.
        unsafe { &*to_pointer(frame).cast() }
    }

    fn flush(&self, words: &[AtomicU64]) {
        cpu::cache::write_back(words.as_ptr_range());
    }

    fn exchange_u128(&self, pair: &[AtomicU64; 2], current: u128, new: u128) -> Exchange {
        match cpu::exchange::exchange_u128(pair, current, new) {
            Some(Ok(())) => Exchange::Done,
            Some(Err(found)) => Exchange::Differs(found),
            None => Exchange::Unsupported,
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use iommu::door::Frames as _;

    use super::*;

    #[test]
    fn tables_are_zeroed_charged_and_given_back() {
        let owner = Owner::Vm(63);
        let doors = KernelFrames::new(owner);
        let first = doors.allocate(4).unwrap();
        assert!(first.is_aligned(4 * PAGE_SIZE));
        assert_eq!(frames().in_use(owner), 4);
        let words = doors.words(first);
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        words[511].store(7, Ordering::Relaxed);
        doors.free(first, 4);
        assert_eq!(frames().in_use(owner), 0);
        doors.free(first, 4);
        assert_eq!(frames().in_use(owner), 0, "a second free changes nothing");
        let again = doors.allocate(4).unwrap();
        assert!((0..4).all(|frame| {
            let frame = again.checked_add(frame * PAGE_SIZE).unwrap();
            doors.words(frame).iter().all(|word| word.load(Ordering::Relaxed) == 0)
        }));
        doors.free(again, 4);
    }
}
