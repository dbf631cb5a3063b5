//! A virtual CPU's place on the bus: the part of its interrupt state that others may write.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use bitflags::bitflags;
use iommu::interrupt::posted::word::AtomicWord;
use iommu::interrupt::posted::{Notification, PostedInterruptDescriptor};

use super::message::Trigger;
use super::vectors::VectorSet;

bitflags! {
    /// What others may ask of a virtual CPU beside its interrupts. Each is taken once, before the next entry.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Requests: u32 {
        /// A non-maskable interrupt.
        const NON_MASKABLE = 1 << 0;
        /// INIT: reset, then wait for start-up.
        const INIT = 1 << 1;
        /// Start-up, at the page that [`Endpoint::take_start_page`] gives.
        const START_UP = 1 << 2;
        /// The nested page table lost rights: forget its translations.
        const FLUSH = 1 << 3;
        /// The machine has ended: do not enter again. Stays set.
        const STOP = 1 << 4;
        /// The host's scheduler wants the processor.
        const YIELD = 1 << 5;
        /// A timer of the machine was set or stopped, or the host's fired: look at the clock.
        const TIMER = 1 << 6;
        /// The interrupt controllers outside the local APICs (the pair of 8259s) ask for an interrupt.
        const EXTERNAL = 1 << 7;
    }
}

/// How a local APIC is addressed: its id, its logical id and the mode it is in, in one word so that a sender never
/// sees half a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicAddress {
    /// The APIC id.
    pub id: u32,
    /// Bits 31:24 of the logical destination register (xAPIC mode).
    pub logical: u8,
    /// Flat model (xAPIC mode; otherwise cluster).
    pub flat: bool,
    /// x2APIC mode.
    pub x2apic: bool,
    /// Global enable (IA32_APIC_BASE bit 11) and software enable (SVR bit 8): takes fixed interrupts.
    pub enabled: bool,
}

impl ApicAddress {
    fn pack(self) -> u64 {
        u64::from(self.id)
            | u64::from(self.logical) << 32
            | u64::from(self.flat) << 40
            | u64::from(self.x2apic) << 41
            | u64::from(self.enabled) << 42
    }

    fn unpack(word: u64) -> Self {
        Self {
            id: word as u32,
            logical: (word >> 32) as u8,
            flat: word & 1 << 40 != 0,
            x2apic: word & 1 << 41 != 0,
            enabled: word & 1 << 42 != 0,
        }
    }

    /// Whether physical destination `id` means this APIC. 0xFF is everyone in xAPIC mode, all ones in x2APIC mode.
    pub fn is_physical(&self, id: u32) -> bool {
        id == self.id || id == u32::MAX || (id == 0xff && !self.x2apic)
    }

    /// Whether logical destination `mask` means this APIC, by the model that it is set to (SDM volume 3 sections
    /// 11.6.2.2 and 11.12.10).
    pub fn is_logical(&self, mask: u32) -> bool {
        if mask == u32::MAX {
            return true;
        }
        if self.x2apic {
            return mask >> 16 == self.id >> 4 && mask & 1 << (self.id & 15) != 0;
        }
        let mask = mask as u8;
        if mask == 0xff {
            return true;
        }
        if self.flat {
            mask & self.logical != 0
        } else {
            mask >> 4 == self.logical >> 4 && mask & self.logical & 0xf != 0
        }
    }
}

/// How whoever posts or asks reaches the host CPU that has to know.
#[derive(Clone, Copy, Debug)]
pub struct Bell {
    /// Sends a vector to a host CPU, in the form of NDST. Callable from an interrupt handler.
    pub send: fn(Notification),
    /// The vector of a sleeping virtual CPU's descriptor.
    pub wake_up: u8,
    /// The vector that makes a host CPU leave its guest, also where it could take the notification vector without.
    pub kick: u8,
}

impl Bell {
    /// Tells nobody: for virtual CPUs that nobody runs, as in tests.
    pub const fn silent() -> Self {
        Self { send: |_| (), wake_up: 2, kick: 3 }
    }
}

