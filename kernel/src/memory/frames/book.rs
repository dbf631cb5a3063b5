//! The allocator's algorithm, without lock or global: host tests drive it against a brute-force model.

use core::ops::Range;

use iommu::address::{HostPhysical, PAGE_SIZE};

use super::block::{Block, Detail, FRAMES, NONE, State};
use super::owner::{FreeError, OutOfMemory, Owner};

/// Every frame of the machine, and whose it is.
///
/// Memory in small pieces comes from blocks that are split already, lowest piece first; large memory from whole
/// blocks. What is freed merges back.
pub(super) struct Book {
    /// One a 2 MiB block, from physical address 0.
    blocks: &'static mut [Block],
    /// What to add to a physical address to reach it.
    offset: usize,
    /// The head of the list of split blocks with free frames.
    partial: u32,
    /// No whole block below this one is free.
    first_free: usize,
    /// Frames that nobody owns, those with details among them.
    free: usize,
    /// Frames that hold details.
    details: usize,
    managed: usize,
    in_use: [usize; Owner::COUNT],
}

// SAFETY: the pointers that `detail` makes lead to memory that only the book uses, and only through `&mut self`.
unsafe impl Send for Book {}

impl Book {
    /// A book in which nothing is managed yet: every block is [`Block::EMPTY`].
    ///
    /// # Safety
    ///
    /// Every frame that `add` will be told of, plus `offset`, is memory that is mapped for reading and writing and
    /// that nobody uses until `allocate` gives it.
    pub(super) unsafe fn new(blocks: &'static mut [Block], offset: usize) -> Self {
        Self {
            first_free: blocks.len(),
            blocks,
            offset,
            partial: NONE,
            free: 0,
            details: 0,
            managed: 0,
            in_use: [0; Owner::COUNT],
        }
    }

    /// How many blocks a book needs for memory up to `end`.
    pub(super) fn blocks_for(end: HostPhysical) -> usize {
        usize::try_from(end.as_u64().div_ceil(FRAMES as u64 * PAGE_SIZE)).unwrap_or(usize::MAX)
    }

    pub(super) fn free_frames(&self) -> usize {
        self.free - self.details
    }

    pub(super) fn managed_frames(&self) -> usize {
        self.managed
    }

    pub(super) fn in_use(&self, owner: Owner) -> usize {
        owner.index().and_then(|index| self.in_use.get(index)).copied().unwrap_or(0)
    }

    /// Gives the book `count` frames that it does not manage yet. Those outside of its blocks stay unmanaged.
    pub(super) fn add(&mut self, first: usize, count: usize) {
        let end = first.saturating_add(count).min(self.blocks.len() * FRAMES);
        for (number, frames) in pieces(first, end) {
            let count = frames.len();
            match self.blocks.get(number) {
                Some(Block::Whole(State::ABSENT)) if count == FRAMES => {
                    self.set_block(number, Block::Whole(State::FREE));
                }
                // One frame could hold nothing but the detail that says so.
                Some(Block::Whole(State::ABSENT)) if count == 1 => continue,
                Some(Block::Whole(State::ABSENT)) => {
                    self.split(number, State::ABSENT, frames.start);
                    self.change(number, frames, State::FREE);
                }
                Some(Block::Split { .. }) => self.change(number, frames, State::FREE),
                _ => continue,
            }
            self.free += count;
            self.managed += count;
        }
    }

    /// Counts `count` frames as `owner`'s though the book does not manage them: they are for good.
    pub(super) fn add_in_use(&mut self, owner: Owner, count: usize) {
        if let Some(counter) = owner.index().and_then(|index| self.in_use.get_mut(index)) {
            *counter += count;
        }
    }

    /// `count` contiguous frames, the first one's number a multiple of `align` (a power of two). At least `reserve`
    /// stay free.
    pub(super) fn allocate(
        &mut self,
        owner: Owner,
        count: usize,
        align: usize,
        reserve: usize,
    ) -> Result<usize, OutOfMemory> {
        let free = self.free_frames().saturating_sub(reserve);
        let refused = OutOfMemory { owner, frames: count, free };
        let index = owner.index().ok_or(refused)?;
        if count == 0 || count > free || !align.is_power_of_two() {
            return Err(refused);
        }
        let small = count < FRAMES && align <= FRAMES;
        let first = if small { self.find_small(count, align) } else { self.find_large(count, align) }.ok_or(refused)?;
        self.assign(first, count, State::FREE, State::owned(index));
        Ok(first)
    }

