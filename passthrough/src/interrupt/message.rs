//! MSI and MSI-X.

use super::set::Elements;
use super::{Active, IrqIndex, SetIrqsError};
use crate::config::register::{msi, msix};
use crate::device::Device;
use crate::door::{ConfigurationSpace, Event, InterruptError, Machine, Message, RemappingHardware};
use crate::region::PhysicalTable;

impl<M: Machine> Device<M> {
    pub(super) fn trigger_messages(
        &mut self,
        index: IrqIndex,
        start: u16,
        elements: Elements<'_>,
    ) -> Result<(), SetIrqsError> {
        let is_on = match self.interrupts.active() {
            None => false,
            Some(active) if active == index => true,
            Some(other) => return Err(SetIrqsError::OtherActive(other)),
        };
        match elements {
            Elements::Events(events) => {
                let end = usize::from(start).saturating_add(events.len());
                let end = u16::try_from(end).map_err(|_| SetIrqsError::NoVectors)?;
                if is_on {
                    self.set_events(index, start, events)
                } else {
                    self.enable_messages(index, start, end, events)
                }
            }
            _ if !is_on => Err(SetIrqsError::NotEnabled(index)),
            Elements::None(0) => {
                self.disable_messages();
                Ok(())
            }
            Elements::None(_) | Elements::Bool(_) => {
                self.fire(elements, |at| self.vector_event(start.saturating_add(at)));
                Ok(())
            }
        }
    }

    pub(super) fn vector_event(&self, vector: u16) -> Option<Event> {
        self.interrupts.vectors.get(usize::from(vector))?.event
    }

    /// Switches MSI or MSI-X on with `end` vectors. On an error it is off again.
    fn enable_messages(
        &mut self,
        index: IrqIndex,
        start: u16,
        end: u16,
        events: &[Option<Event>],
    ) -> Result<(), SetIrqsError> {
        if end == 0 {
            return Err(SetIrqsError::NoVectors);
        }
        self.interrupts.active = if index == IrqIndex::Msi {
            let count = end.checked_next_power_of_two().ok_or(SetIrqsError::NoVectors)?;
            let block = self.remapping.allocate_interrupts(self.owner(), self.address(), count, true)?;
            Active::Msi { block, count: end }
        } else {
            Active::MsiX
        };
        if index == IrqIndex::MsiX {
            // Every vector masked, before the capability goes on.
            self.write_msix_control(false);
            let size = self.msix_size();
            self.with_table(|table| (0..size).for_each(|vector| table.set(vector, Message::default(), true)));
        }
        if let Err(error) = self.set_events(index, start, events) {
            self.disable_messages();
            return Err(error);
        }
        match index {
            IrqIndex::Msi => self.write_msi(),
            _ => self.write_msix_control(true),
        }
        Ok(())
    }

