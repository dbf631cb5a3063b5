//! Requests that a remapping unit blocked: taken from its records, told to their owner, one line each.
//!
//! The unit's fault interrupt only notes that there is something ([`announce`]); the records are read by the CPU's own
//! loop, outside of interrupt handlers, since silencing a device takes its owner's locks.

use core::sync::atomic::{AtomicBool, Ordering};

use iommu::address::{Iova, PciAddress};
use iommu::driver::FaultReport;
use iommu::fault::{Access, Place};
use log::{error, warn};

use super::{Assigned, Remapping};

/// Faults wait to be read.
static PENDING: AtomicBool = AtomicBool::new(false);

/// Notes that a unit has recorded faults. Callable from an interrupt handler.
pub fn announce() {
    PENDING.store(true, Ordering::Release);
}

/// Whether [`drain`] would find something.
pub fn are_pending() -> bool {
    PENDING.load(Ordering::Acquire)
}

/// Reads the units' fault records. `owner` calls its second argument with the name of the VM that holds a function, and
/// with what that VM was given, if it has one.
pub fn drain(remapping: &Remapping, owner: impl Fn(PciAddress, &mut dyn FnMut(&str, Option<&Assigned>))) {
    // Before the look: what is recorded from now on announces itself again.
    PENDING.store(false, Ordering::Release);
    let drained = remapping.driver().drain_faults(|report| {
        owner(report.device, &mut |vm, assigned| tell(report, vm, assigned));
    });
    if drained.overflows > 0 {
        warn!("{} remapping unit(s) had no record free and dropped faults", drained.overflows);
    }
    if drained.more {
        announce();
    }
}

/// One line for a fault, and quarantine where the device has had too many.
fn tell(report: &FaultReport, vm: &str, assigned: Option<&Assigned>) {
    let FaultReport { device, fault, .. } = report;
    let reason = fault.reason;
    match fault.place {
        Place::Interrupt(index) => {
            warn!(
                "fault vm={vm} device={device} access=write interrupt={index:#x} reason={:#x} : {reason}",
                reason.code()
            );
        }
        Place::Memory(page) => {
            let access = if fault.access == Access::Read { "read" } else { "write" };
            let nearest = assigned.and_then(|assigned| assigned.nearest_mapping(Iova::new(page)));
            match nearest {
                Some(mapping) => warn!(
                    "fault vm={vm} device={device} access={access} address={page:#x} reason={:#x} : {reason}; {} is \
                     {:#x} to {:#x}",
                    reason.code(),
                    if mapping.range().contains(&page) { "mapped there" } else { "mapped nearest" },
                    mapping.range().start(),
                    mapping.range().end(),
                ),
                None => warn!(
                    "fault vm={vm} device={device} access={access} address={page:#x} reason={:#x} : {reason}; nothing \
                     is mapped for it",
                    reason.code()
                ),
            }
        }
    }
    if report.unreported > 0 {
        warn!("{device} of {vm}: {} more faults since its last report", report.unreported);
    }
    if report.silenced {
        error!("{device} of {vm} is quarantined after {} faults: it may send no request any more", report.total);
        let functions = assigned.map_or(&[][..], |assigned| assigned.functions());
        for function in functions.iter().filter(|function| function.address() == *device) {
            function.quarantine();
        }
    }
}
