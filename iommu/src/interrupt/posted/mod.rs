//! The posted-interrupt descriptor: the one mailbox in which every device interrupt for a virtual processor lands
//! (VT-d section 9.11, SDM volume 3 section 30.6).
//!
//! Who writes what: any poster (the remapping unit, a host handler, another processor) sets bits of PIR and then
//! changes the control word once; the one reader, whoever is about to enter the virtual processor or the processor
//! itself, clears ON and then takes PIR. A bit set after that take finds ON clear and sets it again, so nothing is lost.
//! Where the virtual processor is, the other fields of the control word say: [`placement`] changes those.
//!
//! Every poster ends with a change of the control word, even one that changes nothing: what merely reads it could see
//! an ON that was cleared, and a reader that changes it later would not see the poster's PIR.

pub mod placement;
pub mod word;

use core::sync::atomic::{AtomicU64, Ordering};

use crate::layout::layout;
use word::AtomicWord;

layout! {
    /// The descriptor's bits 256 to 319 as one word, which is changed as a whole (VT-d section 9.11).
    pub struct Control(u64) {
        /// ON: a notification is outstanding.
        outstanding, with_outstanding: [0];
        /// SN: posters announce nothing, unless the interrupt is urgent.
        suppressed, with_suppressed: [1];
        /// NV: the vector of the notification.
        vector, with_vector: [23:16];
        /// NDST: the processor that is notified, as
        /// [`DestinationFormat::destination`](super::entry::DestinationFormat::destination) gives it.
        destination, with_destination: [63:32];
    }
}

/// Whom a poster has to tell: what the remapping unit would send, a processor that posts has to send itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a notification that is not sent is an interrupt that nobody looks for"]
pub struct Notification {
    /// NDST at the moment of the post.
    pub destination: u32,
    /// NV at the moment of the post.
    pub vector: u8,
}

/// A posted-interrupt descriptor, shared with remapping units and processors. It must not move or be freed while any
/// interrupt-remapping entry or processor can reach it.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct PostedInterruptDescriptor<W = AtomicU64> {
    /// Posted-interrupt requests: one bit a vector.
    requests: [W; 4],
    /// As [`Control`] has it.
    control: W,
    reserved: [W; 3],
}

const _: () = assert!(size_of::<PostedInterruptDescriptor>() == 64);

/// Outstanding notification.
const ON: u64 = Control::from_bits(0).with_outstanding(true).bits();

impl PostedInterruptDescriptor {
    /// An empty descriptor: nothing requested, not suppressed, notification vector and destination 0.
    pub const fn new() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; 4],
            control: AtomicU64::new(0),
            reserved: [const { AtomicU64::new(0) }; 3],
        }
    }
}

impl<W: AtomicWord> PostedInterruptDescriptor<W> {
    /// Requests `vector`. True when the reader has to be told: no notification was outstanding. For readers that are
    /// found by other means than the control word, which is not looked at but for ON.
    ///
    /// PIR before ON: a reader that sees ON finds the bit.
    #[inline]
    pub fn post(&self, vector: u8) -> bool {
        self.request(vector);
        self.control.fetch_or(ON, Ordering::AcqRel) & ON == 0
    }

    /// Requests `vector` as a remapping unit does (VT-d section 5.2.3), `urgent` (URG of its entry) also where
    /// notifications are suppressed. What it returns has to be sent.
    #[inline]
    pub fn post_by_control(&self, vector: u8, urgent: bool) -> Option<Notification> {
        self.request(vector);
        let notifies = |control: Control| !control.outstanding() && (urgent || !control.suppressed());
        let before = self.change(|control| if notifies(control) { control.with_outstanding(true) } else { control });
        notifies(before)
            .then(|| Notification { destination: before.destination() as u32, vector: before.vector() as u8 })
    }

    /// Says that the virtual processor has something to look at that is no interrupt. The control word before: it says
    /// whom to tell, if anybody: nobody where it is suppressed, since whoever loads the virtual processor looks.
    ///
    /// As after PIR, what is to be looked at is written before this.
    #[inline]
    pub fn announce(&self) -> Control {
        self.change(|control| if control.suppressed() { control } else { control.with_outstanding(true) })
    }

