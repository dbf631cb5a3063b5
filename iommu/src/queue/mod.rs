//! Queued invalidation (VT-d section 6.5.2): how a unit is told that something changed; [`register`] serves those that
//! have no queue.
//!
//! A submission is a batch: its descriptors, a wait descriptor that writes a status word, one write of the tail, and a
//! bounded wait for that word. Only then may what was taken back be used again. The queue belongs to its unit's queue
//! lock, which is held for the whole submission; so the queue is empty whenever a submission starts.

pub mod descriptor;
mod error;
pub mod register;
#[cfg(test)]
mod tests;

use core::sync::atomic::Ordering;

pub use descriptor::{Abilities, Block, Descriptor};
pub use error::{InvalidDescriptor, QueueError};
pub use register::InvalidationRegisters;

use crate::address::{HostPhysical, PAGE_SIZE, SourceId};
use crate::door::{Clock, Frames, OutOfFrames, Registers};
use crate::queue::descriptor::Words;
use crate::registers::command::{CommandExpired, Commander, Switch};
use crate::registers::status::{FaultStatus, QueueAddress, QueuePosition};
use crate::registers::{Wait, Window, map};

/// Descriptors in the queue: one page of 16-byte slots (IQA.QS = 0).
const SLOTS: usize = 256;
/// Descriptors of one chunk, beside its wait and the slot that always stays free (a full queue would look empty).
const CHUNK: usize = SLOTS - 2;
/// The frames of a queue: the ring, and the page that the unit writes status words to.
const FRAMES: usize = 2;

/// The invalidation queue of one unit.
#[derive(Debug)]
pub struct Queue<F> {
    frames: F,
    ring: HostPhysical,
    status: HostPhysical,
    tail: usize,
    sequence: u32,
    abilities: Abilities,
    /// Set for good when the unit stopped answering: nothing more is awaited from it.
    dead: bool,
}

/// How the wait for one chunk went.
enum Progress {
    Done,
    /// The chunk was not executed as a whole, because a device did not answer.
    TimedOut,
    Fault(FaultStatus),
}

impl<F: Frames> Queue<F> {
    /// An empty queue. The unit does not know of it yet.
    pub fn new(frames: F, abilities: Abilities) -> Result<Self, OutOfFrames> {
        let ring = frames.allocate(FRAMES)?;
        let status = HostPhysical::new(ring.as_u64() + PAGE_SIZE);
        Ok(Self { frames, ring, status, tail: 0, sequence: 0, abilities, dead: false })
    }

    /// How many descriptors it holds.
    pub const fn slots(&self) -> usize {
        SLOTS
    }

