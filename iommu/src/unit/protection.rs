//! The protected memory ranges (VT-d sections 11.4.8 and 3.13): what blocks DMA without tables. Firmware may leave them
//! on, and they bridge the moment in which a unit has no tables in force.

use log::info;

use crate::door::Machine;
use crate::registers::status::{ProtectedHighAddress, ProtectedLowAddress, ProtectedMemoryEnable};
use crate::registers::{Wait, map};
use crate::unit::{Time, Unit, UnitError};

impl<M: Machine> Unit<M> {
    /// Whether the ranges can block all of memory.
    pub(super) fn can_protect_all_memory(&self) -> bool {
        self.capability.protected_low_memory() && self.capability.protected_high_memory()
    }

    /// Blocks all DMA, whatever the tables say, until [`disable_protected_memory`](Self::disable_protected_memory).
    pub(super) fn protect_all_memory(&self, machine: &M) -> Result<(), UnitError> {
        // The ranges change only while they are not in force.
        self.set_protection(machine, false)?;
        self.window.write(map::PROTECTED_LOW_BASE, ProtectedLowAddress::from_bits(0));
        self.window.write(map::PROTECTED_LOW_LIMIT, ProtectedLowAddress::from_bits(u32::MAX));
        self.window.write(map::PROTECTED_HIGH_BASE, ProtectedHighAddress::from_bits(1 << 32));
        self.window.write(map::PROTECTED_HIGH_LIMIT, ProtectedHighAddress::from_bits(u64::MAX));
        self.set_protection(machine, true)
    }

    /// Ends the ranges, which would still block what the tables allow.
    pub(super) fn disable_protected_memory(&self, machine: &M) -> Result<(), UnitError> {
        if !self.capability.protected_low_memory() && !self.capability.protected_high_memory() {
            return Ok(());
        }
        let protection = self.window.read(map::PROTECTED_MEMORY_ENABLE);
        if !protection.enable() && !protection.in_force() {
            return Ok(());
        }
        self.set_protection(machine, false)?;
        info!("unit {}: protected memory ranges off, the tables protect instead", self.base);
        Ok(())
    }

    fn set_protection(&self, machine: &M, on: bool) -> Result<(), UnitError> {
        self.window.write(map::PROTECTED_MEMORY_ENABLE, ProtectedMemoryEnable::default().with_enable(on));
        Wait::COMMAND
            .until(&Time(machine), || (self.window.read(map::PROTECTED_MEMORY_ENABLE).in_force() == on).then_some(()))
            .map_err(|wait| UnitError::ProtectedMemory { on, wait })
    }
}
