//! What is known of 2 MiB of memory: one small [`Block`] for each, and a [`Detail`] inside of the memory itself where
//! the 512 frames have different owners. So the books of a machine with only large allocations are tiny.

/// Frames of 4 KiB in a block.
pub(super) const FRAMES: usize = 512;
/// "No block" in a list.
pub(super) const NONE: u32 = u32::MAX;

/// What a frame is: 0 free, 1 not the allocator's, 2 the frame that holds the detail, else 3 + index of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(u8);

impl State {
    pub(super) const FREE: Self = Self(0);
    pub(super) const ABSENT: Self = Self(1);
    pub(super) const DETAIL: Self = Self(2);

    /// Owned by the owner with this index.
    pub(super) const fn owned(index: usize) -> Self {
        Self(3 + index as u8)
    }

    pub(super) fn owner_index(self) -> Option<usize> {
        usize::from(self.0).checked_sub(3)
    }
}

const _: () = assert!(super::Owner::COUNT + 3 <= 256);

/// 2 MiB of the physical address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Every frame has this state.
    Whole(State),
    /// The frames differ. The detail lies in the frame with this number.
    Split { detail: u16 },
}

impl Block {
    /// Not the allocator's.
    pub(super) const EMPTY: Self = Self::Whole(State::ABSENT);
}

/// What is known of each frame of one split block.
#[repr(C)]
pub(super) struct Detail {
    /// One bit a frame: it is free.
    pub(super) free: [u64; FRAMES / 64],
    /// How many are free.
    pub(super) free_count: u32,
    /// How many are [`State::ABSENT`].
    pub(super) absent_count: u32,
    /// The next block with free frames, or [`NONE`].
    pub(super) next: u32,
    /// The one before, or [`NONE`].
    pub(super) previous: u32,
    pub(super) states: [State; FRAMES],
}

const _: () = assert!(size_of::<Detail>() <= 4096);

impl Detail {
    /// Every frame in `state`, which is not [`State::DETAIL`], on no list.
    pub(super) fn uniform(state: State) -> Self {
        let (free, free_count) = if state == State::FREE { (!0, FRAMES as u32) } else { (0, 0) };
        Self {
            free: [free; FRAMES / 64],
            free_count,
            absent_count: if state == State::ABSENT { FRAMES as u32 } else { 0 },
            next: NONE,
            previous: NONE,
            states: [state; FRAMES],
        }
    }

    pub(super) fn state(&self, frame: usize) -> State {
        self.states.get(frame).copied().unwrap_or(State::ABSENT)
    }

    pub(super) fn set(&mut self, frame: usize, state: State) {
        let (Some(slot), Some(word)) = (self.states.get_mut(frame), self.free.get_mut(frame / 64)) else { return };
        let bit = 1 << (frame % 64);
        match *slot {
            State::FREE => {
                *word &= !bit;
                self.free_count -= 1;
            }
            State::ABSENT => self.absent_count -= 1,
            _ => {}
        }
        *slot = state;
        match state {
            State::FREE => {
                *word |= bit;
                self.free_count += 1;
            }
            State::ABSENT => self.absent_count += 1,
            _ => {}
        }
    }

    /// The first run of `count` free frames whose number is a multiple of `align` (a power of two).
    pub(super) fn find(&self, count: usize, align: usize) -> Option<usize> {
        if (self.free_count as usize) < count {
            return None;
        }
        if count == 1 && align == 1 {
            let (index, word) = self.free.iter().enumerate().find(|(_, word)| **word != 0)?;
            return Some(index * 64 + word.trailing_zeros() as usize);
        }
        let mut start = 0;
        while start + count <= FRAMES {
            match (start..start + count).rev().find(|frame| self.state(*frame) != State::FREE) {
                None => return Some(start),
                Some(taken) => start = (taken + 1).next_multiple_of(align),
            }
        }
        None
    }
}
