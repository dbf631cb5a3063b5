//! Memory for devices: pages behind the guest's image, never given back.

use core::sync::atomic::{AtomicUsize, Ordering};

/// The bytes of a page.
pub const PAGE: usize = 4096;

/// The pages that [`page`] hands out.
const POOL_PAGES: usize = 64;

#[repr(C, align(4096))]
struct Pool(core::cell::UnsafeCell<[[u8; PAGE]; POOL_PAGES]>);

// SAFETY: each page is handed out once, to one owner.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(core::cell::UnsafeCell::new([[0; PAGE]; POOL_PAGES]));
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A page of zeroes at its physical address, which devices may write at any time.
#[derive(Debug)]
pub struct Page(*mut u8);

impl Page {
    /// Takes a page.
    ///
    /// # Panics
    ///
    /// When all 64 are taken: a guest that needs more has a defect.
    pub fn take() -> Self {
        let index = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(index < POOL_PAGES, "the guest's pool of pages is used up");
        Self(POOL.0.get().cast::<u8>().wrapping_add(index * PAGE))
    }

    /// Its physical address, the same as its virtual one.
    pub fn address(&self) -> u64 {
        self.0 as u64
    }

    /// The byte at `offset`, read from memory now.
    pub fn get(&self, offset: usize) -> u8 {
        assert!(offset < PAGE);
        // SAFETY: inside a page that is ours; volatile, as a device may write it.
        unsafe { self.0.add(offset).read_volatile() }
    }

    /// Sets the byte at `offset`.
    pub fn set(&mut self, offset: usize, value: u8) {
        assert!(offset < PAGE);
        // SAFETY: as in `get`.
        unsafe { self.0.add(offset).write_volatile(value) }
    }

    /// Sets every byte by its offset.
    pub fn fill(&mut self, value: impl Fn(usize) -> u8) {
        for offset in 0..PAGE {
            self.set(offset, value(offset));
        }
    }

    /// Whether every byte of the first `length` has this value by its offset.
    pub fn is(&self, length: usize, value: impl Fn(usize) -> u8) -> bool {
        (0..length).all(|offset| self.get(offset) == value(offset))
    }
}

/// Registers of a device at a physical address below 512 GiB.
#[derive(Clone, Copy, Debug)]
pub struct Registers(u64);

impl Registers {
    /// The registers from this physical address on. Maps the address if it is above 4 GiB.
    pub fn at(address: u64) -> Self {
        if address >= 1 << 32 {
            map_gigabyte(address);
        }
        Self(address)
    }

    /// The physical address.
    pub fn address(self) -> u64 {
        self.0
    }

    /// Reads 32 bits.
    pub fn read32(self, offset: u64) -> u32 {
        // SAFETY: mapped, and of a device that the guest owns (or of nobody: then all ones come back).
        unsafe { ((self.0 + offset) as *const u32).read_volatile() }
    }

    /// Writes 32 bits.
    pub fn write32(self, offset: u64, value: u32) {
        // SAFETY: as in `read32`.
        unsafe { ((self.0 + offset) as *mut u32).write_volatile(value) }
    }

    /// Reads 64 bits in one access.
    pub fn read64(self, offset: u64) -> u64 {
        // SAFETY: as in `read32`.
        unsafe { ((self.0 + offset) as *const u64).read_volatile() }
    }

    /// Writes 64 bits in one access.
    pub fn write64(self, offset: u64, value: u64) {
        // SAFETY: as in `read32`.
        unsafe { ((self.0 + offset) as *mut u64).write_volatile(value) }
    }
}

/// Maps the gigabyte of an address at its own address, uncached, with 2 MiB pages.
#[cfg(target_os = "none")]
fn map_gigabyte(address: u64) {
    unsafe extern "C" {
        static mut directory_pointers: [u64; 512];
    }
    let index = (address >> 30) as usize;
    assert!(index < 512, "device registers above 512 GiB");
    let pointers = &raw mut directory_pointers;
    // SAFETY: the entry code's table of this guest, which only this function changes, on one processor.
    let slot = unsafe { pointers.cast::<u64>().add(index) };
    // SAFETY: as above.
    if unsafe { slot.read_volatile() } != 0 {
        return;
    }
    let table = Page::take();
    for entry in 0..512 {
        let target = (index as u64) << 30 | entry << 21;
        // Present, writable, large, not cached.
        // SAFETY: a page of our own, not yet in use as a table.
        unsafe { (table.address() as *mut u64).add(entry as usize).write_volatile(target | 0x9B) };
    }
    // SAFETY: the slot was empty, so no translation is stale.
    unsafe { slot.write_volatile(table.address() | 3) };
}

#[cfg(not(target_os = "none"))]
fn map_gigabyte(_: u64) {}
