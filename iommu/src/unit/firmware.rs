//! What firmware left on: found, said, and taken over so that nothing that was blocked becomes free in between.
//!
//! Tables change under a running unit where that is safe: translation that is on in legacy mode stays on, and the new
//! root table replaces the old in one command; so does the interrupt table where both write destinations alike. Only
//! where the mode differs is a switch turned off first, and the log says so: the protected memory ranges, where the unit
//! has them, block all DMA meanwhile, and devices' bus mastering is off by then.

use log::{info, warn};

use crate::door::Machine;
use crate::interrupt::entry::DestinationFormat;
use crate::registers::command::Switch;
use crate::registers::{Wait, map};
use crate::unit::{Time, Unit, UnitError};

impl<M: Machine> Unit<M> {
    /// Quiets the unit and takes down what cannot be replaced while it runs. `must_stay_blocked`: the platform asks that
    /// no DMA is let free in between (DMA_CTRL_PLATFORM_OPT_IN).
    pub(crate) fn take_over(&self, machine: &M, must_stay_blocked: bool) -> Result<(), UnitError> {
        let status = self.window.read(map::GLOBAL_STATUS);
        let mode = self.window.read(map::ROOT_TABLE_ADDRESS).mode() as u8;
        if status.translation() && mode != self.mode.code() && must_stay_blocked && !self.can_protect_all_memory() {
            return Err(UnitError::Gap { mode });
        }
        self.mask_faults();
        let stale = self.with_records(|records, window| records.clear_all(window));
        if stale > 0 {
            info!("unit {}: {stale} stale fault records cleared", self.base);
        }
        if status.advanced_fault_logging() {
            info!("unit {}: firmware's fault log in memory off", self.base);
            self.switch(machine, Switch::AdvancedFaultLogging, false)?;
        }
        if status.interrupt_remapping() {
            self.take_over_interrupts(machine)?;
        }
        if status.queued_invalidation() {
            self.drain_firmware_queue(machine)?;
            self.switch(machine, Switch::QueuedInvalidation, false)?;
            info!("unit {}: firmware left its queue on; drained and replaced", self.base);
        }
        if status.translation() {
            self.take_over_translation(machine, mode)?;
        }
        Ok(())
    }

    /// A root table of our mode is replaced while translation is on. The mode itself changes only while it is off: then
    /// the protected memory ranges block all DMA meanwhile, where the unit has them.
    fn take_over_translation(&self, machine: &M, mode: u8) -> Result<(), UnitError> {
        let base = self.base;
        if mode == self.mode.code() {
            info!("unit {base}: firmware left DMA remapping on; its tables are replaced without a gap");
            return Ok(());
        }
        if self.can_protect_all_memory() {
            info!(
                "unit {base}: firmware left DMA remapping on in mode {mode}, which cannot change while on; protected \
                 memory ranges block all DMA until the new tables are in force"
            );
            self.protect_all_memory(machine)?;
        } else {
            warn!(
                "unit {base}: firmware left DMA remapping on in mode {mode}, which cannot change while on; off until \
                 the new tables are set"
            );
        }
        self.switch(machine, Switch::Translation, false)
    }

    fn take_over_interrupts(&self, machine: &M) -> Result<(), UnitError> {
        let extended = self.window.read(map::INTERRUPT_TABLE_ADDRESS).extended_interrupt_mode();
        if self.interrupts.is_some() && extended == (self.format == DestinationFormat::X2Apic) {
            info!("unit {}: firmware left interrupt remapping on; its table is replaced without a gap", self.base);
            return Ok(());
        }
        warn!(
            "unit {}: firmware left interrupt remapping on{}; off until the new table is set",
            self.base,
            if self.interrupts.is_some() { " with another width of destinations" } else { "" }
        );
        self.switch(machine, Switch::InterruptRemapping, false)
    }

    /// Waits until the unit has taken all that firmware queued.
    fn drain_firmware_queue(&self, machine: &M) -> Result<(), UnitError> {
        Wait::COMMAND
            .until(&Time(machine), || {
                let (head, tail) = (self.window.read(map::QUEUE_HEAD), self.window.read(map::QUEUE_TAIL));
                (head.slot() == tail.slot()).then_some(())
            })
            .map_err(UnitError::FirmwareQueue)
    }
}
