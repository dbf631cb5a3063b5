//! Frames taken before a change begins, so that the change itself cannot fail.

use core::sync::atomic::Ordering::Relaxed;

use crate::address::HostPhysical;
use crate::door::{Frames, OutOfFrames};

/// Zeroed frames in a chain through their own first words. What is not used goes back when it is dropped.
pub(super) struct Reserve<'a, M: Frames> {
    frames: &'a M,
    first: HostPhysical,
    left: u64,
}

impl<'a, M: Frames> Reserve<'a, M> {
    /// Takes `count` frames, or none.
    pub(super) fn take(frames: &'a M, count: u64) -> Result<Self, OutOfFrames> {
        let mut reserve = Self { frames, first: HostPhysical::new(0), left: 0 };
        while reserve.left < count {
            let frame = frames.allocate(1)?;
            frames.words(frame)[0].store(reserve.first.as_u64(), Relaxed);
            reserve.first = frame;
            reserve.left += 1;
        }
        Ok(reserve)
    }

    /// One of the frames, all zero.
    ///
    /// # Panics
    ///
    /// When the change needs more frames than were planned, which would be a defect of this module: it goes on with
    /// nothing half done that hardware could see.
    pub(super) fn next(&mut self) -> HostPhysical {
        match self.pop() {
            Some(frame) => frame,
            None => unreachable!("a change to a table needs more frames than were planned for it"),
        }
    }

    fn pop(&mut self) -> Option<HostPhysical> {
        self.left = self.left.checked_sub(1)?;
        let frame = self.first;
        self.first = HostPhysical::new(self.frames.words(frame)[0].swap(0, Relaxed));
        Some(frame)
    }
}

impl<M: Frames> Drop for Reserve<'_, M> {
    fn drop(&mut self) {
        while let Some(frame) = self.pop() {
            self.frames.free(frame, 1);
        }
    }
}
