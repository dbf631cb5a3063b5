//! Frames for tests: an arena that notices misuse and records what was flushed, in order.

use std::cell::{Cell, RefCell};
use std::vec::Vec;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::address::HostPhysical;
use crate::door::{Frames, OutOfFrames};

type Words = [AtomicU64; 512];

/// Where the arena's first frame claims to be.
const BASE: u64 = 0x12_3400_0000;
/// What memory holds that was never flushed, or was freed: a present entry to nowhere in most formats.
pub(crate) const GARBAGE: u64 = 0xdead_beef_0000_0f07;

/// A bounded set of frames.
pub(crate) struct Arena {
    memory: Vec<Words>,
    used: RefCell<Vec<bool>>,
    /// Allocations that still succeed.
    allowance: Cell<u64>,
    flushed: RefCell<Vec<Flushed>>,
}

/// Words that a flush wrote to memory.
pub(crate) struct Flushed {
    pub(crate) frame: HostPhysical,
    pub(crate) first: usize,
    pub(crate) values: Vec<u64>,
}

impl Arena {
    pub(crate) fn new(frames: usize) -> Self {
        Self {
            memory: (0..frames).map(|_| core::array::from_fn(|_| AtomicU64::new(GARBAGE))).collect(),
            used: RefCell::new(std::vec![false; frames]),
            allowance: Cell::new(u64::MAX),
            flushed: RefCell::new(Vec::new()),
        }
    }

    /// After this, `allocations` succeed and then none.
    pub(crate) fn allow(&self, allocations: u64) {
        self.allowance.set(allocations);
    }

    pub(crate) fn in_use(&self) -> u64 {
        self.used.borrow().iter().filter(|used| **used).count() as u64
    }

    /// Every frame in use with its contents.
    pub(crate) fn snapshot(&self) -> Vec<(usize, Vec<u64>)> {
        let used = self.used.borrow();
        let contents = |place: usize| self.memory[place].iter().map(|word| word.load(Relaxed)).collect();
        (0..used.len()).filter(|place| used[*place]).map(|place| (place, contents(place))).collect()
    }

    /// Every flush since the last call.
    pub(crate) fn take_flushed(&self) -> Vec<Flushed> {
        self.flushed.take()
    }

    fn place(&self, frame: HostPhysical) -> usize {
        assert!(frame.is_aligned(4096), "{frame} is not a frame");
        let place = (frame.as_u64() - BASE) as usize / 4096;
        assert!(self.used.borrow()[place], "frame {place} is used while free");
        place
    }
}

// SAFETY: frames are elements of a vector that never moves, reached by index; a foreign or free address panics.
#[expect(unsafe_code, reason = "the arena keeps the trait's promises by indexing")]
unsafe impl Frames for Arena {
    fn allocate(&self, count: usize) -> Result<HostPhysical, OutOfFrames> {
        assert_eq!(count, 1);
        let left = self.allowance.get().checked_sub(1).ok_or(OutOfFrames)?;
        self.allowance.set(left);
        let mut used = self.used.borrow_mut();
        let place = used.iter().position(|used| !used).ok_or(OutOfFrames)?;
        used[place] = true;
        self.memory[place].iter().for_each(|word| word.store(0, Relaxed));
        Ok(HostPhysical::new(BASE + place as u64 * 4096))
    }

    fn free(&self, first: HostPhysical, count: usize) {
        assert_eq!(count, 1);
        let place = self.place(first);
        self.used.borrow_mut()[place] = false;
        self.memory[place].iter().for_each(|word| word.store(GARBAGE, Relaxed));
    }

    fn words(&self, frame: HostPhysical) -> &Words {
        &self.memory[self.place(frame)]
    }

    fn flush(&self, words: &[AtomicU64]) {
        let (place, frame) = (0u64..)
            .zip(&self.memory)
            .find(|(_, frame)| frame.as_ptr_range().contains(&words.as_ptr()))
            .expect("a flush of words that are in no frame");
        self.flushed.borrow_mut().push(Flushed {
            frame: HostPhysical::new(BASE + place * 4096),
            first: (words.as_ptr().addr() - frame.as_ptr().addr()) / 8,
            values: words.iter().map(|word| word.load(Relaxed)).collect(),
        });
    }
}