    /// What shapes its descriptors.
    pub const fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// Hands the queue to the unit and turns it on. The unit's queue must be off (QIES = 0).
    pub fn enable<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        commander: &mut Commander,
    ) -> Result<(), CommandExpired> {
        self.tail = 0;
        window.write(map::QUEUE_TAIL, QueuePosition::default());
        window.write(map::QUEUE_ADDRESS, QueueAddress::default().with_frame(self.ring.as_u64() / PAGE_SIZE));
        commander.set(window, clock, Switch::QueuedInvalidation, true)
    }

    /// Turns the queue off: behind a last wait descriptor, as hardware asks.
    pub fn disable<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        commander: &mut Commander,
    ) -> Result<(), QueueError> {
        self.submit(window, clock, [Descriptor::AllContexts].into_iter())?;
        commander.set(window, clock, Switch::QueuedInvalidation, false).map_err(QueueError::Command)
    }

    /// Executes `descriptors` in order and waits for all of them: one write of the tail for every `CHUNK` of them.
    /// None at all: nothing happens.
    ///
    /// # Errors
    ///
    /// The first thing that went wrong. After [`QueueError::DeviceSilent`] and [`QueueError::DeviceWrong`] all but that
    /// device's own TLB is invalidated; after any other, what was asked for cannot be relied on, and nothing that it
    /// covers may be used for something else.
    pub fn submit<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        descriptors: impl Iterator<Item = Descriptor> + Clone,
    ) -> Result<(), QueueError> {
        let mut rest = descriptors.peekable();
        let mut first_error = None;
        while rest.peek().is_some() {
            if self.dead {
                return Err(QueueError::Dead);
            }
            let chunk = rest.clone().take(CHUNK);
            rest.by_ref().take(CHUNK).for_each(drop);
            match self.run(window, clock, chunk.clone(), &mut first_error)? {
                Progress::TimedOut => {
                    // Waits were aborted, so nothing of the chunk is sure: again, without what a device must answer.
                    let others = chunk.filter(|descriptor| descriptor.device().is_none());
                    self.run(window, clock, others, &mut first_error)?;
                }
                Progress::Done | Progress::Fault(_) => {}
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Gives the frames back. The unit's queue must be off.
    pub fn release(self) {
        self.frames.free(self.ring, FRAMES);
    }

    fn run<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        chunk: impl Iterator<Item = Descriptor>,
        first_error: &mut Option<QueueError>,
    ) -> Result<Progress, QueueError> {
        let mut asks_devices = false;
        for descriptor in chunk {
            asks_devices |= descriptor.device().is_some();
            self.push(descriptor.words(self.abilities));
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.push(descriptor::wait(self.sequence, self.status));
        self.write_tail(window);
        let progress = self.await_status(window, clock, first_error);
        self.dead |= progress.is_err();
        if asks_devices && matches!(progress, Ok(Progress::Done)) {
            // A wrong answer completes the wait all the same.
            take_wrong_answer(window, window.read(map::FAULT_STATUS), first_error);
        }
        progress
    }

    fn push(&mut self, words: Words) {
        self.put(self.tail, words);
        self.tail = (self.tail + 1) % SLOTS;
    }

    fn put(&self, slot: usize, words: Words) {
        if let Some(pair) = self.frames.words(self.ring).as_chunks::<2>().0.get(slot) {
            pair[0].store(words.bits() as u64, Ordering::Relaxed);
            pair[1].store((words.bits() >> 64) as u64, Ordering::Release);
        }
    }

    fn get(&self, slot: usize) -> Words {
        self.frames.words(self.ring).as_chunks::<2>().0.get(slot).map_or(Words::default(), |pair| {
            let (low, high) = (pair[0].load(Ordering::Acquire), pair[1].load(Ordering::Acquire));
            Words::from_bits(u128::from(high) << 64 | u128::from(low))
        })
    }

    fn write_tail<R: Registers>(&self, window: &Window<R>) {
        window.write(map::QUEUE_TAIL, QueuePosition::default().with_slot(self.tail as u64));
    }

    fn is_done(&self) -> bool {
        self.frames.words(self.status)[0].load(Ordering::Acquire) as u32 == self.sequence
    }

    /// Waits for the status word, and gets the queue going again when it stands still. A descriptor can stop it once
    /// only, since it is replaced; so this ends.
    fn await_status<R: Registers>(
        &self,
        window: &Window<R>,
        clock: &impl Clock,
        first_error: &mut Option<QueueError>,
    ) -> Result<Progress, QueueError> {
        for _ in 0..SLOTS {
            let progress = Wait::INVALIDATION
                .until(clock, || {
                    if self.is_done() {
                        return Some(Progress::Done);
                    }
                    let status = window.read(map::FAULT_STATUS);
                    let stopped = status.queue_error() || status.completion_error() || status.time_out();
                    stopped.then_some(Progress::Fault(status))
                })
                .map_err(|wait| QueueError::Expired { head: window.read(map::QUEUE_HEAD), wait })?;
            let Progress::Fault(status) = progress else { return Ok(progress) };
            let record = window.read(map::QUEUE_ERROR_RECORD);
            take_wrong_answer(window, status, first_error);
            if status.queue_error() {
                let head = window.read(map::QUEUE_HEAD).slot() as usize;
                let refused = self.get(head);
                let reason = InvalidDescriptor::from_code(record.info());
                first_error.get_or_insert(QueueError::Refused { descriptor: refused.bits(), reason });
                // A wait that is refused, or a fault of the queue as a whole: replacing cannot help.
                if refused.kind() == 5 || !reason.is_of_one_descriptor() {
                    return Err(QueueError::Refused { descriptor: refused.bits(), reason });
                }
                self.put(head, descriptor::wait(0, HostPhysical::new(self.status.as_u64() + 8)));
                window.clear(map::FAULT_STATUS, FaultStatus::default().with_queue_error(true));
                self.write_tail(window);
            }
            if status.time_out() {
                let source = SourceId::from_bits(record.time_out_source() as u16);
                first_error.get_or_insert(QueueError::DeviceSilent { source });
                window.clear(map::FAULT_STATUS, FaultStatus::default().with_time_out(true));
                return self.drained(window, clock);
            }
        }
        Err(QueueError::Dead)
    }

    /// After a device's time-out: waits until the unit has taken what is left in the queue.
    fn drained<R: Registers>(&self, window: &Window<R>, clock: &impl Clock) -> Result<Progress, QueueError> {
        Wait::INVALIDATION
            .until(clock, || {
                // A second device may be silent too.
                if window.read(map::FAULT_STATUS).time_out() {
                    window.clear(map::FAULT_STATUS, FaultStatus::default().with_time_out(true));
                }
                (window.read(map::QUEUE_HEAD).slot() as usize == self.tail).then_some(Progress::TimedOut)
            })
            .map_err(|wait| QueueError::Expired { head: window.read(map::QUEUE_HEAD), wait })
    }
}

/// Notes and clears a device's wrong answer (ICE).
fn take_wrong_answer<R: Registers>(window: &Window<R>, status: FaultStatus, first_error: &mut Option<QueueError>) {
    if status.completion_error() {
        let source = SourceId::from_bits(window.read(map::QUEUE_ERROR_RECORD).completion_source() as u16);
        first_error.get_or_insert(QueueError::DeviceWrong { source });
        window.clear(map::FAULT_STATUS, FaultStatus::default().with_completion_error(true));
    }
}
