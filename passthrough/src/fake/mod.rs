//! A machine for tests: functions, windows, time and remapping hardware that keep books, check their callers and fail
//! on demand.

pub mod bench;
mod function;
mod remapping;

use std::collections::BTreeMap;
use std::string::String;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

pub use function::{FakeFunction, offset};
pub use remapping::{FakeRemapping, UNKNOWN};

use crate::door::{Clock, Machine, Width, Windows};

/// What happened, in order, over all doors.
pub type Trace = Arc<Mutex<Vec<String>>>;

/// A clock that moves a millisecond on each look.
#[derive(Clone, Debug, Default)]
pub struct FakeClock(Arc<AtomicU64>);

impl Clock for FakeClock {
    fn nanoseconds(&self) -> u64 {
        self.0.fetch_add(1_000_000, Ordering::Relaxed)
    }
}

/// Bar, offset, bytes, whether it was a write.
pub type WindowAccess = (u8, u64, u64, bool);

/// BAR windows as bytes; what was never written reads 0.
#[derive(Clone, Debug, Default)]
pub struct FakeWindows {
    pub bytes: Arc<Mutex<BTreeMap<(u8, u64), u8>>>,
    pub accesses: Arc<Mutex<Vec<WindowAccess>>>,
}

impl FakeWindows {
    /// The four words of an MSI-X table entry.
    pub fn entry(&self, bar: u8, table: u64, vector: u64) -> [u32; 4] {
        let bytes = self.bytes.lock().unwrap();
        let byte = |at: u64| bytes.get(&(bar, at)).copied().unwrap_or(0);
        core::array::from_fn(|word| {
            let at = table + vector * 16 + word as u64 * 4;
            u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)])
        })
    }
}

impl Windows for FakeWindows {
    fn read(&self, bar: u8, offset: u64, width: Width) -> u64 {
        assert!(offset.is_multiple_of(width.bytes()), "unaligned read at {offset:#x}");
        self.accesses.lock().unwrap().push((bar, offset, width.bytes(), false));
        let bytes = self.bytes.lock().unwrap();
        (0..width.bytes()).fold(0, |value, index| {
            value | u64::from(bytes.get(&(bar, offset + index)).copied().unwrap_or(0)) << (index * 8)
        })
    }

    fn write(&self, bar: u8, offset: u64, width: Width, value: u64) {
        assert!(offset.is_multiple_of(width.bytes()), "unaligned write at {offset:#x}");
        self.accesses.lock().unwrap().push((bar, offset, width.bytes(), true));
        let mut bytes = self.bytes.lock().unwrap();
        for (index, byte) in (0..width.bytes()).zip(value.to_le_bytes()) {
            bytes.insert((bar, offset + index), byte);
        }
    }
}

/// All of it.
#[derive(Debug)]
pub struct FakeMachine;

impl Machine for FakeMachine {
    type Configuration = FakeFunction;
    type Windows = FakeWindows;
    type Remapping = FakeRemapping;
    type Clock = FakeClock;
}
