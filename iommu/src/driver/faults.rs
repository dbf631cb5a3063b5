//! Faults of all units: taken, attributed, counted, and answered.

use alloc::vec::Vec;

use log::warn;

use crate::address::{HostPhysical, PciAddress};
use crate::door::Machine;
use crate::driver::{AttachError, BringUpError, DomainId, Driver, InvalidationError};
use crate::fault::{Action, Fault, Reason};
use crate::queue::Descriptor;
use crate::unit::Unit;

/// Faults that one call takes from one unit, beside as many as it has records.
const AT_ONCE: usize = 64;

/// A fault with everything that is known about it.
#[derive(Clone, Copy, Debug)]
pub struct FaultReport {
    /// The unit's registers.
    pub unit: HostPhysical,
    /// The device.
    pub device: PciAddress,
    /// The domain that the device is in: who answers for it. Its mappings around a refused address are what
    /// [`Driver::nearest`] tells.
    pub domain: Option<DomainId>,
    /// What it tried, and why that was refused.
    pub fault: Fault,
    /// How often the device has faulted under this owner.
    pub total: u64,
    /// Faults of the device that were only counted since its last report.
    pub unreported: u64,
    /// The device has faulted too often: its further faults are not recorded. Whoever owns it turns its bus mastering
    /// off; it cannot be attached again before [`Driver::release_device`].
    pub silenced: bool,
}

/// How far a call to [`Driver::drain_faults`] came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Faults taken, reported or counted.
    pub taken: usize,
    /// Units that lost faults because no record was free.
    pub overflows: usize,
    /// More faults wait. No interrupt announces them: call again.
    pub more: bool,
}

impl<M: Machine> Driver<M> {
    /// Has every unit announce faults by an interrupt with `vector` at one processor. The handler calls
    /// [`drain_faults`](Self::drain_faults). The message does not go through interrupt remapping.
    pub fn set_fault_interrupt(&self, apic_id: u32, vector: u8) -> Result<(), BringUpError> {
        self.machine.without_interrupts(|| {
            self.units.iter().try_for_each(|unit| {
                unit.set_fault_message(apic_id, vector).map_err(|error| BringUpError { base: unit.base(), error })
            })
        })
    }

    /// Takes the faults of all units, a bounded number of them, and reports those that are worth a line: a device that
    /// faults often is reported a few times a second and silenced when it goes on.
    ///
    /// `report` runs without any lock of the driver but must not call `drain_faults` itself. It takes no memory.
    pub fn drain_faults(&self, mut report: impl FnMut(&FaultReport)) -> Drained {
        let mut drained = Drained::default();
        for unit in &self.units {
            let bound = AT_ONCE + unit.capability().fault_records();
            let mut taken = 0;
            while taken < bound {
                let Some(fault) =
                    self.machine.without_interrupts(|| unit.with_records(|records, window| records.take(window)))
                else {
                    break;
                };
                taken += 1;
                if let Some(found) = self.judge(unit, fault) {
                    report(&found);
                }
            }
            drained.taken += taken;
            drained.more |= taken == bound;
            let lost =
                self.machine.without_interrupts(|| unit.with_records(|records, window| records.take_overflow(window)));
            drained.overflows += usize::from(lost);
        }
        drained
    }

    /// How often `device` has faulted under its owner.
    pub fn faults_of(&self, device: PciAddress) -> u64 {
        self.machine.without_interrupts(|| self.ledger.lock().total(device))
    }

    /// How often requests that were signed with this id have faulted since the start, whoever owned the device.
    pub fn faults_ever(&self, device: PciAddress) -> u64 {
        self.machine.without_interrupts(|| self.ledger.lock().ever(device))
    }

    /// How often `device` has faulted under its owner, for each of the first few reasons that it had.
    pub fn fault_reasons(&self, device: PciAddress) -> Vec<(Reason, u64)> {
        self.machine.without_interrupts(|| self.ledger.lock().reasons(device).collect())
    }

    /// Whether `device` faulted so often that it was silenced, and was not released since.
    pub fn is_silenced(&self, device: PciAddress) -> bool {
        self.machine.without_interrupts(|| self.ledger.lock().is_silenced(device))
    }

    /// Trusts a silenced device again: its faults are recorded, and it can be attached.
    pub fn release_device(&self, device: PciAddress) -> Result<(), AttachError> {
        let unit = self.coverage.unit_of(device).and_then(|unit| self.units.get(unit));
        let unit = unit.ok_or(AttachError::Uncovered { device })?;
        self.set_silent(unit, device, false).map_err(AttachError::Invalidation)?;
        self.machine.without_interrupts(|| self.ledger.lock().forget(device));
        Ok(())
    }

    /// Counts a fault, silences its device if need be, and tells whether to report it.
    fn judge(&self, unit: &Unit<M>, fault: Fault) -> Option<FaultReport> {
        let device = PciAddress { segment: unit.segment(), source: fault.source };
        let now = self.machine.nanoseconds();
        let domain = self.domain_of(device);
        let (action, total) = self.machine.without_interrupts(|| {
            let mut ledger = self.ledger.lock();
            (ledger.count(device, domain.map(DomainId::as_u16), fault.reason, now), ledger.total(device))
        });
        let (unreported, silenced) = match action {
            Action::Count => return None,
            Action::Report { unreported } => (unreported, false),
            Action::Silence { unreported } => (unreported, true),
        };
        if silenced && let Err(error) = self.set_silent(unit, device, true) {
            warn!("{device} is not silent: {error}");
        }
        Some(FaultReport { unit: unit.base(), device, domain, fault, total, unreported, silenced })
    }

    /// Sets or clears FPD in the device's context entry, if its bus has a table.
    fn set_silent(&self, unit: &Unit<M>, device: PciAddress, silent: bool) -> Result<(), InvalidationError> {
        self.machine.without_interrupts(|| {
            let mut contexts = unit.contexts.lock();
            let domain = contexts.domain_of(device.source);
            if !contexts.silence(device.source, silent) {
                return Ok(());
            }
            let changed = Descriptor::Context { domain, source: device.source };
            let process = unit.process_entry(domain);
            unit.invalidate(&self.machine, [Some(changed), process].into_iter().flatten())
                .map_err(|error| InvalidationError { base: unit.base(), error })
        })
    }
}
