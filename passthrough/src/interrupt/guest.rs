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
                        *slot = if self.msix_is_masked(vector) {
                            self.vector_event(vector)
                        } else {
                            self.msix_message(vector).and_then(&mut event)
                        };
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

#[cfg(test)]
mod tests {
    use super::super::tests::{TABLE, bound, trigger};
    use super::*;
    use crate::config::Changes;
    use crate::door::Width;
    use crate::fake::bench::Bench;
    use crate::fake::offset;

    /// What a router would do: data 0x40 to 0xff become events, everything else leads nowhere.
    fn route(message: Message) -> Option<Event> {
        (message.data & 0xff >= 0x40).then_some(Event(u64::from(message.data)))
    }

    #[test]
    fn the_guests_msi_becomes_events() {
        let bench = Bench::new();
        let mut device = bench.open();
        device.config_write(offset::MSI + 12, Width::Word, 0x44);
        assert_eq!(device.config_write(offset::MSI + 2, Width::Word, 0x0021), Changes::MSI);
        device.follow_messages(route).unwrap();
        assert_eq!(bound(&bench), [[0x44, 0x45, 0x46, 0x47]]);
        // Another vector: the function's message stays, the entry moves.
        bench.function.take_writes();
        device.config_write(offset::MSI + 12, Width::Word, 0x50);
        device.follow_messages(route).unwrap();
        assert_eq!(bound(&bench), [[0x50, 0x51, 0x52, 0x53]]);
        assert_eq!(bench.function.take_writes(), []);
        // Fewer messages: another block.
        device.config_write(offset::MSI + 2, Width::Word, 0x0001);
        device.follow_messages(route).unwrap();
        assert_eq!(bound(&bench), [[0x50]]);
        device.config_write(offset::MSI + 2, Width::Word, 0);
        device.follow_messages(route).unwrap();
        assert_eq!(device.active_irq(), None);
        assert!(bound(&bench).is_empty());
    }

    #[test]
    fn the_guests_msix_becomes_events() {
        let bench = Bench::new();
        let mut device = bench.open_decoding();
        trigger(&mut device, 0, 0, &[1]).unwrap();
        // As Linux does it: on with all masked, the entries, then unmasked.
        assert_eq!(device.config_write(offset::MSI_X + 2, Width::Word, 0xc000), Changes::MSI_X);
        device.follow_messages(route).unwrap();
        assert_eq!(device.active_irq(), Some(IrqIndex::MsiX), "the wire made way");
        assert_eq!(bench.function.peek(offset::MSI_X + 2, 2) & 0xc000, 0xc000);
        for vector in [0u64, 40] {
            let at = TABLE + vector * 16;
            device.region_write(0, at, Width::Double, 0xfee0_0000);
            device.region_write(0, at + 8, Width::Double, 0x41 + vector as u32 as u64);
            let written = device.region_write(0, at + 12, Width::Double, 0).unwrap();
            device.follow_vector(written, route).unwrap();
            assert_eq!(bench.windows.entry(0, TABLE, vector)[3], 0);
        }
        device.config_write(offset::MSI_X + 2, Width::Word, 0x8000);
        device.follow_messages(route).unwrap();
        assert_eq!(bound(&bench), [[0x41], [0x69]]);
        assert_eq!(bench.function.peek(offset::MSI_X + 2, 2) & 0xc000, 0x8000);

        // Retargeted while masked: the function stays masked until the unmasking write is followed.
        device.region_write(0, TABLE + 12, Width::Double, 1);
        device.region_write(0, TABLE + 8, Width::Double, 0x77);
        device.follow_vector(0, route).unwrap();
        assert_eq!(bound(&bench), [[0x41], [0x69]]);
        device.region_write(0, TABLE + 12, Width::Double, 0);
        assert_eq!(bench.windows.entry(0, TABLE, 0)[3], 1, "what it held back must not go to the old event");
        device.follow_vector(0, route).unwrap();
        assert_eq!(bound(&bench), [[0x77], [0x69]]);
        assert_eq!(bench.windows.entry(0, TABLE, 0)[3], 0);

        device.config_write(offset::MSI_X + 2, Width::Word, 0);
        device.follow_messages(route).unwrap();
        assert!(bound(&bench).is_empty());
        assert_eq!(device.active_irq(), None);
    }
}
