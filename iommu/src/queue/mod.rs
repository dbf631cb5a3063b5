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

use core::sync::atomic::{AtomicU64, Ordering};

pub use descriptor::{Abilities, Block, Descriptor};
pub use error::{InvalidDescriptor, QueueError};
pub use register::InvalidationRegisters;

use crate::address::{HostPhysical, PAGE_SIZE, SourceId};
use crate::door::{Clock, Frames, OutOfFrames, Registers};
use crate::queue::descriptor::Words;
use crate::registers::command::{CommandExpired, Commander, Switch};
use crate::registers::status::{FaultStatus, QueueAddress, QueuePosition};
use crate::registers::{Wait, Window, map};

/// Descriptors in the queue: one page of 16-byte slots (IQA.QS = 0), or two of 32-byte slots (QS = 1).
const SLOTS: usize = 256;
/// Descriptors of one chunk, beside its wait and the slot that always stays free (a full queue would look empty).
const CHUNK: usize = SLOTS - 2;

/// The invalidation queue of one unit.
#[derive(Debug)]
pub struct Queue<F> {
    frames: F,
    ring: HostPhysical,
    status: HostPhysical,
    /// Descriptors have 256 bits, as the kinds for processes need.
    wide: bool,
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
    /// An empty queue. The unit does not know of it yet. `wide`: of 256-bit descriptors, which only units with scalable
    /// mode take.
    pub fn new(frames: F, abilities: Abilities, wide: bool) -> Result<Self, OutOfFrames> {
        let ring = frames.allocate(Self::frame_count(wide))?;
        let status = HostPhysical::new(ring.as_u64() + PAGE_SIZE * Self::ring_pages(wide));
        Ok(Self { frames, ring, status, wide, tail: 0, sequence: 0, abilities, dead: false })
    }

    const fn ring_pages(wide: bool) -> u64 {
        if wide { 2 } else { 1 }
    }

    /// The ring, and the page that the unit writes status words to; a power of two.
    const fn frame_count(wide: bool) -> usize {
        if wide { 4 } else { 2 }
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
        let address = QueueAddress::default()
            .with_size(u64::from(self.wide))
            .with_wide(self.wide)
            .with_frame(self.ring.as_u64() / PAGE_SIZE);
        window.write(map::QUEUE_ADDRESS, address);
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
        self.frames.free(self.ring, Self::frame_count(self.wide));
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

    /// The first two words of a slot; those of a wide one behind them are always 0.
    fn slot(&self, slot: usize) -> Option<&[AtomicU64; 2]> {
        let offset = slot as u64 * self.slot_bytes();
        let frame = HostPhysical::new(self.ring.as_u64() + offset / PAGE_SIZE * PAGE_SIZE);
        self.frames.words(frame).as_chunks::<2>().0.get((offset % PAGE_SIZE / 16) as usize)
    }

    const fn slot_bytes(&self) -> u64 {
        if self.wide { 32 } else { 16 }
    }

    fn put(&self, slot: usize, words: Words) {
        if let Some(pair) = self.slot(slot) {
            pair[0].store(words.bits() as u64, Ordering::Relaxed);
            pair[1].store((words.bits() >> 64) as u64, Ordering::Release);
        }
    }

    fn get(&self, slot: usize) -> Words {
        self.slot(slot).map_or(Words::default(), |pair| {
            let (low, high) = (pair[0].load(Ordering::Acquire), pair[1].load(Ordering::Acquire));
            Words::from_bits(u128::from(high) << 64 | u128::from(low))
        })
    }

    /// The slot that the unit stands at.
    fn head<R: Registers>(&self, window: &Window<R>) -> usize {
        (window.read(map::QUEUE_HEAD).slot() * 16 / self.slot_bytes()) as usize
    }

    fn write_tail<R: Registers>(&self, window: &Window<R>) {
        let tail = self.tail as u64 * self.slot_bytes() / 16;
        window.write(map::QUEUE_TAIL, QueuePosition::default().with_slot(tail));
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
                let head = self.head(window);
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
                (self.head(window) == self.tail).then_some(Progress::TimedOut)
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