    /// Takes these very frames, which are free, for `owner`. True when it did.
    pub(super) fn claim(&mut self, owner: Owner, first: usize, count: usize) -> bool {
        let Some(index) = owner.index() else { return false };
        let end = first.saturating_add(count);
        if self.first_other(first, end, State::FREE).is_some() {
            return false;
        }
        self.assign(first, count, State::FREE, State::owned(index));
        true
    }

    /// Takes frames back: all, or none and the reason.
    pub(super) fn free(&mut self, owner: Owner, first: usize, count: usize) -> Result<(), FreeError> {
        let address = |frame: usize| HostPhysical::new((frame as u64).saturating_mul(PAGE_SIZE));
        let index = owner.index().ok_or(FreeError::NotManaged { frame: address(first), by: owner })?;
        let end = first.saturating_add(count);
        if let Some((frame, state)) = self.first_other(first, end, State::owned(index)) {
            let frame = address(frame);
            return Err(match state.owner_index().and_then(Owner::from_index) {
                Some(other) => FreeError::WrongOwner { frame, owner: other, by: owner },
                None if state != State::ABSENT => FreeError::DoubleFree { frame, by: owner },
                None => FreeError::NotManaged { frame, by: owner },
            });
        }
        self.assign(first, count, State::owned(index), State::FREE);
        Ok(())
    }

    fn find_small(&mut self, count: usize, align: usize) -> Option<usize> {
        let mut number = self.partial;
        while number != NONE {
            let block = number as usize;
            let detail = self.detail(block)?;
            if let Some(frame) = detail.find(count, align) {
                return Some(block * FRAMES + frame);
            }
            number = detail.next;
        }
        let block = self.find_blocks(1, 1)?;
        // A split block keeps its detail in a frame of its own: the last one, so the first 511 stay one run.
        self.split(block, State::FREE, FRAMES - 1);
        Some(block * FRAMES)
    }

    fn find_large(&mut self, count: usize, align: usize) -> Option<usize> {
        // The last block may end up split, and then needs a frame for its detail.
        let blocks = count.div_ceil(FRAMES);
        self.find_blocks(blocks, (align / FRAMES).max(1)).map(|block| block * FRAMES)
    }

    /// The first run of `count` whole free blocks at a multiple of `align`.
    fn find_blocks(&mut self, count: usize, align: usize) -> Option<usize> {
        let free = Block::Whole(State::FREE);
        let skip = self.blocks.get(self.first_free..)?.iter().position(|block| *block == free);
        self.first_free = skip.map_or(self.blocks.len(), |skip| self.first_free + skip);
        let mut start = self.first_free.checked_next_multiple_of(align)?;
        loop {
            let run = self.blocks.get(start..start.checked_add(count)?)?;
            match run.iter().rposition(|block| *block != free) {
                None => return Some(start),
                Some(taken) => start = (start + taken + 1).checked_next_multiple_of(align)?,
            }
        }
    }

    /// The first frame of the range whose state is not `wanted`.
    fn first_other(&mut self, first: usize, end: usize, wanted: State) -> Option<(usize, State)> {
        for (number, frames) in pieces(first, end) {
            let other = match self.blocks.get(number).copied() {
                Some(Block::Whole(state)) if state == wanted => None,
                Some(Block::Whole(state)) => Some((frames.start, state)),
                Some(Block::Split { .. }) => {
                    let detail = self.detail(number)?;
                    frames.map(|frame| (frame, detail.state(frame))).find(|(_, state)| *state != wanted)
                }
                None => Some((frames.start, State::ABSENT)),
            };
            if let Some((frame, state)) = other {
                return Some((number * FRAMES + frame, state));
            }
        }
        None
    }

