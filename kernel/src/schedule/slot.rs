//! One VM of the configuration, over all of its runs.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use iommu::address::PciAddress;
use passthrough::door::Owner;
use spin::Mutex;

use super::life::Life;
use crate::assignment::{Assigned, Complaints};
use crate::console::GuestConsole;
use crate::memory::GuestMemory;
use crate::vapic::ApicBus;
use crate::vcpu::Vcpu;
use crate::vm::{Restarts, Vm};

/// A VM while it runs.
pub(super) struct Running {
    pub(super) vm: Arc<Vm<GuestMemory>>,
    /// Each held by the CPU that runs it, for a turn, and gone when it has left the run.
    pub(super) vcpus: Vec<Mutex<Option<Vcpu>>>,
}

/// A VM's place.
pub(super) struct Slot {
    /// Its name and number; what it causes is charged to that.
    pub(super) owner: Owner,
    pub(super) configuration: configuration::Vm,
    /// The CPU on which each virtual CPU begins. The first one's leads the VM.
    pub(super) homes: Vec<u32>,
    /// The functions that the configuration gives it.
    pub(super) claims: Vec<PciAddress>,
    /// One bus for all runs: mailboxes do not move.
    pub(super) bus: Arc<ApicBus>,
    pub(super) life: Life,
    pub(super) restarts: Mutex<Restarts>,
    /// Set from the building to the taking apart.
    pub(super) running: Mutex<Option<Arc<Running>>>,
    /// What its devices may still cause of log, in all runs.
    pub(super) complaints: Complaints,
    /// Held while the VM runs. Taken before a container's lock and no other: nothing that is done under it waits for a
    /// device. Never in an interrupt handler.
    pub(super) assigned: Mutex<Option<Assigned>>,
    /// Exits of all virtual CPUs in the runs that are over.
    exits: AtomicU64,
}

impl Slot {
    pub(super) fn new(
        owner: Owner,
        configuration: configuration::Vm,
        homes: Vec<u32>,
        claims: Vec<PciAddress>,
        bus: Arc<ApicBus>,
    ) -> Self {
        let restarts = Mutex::new(Restarts::new(configuration.on_reset, configuration.restarts));
        // Makes the VM known to the console in the order of the configuration: the first one has the keyboard, whichever
        // is built first.
        drop(GuestConsole::new(&owner.name));
        Self {
            owner,
            configuration,
            homes,
            claims,
            bus,
            life: Life::new(),
            restarts,
            running: Mutex::new(None),
            complaints: Complaints::default(),
            assigned: Mutex::new(None),
            exits: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.owner.name
    }

    pub(super) fn count_exits(&self, exits: impl IntoIterator<Item = u64>) {
        for count in exits {
            self.exits.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(super) fn exits(&self) -> u64 {
        self.exits.load(Ordering::Relaxed)
    }
}
