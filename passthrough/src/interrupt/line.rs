//! The wire (INTx): level triggered, masked when it fires until somebody unmasks it.

use super::set::Elements;
use super::{Active, IrqIndex, SetIrqsError};
use crate::config::register;
use crate::device::Device;
use crate::door::{ConfigurationSpace, Event, Machine, RemappingHardware};

/// A connected wire.
#[derive(Debug)]
pub(super) struct Line<R: RemappingHardware> {
    wire: R::Line,
    event: Option<Event>,
    /// By SET_IRQS or because it fired.
    masked: bool,
    /// By the guest's interrupt-disable bit.
    disabled: bool,
    /// Unmasks it when it is signalled.
    unmask: Option<Event>,
}

impl<R: RemappingHardware> Line<R> {
    pub(super) fn is_masked(&self) -> bool {
        self.masked || self.disabled
    }
}

impl<M: Machine> Device<M> {
    pub(super) fn trigger_line(&mut self, start: u16, elements: Elements<'_>) -> Result<(), SetIrqsError> {
        match (&mut self.interrupts.active, elements) {
            (Active::Line(_), Elements::None(0)) => {
                self.disable_line();
                Ok(())
            }
            (Active::None | Active::Line(_), Elements::Events(&[event])) if start == 0 => self.enable_line(event),
            (Active::Line(line), Elements::None(1) | Elements::Bool([_])) if start == 0 => {
                let event = line.event;
                self.fire(elements, |_| event);
                Ok(())
            }
            (Active::Msi { .. }, _) => Err(SetIrqsError::OtherActive(IrqIndex::Msi)),
            (Active::MsiX, _) => Err(SetIrqsError::OtherActive(IrqIndex::MsiX)),
            (Active::None, Elements::None(_) | Elements::Bool(_)) => Err(SetIrqsError::NotEnabled(IrqIndex::Line)),
            _ => Err(SetIrqsError::OneVector),
        }
    }

    fn enable_line(&mut self, event: Option<Event>) -> Result<(), SetIrqsError> {
        if let Active::Line(line) = &mut self.interrupts.active {
            self.remapping.retarget_line(&line.wire, event)?;
            line.event = event;
            return Ok(());
        }
        let wire = self.remapping.connect_line(self.owner(), self.address(), self.interrupt_pin(), event)?;
        let disabled = self.configuration.command() & register::command::INTERRUPT_DISABLE != 0;
        self.interrupts.active = Active::Line(Line { wire, event, masked: false, disabled, unmask: None });
        self.apply_line_mask();
        Ok(())
    }

    pub(super) fn disable_line(&mut self) {
        if let Active::Line(_) = self.interrupts.active
            && let Active::Line(line) = core::mem::replace(&mut self.interrupts.active, Active::None)
        {
            self.apply_command();
            self.remapping.disconnect_line(line.wire);
        }
    }

    pub(super) fn mask_line(&mut self, start: u16, elements: Elements<'_>, mask: bool) -> Result<(), SetIrqsError> {
        let Active::Line(line) = &mut self.interrupts.active else {
            return Err(SetIrqsError::NotEnabled(IrqIndex::Line));
        };
        match (start, elements) {
            (0, Elements::None(1)) => line.masked = mask,
            (0, Elements::Bool(&[flag])) => {
                if flag != 0 {
                    line.masked = mask;
                }
            }
            (0, Elements::Events(&[event])) if !mask => {
                if event.is_some() && line.unmask.is_some() {
                    return Err(SetIrqsError::UnmaskEventSet);
                }
                line.unmask = event;
                return Ok(());
            }
            (0, Elements::Events(&[_])) => return Err(SetIrqsError::NoSuchAction),
            _ => return Err(SetIrqsError::OneVector),
        }
        self.apply_line_mask();
        Ok(())
    }

    /// The wire fired, says the interrupt controller. Whether it was this function; if so it is masked now and its
    /// event signalled. A shared wire asks each function.
    pub fn handle_line(&mut self) -> bool {
        let Active::Line(line) = &mut self.interrupts.active else { return false };
        if line.is_masked() {
            return false;
        }
        // A function that cannot be disabled does not say reliably whether it asserts; its wire is not shared.
        let asserts = self.space.read_u16(register::STATUS) & register::status::INTERRUPT != 0;
        if self.interrupts.can_disable_line && !asserts {
            return false;
        }
        line.masked = true;
        let event = line.event;
        self.apply_line_mask();
        if let Some(event) = event {
            self.remapping.signal(event);
        }
        true
    }

    /// The guest ended the interrupt: unmasks the wire, which fires again if the function still asserts it.
    pub fn end_line(&mut self) {
        if let Active::Line(line) = &mut self.interrupts.active {
            line.masked = false;
            self.apply_line_mask();
        }
    }

    /// An event was signalled: unmasks the wire if it is the one to unmask by.
    pub fn resample(&mut self, event: Event) {
        if let Active::Line(line) = &self.interrupts.active
            && line.unmask == Some(event)
        {
            self.end_line();
        }
    }

    /// Follows the guest's interrupt-disable bit.
    pub(crate) fn follow_interrupt_disable(&mut self) {
        let disabled = self.configuration.command() & register::command::INTERRUPT_DISABLE != 0;
        if let Active::Line(line) = &mut self.interrupts.active {
            line.disabled = disabled;
            self.apply_line_mask();
        }
    }

    /// Brings the mask to the function, or to the controller where the function cannot be masked.
    pub(super) fn apply_line_mask(&self) {
        self.apply_command();
        if let Active::Line(line) = &self.interrupts.active
            && !self.interrupts.can_disable_line
        {
            self.remapping.mask_line(&line.wire, line.is_masked());
        }
    }
}
