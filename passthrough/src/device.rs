//! The device: one assigned function.
//!
//! Opening a device takes the function from its group, silences and resets it; closing switches its interrupts and
//! bus mastering off, resets it again and writes back the configuration it had. Every step back runs on every way
//! out, also when the device object is simply dropped.

mod configuration;
mod error;
#[cfg(test)]
mod fuzz;
mod info;
mod reset;
#[cfg(test)]
mod tests;
mod window;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

pub use error::DeviceError;
pub use info::{BarPart, DeviceInfo, RegionFlags, RegionInfo};
use iommu::address::PciAddress;

use crate::config::{Layout, VirtualConfiguration, register};
use crate::door::{ConfigurationSpace, Machine, Owner};
use crate::group::{DevicePin, Group};
use crate::interrupt::Interrupts;
use crate::region::{Bars, MsixGeometry, MsixTable};
use crate::reset::{BusReset, Method, ResetError, SavedState};

/// What the machine gives for one function.
pub struct Parts<M: Machine> {
    /// Its configuration space.
    pub configuration: M::Configuration,
    /// Its BAR windows.
    pub windows: M::Windows,
    /// Time.
    pub clock: M::Clock,
    /// What resetting its bus takes; `None` on a root bus.
    pub bus: Option<BusReset<M::Configuration>>,
    /// Whether the wire (INTx) may be used.
    pub line: bool,
}

/// Whether a device's requests are stopped, whatever the guest wants. A clone is the same switch. What is switched here
/// holds from the next time on that the device brings its command register up to date, which it does at the end of
/// everything that could switch requests on, a reset that is under way included; who wants it at once clears the
/// function's bus mastering after it, and then calls [`Device::settle_command`].
#[derive(Clone, Debug, Default)]
pub struct Quarantine(Arc<AtomicBool>);

impl Quarantine {
    /// Stops requests, or lets them be the guest's again.
    pub fn set(&self, quarantined: bool) {
        self.0.store(quarantined, Ordering::SeqCst);
    }

    /// Whether they are stopped.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// An open device.
pub struct Device<M: Machine> {
    pub(crate) address: PciAddress,
    pub(crate) space: M::Configuration,
    pub(crate) windows: M::Windows,
    pub(crate) clock: M::Clock,
    pub(crate) remapping: M::Remapping,
    pub(crate) configuration: Box<VirtualConfiguration>,
    pub(crate) interrupts: Interrupts<M::Remapping>,
    msix: Option<(MsixGeometry, MsixTable)>,
    bus: Option<BusReset<M::Configuration>>,
    /// What the function had when it was opened, bus mastering off.
    saved: SavedState,
    /// The same registers as they are before a reset or a change of power. Taken at open, so that neither takes memory.
    current: SavedState,
    /// The same of the other functions on the bus.
    others: Vec<SavedState>,
    overdue: AtomicBool,
    /// The host's command register at open.
    host_command: u16,
    method: Option<Method>,
    interrupt_pin: u8,
    power: u16,
    /// Requests are stopped, whatever the guest wants.
    quarantined: Quarantine,
    poison: Option<ResetError>,
    is_closed: bool,
    /// Last, so that the function leaves its domain after everything else is back.
    pub(crate) pin: DevicePin<M::Remapping>,
}

impl<M: Machine> fmt::Debug for Device<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("address", &self.address).field("poison", &self.poison).finish_non_exhaustive()
    }
}

impl<M: Machine> Device<M> {
    /// GROUP_GET_DEVICE_FD: opens a function of a group that is in a container with a type. The function is idle
    /// afterwards: no decoding, no requests, no interrupts, reset if it can be.
    pub fn open(group: &Group<M::Remapping>, address: PciAddress, parts: Parts<M>) -> Result<Self, DeviceError> {
        let pin = group.pin(address)?;
        let remapping = pin.remapping().ok_or(DeviceError::NoAnswer(address))?;
        let Parts { configuration: space, windows, clock, bus, line } = parts;
        if space.read_u16(register::VENDOR) == 0xffff {
            return Err(DeviceError::NoAnswer(address));
        }
        let host_command = space.read_u16(register::COMMAND);
        space.write_u16(register::COMMAND, host_command & !register::command::BUS_MASTER);
        let bars = Bars::probe(&space);
        let can_disable_line = can_disable_line(&space);
        let interrupt_pin = match space.read_u8(register::INTERRUPT_PIN) {
            pin @ 1..=4 if line => pin,
            _ => 0,
        };
        let configuration = Box::new(VirtualConfiguration::new(&space, bars, interrupt_pin));
        let msix = msix_of(&space, address, &configuration.layout(), &bars)?
            .map(|geometry| (geometry, MsixTable::new(geometry.size)));
        let msix_size = msix.as_ref().map_or(0, |(geometry, _)| usize::from(geometry.size));
        let msi_size = usize::try_from(configuration.msi_capacity()).unwrap_or(0);
        let saved = SavedState::save(&space);
        let others = bus.iter().flat_map(|bus| &bus.others).map(|(_, space)| SavedState::save(space)).collect();
        let mut device = Self {
            address,
            space,
            windows,
            clock,
            remapping,
            configuration,
            interrupts: Interrupts::new(msix_size.max(msi_size), can_disable_line),
            msix,
            bus,
            current: saved.clone(),
            saved,
            others,
            overdue: AtomicBool::new(false),
            host_command,
            method: None,
            interrupt_pin,
            power: 0,
            quarantined: Quarantine::default(),
            poison: None,
            is_closed: false,
            pin,
        };
        device.silence_messages();
        device.method = device.find_method();
        if device.method.is_some() {
            device.reset()?;
        }
        device.apply_command();
        Ok(device)
    }

