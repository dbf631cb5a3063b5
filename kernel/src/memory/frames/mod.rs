//! Physical memory by the frame of 4 KiB, each with an owner to whom it is charged.

mod block;
mod book;
mod owner;

use core::ptr::NonNull;

use iommu::address::{HostPhysical, PAGE_SIZE};
use spin::Mutex;

use self::block::Block;
use self::book::Book;
pub use self::owner::{FreeError, OutOfMemory, Owner};
use crate::cpu::interrupts;

/// The machine's frames; see [`frames`].
pub struct Frames {
    book: Mutex<Option<Book>>,
}

static FRAMES: Frames = Frames { book: Mutex::new(None) };

/// The machine's frames.
pub fn frames() -> &'static Frames {
    #[cfg(test)]
    super::arena::ensure();
    &FRAMES
}

/// Frames that no VM gets, 4 MiB: the hypervisor's heap and tables still grow when a VM has taken all that it may.
const RESERVE: usize = 1024;

/// How much memory there is, in frames of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// What the allocator was given.
    pub managed: usize,
    /// What it can still give.
    pub free: usize,
    /// What of that it can give to VMs.
    pub free_for_vms: usize,
}

impl Frames {
    /// `count` contiguous frames with whatever content they have, the first one aligned to `align` bytes (a power of
    /// two; 4096 for none in particular), charged to `owner`.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] where no such run is free, for a VM also where less than 4 MiB would be left for the hypervisor,
    /// or whose number is not below [`Owner::VMS`].
    pub fn allocate(&self, owner: Owner, count: usize, align: u64) -> Result<HostPhysical, OutOfMemory> {
        let refused = OutOfMemory { owner, frames: count, free: 0 };
        let align = usize::try_from(align / PAGE_SIZE).map_err(|_| refused)?.max(1);
        let reserve = if matches!(owner, Owner::Vm(_)) { RESERVE } else { 0 };
        self.with(|book| book.allocate(owner, count, align, reserve))
            .unwrap_or(Err(refused))
            .map(|frame| HostPhysical::new(frame as u64 * PAGE_SIZE))
    }

    /// As [`allocate`](Self::allocate), and every byte zero.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate).
    pub fn allocate_zeroed(&self, owner: Owner, count: usize, align: u64) -> Result<HostPhysical, OutOfMemory> {
        let first = self.allocate(owner, count, align)?;
        // SAFETY: the frames were just given to us, and the direct map covers them.
        unsafe { super::zero::clear(first, count) };
        Ok(first)
    }

    /// Takes these very frames for `owner`. False, and nothing changed, unless all of them were free.
    pub fn claim(&self, owner: Owner, first: HostPhysical, count: usize) -> bool {
        first.is_aligned(PAGE_SIZE) && self.with(|book| book.claim(owner, frame_number(first), count)).unwrap_or(false)
    }

    /// Gives `count` frames back, in one piece or not as they were allocated.
    ///
    /// # Errors
    ///
    /// [`FreeError`], and nothing changed, where a frame is not `owner`'s. This is a defect of the caller: it is for
    /// the log.
    pub fn free(&self, owner: Owner, first: HostPhysical, count: usize) -> Result<(), FreeError> {
        let refused = FreeError::NotManaged { frame: first, by: owner };
        if !first.is_aligned(PAGE_SIZE) {
            return Err(refused);
        }
        self.with(|book| book.free(owner, frame_number(first), count)).unwrap_or(Err(refused))
    }

    /// How many frames `owner` holds.
    pub fn in_use(&self, owner: Owner) -> usize {
        self.with(|book| book.in_use(owner)).unwrap_or(0)
    }

    /// How much there is in all.
    pub fn totals(&self) -> Totals {
        let (managed, free) = self.with(|book| (book.managed_frames(), book.free_frames())).unwrap_or((0, 0));
        Totals { managed, free, free_for_vms: free.saturating_sub(RESERVE) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Book) -> T) -> Option<T> {
        interrupts::without(|| self.book.lock().as_mut().map(act))
    }

    /// Opens the books: memory up to `end` exists, none of it is managed yet. `storage` is where they are kept, at
    /// least [`storage_size`](Self::storage_size) bytes, aligned to 8; `offset` leads from a physical address to the
    /// direct map.
    ///
    /// # Safety
    ///
    /// `storage` is free memory, for good; and so is whatever [`add`](Self::add) will be told of, reachable through
    /// `offset`.
    pub(super) unsafe fn open(&self, storage: NonNull<u8>, end: HostPhysical, offset: usize) {
        let count = Book::blocks_for(end);
        let storage = storage.cast::<Block>();
        for index in 0..count {
            // SAFETY: the caller's storage holds `count` blocks.
            unsafe { storage.add(index).write(Block::EMPTY) };
        }
        // SAFETY: written just above; the caller gives the memory away for good.
        let blocks = unsafe { core::slice::from_raw_parts_mut(storage.as_ptr(), count) };
        // SAFETY: the caller's promise about `add` and `offset`.
        let book = unsafe { Book::new(blocks, offset) };
        interrupts::without(|| *self.book.lock() = Some(book));
    }

    /// How many bytes the books of memory up to `end` take.
    pub(super) fn storage_size(end: HostPhysical) -> usize {
        Book::blocks_for(end).saturating_mul(size_of::<Block>())
    }

    /// Counts `count` frames as `owner`'s that the allocator was never given.
    pub(super) fn add_in_use(&self, owner: Owner, count: usize) {
        self.with(|book| book.add_in_use(owner, count));
    }

    /// Hands `count` free frames over.
    pub(super) fn add(&self, first: HostPhysical, count: usize) {
        self.with(|book| book.add(frame_number(first), count));
    }
}

fn frame_number(address: HostPhysical) -> usize {
    (address.as_u64() / PAGE_SIZE) as usize
}

/// The machine's frames, for the test arena that opens them.
#[cfg(test)]
pub(super) fn unopened() -> &'static Frames {
    &FRAMES
}
