//! Configuration accesses of the guest, and what of them reaches the function.

use super::Device;
use crate::config::register::{self, command};
use crate::config::{Changes, MsiView, MsixView, Placement};
use crate::door::{ConfigurationSpace, Machine, Width};
use crate::reset::{Method, Resetter};

/// Bits of the guest's command register that go through to the function as they are.
const THROUGH: u16 = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 9;

impl<M: Machine> Device<M> {
    /// One configuration read of the guest, 1, 2 or 4 bytes.
    pub fn config_read(&self, offset: u16, width: Width) -> u32 {
        if self.poison.is_some() {
            return u32::MAX;
        }
        self.configuration.read(&self.space, offset, width)
    }

    /// One configuration write of the guest, 1, 2 or 4 bytes. What must happen outside of the device comes back:
    /// BARs to map and unmap ([`placement`](Self::placement)), messages to route
    /// ([`follow_messages`](Self::follow_messages)), a reset to run ([`reset`](Self::reset)). The rest has happened.
    pub fn config_write(&mut self, offset: u16, width: Width, value: u32) -> Changes {
        if self.poison.is_some() {
            return Changes::empty();
        }
        let mut changes = self.configuration.write(&self.space, offset, width, value);
        if changes.contains(Changes::POWER) && !self.change_power() {
            changes -= Changes::POWER;
        }
        if changes.intersects(Changes::MEMORY | Changes::IO | Changes::BUS_MASTER) {
            self.apply_command();
        }
        if changes.contains(Changes::INTERRUPT_DISABLE) {
            self.follow_interrupt_disable();
        }
        if changes.contains(Changes::MSI_X) {
            self.follow_mask_all();
        }
        changes
    }

    /// Where the guest put BAR `bar` (0 to 5, or 6 for the ROM), and whether the function answers there now.
    pub fn placement(&self, bar: u8) -> Option<Placement> {
        let placement = self.configuration.placement(bar)?;
        let enabled = placement.enabled && self.answers();
        Some(Placement { enabled, ..placement })
    }

    /// Whether the function answers at all: it is in D0, and its last reset worked.
    pub fn answers(&self) -> bool {
        self.power == 0 && self.poison.is_none()
    }

    /// The guest's MSI capability.
    pub fn msi(&self) -> Option<MsiView> {
        self.configuration.msi()
    }

    /// The guest's MSI-X control register.
    pub fn msix(&self) -> Option<MsixView> {
        self.configuration.msix()
    }

    /// Whether the guest lets the function send requests.
    pub fn is_bus_master(&self) -> bool {
        self.composed_command() & command::BUS_MASTER != 0
    }

    /// The command register as the function shall have it now.
    fn composed_command(&self) -> u16 {
        let guest = self.configuration.command();
        let mut composed = guest & (command::IO | command::MEMORY | THROUGH);
        // System errors stop the machine: whether they are reported is the host's matter.
        composed |= self.host_command & command::SYSTEM_ERROR;
        if guest & command::BUS_MASTER != 0 && !self.quarantined.is_set() && !self.is_closed {
            composed |= command::BUS_MASTER;
        }
        if self.interrupts.is_line_disabled() {
            composed |= command::INTERRUPT_DISABLE;
        }
        composed
    }

    /// Brings the function's command register to what guest, owner and interrupts say.
    pub(crate) fn apply_command(&self) {
        if self.poison.is_some() {
            return;
        }
        loop {
            let quarantined = self.quarantined.is_set();
            self.space.write_u16(register::COMMAND, self.composed_command());
            // Whoever quarantines sets the switch, then clears the register: its write came before this one, or comes
            // after it, unless the switch has changed by now.
            if self.quarantined.is_set() == quarantined {
                return;
            }
        }
    }

    /// No requests from now on.
    pub(super) fn stop_requests(&self) {
        let now = self.space.read_u16(register::COMMAND);
        self.space.write_u16(register::COMMAND, now & !command::BUS_MASTER);
    }

    /// Runs `act` with memory decoding on, and leaves it as it was.
    pub(crate) fn with_memory(&self, act: impl FnOnce()) {
        let now = self.space.read_u16(register::COMMAND);
        if now & command::MEMORY != 0 {
            return act();
        }
        self.space.write_u16(register::COMMAND, now | command::MEMORY);
        act();
        self.space.write_u16(register::COMMAND, now);
    }

    /// Moves the function to the power state that the guest asked for; whether that changed anything. A function
    /// that forgets its configuration on the way back gets it again.
    fn change_power(&mut self) -> bool {
        let wanted = self.configuration.power_request();
        if wanted == self.power {
            return false;
        }
        // In D3hot the configuration still reads as it was; on the way to D0 it may go.
        self.current.refresh(&self.space);
        self.set_power(wanted);
        if self.poison.is_some() {
            return true;
        }
        // A state that the function does not have it does not take.
        let reached = self.resetter().power();
        let before = core::mem::replace(&mut self.power, reached);
        if before == register::power::D3_HOT && reached == 0 {
            self.current.restore(&self.space);
            self.rewrite_messages();
            self.apply_command();
        }
        reached != before
    }

    pub(super) fn resetter(&self) -> Resetter<'_, M::Configuration, M::Clock> {
        Resetter {
            address: self.address,
            space: &self.space,
            layout: self.configuration.layout(),
            clock: &self.clock,
            overdue: &self.overdue,
        }
    }

    /// Moves the function and waits until it answers; one that does not is poisoned.
    fn set_power(&mut self, state: u16) {
        self.resetter().set_power(state);
        if let Err(error) = self.resetter().await_answer(Method::PowerManagement) {
            self.poison = Some(error);
        }
    }

    /// D0, whatever the guest chose.
    pub(super) fn wake(&mut self) {
        if core::mem::replace(&mut self.power, 0) != 0 {
            self.set_power(0);
        }
    }
}