    /// Moves frames, all of them in state `from`, to state `to`, and counts.
    fn assign(&mut self, first: usize, count: usize, from: State, to: State) {
        for (number, frames) in pieces(first, first.saturating_add(count)) {
            match self.blocks.get(number) {
                Some(Block::Whole(_)) if frames.len() == FRAMES => self.set_block(number, Block::Whole(to)),
                Some(Block::Whole(_)) => {
                    // The detail must lie in a free frame: one of those that are freed, or one that is not taken.
                    let detail = match (to == State::FREE, frames.start) {
                        (true, start) => start,
                        (false, 0) => FRAMES - 1,
                        (false, _) => 0,
                    };
                    self.split(number, from, detail);
                    self.change(number, frames, to);
                }
                Some(Block::Split { .. }) => self.change(number, frames, to),
                None => {}
            }
        }
        for (state, add) in [(from, false), (to, true)] {
            let counter = match state.owner_index() {
                Some(index) => self.in_use.get_mut(index),
                None => Some(&mut self.free),
            };
            if let Some(counter) = counter {
                *counter = if add { *counter + count } else { *counter - count };
            }
        }
    }

    /// Turns a whole block in `state` into a split one whose detail lies in its frame number `detail`.
    fn split(&mut self, number: usize, state: State, detail: usize) {
        self.set_block(number, Block::Split { detail: detail as u16 });
        self.details += 1;
        let place = self.detail_place(number, detail);
        // SAFETY: the frame is the book's (`add`), nobody owns it, and it is large and aligned enough for a detail.
        unsafe { place.write(Detail::uniform(state)) };
        if let Some(content) = self.detail(number) {
            content.set(detail, State::DETAIL);
            if content.free_count > 0 {
                self.link(number);
            }
        }
    }

    /// Sets the state of some frames of a split block, but not of the one with the detail, and merges the block where
    /// that leaves it free.
    fn change(&mut self, number: usize, frames: Range<usize>, to: State) {
        let Some(detail) = self.detail(number) else { return };
        let was_partial = detail.free_count > 0;
        for frame in frames {
            if detail.state(frame) != State::DETAIL {
                detail.set(frame, to);
            }
        }
        let (is_partial, is_free) = (detail.free_count > 0, detail.free_count as usize == FRAMES - 1);
        match (was_partial, is_partial && !is_free) {
            (false, true) => self.link(number),
            (true, false) => self.unlink(number),
            _ => {}
        }
        if is_free {
            self.set_block(number, Block::Whole(State::FREE));
            self.details -= 1;
        }
    }

    fn set_block(&mut self, number: usize, block: Block) {
        if let Some(slot) = self.blocks.get_mut(number) {
            *slot = block;
            if block == Block::Whole(State::FREE) {
                self.first_free = self.first_free.min(number);
            }
        }
    }

    /// Puts a block at the head of the list of those with free frames.
    fn link(&mut self, number: usize) {
        let head = core::mem::replace(&mut self.partial, number as u32);
        if let Some(detail) = self.detail(number) {
            (detail.next, detail.previous) = (head, NONE);
        }
        if let Some(detail) = self.detail(head as usize) {
            detail.previous = number as u32;
        }
    }

    fn unlink(&mut self, number: usize) {
        let Some(detail) = self.detail(number) else { return };
        let (next, previous) = (detail.next, detail.previous);
        (detail.next, detail.previous) = (NONE, NONE);
        match self.detail(previous as usize) {
            Some(before) => before.next = next,
            None => self.partial = next,
        }
        if let Some(after) = self.detail(next as usize) {
            after.previous = previous;
        }
    }

    fn detail(&mut self, number: usize) -> Option<&mut Detail> {
        match self.blocks.get(number) {
            // SAFETY: `split` wrote a detail there; nobody else reaches the frame until the block is whole again, and
            // the borrow of the book keeps a second reference away.
            Some(Block::Split { detail }) => Some(unsafe { &mut *self.detail_place(number, usize::from(*detail)) }),
            _ => None,
        }
    }

    fn detail_place(&self, number: usize, detail: usize) -> *mut Detail {
        let address = (number * FRAMES + detail) * PAGE_SIZE as usize;
        core::ptr::with_exposed_provenance_mut(address.wrapping_add(self.offset))
    }
}

/// A range of frames, cut at the borders of blocks: the block's number, and which of its frames.
fn pieces(first: usize, end: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut next = first;
    core::iter::from_fn(move || {
        (next < end).then(|| {
            let number = next / FRAMES;
            let start = next % FRAMES;
            let stop = FRAMES.min(start + (end - next));
            next += stop - start;
            (number, start..stop)
        })
    })
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
