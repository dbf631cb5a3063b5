//! Resetting one function: the ladder from the finest way to the coarsest.
//!
//! Function-level reset (PCI Express Base section 6.6.2), the same by the advanced-features capability, a round trip
//! through D3hot, and the reset of the bus that the function stands on. Every wait is bounded, and a function that
//! does not come back is named.

mod error;
mod state;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

pub use error::ResetError;
use iommu::address::PciAddress;
pub use state::SavedState;

use crate::config::Layout;
use crate::config::register::{self, advanced, express, power};
use crate::door::{Clock, ConfigurationSpace};

/// One millisecond, in nanoseconds.
const MILLISECOND: u64 = 1_000_000;
/// So long requests may stay outstanding before a reset goes ahead all the same.
const PENDING: u64 = 1000 * MILLISECOND;
/// So long a function needs after a function-level or bus reset (sections 6.6.1 and 6.6.2).
const SETTLE: u64 = 100 * MILLISECOND;
/// So long conventional PCI needs after a bus reset (PCI 3.0 section 4.3.2: 2^25 clocks).
const SETTLE_CONVENTIONAL: u64 = 1000 * MILLISECOND;
/// So long between power states (PCI Power Management section 5.6.1).
const POWER_CHANGE: u64 = 10 * MILLISECOND;
/// So long the bus stays in reset; the specification wants 1 ms.
const BUS_ASSERT: u64 = 2 * MILLISECOND;
/// So long a function may take until it answers again.
const ANSWER: u64 = 60_000 * MILLISECOND;

/// A way to reset a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Function-level reset by PCI Express device control.
    FunctionLevel,
    /// Function-level reset by the advanced-features capability.
    AdvancedFeatures,
    /// D3hot and back, where the function forgets its state on the way.
    PowerManagement,
    /// The bus above.
    Bus,
}

/// What a bus reset needs: the bridge right above the function, and the other functions on or below its bus.
#[derive(Debug)]
pub struct BusReset<C> {
    /// The bridge.
    pub bridge: C,
    /// Whether PCI Express is below it; else conventional PCI, which takes longer.
    pub is_express: bool,
    /// Every other function that the reset hits.
    pub others: Vec<(PciAddress, C)>,
}

/// The finest way to reset a function alone, if it has one.
pub(crate) fn own_method(space: &impl ConfigurationSpace, layout: &Layout) -> Option<Method> {
    let level = layout.express.is_some_and(|at| {
        let capabilities = space.read_u32(at.saturating_add(express::DEVICE_CAPABILITIES));
        capabilities & express::FUNCTION_LEVEL_RESET != 0
    });
    if level {
        return Some(Method::FunctionLevel);
    }
    let advanced = layout.advanced.is_some_and(|at| {
        let can = advanced::HAS_RESET | advanced::HAS_PENDING;
        space.read_u8(at.saturating_add(advanced::CAPABILITIES)) & can == can
    });
    if advanced {
        return Some(Method::AdvancedFeatures);
    }
    let power = layout.power.is_some_and(|at| {
        let control = space.read_u16(at.saturating_add(power::CONTROL));
        control & power::NO_SOFT_RESET == 0
    });
    power.then_some(Method::PowerManagement)
}

/// One function on its way through a reset.
pub(crate) struct Resetter<'a, C, K> {
    pub(crate) address: PciAddress,
    pub(crate) space: &'a C,
    pub(crate) layout: Layout,
    pub(crate) clock: &'a K,
    /// Whether it was said already that requests of the function were given up on.
    pub(crate) overdue: &'a AtomicBool,
}

