//! The bus between the local APICs of a virtual machine.

use alloc::boxed::Box;

use super::endpoint::{ApicAddress, Bell, Endpoint};
use super::message::{DeliveryMode, Destination, Interrupt, MsiMessage, NotAnInterrupt};

/// The endpoints of a virtual machine's virtual CPUs, in their order. Shared by everything that sends interrupts.
#[derive(Debug)]
pub struct ApicBus {
    endpoints: Box<[Endpoint]>,
}

impl ApicBus {
    /// A bus with one endpoint for each host CPU in `host_cpus`, on which its virtual CPU begins; the virtual CPU's index
    /// is its APIC id.
    pub fn new(host_cpus: &[u32], bell: Bell) -> Self {
        let endpoints = (0u32..).zip(host_cpus).map(|(id, cpu)| Endpoint::new(id, *cpu, bell)).collect();
        Self { endpoints }
    }

    /// The endpoint of a virtual CPU.
    pub fn endpoint(&self, vcpu: usize) -> Option<&Endpoint> {
        self.endpoints.get(vcpu)
    }

    /// All endpoints, by virtual CPU.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Makes every virtual CPU forget its translations of guest-physical addresses. When this returns, none can use one
    /// that was taken away before. Called by a virtual CPU, for itself and the others, or while none runs.
    pub fn flush_translations(&self) {
        for endpoint in &self.endpoints {
            endpoint.request(super::Requests::FLUSH);
        }
        for endpoint in &self.endpoints {
            endpoint.wait_for_flush(core::hint::spin_loop);
        }
    }

    /// Whether no virtual CPU will ever run again by itself: a request could come only from one that runs.
    pub fn is_asleep(&self) -> bool {
        Endpoint::are_asleep(&self.endpoints)
    }

    /// Delivers a message-signalled interrupt. The number of virtual CPUs that take it.
    pub fn deliver(&self, message: MsiMessage) -> Result<usize, NotAnInterrupt> {
        Ok(self.send(None, message.decode()?))
    }

    /// The one virtual CPU that a fixed or lowest-priority interrupt goes to, if it is exactly one: the mailbox that a
    /// device's interrupt can be bound to.
    pub fn sole_receiver(&self, interrupt: &Interrupt) -> Option<usize> {
        let mut receivers = (0..).zip(self.endpoints.iter()).filter(|(_, e)| addresses(&e.address(), interrupt));
        match interrupt.mode {
            DeliveryMode::Fixed => {
                let (first, _) = receivers.next()?;
                receivers.next().is_none().then_some(first)
            }
            DeliveryMode::LowestPriority => self.lowest(interrupt),
            _ => None,
        }
    }

    /// Sends an interrupt; `sender` is the virtual CPU whose command it is. The number of virtual CPUs that take it.
    pub fn send(&self, sender: Option<usize>, interrupt: Interrupt) -> usize {
        if interrupt.mode == DeliveryMode::LowestPriority
            && matches!(interrupt.destination, Destination::Physical(_) | Destination::Logical(_))
        {
            let Some(endpoint) = self.lowest(&interrupt).and_then(|vcpu| self.endpoints.get(vcpu)) else { return 0 };
            endpoint.post(interrupt.vector, interrupt.trigger);
            return 1;
        }
        let mut reached = 0usize;
        for (vcpu, endpoint) in self.endpoints.iter().enumerate() {
            let address = endpoint.address();
            let meant = match interrupt.destination {
                Destination::Physical(_) | Destination::Logical(_) => addresses(&address, &interrupt),
                Destination::Myself => Some(vcpu) == sender,
                Destination::All => true,
                Destination::Others => Some(vcpu) != sender,
            };
            if meant && take(endpoint, &address, &interrupt) {
                reached = reached.saturating_add(1);
            }
        }
        reached
    }

    /// Of the virtual CPUs that a lowest-priority interrupt addresses, the one that gets it. Vectors are spread over
    /// them, the same vector always goes to the same one: task priorities change without an exit, so there is nothing
    /// to arbitrate by.
    fn lowest(&self, interrupt: &Interrupt) -> Option<usize> {
        let candidates = || {
            (0..).zip(self.endpoints.iter()).filter(|(_, endpoint)| {
                let address = endpoint.address();
                address.enabled && addresses(&address, interrupt)
            })
        };
        let turn = usize::from(interrupt.vector).checked_rem(candidates().count())?;
        candidates().nth(turn).map(|(vcpu, _)| vcpu)
    }
}

