//! Interrupts and descriptors: what the model makes of them, and what QEMU does.

use anyhow::{Result, bail};
use remapping_unit_model::{InterruptOutcome, Message, reason};

use crate::emulator::DEVICES;
use crate::program::divergence::Divergence;
use crate::program::layout::INTERRUPTS;
use crate::program::modelled::Record;
use crate::program::operation::Flaw;
use crate::program::run::Run;

/// What a message did: the vectors that arrived at the processor for the first time, and the fault.
type Effect = ([u64; 4], Option<Record>);

impl Run<'_> {
    pub(crate) fn message(
        &mut self,
        device: usize,
        index: u64,
        subhandle: bool,
        compatible: bool,
        flaw: Flaw,
    ) -> Result<()> {
        let format = if compatible { 0 } else { index << 5 | 1 << 4 | u64::from(subhandle) << 3 };
        // Bits 31:20 make it an interrupt.
        let flaw = flaw.filter(|bit| *bit < 20).map_or(0, |bit| 1 << bit);
        let address = 0xfee0_0000 | format ^ flaw;
        let data = if compatible { u32::from(self.pair.emulator.new_vector()) } else { u32::from(subhandle) };
        let message = Message { address, data };
        let source = DEVICES[device];
        self.pair.forgetful.forget();
        let (fresh, fresh_fault) = self.pair.forgetful.message(source, message);
        let (outcome, fault) = self.pair.model.message(source, message);
        let mut explained = vec![(None, (self.arrives(outcome), fault))];
        if !self.careful {
            explained.push((Some(Divergence::LooksUpAgain), (self.arrives(fresh), fresh_fault)));
        }
        if address >> 4 & 1 == 0 {
            let arrives = self.arrives(InterruptOutcome::Unremapped(message));
            explained.push((Some(Divergence::CompatibilityPasses), (arrives, None)));
        }
        let entry = address >> 5 & 0x7fff | (address & 4) << 13;
        let entry = entry + if address & 8 != 0 { u64::from(data) } else { 0 };
        if let Some(low) = self.pair.ram.get(INTERRUPTS + entry * 16).filter(|_| entry < 256) {
            let extended = self.pair.model.unit.configuration().extended_interrupts;
            let destination = (low >> 32) as u32;
            let arrives = self.arrives(self.remapped(destination, (low >> 16) as u8));
            let check = self.pair.ram.get(INTERRUPTS + entry * 16 + 8).unwrap_or(0);
            let divergence = if check >> 18 & 3 == 2 && (check >> 8 ^ check) & 0xff != 0 {
                Some(Divergence::BusRange)
            } else if low >> 15 & 1 != 0 {
                Some(Divergence::PostedAsRemapped)
            } else {
                (!extended && destination & !0xff00 != 0).then_some(Divergence::AnyDestination)
            };
            if divergence.is_some() {
                // As far as the entry is for this device.
                let (reason, information) = (reason::INTERRUPT_SOURCE, entry << 48);
                let stranger = Some(Record { information, source, reason, read: false });
                explained.extend([(divergence, (arrives, None)), (divergence, (None, stranger))]);
            }
        }
        let before = self.pair.emulator.arrived()?;
        self.pair.emulator.send_message(device, address, data)?;
        let after = self.pair.emulator.arrived()?;
        let got: Effect = (std::array::from_fn(|word| after[word] & !before[word]), self.pair.take_fault()?);
        self.tally.interrupts += 1;
        let effect = |(vector, fault): (Option<u8>, Option<Record>)| -> Effect {
            let bit = |word| vector.filter(|vector| usize::from(vector / 64) == word).map_or(0, |bit| 1 << (bit % 64));
            (std::array::from_fn(|word| bit(word) & !before[word]), fault)
        };
        let Some((divergence, _)) = explained.iter().find(|(_, arrival)| effect(*arrival) == got) else {
            bail!("{message:x?} of {source:#x}: QEMU {got:x?}, the model {outcome:x?}, {explained:x?}");
        };
        divergence.iter().for_each(|divergence| self.count(*divergence));
        Ok(())
    }

    fn remapped(&self, destination: u32, vector: u8) -> InterruptOutcome {
        let extended = self.pair.model.unit.configuration().extended_interrupts;
        InterruptOutcome::Remapped {
            destination: if extended { destination } else { destination >> 8 & 0xff },
            logical: false,
            redirection_hint: false,
            level: false,
            delivery_mode: 0,
            vector,
        }
    }

    /// The vector that arrives at processor 0, whose APIC has the id 0.
    fn arrives(&self, outcome: InterruptOutcome) -> Option<u8> {
        match outcome {
            InterruptOutcome::Remapped { destination, logical: false, delivery_mode: 0 | 1, vector, .. } => {
                // An APIC in xAPIC mode looks at 8 bits.
                matches!(destination & 0xff, 0 | 0xff).then_some(vector)
            }
            // To a physical destination.
            InterruptOutcome::Unremapped(Message { address, data }) => {
                (address & 4 == 0 && matches!(address >> 12 & 0xff, 0 | 0xff)).then_some(data as u8)
            }
            _ => None,
        }
    }

    /// Whether QEMU and the model took a descriptor.
    pub(crate) fn judge_descriptor(&mut self, low: u64, high: u64, taken: (bool, bool)) -> Result<()> {
        let unit = self.pair.model.unit.configuration();
        let divergence = match (low & 15, taken) {
            (_, (theirs, ours)) if theirs == ours => return Ok(()),
            (4, (true, false)) if low >> 27 & 31 > u64::from(unit.handle_mask) => Divergence::AnyHandleMask,
            _ => bail!("{low:#x} {high:#x}: QEMU took it: {}, the model: {}", taken.0, taken.1),
        };
        self.count(divergence);
        Ok(())
    }
}