/// What another processor, an interrupt handler or the I/O APIC may write of a virtual CPU's state.
#[repr(C)]
pub struct Endpoint<W = AtomicU64> {
    /// The mailbox. Remapping units write it too.
    mailbox: PostedInterruptDescriptor<W>,
    /// Which vectors were last posted as level-triggered: the local APIC's trigger-mode bits come from here.
    level: [W; 4],
    address: W,
    requests: W,
    start_page: W,
    /// 1 while the virtual CPU is in the guest, or so close to it that it looks at no request any more.
    inside: W,
    /// Odd while nothing but a request can wake the virtual CPU; never the same number in two sleeps.
    sleeps: W,
    /// The host CPU that runs it, or ran it last.
    host_cpu: W,
    bell: Bell,
}

impl Endpoint {
    /// The endpoint of a virtual CPU with this APIC id that begins on this host CPU.
    pub fn new(id: u32, host_cpu: u32, bell: Bell) -> Self {
        Self::with_words(id, host_cpu, bell)
    }
}

impl<W: AtomicWord> Endpoint<W> {
    /// As [`Endpoint::new`], on any kind of words.
    pub fn with_words(id: u32, host_cpu: u32, bell: Bell) -> Self {
        let address = ApicAddress { id, logical: 0, flat: true, x2apic: false, enabled: false };
        Self {
            mailbox: PostedInterruptDescriptor::default(),
            level: core::array::from_fn(|_| W::new(0)),
            address: W::new(address.pack()),
            requests: W::new(0),
            start_page: W::new(0),
            inside: W::new(0),
            sleeps: W::new(0),
            host_cpu: W::new(host_cpu.into()),
            bell,
        }
    }

    /// The mailbox, for those who program its address or vector into hardware.
    pub fn mailbox(&self) -> &PostedInterruptDescriptor<W> {
        &self.mailbox
    }

    /// Posts a fixed interrupt and makes the virtual CPU notice. Callable from an interrupt handler: a dozen
    /// instructions, no lock.
    pub fn post(&self, vector: u8, trigger: Trigger) {
        let (word, bit) = (&self.level[usize::from(vector >> 6)], 1 << (vector & 63));
        // Before the request: whoever takes the request finds the trigger mode that belongs to it.
        match trigger {
            Trigger::Level => {
                word.fetch_or(bit, Ordering::AcqRel);
            }
            Trigger::Edge => {
                if word.load(Ordering::Acquire) & bit != 0 {
                    word.fetch_and(!bit, Ordering::AcqRel);
                }
            }
        }
        if let Some(notification) = self.mailbox.post_by_control(vector, false) {
            (self.bell.send)(notification);
        }
    }

    /// Asks for something and makes the virtual CPU notice, wherever it is: it leaves the guest, or wakes. One that
    /// waits for its turn looks when that comes.
    ///
    /// The request before the control word, as PIR. One that runs is kicked in any case: the notification vector would
    /// be taken by a processor that posts interrupts itself, and nothing would be looked at.
    pub fn request(&self, requests: Requests) {
        self.requests.fetch_or(requests.bits().into(), Ordering::AcqRel);
        let before = self.mailbox.announce();
        let (destination, vector) = (before.destination() as u32, before.vector() as u8);
        if before.suppressed() {
        } else if vector != self.bell.wake_up {
            (self.bell.send)(Notification { destination, vector: self.bell.kick });
        } else if !before.outstanding() {
            (self.bell.send)(Notification { destination, vector });
        }
    }

    /// Asks for something of the virtual CPU that this very host CPU runs: it need not be kicked.
    pub fn note(&self, requests: Requests) {
        self.requests.fetch_or(requests.bits().into(), Ordering::AcqRel);
    }

    /// Forgets everything that was asked for and posted: the machine starts over. Nobody runs the virtual CPU.
    pub fn reset(&self) {
        self.requests.store(0, Ordering::Release);
        self.set_asleep(false);
        self.mailbox.forget();
        for word in &self.level {
            word.store(0, Ordering::Release);
        }
    }

    /// Asks for INIT. A start-up that was not taken yet is lost, as on hardware.
    pub fn request_init(&self) {
        self.requests.fetch_and(!u64::from(Requests::START_UP.bits()), Ordering::AcqRel);
        self.request(Requests::INIT);
    }

    /// Asks for a start at `page` times 4096.
    pub fn request_start_up(&self, page: u8) {
        self.start_page.store(page.into(), Ordering::Release);
        self.request(Requests::START_UP);
    }

