//! What the fuzz targets do with their input. `fuzz/` hands them libFuzzer's; `tests/replay.rs` hands them the kept
//! corpus and a fixed number of its mutations, on any toolchain.
//!
//! Each function panics when a promise of the `iommu` crate is broken.

#[path = "../../remapping-unit-model/tests/board/mod.rs"]
mod board;
mod dmar;
mod driver;
mod fault;

pub use dmar::dmar;
pub use driver::driver;
pub use fault::fault;

/// Input that gives zeros when it is used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// A number below `bound`, which is at most 256.
    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
}