impl<C: ConfigurationSpace, K: Clock> Resetter<'_, C, K> {
    /// Resets the function by a way of its own. Its configuration is lost; bus mastering is off.
    pub(crate) fn reset_alone(&self, method: Method) -> Result<(), ResetError> {
        self.stop();
        match method {
            Method::FunctionLevel => {
                let Some(at) = self.layout.express else { return Err(ResetError::NoMethod(self.address)) };
                let control = at.saturating_add(express::DEVICE_CONTROL);
                let value = self.space.read_u16(control);
                self.space.write_u16(control, value | express::INITIATE_RESET);
                self.wait(SETTLE);
            }
            Method::AdvancedFeatures => {
                let Some(at) = self.layout.advanced else { return Err(ResetError::NoMethod(self.address)) };
                self.space.write_u8(at.saturating_add(advanced::CONTROL), advanced::INITIATE_RESET);
                self.wait(SETTLE);
            }
            Method::PowerManagement => {
                self.set_power(power::D3_HOT);
                self.set_power(0);
            }
            Method::Bus => return Err(ResetError::NoMethod(self.address)),
        }
        self.await_answer(method)
    }

    /// Resets the bus of the function. The configuration of every function on it is lost.
    ///
    /// `states` holds what the others had when the device was opened, in their order.
    pub(crate) fn reset_bus(&self, bus: &BusReset<C>, states: &mut [SavedState]) -> Result<(), ResetError> {
        for ((_, space), state) in bus.others.iter().zip(states.iter_mut()) {
            state.refresh(space);
        }
        self.stop();
        let control = bus.bridge.read_u16(register::BRIDGE_CONTROL);
        bus.bridge.write_u16(register::BRIDGE_CONTROL, control | register::SECONDARY_BUS_RESET);
        self.wait(BUS_ASSERT);
        bus.bridge.write_u16(register::BRIDGE_CONTROL, control & !register::SECONDARY_BUS_RESET);
        self.wait(if bus.is_express { SETTLE } else { SETTLE_CONVENTIONAL });
        let result = self.await_answer(Method::Bus);
        for ((address, space), state) in bus.others.iter().zip(states) {
            let other = Resetter { address: *address, space, layout: Layout::default(), ..*self };
            if other.await_answer(Method::Bus).is_err() {
                continue;
            }
            // Nobody uses them, so nobody needs them to send; a bridge among them forwards as before.
            if !is_bridge(space) {
                state.set_command(0);
            }
            state.restore(space);
        }
        result
    }

    /// Moves the function to a power state, 0 (D0) to 3 (D3hot), and gives it the time that takes.
    pub(crate) fn set_power(&self, state: u16) {
        let Some(at) = self.layout.power.map(|at| at.saturating_add(power::CONTROL)) else { return };
        let control = self.space.read_u16(at);
        if control & power::STATE == state {
            return;
        }
        // Bit 15 would clear a wake-up event.
        self.space.write_u16(at, control & !(power::STATE | 1 << 15) | state);
        self.wait(POWER_CHANGE);
    }

    /// The power state that the function is in, 0 (D0) to 3 (D3hot).
    pub(crate) fn power(&self) -> u16 {
        let control = self.layout.power.map(|at| self.space.read_u16(at.saturating_add(power::CONTROL)));
        control.unwrap_or(0) & power::STATE
    }

    /// No new requests, and the outstanding ones done, or given up on.
    fn stop(&self) {
        let command = self.space.read_u16(register::COMMAND);
        self.space.write_u16(register::COMMAND, command & !register::command::BUS_MASTER);
        let has_pending = || {
            let express = self.layout.express.is_some_and(|at| {
                self.space.read_u16(at.saturating_add(express::DEVICE_STATUS)) & express::TRANSACTIONS_PENDING != 0
            });
            let advanced = self.layout.advanced.is_some_and(|at| {
                self.space.read_u8(at.saturating_add(advanced::STATUS)) & advanced::TRANSACTIONS_PENDING != 0
            });
            express || advanced
        };
        // Once a device: a guest can cause this as often as it resets.
        if !self.wait_until(PENDING, || !has_pending()) && !self.overdue.swap(true, Ordering::Relaxed) {
            log::warn!("{}: requests are still outstanding after 1 s, it is reset all the same", self.address);
        }
    }

    /// Waits until the function answers; all ones, and the retry status that reads as vendor 1, are no answer.
    pub(crate) fn await_answer(&self, method: Method) -> Result<(), ResetError> {
        let answers = || !matches!(self.space.read_u16(register::VENDOR), 0xffff | 0x0001);
        if !self.wait_until(ANSWER, answers) {
            return Err(ResetError::NoAnswer { function: self.address, method });
        }
        // All ones in the rest means that it fell off the bus in between.
        if self.space.read_u8(register::HEADER_TYPE) & 0x7f == 0x7f {
            return Err(ResetError::NoAnswer { function: self.address, method });
        }
        Ok(())
    }

    fn wait(&self, nanoseconds: u64) {
        self.wait_until(nanoseconds, || false);
    }

    /// Waits until `done`, at most so long; whether it was.
    fn wait_until(&self, nanoseconds: u64, mut done: impl FnMut() -> bool) -> bool {
        let start = self.clock.nanoseconds();
        loop {
            if done() {
                return true;
            }
            if self.clock.nanoseconds().saturating_sub(start) >= nanoseconds {
                return done();
            }
            core::hint::spin_loop();
        }
    }
}

fn is_bridge(space: &impl ConfigurationSpace) -> bool {
    space.read_u8(register::HEADER_TYPE) & 0x7f == 1
}
