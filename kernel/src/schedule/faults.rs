//! Remapping faults on their way from the unit's interrupt to the line that names the VM.

use log::error;

use super::slot::Slot;
use super::{Schedule, schedule};
use crate::assignment::faults as records;
use crate::cpu::{self, vectors};

/// The CPU that units interrupt, and that reads their records: the last one. A record that waits hides what its device
/// does next, and CPUs that build VMs, as the first one does, are slow to answer.
pub(super) fn cpu() -> u32 {
    cpu::count().saturating_sub(1)
}

pub(super) use records::are_pending;

/// Has the units announce their faults to [`cpu`].
pub(super) fn listen(schedule: &Schedule) {
    let Ok(remapping) = schedule.assignments.remapping() else { return };
    let (Some(vector), Some(apic_id)) = (vectors::allocate(cpu()), cpu::apic_id(cpu())) else {
        return error!("no vector is left for remapping faults: they are counted by the units alone");
    };
    vectors::set_handler(&vector, interrupted, 0);
    if let Err(error) = remapping.driver().set_fault_interrupt(apic_id, vector.number()) {
        error!("remapping faults are not announced: {error}");
    }
    // What was recorded before this is not announced any more.
    records::take(remapping);
}

/// The handler: empties the records, and makes the CPU leave its guest and tell.
fn interrupted(_: usize) {
    let Some(schedule) = schedule() else { return };
    if let Ok(remapping) = schedule.assignments.remapping() {
        records::take(remapping);
    }
    if let Some(desk) = usize::try_from(cpu()).ok().and_then(|cpu| schedule.desks.get(cpu)) {
        desk.ask_to_yield(schedule);
    }
}

/// Tells whose the faults are that were recorded.
pub(super) fn tell(schedule: &Schedule) {
    let Ok(remapping) = schedule.assignments.remapping() else { return };
    records::tell_all(remapping, |device, tell| {
        let sends = |slot: &&Slot| slot.claims.iter().any(|claim| schedule.assignments.signs_as(*claim, device));
        match schedule.slots.iter().find(sends) {
            Some(slot) => tell(slot.name(), slot.assigned.lock().as_ref()),
            None => tell("none", None),
        }
    });
}
