//! A virtual CPU of a VM, over all of the VM's runs.

use alloc::sync::Arc;
use alloc::vec::Vec;

use configuration::Cpus;
use iommu::interrupt::posted::PostedInterruptDescriptor;
use spin::Mutex;

use super::board::Mailbox;
use super::slot::{Running, Slot};
use crate::vapic::{ApicBus, Endpoint};

/// What the board knows a virtual CPU by.
pub(super) struct Member {
    /// Its VM: an index into the slots.
    pub(super) slot: usize,
    /// Which of the VM's virtual CPUs.
    pub(super) vcpu: usize,
    /// The CPU that lets it into each run, where it begins.
    pub(super) home: u32,
    bus: Arc<ApicBus>,
    visit: Mutex<Visit>,
}

/// The run that a virtual CPU is in.
#[derive(Default)]
struct Visit {
    /// The last run that it entered; 0: none.
    last: u32,
    /// Held between entering and leaving only: when the last has left, nobody but the VM's leader holds the VM.
    running: Option<Arc<Running>>,
}

impl Member {
    pub(super) fn new(slot: usize, vcpu: usize, home: u32, bus: Arc<ApicBus>) -> Self {
        Self { slot, vcpu, home, bus, visit: Mutex::default() }
    }

    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        self.bus.endpoint(self.vcpu)
    }

    /// The run that it is in.
    pub(super) fn running(&self) -> Option<Arc<Running>> {
        self.visit.lock().running.clone()
    }

    /// Whether there is a run that it has not been in.
    pub(super) fn can_enter(&self, slot: &Slot) -> bool {
        let visit = self.visit.lock();
        visit.running.is_none() && slot.life.admits(visit.last)
    }

    /// Enters the next run, if there is one.
    pub(super) fn enter(&self, slot: &Slot) -> bool {
        let mut visit = self.visit.lock();
        if visit.running.is_some() {
            return false;
        }
        let Some(run) = slot.life.enter(visit.last) else { return false };
        visit.last = run;
        visit.running = slot.running.lock().clone();
        if visit.running.is_none() {
            slot.life.end();
            slot.life.leave();
        }
        visit.running.is_some()
    }

    /// Lets go of the run. Whoever calls this says so to [`Life`](super::Life) afterwards.
    pub(super) fn leave(&self) {
        self.visit.lock().running = None;
    }
}

impl Mailbox<core::sync::atomic::AtomicU64> for Member {
    fn mailbox(&self) -> Option<&PostedInterruptDescriptor> {
        self.endpoint().map(Endpoint::mailbox)
    }
}

/// The CPU where each virtual CPU of each VM begins: its own, or the one of those it shares where the fewest begin.
pub(super) fn homes<'a>(vms: impl Iterator<Item = &'a Cpus>) -> Vec<Vec<u32>> {
    let mut given: Vec<u32> = Vec::new();
    vms.map(|cpus| match cpus {
        Cpus::Pinned(hosts) => hosts.iter().map(|host| host.value).collect(),
        Cpus::Shared { on, .. } => (0..cpus.count())
            .filter_map(|_| {
                let begin = |host: u32| given.iter().filter(|other| **other == host).count();
                let home = on.iter().map(|host| host.value).min_by_key(|host| begin(*host))?;
                given.push(home);
                Some(home)
            })
            .collect(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_share_begin_on_different_cpus() {
        let vm = |name: &str, cpus: &str| {
            std::format!(
                "[[vm]]\nname = \"{name}\"\ncpus = {cpus}\nmemory = \"2M\"\nimage = {{ multiboot = {{ image = \"x\" }} }}\n"
            )
        };
        let text = [
            vm("a", "{ count = 3, on = [1, 2] }"),
            vm("b", "[3, 0]"),
            vm("c", "{ count = 2, on = [2, 1] }"),
            vm("d", "{ count = 1, on = [1] }"),
        ];
        let configuration = configuration::parse(&text.concat()).unwrap();
        let homes = homes(configuration.vms.iter().map(|vm| &vm.cpus));
        assert_eq!(homes, [vec![1, 2, 1], vec![3, 0], vec![2, 2], vec![1]]);
    }
}