    /// Forgets every request and the notification of it. Nobody posts meanwhile.
    pub fn forget(&self) {
        self.control.fetch_and(!ON, Ordering::AcqRel);
        for word in &self.requests {
            word.store(0, Ordering::Release);
        }
    }

    #[inline]
    fn request(&self, vector: u8) {
        self.requests[usize::from(vector >> 6)].fetch_or(1 << (vector & 63), Ordering::AcqRel);
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

    /// Whether the virtual processor has an interrupt to look at: one that was announced, or one that came while
    /// notifications were suppressed.
    #[inline]
    pub fn is_pending(&self) -> bool {
        let control = self.control();
        control.outstanding() || (control.suppressed() && self.has_requests())
    }

    /// The control word at this moment.
    #[inline]
    pub fn control(&self) -> Control {
        Control::from_bits(self.control.load(Ordering::Acquire))
    }

    /// Exchanges the control word for what `next` makes of it; the word before. Others change it at the same time, so
    /// `next` is asked again whenever somebody else got a change in: hardware and software change it a bounded number
    /// of times between two changes of its reader.
    #[inline]
    fn change(&self, next: impl Fn(Control) -> Control) -> Control {
        let mut seen = self.control.load(Ordering::Relaxed);
        loop {
            match self.control.exchange(seen, next(Control::from_bits(seen)).bits()) {
                Ok(before) => return Control::from_bits(before),
                Err(other) => seen = other,
            }
        }
    }

    /// As [`change`](Self::change), but only while no notification is outstanding: whoever posts after that acts on the
    /// new word. False, and nothing is changed, where one is.
    fn change_unless_outstanding(&self, next: impl Fn(Control) -> Control) -> bool {
        let before = self.change(|control| if control.outstanding() { control } else { next(control) });
        !before.outstanding()
    }
}

impl<W: AtomicWord> Default for PostedInterruptDescriptor<W> {
    fn default() -> Self {
        Self {
            requests: core::array::from_fn(|_| W::new(0)),
            control: W::new(0),
            reserved: core::array::from_fn(|_| W::new(0)),
        }
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

    #[test]
    fn the_control_word_is_laid_out_as_the_manual_says() {
        Control::check_round_trip();
        assert_eq!(Control::DEFINED, 0xffff_ffff_00ff_0003);
    }

    #[test]
    fn only_an_urgent_post_announces_itself_while_suppressed() {
        let descriptor = PostedInterruptDescriptor::new();
        descriptor.change(|_| Control::default().with_suppressed(true).with_vector(0xf2).with_destination(7));
        assert_eq!(descriptor.post_by_control(0x41, false), None);
        assert!(!descriptor.is_outstanding() && descriptor.is_pending());
        let notification = Notification { destination: 7, vector: 0xf2 };
        assert_eq!(descriptor.post_by_control(0x42, true), Some(notification));
        assert_eq!(descriptor.post_by_control(0x43, true), None, "one notification is enough");
        assert_eq!(descriptor.take(), Some([0, 0b1110, 0, 0]));
        assert!(!descriptor.is_pending());
    }

    #[test]
    fn what_is_no_interrupt_is_announced_where_somebody_can_be_told() {
        let descriptor = PostedInterruptDescriptor::new();
        assert!(!descriptor.announce().outstanding());
        assert!(descriptor.announce().outstanding());
        assert_eq!(descriptor.take(), Some([0; 4]));
        descriptor.change(|control| control.with_suppressed(true));
        assert!(descriptor.announce().suppressed() && !descriptor.is_outstanding());
    }

    #[test]
    fn what_came_while_suppressed_is_forgotten_too() {
        let descriptor = PostedInterruptDescriptor::new();
        descriptor.change(|control| control.with_suppressed(true));
        assert_eq!(descriptor.post_by_control(0x41, false), None);
        descriptor.forget();
        assert!(!descriptor.is_pending() && !descriptor.has_requests());
    }
}
