//! SET_IRQS: the rules that hold for every index, then the index's own.

use super::{Interrupts, IrqAction, IrqData, IrqFlags, IrqIndex, IrqInfo, IrqSet, SetIrqsError};
use crate::device::Device;
use crate::door::{Event, Machine, RemappingHardware};

/// The elements of a call, cut to its count.
#[derive(Clone, Copy)]
pub(super) enum Elements<'a> {
    None(u32),
    Bool(&'a [u8]),
    Events(&'a [Option<Event>]),
}

impl<M: Machine> Device<M> {
    /// GET_IRQ_INFO, by VFIO's number.
    pub fn irq_info(&self, index: u32) -> Result<IrqInfo, SetIrqsError> {
        let unknown = SetIrqsError::UnknownIndex(index);
        let index = IrqIndex::from_number(index).ok_or(unknown)?;
        let info = |flags, count| Ok(IrqInfo { flags, count });
        match index {
            IrqIndex::Line => {
                let flags = IrqFlags::EVENT | IrqFlags::MASKABLE | IrqFlags::AUTOMASKED;
                info(flags, u32::from(self.interrupt_pin() != 0))
            }
            IrqIndex::Msi => info(IrqFlags::EVENT | IrqFlags::NORESIZE, self.configuration.msi_capacity()),
            // Vectors of MSI-X come one by one.
            IrqIndex::MsiX if self.msix_size() > 0 => info(IrqFlags::EVENT, u32::from(self.msix_size())),
            IrqIndex::MsiX => info(IrqFlags::EVENT | IrqFlags::NORESIZE, 0),
            IrqIndex::Error if !self.is_express() => Err(unknown),
            IrqIndex::Error | IrqIndex::Request => info(IrqFlags::EVENT | IrqFlags::NORESIZE, 1),
        }
    }

    /// SET_IRQS. On an error nothing has changed, but for one case of VFIO's: an unknown event among those of a
    /// running index takes the events before it in the call away too.
    pub fn set_irqs(&mut self, set: IrqSet<'_>) -> Result<(), SetIrqsError> {
        let index = IrqIndex::from_number(set.index).ok_or(SetIrqsError::UnknownIndex(set.index))?;
        let of = self.irq_info(set.index).map_or(0, |info| info.count);
        let end = set.start.checked_add(set.count);
        if set.start >= of || end.is_none_or(|end| end > of) {
            return Err(SetIrqsError::BeyondCount { start: set.start, count: set.count, of });
        }
        let count = usize::try_from(set.count).unwrap_or(usize::MAX);
        let elements = match set.data {
            IrqData::None => Elements::None(set.count),
            IrqData::Bool(flags) => Elements::Bool(flags.get(..count).ok_or(SetIrqsError::ShortData)?),
            IrqData::Events(events) => Elements::Events(events.get(..count).ok_or(SetIrqsError::ShortData)?),
        };
        if self.poison().is_some() {
            return Err(SetIrqsError::Poisoned);
        }
        let start = u16::try_from(set.start).unwrap_or(u16::MAX);
        match (index, set.action) {
            (IrqIndex::Line, IrqAction::TRIGGER) => self.trigger_line(start, elements),
            (IrqIndex::Line, IrqAction::MASK | IrqAction::UNMASK) => {
                self.mask_line(start, elements, set.action == IrqAction::MASK)
            }
            (IrqIndex::Msi | IrqIndex::MsiX, IrqAction::TRIGGER) => self.trigger_messages(index, start, elements),
            (IrqIndex::Error | IrqIndex::Request, IrqAction::TRIGGER) => {
                self.trigger_notification(index, start, elements)
            }
            _ => Err(SetIrqsError::NoSuchAction),
        }
    }

    /// Which of INTx, MSI and MSI-X is on.
    pub fn active_irq(&self) -> Option<IrqIndex> {
        self.interrupts.active()
    }

    /// Switches every interrupt off and gives back what they held.
    pub(crate) fn disable_irqs(&mut self) {
        match self.interrupts.active() {
            Some(IrqIndex::Line) => self.disable_line(),
            Some(_) => self.disable_messages(),
            None => {}
        }
        let Interrupts { error, request, .. } = &mut self.interrupts;
        (*error, *request) = (None, None);
    }

    /// Fires those of the events that an element asks for.
    pub(super) fn fire(&self, elements: Elements<'_>, event_of: impl Fn(u16) -> Option<Event>) {
        let fire = |at: u16| {
            if let Some(event) = event_of(at) {
                self.remapping.signal(event);
            }
        };
        match elements {
            Elements::None(count) => (0..u16::try_from(count).unwrap_or(u16::MAX)).for_each(fire),
            Elements::Bool(flags) => (0..).zip(flags).filter(|(_, flag)| **flag != 0).for_each(|(at, _)| fire(at)),
            Elements::Events(_) => {}
        }
    }
}