    /// Takes every request that is pending; [`Requests::STOP`] stays.
    pub fn take_requests(&self) -> Requests {
        let pending = self.requests.load(Ordering::Acquire);
        if pending == 0 {
            return Requests::empty();
        }
        Requests::from_bits_retain(self.requests.fetch_and(Requests::STOP.bits().into(), Ordering::AcqRel) as u32)
    }

    /// The requests that are pending.
    pub fn requests(&self) -> Requests {
        Requests::from_bits_retain(self.requests.load(Ordering::Acquire) as u32)
    }

    /// The page of the last start-up request.
    pub fn take_start_page(&self) -> u8 {
        self.start_page.load(Ordering::Acquire) as u8
    }

    /// Whether the virtual CPU has anything to look at.
    #[inline]
    pub fn has_work(&self) -> bool {
        self.requests.load(Ordering::Acquire) != 0 || self.mailbox.is_outstanding()
    }

    /// The virtual CPU is about to enter the guest: true if it may, false if it has something to look at first.
    ///
    /// Announced before the look, so that whoever asks for something and then finds the virtual CPU outside
    /// ([`wait_for_flush`](Self::wait_for_flush)) knows that it looks again before it enters. The fence between the two
    /// belongs to the one there: without both, each side could read what the other has not written yet.
    #[inline]
    pub fn enter(&self) -> bool {
        self.inside.store(1, Ordering::Relaxed);
        W::full_fence();
        let enters = !self.has_work();
        if !enters {
            self.leave();
        }
        enters
    }

    /// The virtual CPU has left the guest. Whoever sees that knows that it uses no translation any more.
    #[inline]
    pub fn leave(&self) {
        self.inside.store(0, Ordering::Release);
    }

    /// Says whether nothing but a request can wake the virtual CPU: it halted with interrupts off, or was not started.
    /// Only the virtual CPU says it, or who holds it still.
    pub fn set_asleep(&self, asleep: bool) {
        let sleeps = self.sleeps.load(Ordering::Relaxed);
        if (sleeps & 1 == 1) != asleep {
            self.sleeps.store(sleeps.wrapping_add(1), Ordering::Release);
            // Of two that fall asleep at once and then look at each other, one sees both asleep.
            W::full_fence();
        }
    }

    /// Whether none of these virtual CPUs will ever run again by itself: each is asleep, and no request is pending that
    /// would wake it. A request could come only from one that runs.
    ///
    /// Found asleep, without a request, and in the same sleep still: so at the first look all were asleep at once and
    /// remained so, and what they had asked of each other before was there to be seen.
    pub fn are_asleep(endpoints: &[Self]) -> bool {
        let sleeps = || endpoints.iter().map(|endpoint| endpoint.sleeps.load(Ordering::Acquire));
        let total = || sleeps().fold(0, u64::wrapping_add);
        let before = total();
        sleeps().all(|sleeps| sleeps & 1 == 1)
            && endpoints.iter().all(|endpoint| endpoint.requests.load(Ordering::Acquire) == 0)
            && total() == before
    }

    /// Waits until the virtual CPU cannot use a translation any more that was taken away before [`Requests::FLUSH`] was
    /// requested of it: it took the request, or is outside and will before it enters. That takes no longer than an
    /// interrupt, since the request's kick makes it leave the guest.
    /// `pause` is called between two looks.
    pub fn wait_for_flush(&self, pause: impl Fn()) {
        W::full_fence();
        while self.inside.load(Ordering::Acquire) != 0 && self.requests().contains(Requests::FLUSH) {
            pause();
        }
    }

    /// Takes the interrupts that were posted, with those among them that are level-triggered.
    pub fn take_posted(&self) -> Option<(VectorSet, VectorSet)> {
        let words = self.mailbox.take()?;
        let level = core::array::from_fn(|word| {
            self.level.get(word).map_or(0, |level| level.load(Ordering::Acquire))
                & words.get(word).copied().unwrap_or_default()
        });
        Some((VectorSet::from_words(words), VectorSet::from_words(level)))
    }

    /// How the local APIC is addressed now.
    pub fn address(&self) -> ApicAddress {
        ApicAddress::unpack(self.address.load(Ordering::Acquire))
    }

