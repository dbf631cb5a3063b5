//! Lines of log that a VM can cause: so many over its life, and no more.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use log::{error, warn};

/// How many lines a VM may cause with its devices, over all of its runs.
const LINES: u32 = 32;

/// What is left of a VM's lines. A clone counts with it.
#[derive(Clone, Debug, Default)]
pub struct Complaints(Arc<AtomicU32>);

impl Complaints {
    /// Warns of something that the guest may have caused.
    pub fn warn(&self, what: fmt::Arguments<'_>) {
        self.say(|| warn!("{what}"));
    }

    /// Says that hardware did not do its part, which the guest may repeat.
    pub fn error(&self, what: fmt::Arguments<'_>) {
        self.say(|| error!("{what}"));
    }

    fn say(&self, line: impl FnOnce()) {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0..LINES => line(),
            LINES => {
                line();
                warn!("further lines of this kind are left out for this VM");
            }
            // Far from wrapping: the counter stays near the limit.
            _ => self.0.store(LINES + 1, Ordering::Relaxed),
        }
    }

    /// How many lines were asked for, as far as they are counted.
    #[cfg(test)]
    pub(super) fn asked(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_causes_so_many_lines_and_no_more() {
        let complaints = Complaints::default();
        let mut said = 0;
        for _ in 0..1000 {
            complaints.clone().say(|| said += 1);
        }
        assert_eq!(said, LINES + 1);
        assert!(complaints.asked() <= LINES + 2);
    }
}
