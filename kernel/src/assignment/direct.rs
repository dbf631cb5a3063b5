//! The interrupts of a function where nothing remaps them: messages in compatibility format (SDM volume 3 section
//! 12.11), straight to a host vector whose handler posts to the vCPU's mailbox.
//!
//! Only for VMs with `allow = ["unsafe-interrupts"]`: nobody checks who sends such a message, nor which. A message
//! cannot change while the function may send it, so all of them go to one host CPU, that of the VM's first vCPU; the
//! handler there makes the vCPU that is meant notice.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use passthrough::door::{InterruptError, Message};
use spin::Mutex;

use crate::cpu::vectors::{self, HostVector};
use crate::vapic::{Endpoint, Trigger};

/// The window of interrupt messages; the destination's APIC id goes to bits 19:12. The rest is 0: physical destination,
/// no redirection.
const MESSAGES: u64 = 0xfee0_0000;

/// Where an unremapped interrupt lands.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// The vCPU's place on its bus.
    pub endpoint: &'static Endpoint,
    /// The vector that the guest chose.
    pub vector: u8,
    /// Counts what was delivered.
    pub delivered: Arc<AtomicU64>,
}

/// A run of host vectors that one function may raise.
#[derive(Debug)]
pub struct Direct {
    apic_id: u8,
    vectors: Vec<HostVector>,
    /// For each vector, who gets its interrupts. The box's address is the handler's argument.
    receivers: Mutex<Vec<Option<Box<Receiver>>>>,
}

impl Direct {
    /// `count` vectors of the host CPU `cpu`; with `block`, in a row and aligned to `count`, a power of two, as a
    /// function wants them that puts the message's number into the low bits.
    ///
    /// # Errors
    ///
    /// [`InterruptError::TooFew`] where so many are not free, or the CPU's APIC id is too large for such a message.
    pub fn allocate(cpu: u32, apic_id: u32, count: u16, block: bool) -> Result<Self, InterruptError> {
        let refused = InterruptError::TooFew { available: 0 };
        // 0xff is everyone.
        let apic_id = u8::try_from(apic_id).ok().filter(|id| *id != 0xff).ok_or(refused)?;
        let vectors = if block {
            vectors::allocate_block(cpu, u8::try_from(count).map_err(|_| refused)?).ok_or(refused)?
        } else {
            let mut vectors = Vec::with_capacity(count.into());
            for _ in 0..count {
                match vectors::allocate(cpu) {
                    Some(vector) => vectors.push(vector),
                    None => {
                        vectors.into_iter().for_each(vectors::free);
                        return Err(refused);
                    }
                }
            }
            vectors
        };
        let receivers = Mutex::new(vectors.iter().map(|_| None).collect());
        Ok(Self { apic_id, vectors, receivers })
    }

    /// What the function writes to raise the vector at `index`: fixed delivery, edge.
    pub fn message(&self, index: u16) -> Message {
        match self.vectors.get(usize::from(index)) {
            Some(vector) => Message { address: MESSAGES | u64::from(self.apic_id) << 12, data: vector.number().into() },
            None => Message::default(),
        }
    }

    /// Lets the vector at `index` deliver to `receiver` from now on.
    ///
    /// # Errors
    ///
    /// [`InterruptError::TooFew`] for an index that was never allocated.
    pub fn bind(&self, index: u16, receiver: Receiver) -> Result<(), InterruptError> {
        let index = usize::from(index);
        let mut receivers = self.receivers.lock();
        let (Some(vector), Some(held)) = (self.vectors.get(index), receivers.get_mut(index)) else {
            return Err(InterruptError::TooFew { available: 0 });
        };
        let receiver = Box::new(receiver);
        vectors::set_handler(vector, post, core::ptr::from_ref(&*receiver).expose_provenance());
        // The one before goes only now: its handler does not run any more.
        *held = Some(receiver);
        Ok(())
    }

    /// Drops what the vector at `index` raises from now on.
    pub fn unbind(&self, index: u16) {
        let index = usize::from(index);
        let mut receivers = self.receivers.lock();
        if let (Some(vector), Some(held)) = (self.vectors.get(index), receivers.get_mut(index)) {
            vectors::set_handler(vector, drop, 0);
            *held = None;
        }
    }
}

/// Gives the vectors back; the function was silenced before.
impl Drop for Direct {
    fn drop(&mut self) {
        // After this no handler runs, and the receivers can go.
        self.vectors.drain(..).for_each(vectors::free);
    }
}

/// The handler: runs in interrupt context on one CPU of the VM, not necessarily the vCPU's.
fn post(receiver: usize) {
    // SAFETY: `receiver` is the address of a box in `receivers`: `set_handler` and `free` return only when a handler with
    // the argument before does not run any more, and the box goes after that.
    let receiver = unsafe { &*core::ptr::with_exposed_provenance::<Receiver>(receiver) };
    receiver.delivered.fetch_add(1, Ordering::Relaxed);
    receiver.endpoint.post(receiver.vector, Trigger::Edge);
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU32;

    use iommu::interrupt::posted::placement::{Placement, Processor, Vectors};

    use super::*;
    use crate::vapic::Bell;

    #[test]
    fn the_handler_posts_to_the_vcpu_and_tells_its_cpu() {
        static TOLD: AtomicU32 = AtomicU32::new(u32::MAX);
        let bell = Bell { send: |one| TOLD.store(one.destination, Ordering::Relaxed), ..Bell::silent() };
        let endpoint: &'static Endpoint = Box::leak(Box::new(Endpoint::new(1, 3, bell)));
        let mut placement = Placement::new(endpoint.mailbox(), 0, Vectors { notification: 1, wake_up: bell.wake_up });
        placement.load(endpoint.mailbox(), &[Processor::<_, 1>::new(3), Processor::new(5)], 1).unwrap();
        let receiver = Box::new(Receiver { endpoint, vector: 0x93, delivered: Arc::default() });
        post(core::ptr::from_ref(&*receiver).expose_provenance());
        assert_eq!(endpoint.mailbox().take(), Some([0, 0, 1 << (0x93 - 0x80), 0]));
        assert_eq!((receiver.delivered.load(Ordering::Relaxed), TOLD.load(Ordering::Relaxed)), (1, 5));
    }

    #[test]
    fn a_message_names_one_cpu_in_eight_bits() {
        assert!(Direct::allocate(0, 0xff, 1, false).is_err(), "everyone");
        assert!(Direct::allocate(0, 0x100, 1, false).is_err());
        let none = Direct { apic_id: 4, vectors: Vec::new(), receivers: Mutex::default() };
        assert_eq!(none.message(0), Message::default());
    }
}
