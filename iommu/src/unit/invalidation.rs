//! How one unit is told that something changed: by its queue, or by registers where it has none.

use crate::door::{Clock, Frames, OutOfFrames, Registers};
use crate::queue::{Abilities, Descriptor, InvalidationRegisters, Queue, QueueError};
use crate::registers::Window;
use crate::registers::capability::ExtendedCapability;
use crate::registers::command::{CommandExpired, Commander};

/// Either way, under the unit's queue lock.
#[derive(Debug)]
pub(super) enum Invalidation<F> {
    Queue(Queue<F>),
    Registers(InvalidationRegisters),
}

impl<F: Frames> Invalidation<F> {
    /// By queue wherever there is one: interrupt entries and device TLBs can be invalidated in no other way.
    /// `wide`: the queue's descriptors have 256 bits.
    pub(super) fn new(
        frames: F,
        extended: ExtendedCapability,
        abilities: Abilities,
        wide: bool,
    ) -> Result<Self, OutOfFrames> {
        if extended.queued_invalidation() {
            Queue::new(frames, abilities, wide).map(Self::Queue)
        } else {
            Ok(Self::Registers(InvalidationRegisters::new(extended, abilities)))
        }
    }

    /// How many descriptors the queue holds, if there is one.
    pub(super) fn slots(&self) -> Option<usize> {
        match self {
            Self::Queue(queue) => Some(queue.slots()),
            Self::Registers(_) => None,
        }
    }

    pub(super) fn enable<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        commander: &mut Commander,
    ) -> Result<(), CommandExpired> {
        match self {
            Self::Queue(queue) => queue.enable(window, clock, commander),
            Self::Registers(_) => Ok(()),
        }
    }

    pub(super) fn disable<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        commander: &mut Commander,
    ) -> Result<(), QueueError> {
        match self {
            Self::Queue(queue) => queue.disable(window, clock, commander),
            Self::Registers(_) => Ok(()),
        }
    }

    pub(super) fn submit<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        descriptors: impl Iterator<Item = Descriptor> + Clone,
    ) -> Result<(), QueueError> {
        match self {
            Self::Queue(queue) => queue.submit(window, clock, descriptors),
            Self::Registers(registers) => registers.submit(window, clock, descriptors),
        }
    }

    pub(super) fn release(self) {
        match self {
            Self::Queue(queue) => queue.release(),
            Self::Registers(_) => {}
        }
    }
}
