//! Where a virtual processor is, as its descriptor says it: every transition, and the race that it closes.
//!
//! A scheduler keeps one [`Placement`] a virtual processor, one [`Processor`] a host processor, and gives two host
//! vectors to all of this ([`Vectors`]). Fields are those of VT-d section 9.11; what a processor in guest mode does with
//! the notification vector is in SDM volume 3 section 30.6.
//!
//! | State | SN | NV | NDST | An interrupt that arrives |
//! |---|---|---|---|---|
//! | [`Parked`](State::Parked) | 1 | notification | 0 | stays in PIR |
//! | [`Running`](State::Running) | 0 | notification | its processor | is taken by the processor in guest mode, or at the next entry |
//! | [`Preempted`](State::Preempted) | 1 | notification | its last processor | stays in PIR |
//! | [`Blocked`](State::Blocked) | 0 | wake-up | the processor that lists it | makes that processor wake it |
//!
//! | Transition | Steps, in order | Race that the order closes |
//! |---|---|---|
//! | [`load`](Placement::load) | off the list; one exchange to NDST, SN=0, NV=notification; ON if PIR has anything | a poster never sees a new NV with an old NDST; an interrupt that came while SN=1 left no ON, and no later one would announce it |
//! | [`preempt`](Placement::preempt) | SN=1 | a poster either announced itself before, and ON stays for the next entry, or leaves PIR for the next load |
//! | [`block`](Placement::block) | on the list; one exchange to NV=wake-up, only while ON=0 | listed before NV changes: the wake-up that follows finds it. With ON=1 nobody would announce anything any more: it must not sleep |
//! | [`migrate`](Placement::migrate) | on the new list; one exchange to NDST, only while ON=0; off the old list | a poster that saw the old NDST set ON, so the exchange fails and the old list still has it; one that sees the new NDST finds it on the new list |
//! | [`park`](Placement::park) | off the list; one exchange to SN=1, NV=notification, NDST=0 | as preempt, and no processor is asked to wake what will not run |
//! | [`wake_up`](Processor::wake_up) | reads the list, then each one's ON; changes neither | a handler that took what it saw off the list could take off one that slept again meanwhile; ON stays for the entry |
//!
//! What remains to whoever enters the guest: with interrupts held back, [`take`](PostedInterruptDescriptor::take) after
//! `load` and before each entry. What is posted after that sends the notification vector, which is pending when the
//! guest is entered. The host's own handler of the notification vector has nothing to do, but the entry after it takes.
//!
//! The lists are sets of bits, so a handler that looks at one while it changes finds a virtual processor or does not;
//! there is no node to free under it and no lock to hold. Each bit is changed only by the placement that it stands for.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use super::word::AtomicWord;
use super::{Control, Notification, ON, PostedInterruptDescriptor};

/// The two host vectors of posting, the same on every processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// The posted-interrupt notification vector: the VMCS names it, and a processor in guest mode takes the descriptor's
    /// interrupts on it without an exit.
    pub notification: u8,
    /// The vector whose handler calls [`Processor::wake_up`].
    pub wake_up: u8,
}

/// How a poster in software interrupts a processor.
pub trait Notifier {
    /// Sends the vector to the processor: a fixed interrupt. The destination is in the form of NDST. Called by whoever
    /// posts, interrupt handlers among them.
    fn send(&self, notification: Notification);
}

/// Who sleeps in the slots of a [`Processor`]'s list.
pub trait Sleepers<W = AtomicU64> {
    /// The descriptor of the virtual processor in `slot`, if there is one.
    fn descriptor(&self, slot: usize) -> Option<&PostedInterruptDescriptor<W>>;
    /// Makes the virtual processor in `slot` runnable. It may be already, or be awake for another reason: then this
    /// does nothing. Called from an interrupt handler.
    fn wake(&self, slot: usize);
}

/// A host processor, as far as descriptors know it: its address, and who sleeps there. Its list holds slots 0 to
/// `64 * WORDS - 1`.
#[derive(Debug)]
pub struct Processor<W = AtomicU64, const WORDS: usize = 4> {
    destination: u32,
    sleepers: [W; WORDS],
}

impl<W: AtomicWord, const WORDS: usize> Processor<W, WORDS> {
    /// A processor on which nobody sleeps. `destination` is its address in the form of NDST, which
    /// [`DestinationFormat::destination`](crate::interrupt::entry::DestinationFormat::destination) gives.
    pub fn new(destination: u32) -> Self {
        Self { destination, sleepers: core::array::from_fn(|_| W::new(0)) }
    }

    /// The processor's address in the form of NDST.
    pub fn destination(&self) -> u32 {
        self.destination
    }

    /// What the handler of the wake-up vector does on this processor: wakes every sleeper that has a notification
    /// outstanding. How many it woke; a sleeper is woken again until it is loaded.
    pub fn wake_up(&self, sleepers: &impl Sleepers<W>) -> usize {
        let mut woken = 0usize;
        for (word, listed) in self.sleepers.iter().enumerate() {
            let mut bits = listed.load(Ordering::Acquire);
            while bits != 0 {
                let slot = word.saturating_mul(64).saturating_add(bits.trailing_zeros() as usize);
                bits &= bits.wrapping_sub(1);
                if sleepers.descriptor(slot).is_some_and(PostedInterruptDescriptor::is_outstanding) {
                    sleepers.wake(slot);
                    woken = woken.saturating_add(1);
                }
            }
        }
        woken
    }

