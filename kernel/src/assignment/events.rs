//! The mailboxes that events lead to: one interrupt bus a VM, made once and kept over the VM's restarts, so that a
//! mailbox never moves while hardware or a host vector can reach it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use iommu::address::PciAddress;
use passthrough::door::Event;
use spin::Mutex;

use super::direct::Receiver;
use super::event::Target;
use super::route::Mailbox;
use crate::vapic::{ApicBus, Endpoint};

/// Every VM's bus, by the VM's number.
#[derive(Debug)]
pub struct Events {
    buses: Vec<Arc<ApicBus>>,
    /// How many interrupts of each function were delivered. Never locked by an interrupt handler.
    delivered: Mutex<BTreeMap<PciAddress, Arc<AtomicU64>>>,
}

impl Events {
    /// The mailboxes of VMs that have these buses. Kept for good.
    pub fn keep(buses: Vec<Arc<ApicBus>>) -> &'static Self {
        Box::leak(Box::new(Self { buses, delivered: Mutex::default() }))
    }

    /// The bus of a VM.
    pub fn bus(&self, vm: u16) -> Option<&Arc<ApicBus>> {
        self.buses.get(usize::from(vm))
    }

    fn endpoint(&'static self, target: Target) -> Option<&'static Endpoint> {
        self.bus(target.vm)?.endpoint(usize::from(target.vcpu))
    }

    /// What an event of `function` stands for: the host CPU that best takes the interrupt, since the vCPU was there
    /// last, and the bit of a mailbox.
    pub fn resolve(&'static self, function: PciAddress, event: Event) -> Option<(u32, Mailbox)> {
        let Receiver { endpoint, vector, delivered } = self.receiver(function, event)?;
        Some((endpoint.host_cpu(), Mailbox { endpoint, vector, delivered }))
    }

    /// What an event of `function` stands for, for who may take its interrupt on another CPU than the vCPU's.
    pub fn receiver(&'static self, function: PciAddress, event: Event) -> Option<Receiver> {
        let target = Target::from_event(event)?;
        let endpoint = self.endpoint(target)?;
        let delivered = self.delivered.lock().entry(function).or_default().clone();
        Some(Receiver { endpoint, vector: target.vector, delivered })
    }

    /// How many interrupts of `function` were delivered since the start.
    pub fn delivered(&self, function: PciAddress) -> u64 {
        self.delivered.lock().get(&function).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Posts an event by software and makes its vCPU notice. False for an event that leads nowhere.
    pub fn signal(&'static self, event: Event) -> bool {
        let Some(target) = Target::from_event(event) else { return false };
        let Some(endpoint) = self.endpoint(target) else { return false };
        endpoint.post(target.vector, crate::vapic::Trigger::Edge);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vapic::Bell;

    #[test]
    fn an_event_leads_to_the_mailbox_of_its_own_vcpu() {
        let buses = (0..2).map(|vm| Arc::new(ApicBus::new(&[vm * 2, vm * 2 + 1], Bell::silent()))).collect();
        let events = Events::keep(buses);
        let function = PciAddress::new(0, 1, 0, 0);
        let (cpu, mailbox) = events.resolve(function, Target { vm: 1, vcpu: 1, vector: 0x50 }.to_event()).unwrap();
        assert_eq!((cpu, mailbox.vector), (3, 0x50));
        assert!(events.signal(Target { vm: 1, vcpu: 1, vector: 0x50 }.to_event()));
        assert_eq!(mailbox.endpoint.mailbox().take(), Some([0, 1 << 16, 0, 0]));
        mailbox.delivered.fetch_add(3, Ordering::Relaxed);
        assert_eq!((events.delivered(function), events.delivered(PciAddress::new(0, 2, 0, 0))), (3, 0));
        for nowhere in [Target { vm: 2, vcpu: 0, vector: 0x50 }, Target { vm: 0, vcpu: 2, vector: 0x50 }] {
            assert!(events.resolve(function, nowhere.to_event()).is_none());
            assert!(!events.signal(nowhere.to_event()));
        }
    }
}