    /// Where it is.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// Whose it is.
    pub fn owner(&self) -> &Owner {
        self.pin.owner()
    }

    /// Why the function does not answer any more, if that is so. It reads as all ones then and does nothing.
    pub fn poison(&self) -> Option<&ResetError> {
        self.poison.as_ref()
    }

    /// Stops the function's requests whatever the guest wants, or lets them be the guest's again.
    pub fn set_quarantined(&mut self, quarantined: bool) {
        self.quarantined.set(quarantined);
        self.apply_command();
    }

    /// The switch behind [`set_quarantined`](Self::set_quarantined), for who cannot wait until the device is free.
    pub fn quarantine(&self) -> Quarantine {
        self.quarantined.clone()
    }

    /// Brings the function's command register to what guest, owner and interrupts say, after somebody wrote it past
    /// this object.
    pub fn settle_command(&self) {
        self.apply_command();
    }

    /// Closes the device. The function is silent, reset if it has a way to be ([`reset_method`](Self::reset_method)),
    /// and configured as it was found, without bus mastering; the group it came from may close after it. An error tells
    /// that the function could not be reset, now or before: it is as its last owner left it.
    pub fn close(mut self) -> Result<(), DeviceError> {
        self.shut()
    }

    fn shut(&mut self) -> Result<(), DeviceError> {
        if core::mem::replace(&mut self.is_closed, true) {
            return Ok(());
        }
        self.stop_requests();
        self.disable_irqs();
        if let Some(poison) = &self.poison {
            return Err(DeviceError::Reset(poison.clone()));
        }
        self.wake();
        let result = match &self.poison {
            Some(poison) => Err(DeviceError::Reset(poison.clone())),
            None if self.method.is_some() => self.run_reset(),
            None => Ok(()),
        };
        if self.poison.is_none() {
            self.saved.restore(&self.space);
        }
        result
    }

    pub(crate) fn interrupt_pin(&self) -> u8 {
        self.interrupt_pin
    }

    pub(crate) fn is_express(&self) -> bool {
        self.configuration.layout().express.is_some()
    }

    pub(crate) fn msix_geometry(&self) -> Option<MsixGeometry> {
        self.msix.as_ref().map(|(geometry, _)| *geometry)
    }

    pub(crate) fn msix_size(&self) -> u16 {
        self.msix.as_ref().map_or(0, |(geometry, _)| geometry.size)
    }

    /// The guest's message of a vector of its MSI-X table.
    pub fn msix_message(&self, vector: u16) -> Option<crate::door::Message> {
        self.msix.as_ref().and_then(|(_, table)| table.message(vector))
    }

    /// Whether the guest masked a vector in its MSI-X table.
    pub fn msix_is_masked(&self, vector: u16) -> bool {
        self.msix.as_ref().is_none_or(|(_, table)| table.is_masked(vector))
    }
}

impl<M: Machine> Drop for Device<M> {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            log::warn!("{}: {error}", self.address);
        }
    }
}

/// Whether [`Device::open`] could take the function at `address`, as far as its configuration space tells: it answers,
/// and its MSI-X capability fits its BARs. The function must be idle; it is left as it was.
///
/// # Errors
///
/// [`DeviceError::NoAnswer`], [`DeviceError::MsixDefect`].
pub fn check_function(space: &impl ConfigurationSpace, address: PciAddress) -> Result<(), DeviceError> {
    if space.read_u16(register::VENDOR) == 0xffff {
        return Err(DeviceError::NoAnswer(address));
    }
    let bars = Bars::probe(space);
    let layout = VirtualConfiguration::new(space, bars, 0).layout();
    msix_of(space, address, &layout, &bars).map(drop)
}

fn msix_of(
    space: &impl ConfigurationSpace,
    function: PciAddress,
    layout: &Layout,
    bars: &Bars,
) -> Result<Option<MsixGeometry>, DeviceError> {
    let geometry = layout.msix.map(|at| MsixGeometry::read(space, at, bars));
    geometry.transpose().map_err(|defect| DeviceError::MsixDefect { function, defect })
}

/// Whether the function's interrupt-disable bit can be set; functions older than PCI 2.3 have none.
fn can_disable_line(space: &impl ConfigurationSpace) -> bool {
    let before = space.read_u16(register::COMMAND);
    space.write_u16(register::COMMAND, before ^ register::command::INTERRUPT_DISABLE);
    let after = space.read_u16(register::COMMAND);
    space.write_u16(register::COMMAND, before);
    (before ^ after) & register::command::INTERRUPT_DISABLE != 0
}
