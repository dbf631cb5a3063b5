//! The heap: a window of addresses that is filled with frames as it is used up.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use linked_list_allocator::Heap;
use spin::Mutex;

use super::layout;
use super::space;
use crate::cpu::interrupts;

/// Bytes that the heap grows by at least.
const STEP: usize = 64 * 1024;

/// The global allocator: interrupts are off while it works, so an interrupt's handler may use it too.
struct KernelHeap(Mutex<Heap>);

#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: KernelHeap = KernelHeap(Mutex::new(Heap::empty()));

/// How much the heap holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapUse {
    /// Allocated.
    pub used: usize,
    /// Mapped.
    pub mapped: usize,
}

/// How much the heap holds.
pub fn heap_use() -> HeapUse {
    interrupts::without(|| {
        let heap = HEAP.0.lock();
        HeapUse { used: heap.used(), mapped: heap.size() }
    })
}

impl KernelHeap {
    /// Maps more of the window, enough for `layout`. False where memory or the window is used up.
    fn grow(heap: &mut Heap, layout: Layout) -> bool {
        let wanted = layout.size().saturating_add(layout.align()).max(STEP);
        let size = heap.size();
        let Some(step) = wanted.checked_next_multiple_of(STEP) else { return false };
        if size.saturating_add(step) > layout::HEAP_SIZE {
            return false;
        }
        for page in (size..size + step).step_by(4096) {
            if space::map_fresh_page(layout::HEAP + page).is_err() {
                // What is mapped is kept: at the end of memory nobody else could use much of it either.
                return extend(heap, page - size);
            }
        }
        extend(heap, step)
    }
}

fn extend(heap: &mut Heap, bytes: usize) -> bool {
    if bytes == 0 {
        return false;
    }
    if heap.size() == 0 {
        let start: *mut u8 = core::ptr::with_exposed_provenance_mut(layout::HEAP);
        // SAFETY: the pages were just mapped, are nobody else's, and stay.
        unsafe { heap.init(start, bytes) };
    } else {
        // SAFETY: as above, and they lie right behind the heap.
        unsafe { heap.extend(bytes) };
    }
    true
}

// SAFETY: `linked_list_allocator` gives memory as the trait asks; the lock is held around every use of it.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        interrupts::without(|| {
            let mut heap = self.0.lock();
            loop {
                match heap.allocate_first_fit(layout) {
                    Ok(place) => return place.as_ptr(),
                    Err(()) if Self::grow(&mut heap, layout) => {}
                    Err(()) => return core::ptr::null_mut(),
                }
            }
        })
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if let Some(place) = NonNull::new(place) {
            // SAFETY: the caller gives back what `alloc` gave for this layout.
            interrupts::without(|| unsafe { self.0.lock().deallocate(place, layout) });
        }
    }
}