    /// Gives vectors from `start` on their events. An unknown event takes the events before it away again.
    fn set_events(&mut self, index: IrqIndex, start: u16, events: &[Option<Event>]) -> Result<(), SetIrqsError> {
        for (vector, &event) in (start..).zip(events) {
            let result = match index {
                IrqIndex::Msi => self.set_msi_event(vector, event),
                _ => self.set_msix_event(vector, event),
            };
            if let Err(error) = result {
                for vector in start..=vector {
                    match index {
                        IrqIndex::Msi => self.clear_msi_event(vector),
                        _ => self.clear_msix_event(vector),
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn set_msi_event(&mut self, vector: u16, event: Option<Event>) -> Result<(), SetIrqsError> {
        let Active::Msi { block, count } = &self.interrupts.active else {
            return Err(SetIrqsError::NotEnabled(IrqIndex::Msi));
        };
        if vector >= *count {
            return Err(SetIrqsError::BeyondAllocation(*count));
        }
        let Some(event) = event else {
            self.clear_msi_event(vector);
            return Ok(());
        };
        if self.vector_event(vector) == Some(event) {
            return Ok(());
        }
        self.remapping.bind(block, vector, event)?;
        if let Some(vector) = self.interrupts.vectors.get_mut(usize::from(vector)) {
            vector.event = Some(event);
        }
        Ok(())
    }

    fn clear_msi_event(&mut self, vector: u16) {
        let Active::Msi { block, count } = &self.interrupts.active else { return };
        if vector < *count {
            self.remapping.unbind(block, vector);
        }
        if let Some(vector) = self.interrupts.vectors.get_mut(usize::from(vector)) {
            vector.event = None;
        }
    }

    fn set_msix_event(&mut self, vector: u16, event: Option<Event>) -> Result<(), SetIrqsError> {
        let Some(event) = event else {
            self.clear_msix_event(vector);
            return Ok(());
        };
        let owner = self.pin.owner();
        let Some(slot) = self.interrupts.vectors.get_mut(usize::from(vector)) else {
            return Err(SetIrqsError::Hardware(InterruptError::TooFew { available: self.msix_size() }));
        };
        let is_new = slot.entry.is_none();
        if is_new {
            slot.entry = Some(self.remapping.allocate_interrupts(owner, self.address, 1, false)?);
        }
        if let Some(entry) = &slot.entry
            && slot.event != Some(event)
        {
            self.remapping.bind(entry, 0, event)?;
            slot.event = Some(event);
        }
        // The function may send only now: what it held back goes to where the guest wants it now.
        if is_new {
            self.write_msix_entry(vector);
        } else {
            let masked = self.msix_is_masked(vector);
            self.with_table(|table| table.set_masked(vector, masked));
        }
        Ok(())
    }

    fn clear_msix_event(&mut self, vector: u16) {
        self.with_table(|table| table.set_masked(vector, true));
        self.free_msix_entry(vector);
    }

    fn free_msix_entry(&mut self, vector: u16) {
        let Some(slot) = self.interrupts.vectors.get_mut(usize::from(vector)) else { return };
        slot.event = None;
        if let Some(entry) = slot.entry.take() {
            self.remapping.unbind(&entry, 0);
            self.remapping.free_interrupts(entry);
        }
    }

    /// Switches MSI or MSI-X off and gives the remapping entries back: first the function, then its entries.
    pub(super) fn disable_messages(&mut self) {
        match core::mem::replace(&mut self.interrupts.active, Active::None) {
            Active::Msi { block, count } => {
                self.write_msi_disabled();
                for vector in 0..count {
                    self.remapping.unbind(&block, vector);
                }
                self.remapping.free_interrupts(block);
            }
            Active::MsiX => {
                self.write_msix_control(false);
                let size = self.msix_size();
                self.with_table(|table| (0..size).for_each(|vector| table.set_masked(vector, true)));
                (0..size).for_each(|vector| self.free_msix_entry(vector));
            }
            other => self.interrupts.active = other,
        }
        self.interrupts.vectors.iter_mut().for_each(|vector| vector.event = None);
    }

    /// The message of the first remapping entry, and the enable bit, into the function's MSI capability.
    fn write_msi(&self) {
        let (Active::Msi { block, count }, Some(at)) = (&self.interrupts.active, self.configuration.layout().msi)
        else {
            return;
        };
        let Message { address, data } = self.remapping.message(block, 0);
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        let [data_low, data_high, ..] = data.to_le_bytes();
        let control = self.space.read_u16(at.saturating_add(msi::CONTROL));
        self.space.write_u32(at.saturating_add(msi::ADDRESS), u32::from_le_bytes([a, b, c, d]));
        let data_offset = if control & msi::WIDE != 0 {
            self.space.write_u32(at.saturating_add(msi::ADDRESS_HIGH), u32::from_le_bytes([e, f, g, h]));
            12
        } else {
            8
        };
        self.space.write_u16(at.saturating_add(data_offset), u16::from_le_bytes([data_low, data_high]));
        let order = u16::try_from(count.next_power_of_two().trailing_zeros()).unwrap_or(0);
        let control = control & !(msi::IN_USE | msi::ENABLE) | order << 4 | msi::ENABLE;
        self.space.write_u16(at.saturating_add(msi::CONTROL), control);
    }

    fn write_msi_disabled(&self) {
        let Some(at) = self.configuration.layout().msi.map(|at| at.saturating_add(msi::CONTROL)) else { return };
        let control = self.space.read_u16(at);
        self.space.write_u16(at, control & !(msi::ENABLE | msi::IN_USE));
    }

    /// The control register of the function: on or off, and the guest's mask of all vectors.
    fn write_msix_control(&self, enable: bool) {
        let Some(at) = self.configuration.layout().msix.map(|at| at.saturating_add(msix::CONTROL)) else { return };
        let control = self.space.read_u16(at) & !(msix::ENABLE | msix::MASK_ALL);
        let all_masked = self.configuration.msix().is_some_and(|view| view.all_masked);
        let mask = if all_masked { msix::MASK_ALL } else { 0 };
        self.space.write_u16(at, control | if enable { msix::ENABLE | mask } else { 0 });
    }

    /// A vector of the function's table: the entry's message, masked if the guest wants it or nobody listens.
    fn write_msix_entry(&self, vector: u16) {
        self.with_table(|table| self.write_entry_to(&table, vector));
    }

    fn write_entry_to(&self, table: &PhysicalTable<'_, M::Windows>, vector: u16) {
        let Some(slot) = self.interrupts.vectors.get(usize::from(vector)) else { return };
        let masked = slot.event.is_none() || self.msix_is_masked(vector);
        let message = slot.entry.as_ref().map(|entry| self.remapping.message(entry, 0)).unwrap_or_default();
        table.set(vector, message, masked);
    }

    /// The guest wrote a vector's mask. The function masks at once; it unmasks only when the vector's event has been
    /// settled ([`follow_vector`](Self::follow_vector)), so that nothing goes to where the guest wanted it before.
    pub(crate) fn follow_vector_mask(&self, vector: u16) {
        if let Active::MsiX = self.interrupts.active
            && self.msix_is_masked(vector)
        {
            self.with_table(|table| table.set_masked(vector, true));
        }
    }

    /// The guest wrote MSI-X's mask of all vectors: the function follows, if MSI-X is on there.
    pub(crate) fn follow_mask_all(&self) {
        if let Active::MsiX = self.interrupts.active {
            self.write_msix_control(true);
        }
    }

    /// Writes everything anew into a function that has forgotten it.
    pub(crate) fn rewrite_messages(&self) {
        match self.interrupts.active {
            Active::Msi { .. } => self.write_msi(),
            Active::MsiX => {
                self.with_table(|table| {
                    (0..self.msix_size()).for_each(|vector| self.write_entry_to(&table, vector));
                });
                self.write_msix_control(true);
            }
            Active::None | Active::Line(_) => {}
        }
    }

    /// Switches both message capabilities of the function off, whoever switched them on.
    pub(crate) fn silence_messages(&self) {
        self.write_msi_disabled();
        self.write_msix_control(false);
    }

    /// Runs `act` on the function's table, with memory decoding on for as long.
    fn with_table(&self, act: impl FnOnce(PhysicalTable<'_, M::Windows>)) {
        let Some(geometry) = self.msix_geometry() else { return };
        self.with_memory(|| act(PhysicalTable { windows: &self.windows, geometry }));
    }
}
