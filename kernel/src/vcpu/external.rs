//! Interrupts whose vector comes from the 8259s (ExtINT, SDM volume 3 section 11.5.1). They pass the local APIC without
//! its request and service registers, and CR8 does not hold them back; the end of interrupt goes to the 8259s too.

use super::body::Body;
use super::engine::VcpuEngine;
use super::platform::Platform;
use super::state::{Event, bits};

/// What the first virtual CPU knows of the 8259s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct External {
    /// They asked, and have not been acknowledged since.
    waiting: bool,
    /// A vector that was acknowledged and then gave way to an exception: nobody else holds it any more.
    held: Option<u8>,
    /// The vector of theirs that was injected last, until another interrupt is.
    injected: Option<u8>,
}

impl External {
    /// They ask for an interrupt.
    pub(super) const fn request(&mut self) {
        self.waiting = true;
    }

    /// An interrupt that was to be delivered was not: true if it was one of theirs, which is kept.
    pub(super) fn put_back(&mut self, vector: u8) -> bool {
        if self.injected != Some(vector) {
            return false;
        }
        self.held = self.injected.take();
        true
    }

    /// The local APIC's interrupts go in now.
    pub(super) const fn give_way(&mut self) {
        self.injected = None;
    }

    /// INIT: the processor forgets what it had taken.
    pub(super) const fn forget(&mut self) {
        self.held = None;
        self.injected = None;
    }
}

impl<E: VcpuEngine> Body<E> {
    /// Whether an interrupt of the 8259s waits and may pass the local APIC.
    pub(super) fn external_waits(&self) -> bool {
        self.external.held.is_some() || self.external.waiting && self.apic.passes_external()
    }

    /// Whether one of theirs wakes the halted processor.
    pub(super) fn external_wakes(&self) -> bool {
        self.external_waits() && self.engine.flags() & bits::FLAGS_IF != 0
    }

    /// Delivers a waiting interrupt of the 8259s with the next entry; the guest takes interrupts. True when it will be.
    pub(super) fn deliver_external(&mut self, platform: &dyn Platform) -> bool {
        if !self.external_waits() {
            return false;
        }
        let vector = self.external.held.take().or_else(|| {
            // Acknowledged or taken back: they ask again for the next.
            self.external.waiting = false;
            platform.acknowledge_external()
        });
        let Some(vector) = vector else { return false };
        self.external.injected = Some(vector);
        self.engine.inject(Event::Interrupt(vector));
        true
    }
}

#[cfg(test)]
#[path = "external_tests.rs"]
mod tests;