    /// Whether `slot` is on this processor's list.
    pub fn lists(&self, slot: usize) -> bool {
        let bit = 1 << (slot % 64);
        self.sleepers.get(slot / 64).is_some_and(|word| word.load(Ordering::Acquire) & bit != 0)
    }

    fn list(&self, slot: usize) -> Result<(), Misplaced> {
        let word = self.sleepers.get(slot / 64).ok_or(Misplaced::NoSlot { slot, slots: WORDS.saturating_mul(64) })?;
        word.fetch_or(1 << (slot % 64), Ordering::AcqRel);
        Ok(())
    }

    fn unlist(&self, slot: usize) {
        if let Some(word) = self.sleepers.get(slot / 64) {
            word.fetch_and(!(1 << (slot % 64)), Ordering::AcqRel);
        }
    }
}

/// Where a virtual processor is. Numbers are places in the slice of [`Processor`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, or ended: nobody looks at its interrupts.
    Parked,
    /// It owns this processor, in the guest or on the way there.
    Running(usize),
    /// It could run; it last did on this processor.
    Preempted(usize),
    /// It waits for an interrupt; this processor wakes it.
    Blocked(usize),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parked => write!(f, "parked"),
            Self::Running(cpu) => write!(f, "running on processor {cpu}"),
            Self::Preempted(cpu) => write!(f, "preempted on processor {cpu}"),
            Self::Blocked(cpu) => write!(f, "blocked on processor {cpu}"),
        }
    }
}

/// Whether a virtual processor sleeps after a transition that would have it sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a virtual processor with a pending interrupt must run, nobody will wake it"]
pub enum Sleep {
    /// It does; the next interrupt wakes it.
    Sound,
    /// An interrupt was there first: nothing has changed, and the virtual processor has to be run.
    Pending,
}

/// Why a transition was refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// There is no such processor.
    NoProcessor {
        /// Its place in the slice.
        cpu: usize,
        /// How many there are.
        processors: usize,
    },
    /// The processors' lists have no bit for this virtual processor.
    NoSlot {
        /// The virtual processor's slot.
        slot: usize,
        /// How many there are.
        slots: usize,
    },
    /// This transition does not leave that state.
    State {
        /// What was asked for.
        transition: &'static str,
        /// Where the virtual processor is.
        state: State,
    },
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProcessor { cpu, processors } => {
                write!(f, "processor {cpu} does not exist, there are {processors}: place it on one of those")
            }
            Self::NoSlot { slot, slots } => write!(
                f,
                "slot {slot} is beyond the {slots} of a processor's wake-up list: give the virtual processor a lower \
                 slot, or the lists more words"
            ),
            Self::State { transition, state } => {
                write!(f, "a virtual processor that is {state} cannot {transition}: bring it to a state that can first")
            }
        }
    }
}

impl core::error::Error for Misplaced {}

/// The place of one virtual processor, held by whoever schedules it. Nobody else changes SN, NV or NDST of its
/// descriptor. Every transition takes that descriptor and all processors, the same each time.
#[derive(Debug)]
pub struct Placement {
    slot: usize,
    vectors: Vectors,
    state: State,
}

impl Placement {
    /// Parks a new virtual processor. `slot` is its bit in the lists, which no other may use.
    pub fn new<W: AtomicWord>(descriptor: &PostedInterruptDescriptor<W>, slot: usize, vectors: Vectors) -> Self {
        descriptor.change(|control| parked(control, vectors));
        Self { slot, vectors, state: State::Parked }
    }

    /// Where the virtual processor is.
    pub fn state(&self) -> State {
        self.state
    }

    /// The virtual processor's bit in the lists.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The virtual processor runs on `cpu` from now on. Called there, with interrupts held back until
    /// [`take`](PostedInterruptDescriptor::take) and entry, or anywhere as long as that processor does both after.
    ///
    /// # Errors
    ///
    /// [`Misplaced::State`] while it runs; [`Misplaced::NoProcessor`].
    pub fn load<W: AtomicWord, const WORDS: usize>(
        &mut self,
        descriptor: &PostedInterruptDescriptor<W>,
        processors: &[Processor<W, WORDS>],
        cpu: usize,
    ) -> Result<(), Misplaced> {
        let destination = find(processors, cpu)?.destination;
        match self.state {
            State::Running(_) => return Err(self.refuse("be loaded")),
            State::Blocked(sleeps_on) => find(processors, sleeps_on)?.unlist(self.slot),
            State::Parked | State::Preempted(_) => {}
        }
        let vector = self.vectors.notification;
        descriptor.change(|control| place(control, destination, vector).with_suppressed(false));
        // Every poster changes the control word after PIR. What came before the change above is seen here, what comes
        // after it announces itself.
        if descriptor.has_requests() {
            descriptor.control.fetch_or(ON, Ordering::AcqRel);
        }
        self.state = State::Running(cpu);
        Ok(())
    }

