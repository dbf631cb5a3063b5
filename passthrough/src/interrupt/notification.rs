//! The error and the request event: software alone fires them.

use super::set::Elements;
use super::{IrqIndex, SetIrqsError};
use crate::device::Device;
use crate::door::{Event, Machine, RemappingHardware};

impl<M: Machine> Device<M> {
    pub(super) fn trigger_notification(
        &mut self,
        index: IrqIndex,
        start: u16,
        elements: Elements<'_>,
    ) -> Result<(), SetIrqsError> {
        let current = *self.notification(index);
        match (start, elements) {
            (0, Elements::None(1)) => {
                self.remapping.signal(current.ok_or(SetIrqsError::NotEnabled(index))?);
                Ok(())
            }
            (0, Elements::None(0)) => {
                current.ok_or(SetIrqsError::NotEnabled(index))?;
                *self.notification(index) = None;
                Ok(())
            }
            (0, Elements::Bool(&[flag])) => {
                if let Some(event) = current.filter(|_| flag != 0) {
                    self.remapping.signal(event);
                }
                Ok(())
            }
            (0, Elements::Events(&[event])) => {
                *self.notification(index) = event;
                Ok(())
            }
            _ => Err(SetIrqsError::OneVector),
        }
    }

    fn notification(&mut self, index: IrqIndex) -> &mut Option<Event> {
        if index == IrqIndex::Error { &mut self.interrupts.error } else { &mut self.interrupts.request }
    }

    /// The machine found an error of the function: fires the error event, if there is one.
    pub fn report_error(&self) {
        if let Some(event) = self.interrupts.error {
            self.remapping.signal(event);
        }
    }

    /// The machine wants the function back: fires the request event, if there is one.
    pub fn request_release(&self) {
        if let Some(event) = self.interrupts.request {
            self.remapping.signal(event);
        }
    }
}
