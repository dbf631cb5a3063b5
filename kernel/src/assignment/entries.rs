//! The interrupt-remapping entries of one function, with the host vectors that they raise.
//!
//! An entry raises a vector on the host CPU of the vCPU that it is for. While only the vCPU's vector changes, the route
//! of the host vector changes and the entry stays. When the CPU changes, the entry is switched in one piece, with its
//! invalidation; the route of the CPU before it stays, to the same mailbox, until the entry is unbound, so that an
//! interrupt which that CPU has not taken yet still arrives.

use alloc::vec::Vec;

use iommu::address::PciAddress;
use iommu::door::Machine;
use iommu::driver::{Delivery, Driver, Handle};
use iommu::interrupt::entry::Trigger;
use passthrough::door::{Event, InterruptError, Message};
use spin::Mutex;

use super::complaints::Complaints;
use super::events::Events;
use super::route::Route;
use super::signature::Signature;

/// A run of entries that one function may use.
#[derive(Debug)]
pub struct Entries {
    function: PciAddress,
    complaints: Complaints,
    handle: Handle,
    /// For each entry, the routes that it has had since it was bound: one a host CPU, the current one last.
    routes: Mutex<Vec<Vec<Route>>>,
}

impl Entries {
    /// `count` entries in a row for messages of `function`, signed like this; none is present.
    pub fn allocate(
        driver: &Driver<impl Machine>,
        function: PciAddress,
        signature: &Signature,
        count: u16,
        complaints: Complaints,
    ) -> Result<Self, InterruptError> {
        let handle = driver.interrupts().allocate(signature.origin(), count).map_err(|refusal| {
            complaints.error(format_args!("{function}: no interrupt-remapping entries: {refusal}"));
            InterruptError::TooFew { available: 0 }
        })?;
        let routes = Mutex::new((0..count).map(|_| Vec::new()).collect());
        Ok(Self { function, complaints, handle, routes })
    }

    /// What the function writes to reach an entry.
    pub fn message(&self, driver: &Driver<impl Machine>, index: u16) -> Message {
        match driver.interrupts().message(&self.handle, index) {
            Ok(message) => Message { address: message.address, data: message.data },
            // Only an index that was never allocated: a message that no entry answers.
            Err(_) => Message::default(),
        }
    }

    /// Lets an entry deliver to `event` from now on.
    pub fn bind(
        &self,
        driver: &Driver<impl Machine>,
        events: &'static Events,
        index: u16,
        event: Event,
    ) -> Result<(), InterruptError> {
        let (cpu, mailbox) = events.resolve(self.function, event).ok_or(InterruptError::UnknownEvent(event))?;
        let mut all = self.routes.lock();
        let held = all.get_mut(usize::from(index)).ok_or(InterruptError::TooFew { available: 0 })?;
        for route in held.iter_mut() {
            route.redirect(mailbox.clone());
        }
        if held.last().is_some_and(|current| current.cpu() == cpu) {
            return Ok(());
        }
        let place = held.iter().position(|route| route.cpu() == cpu);
        let route = match place {
            Some(place) => held.remove(place),
            None => Route::new(cpu, mailbox).ok_or(InterruptError::TooFew { available: 0 })?,
        };
        let programmed = self.program(driver, index, &route);
        match (&programmed, place) {
            (Ok(()), _) => held.push(route),
            // The entry is as it was; so is the order.
            (Err(_), Some(place)) => held.insert(place, route),
            (Err(_), None) => drop(route),
        }
        programmed
    }

    fn program(&self, driver: &Driver<impl Machine>, index: u16, route: &Route) -> Result<(), InterruptError> {
        let destination_apic_id = crate::cpu::apic_id(route.cpu()).unwrap_or(u32::MAX);
        let delivery = Delivery::Remapped { destination_apic_id, vector: route.number(), trigger: Trigger::Edge };
        driver.interrupts().program(&self.handle, index, delivery).map_err(|refusal| {
            let (function, cpu) = (self.function, route.cpu());
            self.complaints
                .error(format_args!("{function}: interrupt {index} cannot be delivered to CPU {cpu}: {refusal}"));
            InterruptError::TooFew { available: 0 }
        })
    }

    /// Makes an entry not present, then lets go of its vectors.
    pub fn unbind(&self, driver: &Driver<impl Machine>, index: u16) {
        let mut all = self.routes.lock();
        let Some(held) = all.get_mut(usize::from(index)).filter(|held| !held.is_empty()) else { return };
        match driver.interrupts().mask(&self.handle, index) {
            Ok(()) => held.clear(),
            // The unit may still raise them: they stay taken and bound.
            Err(refusal) => {
                let function = self.function;
                self.complaints.error(format_args!("{function}: interrupt {index} is not withdrawn: {refusal}"));
            }
        }
    }

    /// Gives everything back.
    pub fn free(self, driver: &Driver<impl Machine>) {
        let Self { function, complaints, handle, routes } = self;
        match driver.interrupts().free(handle) {
            Ok(()) => drop(routes),
            Err(refusal) => {
                complaints
                    .error(format_args!("{function}: its interrupt entries and vectors are not given back: {refusal}"));
                core::mem::forget(routes);
            }
        }
    }
}
