//! What is said of a VM when it is over: lines of `key=value` that people and tests read.

use alloc::vec::Vec;

use iommu::address::PciAddress;
use log::info;

use super::board::Tally;
use super::slot::Slot;
use super::{Schedule, faults};
use crate::memory::{Owner, frames};

/// Says what a VM did over all of its runs, whatever became of its devices in between.
pub(super) fn of_vm(schedule: &Schedule, slot: &Slot) {
    let remapping = schedule.assignments.remapping().ok();
    if remapping.is_some() {
        // What its devices tried last is still in the records.
        faults::tell(schedule);
    }
    let (mut all_interrupts, mut all_faults) = (0u64, 0u64);
    // Several functions may sign with one id, that of a bridge: each of them answers for its faults, the VM once.
    let mut seen: Vec<PciAddress> = Vec::new();
    for &address in &slot.claims {
        let interrupts = remapping.map_or(0, |remapping| remapping.events().delivered(address));
        let mut faults = 0u64;
        for (sender, count) in remapping.map_or_else(Vec::new, |remapping| remapping.faults_of(address)) {
            faults = faults.saturating_add(count);
            if !seen.contains(&sender) {
                seen.push(sender);
                all_faults = all_faults.saturating_add(count);
            }
        }
        all_interrupts = all_interrupts.saturating_add(interrupts);
        if let (Some(function), Some(group)) =
            (schedule.assignments.function(address), schedule.assignments.group_of(address))
        {
            info!(
                "summary device={address} vm={} group={} ids={:04x}:{:04x} interrupts={interrupts} faults={faults}",
                slot.name(),
                group.0,
                function.vendor,
                function.device
            );
        }
    }
    let Tally { turns, moves, sleeps } =
        schedule.board.tally(|member| schedule.slots.get(member.slot).is_some_and(|its| its.owner.id == slot.owner.id));
    info!(
        "summary vm={} exits={} interrupts={all_interrupts} faults={all_faults} restarts={} frames={} turns={turns} \
         moves={moves} sleeps={sleeps}",
        slot.name(),
        slot.exits(),
        slot.life.runs().saturating_sub(1),
        frames().in_use(Owner::Vm(slot.owner.id))
    );
}
