//! Resets of a device.

use super::{Device, DeviceError};
use crate::door::Machine;
use crate::reset::{Method, ResetError, own_method};

impl<M: Machine> Device<M> {
    /// How the device is reset, if it can be.
    pub fn reset_method(&self) -> Option<Method> {
        self.method
    }

    /// RESET: resets the function and gives it back its configuration and its messages, so that its owner finds
    /// everything but the function's own state as it was. A function that does not come back is poisoned.
    pub fn reset(&mut self) -> Result<(), DeviceError> {
        self.check_poison()?;
        // Before it wakes: on the way from D3hot a function may forget what it still shows there.
        self.current.refresh(&self.space);
        self.wake();
        self.check_poison()?;
        self.run_reset()?;
        self.current.restore(&self.space);
        self.rewrite_messages();
        self.apply_command();
        Ok(())
    }

    /// For a virtual machine that starts over: resets the function, and its virtual configuration space to what a
    /// guest finds at power-on. Interrupts are off.
    pub fn restart(&mut self) -> Result<(), DeviceError> {
        self.stop_requests();
        self.disable_irqs();
        self.configuration.reset();
        if let Some((_, table)) = &mut self.msix {
            table.reset();
        }
        if self.method.is_some() {
            self.reset()
        } else {
            self.current.refresh(&self.space);
            self.wake();
            self.check_poison()?;
            self.current.restore(&self.space);
            self.apply_command();
            Ok(())
        }
    }

    fn check_poison(&self) -> Result<(), DeviceError> {
        self.poison.clone().map_or(Ok(()), |poison| Err(DeviceError::Reset(poison)))
    }

    /// The finest way that the function can be reset now.
    pub(super) fn find_method(&self) -> Option<Method> {
        own_method(&self.space, &self.configuration.layout()).or_else(|| self.check_bus().ok().map(|()| Method::Bus))
    }

    /// Whether the bus may be reset: everybody on it is the owner's or nobody's, and not in use.
    fn check_bus(&self) -> Result<(), ResetError> {
        let bus = self.bus.as_ref().ok_or(ResetError::NoMethod(self.address))?;
        for (other, _) in &bus.others {
            self.pin
                .registry()
                .check_resettable(*other, self.pin.owner())
                .map_err(|source| ResetError::BusShared { function: self.address, source })?;
        }
        Ok(())
    }

    /// Runs the ladder. The configuration is lost; on an error of the function itself it is poisoned.
    pub(super) fn run_reset(&mut self) -> Result<(), DeviceError> {
        let method = self.method.ok_or(ResetError::NoMethod(self.address))?;
        let result = if method == Method::Bus {
            self.check_bus()?;
            let mut others = core::mem::take(&mut self.others);
            let result = match &self.bus {
                Some(bus) => self.resetter().reset_bus(bus, &mut others),
                None => Err(ResetError::NoMethod(self.address)),
            };
            self.others = others;
            result
        } else {
            self.resetter().reset_alone(method)
        };
        if let Err(error) = &result {
            self.poison = Some(error.clone());
        }
        result.map_err(DeviceError::Reset)
    }
}