    /// Changes how the local APIC is addressed.
    pub(super) fn set_address(&self, address: ApicAddress) {
        self.address.store(address.pack(), Ordering::Release);
    }

    /// The virtual CPU runs on another host CPU from now on.
    pub fn set_host_cpu(&self, host_cpu: u32) {
        self.host_cpu.store(host_cpu.into(), Ordering::Release);
    }

    /// The host CPU that runs the virtual CPU, or last ran it.
    pub fn host_cpu(&self) -> u32 {
        self.host_cpu.load(Ordering::Acquire) as u32
    }
}

impl<W: AtomicWord> fmt::Debug for Endpoint<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address())
            .field("requests", &self.requests())
            .field("mailbox", &self.mailbox)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicUsize;

    use super::*;

    static KICKS: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn one_kick_serves_until_the_mailbox_is_taken() {
        let send = |_| {
            KICKS.fetch_add(1, Ordering::Relaxed);
        };
        let endpoint = Endpoint::new(0, 7, Bell { send, ..Bell::silent() });
        endpoint.post(0x40, Trigger::Edge);
        endpoint.post(0x41, Trigger::Level);
        assert_eq!(KICKS.load(Ordering::Relaxed), 1);
        let (posted, level) = endpoint.take_posted().unwrap();
        assert!(posted.contains(0x40) && posted.contains(0x41));
        assert!(!level.contains(0x40) && level.contains(0x41));
        endpoint.post(0x41, Trigger::Edge);
        assert_eq!(KICKS.load(Ordering::Relaxed), 2);
        assert!(!endpoint.take_posted().unwrap().1.contains(0x41), "the last post's trigger mode counts");
    }

    #[test]
    fn init_drops_an_older_start_up_and_stop_stays() {
        let endpoint = Endpoint::new(0, 0, Bell::silent());
        endpoint.request_start_up(9);
        endpoint.request_init();
        endpoint.request(Requests::STOP);
        assert_eq!(endpoint.take_requests(), Requests::INIT | Requests::STOP);
        assert_eq!(endpoint.take_requests(), Requests::STOP);
    }

    #[test]
    fn a_virtual_cpu_enters_only_with_nothing_to_look_at() {
        let endpoint = Endpoint::new(0, 0, Bell::silent());
        assert!(endpoint.enter());
        endpoint.leave();
        endpoint.request(Requests::FLUSH);
        assert!(!endpoint.enter());
        endpoint.wait_for_flush(|| unreachable!("it is outside"));
        assert_eq!(endpoint.take_requests(), Requests::FLUSH);
        assert!(endpoint.take_posted().is_some_and(|(posted, _)| posted == VectorSet::from_words([0; 4])), "announced");
        assert!(endpoint.enter());
    }

    #[test]
    fn a_reset_forgets_what_was_asked_for() {
        let endpoint = Endpoint::new(0, 0, Bell::silent());
        endpoint.post(0x40, Trigger::Level);
        endpoint.request(Requests::STOP | Requests::NON_MASKABLE);
        endpoint.reset();
        assert!(endpoint.enter() && endpoint.requests().is_empty());
        endpoint.post(0x40, Trigger::Edge);
        assert!(!endpoint.take_posted().unwrap().1.contains(0x40));
    }

    #[test]
    fn logical_destinations_follow_the_model() {
        let flat = ApicAddress { id: 1, logical: 0x02, flat: true, x2apic: false, enabled: true };
        assert!(flat.is_logical(0x03) && flat.is_logical(0xff) && !flat.is_logical(0x01));
        let cluster = ApicAddress { logical: 0x12, flat: false, ..flat };
        assert!(cluster.is_logical(0x13) && !cluster.is_logical(0x23) && !cluster.is_logical(0x11));
        let x2apic = ApicAddress { id: 0x12, x2apic: true, ..flat };
        assert!(x2apic.is_logical(0x0001_0004) && !x2apic.is_logical(0x0001_0002) && !x2apic.is_logical(4));
        assert!(x2apic.is_logical(u32::MAX) && !x2apic.is_physical(0xff) && flat.is_physical(0xff));
    }

    #[test]
    fn an_address_survives_its_packing() {
        let address = ApicAddress { id: 0xfffe, logical: 0x80, flat: false, x2apic: true, enabled: true };
        assert_eq!(ApicAddress::unpack(address.pack()), address);
    }
}
