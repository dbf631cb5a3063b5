//! From the guest's message capabilities to SET_IRQS: what a VFIO user such as QEMU does in its own process.

use super::{IrqAction, IrqData, IrqIndex, IrqSet, SetIrqsError};
use crate::device::Device;
use crate::door::{Event, Machine, Message};

/// As many events as are handed over in one call.
const BATCH: u16 = 32;

impl<M: Machine> Device<M> {
    /// Brings MSI and MSI-X of the function to what the guest has programmed. `event` turns a message of the guest
    /// into the event that delivers it, or `None` where it leads to no virtual processor. To be called after a write
    /// of the guest that reports [`Changes::MSI`](crate::config::Changes::MSI) or
    /// [`Changes::MSI_X`](crate::config::Changes::MSI_X), and with one vector by
    /// [`follow_vector`](Self::follow_vector) after a write to the table.
    pub fn follow_messages(&mut self, mut event: impl FnMut(Message) -> Option<Event>) -> Result<(), SetIrqsError> {
        let msi = self.configuration.msi().filter(|view| view.enabled);
        let msix = self.configuration.msix().filter(|view| view.enabled);
        // A guest that switches both on gets MSI-X; the function is never told of both.
        match (msix, msi) {
            (Some(view), _) => {
                self.leave_all_but(IrqIndex::MsiX)?;
                for start in (0..view.size).step_by(usize::from(BATCH)) {
                    let count = BATCH.min(view.size.saturating_sub(start));
                    let mut events = [None; BATCH as usize];
                    for (vector, slot) in (start..).zip(&mut events).take(usize::from(count)) {
                        *slot = self.msix_message(vector).filter(|_| !self.msix_is_masked(vector)).and_then(&mut event);
                    }
                    self.set_message_events(IrqIndex::MsiX, start, count, &events)?;
                }
                self.follow_mask_all();
                Ok(())
            }
            (None, Some(view)) => {
                // Another number of messages needs another block.
                if self.active_irq() != Some(IrqIndex::Msi) || self.interrupts.msi_count() != u16::from(view.count) {
                    self.leave_all_but(IrqIndex::Line)?;
                    self.leave_all_but(IrqIndex::MsiX)?;
                }
                let mut events = [None; BATCH as usize];
                for (vector, slot) in (0..view.count).zip(&mut events) {
                    *slot = event(view.message(vector));
                }
                self.set_message_events(IrqIndex::Msi, 0, u16::from(view.count), &events)
            }
            (None, None) => self.leave_all_but(IrqIndex::Line),
        }
    }

    /// Brings one vector of MSI-X to what the guest wrote into its table entry. A vector that the guest has masked
    /// keeps what it had; nothing happens while MSI-X is off.
    pub fn follow_vector(
        &mut self,
        vector: u16,
        event: impl FnOnce(Message) -> Option<Event>,
    ) -> Result<(), SetIrqsError> {
        if self.active_irq() != Some(IrqIndex::MsiX) || self.msix_is_masked(vector) {
            return Ok(());
        }
        let event = self.msix_message(vector).and_then(event);
        self.set_message_events(IrqIndex::MsiX, vector, 1, &[event])
    }

    fn set_message_events(
        &mut self,
        index: IrqIndex,
        start: u16,
        count: u16,
        events: &[Option<Event>],
    ) -> Result<(), SetIrqsError> {
        self.set_irqs(IrqSet {
            index: index as u32,
            start: u32::from(start),
            count: u32::from(count),
            action: IrqAction::TRIGGER,
            data: IrqData::Events(events),
        })
    }

    /// Switches off what is on, unless it is `index`.
    fn leave_all_but(&mut self, index: IrqIndex) -> Result<(), SetIrqsError> {
        match self.active_irq() {
            Some(active) if active != index => self.disable(active),
            _ => Ok(()),
        }
    }

    fn disable(&mut self, index: IrqIndex) -> Result<(), SetIrqsError> {
        self.set_irqs(IrqSet {
            index: index as u32,
            start: 0,
            count: 0,
            action: IrqAction::TRIGGER,
            data: IrqData::None,
        })
    }
}
