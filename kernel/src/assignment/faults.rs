//! Requests that a remapping unit blocked: taken from its records, told to their owner, one line each.
//!
//! A unit may have as little as one record, and drops what comes while it is full. So the handler of its interrupt
//! empties the records at once, into a queue of fixed size ([`take`]). A CPU's own loop tells what is queued
//! ([`tell_all`]): that writes to the log, and silencing a device takes its owner's locks.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use iommu::address::{Iova, PciAddress};
use iommu::driver::FaultReport;
use iommu::fault::{Access, Place};
use log::{error, warn};
use spin::Mutex;

use super::{Assigned, Remapping};
use crate::cpu::{clock, interrupts};

/// Reports that wait to be told. More than a device may have reported within a second.
const QUEUE: usize = 64;

/// Locked with interrupts off, since the handler locks it too.
static REPORTS: Mutex<ArrayVec<FaultReport, QUEUE>> = Mutex::new(ArrayVec::new_const());
/// Something is queued, or waits in a record that no interrupt announces.
static PENDING: AtomicBool = AtomicBool::new(false);
/// Reports for which the queue had no room.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
/// How often a unit dropped faults because its records were full.
static OVERFLOWS: AtomicU64 = AtomicU64::new(0);
/// When the two counts were last told, in nanoseconds.
static TOLD: AtomicU64 = AtomicU64::new(0);
/// How often they are told at most, in nanoseconds: a device causes them as often as it faults.
const PAUSE: u64 = 1_000_000_000;

/// Whether [`tell_all`] has something to do.
pub fn are_pending() -> bool {
    PENDING.load(Ordering::Acquire)
}

/// Empties the units' records into the queue. Callable from an interrupt handler.
pub fn take(remapping: &Remapping) {
    let drained = remapping.driver().drain_faults(|report| {
        if interrupts::without(|| REPORTS.lock().try_push(*report)).is_err() {
            LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        }
    });
    OVERFLOWS.fetch_add(drained.overflows as u64, Ordering::Relaxed);
    if drained.taken > 0 || drained.more || drained.overflows > 0 {
        PENDING.store(true, Ordering::Release);
    }
}

/// Tells everything that is queued. `owner` calls its second argument with the name of the VM that holds a function,
/// and with what that VM was given, if it runs.
pub fn tell_all(remapping: &Remapping, owner: impl Fn(PciAddress, &mut dyn FnMut(&str, Option<&Assigned>))) {
    // Before the look: what is queued from now on is pending again.
    PENDING.store(false, Ordering::Release);
    take(remapping);
    let reports = interrupts::without(|| core::mem::take(&mut *REPORTS.lock()));
    for report in reports {
        owner(report.device, &mut |vm, assigned| tell(remapping, &report, vm, assigned));
    }
    tell_losses(clock::nanoseconds());
}

/// Tells what was lost, unless that was just told: then it is told with what is lost next, or by
/// [`tell_all_losses`].
fn tell_losses(now: u64) {
    let lost = [&LEFT_OUT, &OVERFLOWS].iter().any(|count| count.load(Ordering::Relaxed) > 0);
    if !lost || now.saturating_sub(TOLD.load(Ordering::Relaxed)) < PAUSE {
        return;
    }
    TOLD.store(now, Ordering::Relaxed);
    tell_all_losses();
}

/// Tells what was lost and not told yet.
pub fn tell_all_losses() {
    for (count, what) in [
        (LEFT_OUT.swap(0, Ordering::Relaxed), "reports of faults were left out: they came faster than they are told"),
        (OVERFLOWS.swap(0, Ordering::Relaxed), "times a remapping unit had no record free and dropped faults"),
    ] {
        if count > 0 {
            warn!("{count} {what}");
        }
    }
}

/// One line for a fault, and quarantine where the device has had too many.
fn tell(remapping: &Remapping, report: &FaultReport, vm: &str, assigned: Option<&Assigned>) {
    let FaultReport { device, fault, .. } = report;
    let (code, reason) = (fault.reason.code(), fault.reason.name().unwrap_or("a reason that no specification names"));
    match fault.place {
        Place::Interrupt(index) => {
            warn!("fault vm={vm} device={device} access=write interrupt={index:#x} reason={code:#x} : {reason}");
        }
        Place::Memory(page) => {
            let access = if fault.access == Access::Read { "read" } else { "write" };
            let nearest = assigned.and_then(|assigned| assigned.nearest_mapping(Iova::new(page)));
            match nearest {
                Some(mapping) => warn!(
                    "fault vm={vm} device={device} access={access} address={page:#x} reason={code:#x} : {reason}; {} is \
                     {:#x} to {:#x}",
                    if mapping.range().contains(&page) { "mapped there" } else { "mapped nearest" },
                    mapping.range().start(),
                    mapping.range().end(),
                ),
                None => warn!(
                    "fault vm={vm} device={device} access={access} address={page:#x} reason={code:#x} : {reason}; nothing \
                     is mapped for it"
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
        for function in functions.iter().filter(|function| remapping.signature(function.address()).covers(*device)) {
            function.quarantine();
        }
    }
}
