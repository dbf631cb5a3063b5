//! An open device behind its lock, and the one thing that does not wait for the lock: quarantine.
//!
//! A reset holds the lock for as long as the function takes to come back, up to a minute. A device that attacks must be
//! stopped meanwhile, by a CPU that holds other locks.

use core::sync::atomic::{AtomicBool, Ordering};

use passthrough::config::register::{COMMAND, command::BUS_MASTER};
use passthrough::device::{Device, DeviceError, Quarantine};
use passthrough::door::{ConfigurationSpace, Machine};
use spin::Mutex;

/// A device and its lock.
pub(super) struct Guarded<M: Machine> {
    device: Mutex<Device<M>>,
    quarantine: Quarantine,
    /// The command register was written past the lock: whoever holds that, or takes it next, writes it anew.
    unsettled: AtomicBool,
}

impl<M: Machine> Guarded<M> {
    pub(super) fn new(device: Device<M>) -> Self {
        let quarantine = device.quarantine();
        Self { device: Mutex::new(device), quarantine, unsettled: AtomicBool::new(false) }
    }

    /// Does something with the device, alone.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Device<M>) -> T) -> T {
        let result = act(&mut self.device.lock());
        self.settle();
        result
    }

    /// Stops the function's requests for as long as the device is open, without waiting for who uses the device:
    /// `space` is the function's configuration space.
    pub(super) fn quarantine(&self, space: &impl ConfigurationSpace) {
        // From here on whoever brings the command register up to date leaves bus mastering off.
        self.quarantine.set(true);
        let now = space.read_u16(COMMAND);
        // All ones is no answer: the function is in a reset, with bus mastering off, or gone.
        if now != u16::MAX {
            space.write_u16(COMMAND, now & !BUS_MASTER);
        }
        // The read and the write may have stood around a write of the holder's, whose other bits are lost then.
        self.unsettled.store(true, Ordering::SeqCst);
        self.settle();
    }

    /// Writes the command register anew if somebody wrote it past the lock. If the lock is held, its holder does so when
    /// it has let go: either this sees the lock free, or the holder sees `unsettled`.
    fn settle(&self) {
        while self.unsettled.load(Ordering::SeqCst) {
            let Some(device) = self.device.try_lock() else { return };
            self.unsettled.store(false, Ordering::SeqCst);
            device.settle_command();
        }
    }

    pub(super) fn close(self) -> Result<(), DeviceError> {
        self.device.into_inner().close()
    }
}