    /// The virtual processor has left its processor and could go on: interrupts wait for the next load.
    ///
    /// # Errors
    ///
    /// [`Misplaced::State`] unless it runs.
    pub fn preempt<W: AtomicWord>(&mut self, descriptor: &PostedInterruptDescriptor<W>) -> Result<(), Misplaced> {
        let State::Running(cpu) = self.state else { return Err(self.refuse("be preempted")) };
        descriptor.change(|control| control.with_suppressed(true));
        self.state = State::Preempted(cpu);
        Ok(())
    }

    /// The virtual processor has left its processor and waits for an interrupt. Where it sleeps, the wake-up vector
    /// comes to the processor that it ran on; otherwise it still runs.
    ///
    /// # Errors
    ///
    /// [`Misplaced::State`] unless it runs; [`Misplaced::NoProcessor`]; [`Misplaced::NoSlot`].
    pub fn block<W: AtomicWord, const WORDS: usize>(
        &mut self,
        descriptor: &PostedInterruptDescriptor<W>,
        processors: &[Processor<W, WORDS>],
    ) -> Result<Sleep, Misplaced> {
        let State::Running(cpu) = self.state else { return Err(self.refuse("block")) };
        self.sleep_on(descriptor, processors, cpu)
    }

    /// A sleeping virtual processor is woken by `cpu` from now on: its processor goes offline, or has others to serve.
    /// Where that finds an interrupt, the wake-up was sent to the old processor and may not be served there: whoever
    /// called this has to wake it.
    ///
    /// A virtual processor that runs is moved by [`preempt`](Self::preempt) and a load elsewhere.
    ///
    /// # Errors
    ///
    /// [`Misplaced::State`] unless it is blocked; [`Misplaced::NoProcessor`].
    pub fn migrate<W: AtomicWord, const WORDS: usize>(
        &mut self,
        descriptor: &PostedInterruptDescriptor<W>,
        processors: &[Processor<W, WORDS>],
        cpu: usize,
    ) -> Result<Sleep, Misplaced> {
        let State::Blocked(old) = self.state else { return Err(self.refuse("migrate in its sleep")) };
        let old_processor = find(processors, old)?;
        if old == cpu {
            return Ok(if descriptor.is_outstanding() { Sleep::Pending } else { Sleep::Sound });
        }
        let sleep = self.sleep_on(descriptor, processors, cpu)?;
        if sleep == Sleep::Sound {
            old_processor.unlist(self.slot);
        }
        Ok(sleep)
    }

    /// The virtual processor does not run any more, whatever it did. Its descriptor may be freed when every
    /// interrupt-remapping entry that names it is changed and the change invalidated, and no processor has it loaded.
    ///
    /// # Errors
    ///
    /// [`Misplaced::NoProcessor`].
    pub fn park<W: AtomicWord, const WORDS: usize>(
        &mut self,
        descriptor: &PostedInterruptDescriptor<W>,
        processors: &[Processor<W, WORDS>],
    ) -> Result<(), Misplaced> {
        if let State::Blocked(cpu) = self.state {
            find(processors, cpu)?.unlist(self.slot);
        }
        descriptor.change(|control| parked(control, self.vectors));
        self.state = State::Parked;
        Ok(())
    }

    fn sleep_on<W: AtomicWord, const WORDS: usize>(
        &mut self,
        descriptor: &PostedInterruptDescriptor<W>,
        processors: &[Processor<W, WORDS>],
        cpu: usize,
    ) -> Result<Sleep, Misplaced> {
        let processor = find(processors, cpu)?;
        processor.list(self.slot)?;
        let vector = self.vectors.wake_up;
        if descriptor.change_unless_outstanding(|control| place(control, processor.destination, vector)) {
            self.state = State::Blocked(cpu);
            Ok(Sleep::Sound)
        } else {
            processor.unlist(self.slot);
            Ok(Sleep::Pending)
        }
    }

    fn refuse(&self, transition: &'static str) -> Misplaced {
        Misplaced::State { transition, state: self.state }
    }
}

/// Requests `vector` of a virtual processor, wherever it is, as a remapping unit does for an entry that is not urgent.
pub fn post<W: AtomicWord>(descriptor: &PostedInterruptDescriptor<W>, vector: u8, notifier: &impl Notifier) {
    if let Some(notification) = descriptor.post_by_control(vector, false) {
        notifier.send(notification);
    }
}

fn find<W, const WORDS: usize>(
    processors: &[Processor<W, WORDS>],
    cpu: usize,
) -> Result<&Processor<W, WORDS>, Misplaced> {
    processors.get(cpu).ok_or(Misplaced::NoProcessor { cpu, processors: processors.len() })
}

fn place(control: Control, destination: u32, vector: u8) -> Control {
    control.with_destination(u64::from(destination)).with_vector(u64::from(vector))
}

fn parked(control: Control, vectors: Vectors) -> Control {
    place(control, 0, vectors.notification).with_suppressed(true)
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
