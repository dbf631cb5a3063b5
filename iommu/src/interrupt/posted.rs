//! The posted-interrupt descriptor: the one mailbox in which every device interrupt for a virtual processor lands
//! (VT-d section 9.11, SDM volume 3 section 30.6).
//!
//! Who writes what: any poster (the remapping unit, a host handler, another processor) sets bits of PIR and then ON;
//! the one reader, whoever is about to enter the virtual processor or the processor itself, clears ON and then takes
//! PIR. A bit set after that take finds ON clear and sets it again, so nothing is lost.

use core::sync::atomic::{AtomicU64, Ordering};

/// A posted-interrupt descriptor, shared with remapping units and processors. It must not move or be freed while any
/// interrupt-remapping entry or processor can reach it.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct PostedInterruptDescriptor {
    /// Posted-interrupt requests: one bit a vector.
    requests: [AtomicU64; 4],
    /// ON 0, SN 1, NV 23:16, NDST 63:32.
    control: AtomicU64,
    reserved: [AtomicU64; 3],
}

const _: () = assert!(size_of::<PostedInterruptDescriptor>() == 64);

/// Outstanding notification.
const ON: u64 = 1 << 0;

impl PostedInterruptDescriptor {
    /// An empty descriptor: nothing requested, not suppressed, notification vector and destination 0.
    pub const fn new() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; 4],
            control: AtomicU64::new(0),
            reserved: [const { AtomicU64::new(0) }; 3],
        }
    }

    /// Requests `vector`. True when the reader has to be told: no notification was outstanding.
    ///
    /// PIR before ON: a reader that sees ON finds the bit.
    #[inline]
    pub fn post(&self, vector: u8) -> bool {
        self.requests[usize::from(vector >> 6)].fetch_or(1 << (vector & 63), Ordering::AcqRel);
        self.control.fetch_or(ON, Ordering::AcqRel) & ON == 0
    }

    /// Takes every request, as the processor does on a notification: ON is cleared first, then PIR is read and
    /// cleared. `None` when no notification was outstanding.
    #[inline]
    pub fn take(&self) -> Option<[u64; 4]> {
        if self.control.load(Ordering::Acquire) & ON == 0 {
            return None;
        }
        self.control.fetch_and(!ON, Ordering::AcqRel);
        Some(core::array::from_fn(|word| self.requests[word].swap(0, Ordering::AcqRel)))
    }

    /// Whether a notification is outstanding: [`take`](Self::take) would give something.
    #[inline]
    pub fn is_outstanding(&self) -> bool {
        self.control.load(Ordering::Acquire) & ON != 0
    }

    /// Whether any vector is requested, announced or not.
    #[inline]
    pub fn has_requests(&self) -> bool {
        self.requests.iter().any(|word| word.load(Ordering::Acquire) != 0)
    }
}

impl Default for PostedInterruptDescriptor {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_is_taken_once() {
        let descriptor = PostedInterruptDescriptor::new();
        assert_eq!(descriptor.take(), None);
        assert!(descriptor.post(0x41));
        assert!(!descriptor.post(0xff), "one notification is enough for two requests");
        assert!(descriptor.is_outstanding());
        assert_eq!(descriptor.take(), Some([0, 1 << 1, 0, 1 << 63]));
        assert_eq!(descriptor.take(), None);
        assert!(descriptor.post(0x41), "after a take the next post must notify again");
    }
}