fn addresses(address: &ApicAddress, interrupt: &Interrupt) -> bool {
    match interrupt.destination {
        Destination::Physical(id) => address.is_physical(id),
        Destination::Logical(mask) => address.is_logical(mask),
        Destination::Myself | Destination::All | Destination::Others => false,
    }
}

fn take(endpoint: &Endpoint, address: &ApicAddress, interrupt: &Interrupt) -> bool {
    match interrupt.mode {
        // Vectors below 16 are illegal: no local APIC accepts them.
        DeliveryMode::Fixed | DeliveryMode::LowestPriority if address.enabled && interrupt.vector >= 16 => {
            endpoint.post(interrupt.vector, interrupt.trigger);
        }
        DeliveryMode::NonMaskable => endpoint.request(super::Requests::NON_MASKABLE),
        DeliveryMode::Init => endpoint.request_init(),
        DeliveryMode::StartUp => endpoint.request_start_up(interrupt.vector),
        DeliveryMode::Fixed
        | DeliveryMode::LowestPriority
        | DeliveryMode::SystemManagement
        | DeliveryMode::External => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vapic::{Bell, Requests, Trigger};

    fn bus(count: u32) -> ApicBus {
        let bus = ApicBus::new(&(0..count).collect::<Vec<_>>(), Bell::silent());
        for (id, endpoint) in (0..).zip(bus.endpoints()) {
            let logical = 1u8 << id;
            endpoint.set_address(ApicAddress { id, logical, flat: true, x2apic: false, enabled: true });
        }
        bus
    }

    fn received(bus: &ApicBus) -> Vec<Vec<u8>> {
        let all = |set: super::super::VectorSet| (0..=255).filter(|v| set.contains(*v)).collect();
        bus.endpoints().iter().map(|e| e.take_posted().map_or(Vec::new(), |(posted, _)| all(posted))).collect()
    }

    const FIXED: Interrupt =
        Interrupt { vector: 0x50, mode: DeliveryMode::Fixed, trigger: Trigger::Edge, destination: Destination::All };

    #[test]
    fn shorthands_reach_whom_they_name() {
        let bus = bus(3);
        assert_eq!(bus.send(Some(1), Interrupt { destination: Destination::Others, ..FIXED }), 2);
        assert_eq!(received(&bus), [vec![0x50], vec![], vec![0x50]]);
        assert_eq!(bus.send(Some(1), Interrupt { destination: Destination::Myself, ..FIXED }), 1);
        assert_eq!(received(&bus), [vec![], vec![0x50], vec![]]);
    }

    #[test]
    fn lowest_priority_reaches_exactly_one_and_only_enabled_ones() {
        let bus = bus(3);
        let off = bus.endpoints()[0].address();
        bus.endpoints()[0].set_address(ApicAddress { enabled: false, ..off });
        for vector in 0x30..0x50 {
            let interrupt =
                Interrupt { vector, mode: DeliveryMode::LowestPriority, destination: Destination::Logical(7), ..FIXED };
            assert_eq!(bus.send(None, interrupt), 1);
            let receiver = bus.sole_receiver(&interrupt).unwrap();
            let all = received(&bus);
            assert_eq!(all.concat(), [vector]);
            assert_eq!(all[receiver], [vector]);
            assert!(all[0].is_empty());
        }
        let nobody = Interrupt { mode: DeliveryMode::LowestPriority, destination: Destination::Logical(1), ..FIXED };
        assert_eq!(bus.send(None, nobody), 0);
    }

    #[test]
    fn illegal_vectors_and_disabled_receivers_take_nothing() {
        let bus = bus(1);
        assert_eq!(bus.send(None, Interrupt { vector: 15, ..FIXED }), 0);
        let address = bus.endpoints()[0].address();
        bus.endpoints()[0].set_address(ApicAddress { enabled: false, ..address });
        assert_eq!(bus.send(None, FIXED), 0);
        assert_eq!(bus.send(None, Interrupt { mode: DeliveryMode::NonMaskable, ..FIXED }), 1);
        assert_eq!(bus.endpoints()[0].take_requests(), Requests::NON_MASKABLE);
    }

    #[test]
    fn a_fixed_interrupt_for_two_has_no_sole_receiver() {
        let bus = bus(2);
        let both = Interrupt { destination: Destination::Logical(3), ..FIXED };
        assert_eq!(bus.sole_receiver(&both), None);
        let second = Interrupt { destination: Destination::Physical(1), ..FIXED };
        assert_eq!(bus.sole_receiver(&second), Some(1));
    }
}
