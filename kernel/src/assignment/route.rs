//! What a host vector stands for: a bit in a vCPU's mailbox.
//!
//! A [`Route`] owns its host vector. The vector's handler runs under the lock of the vector's slot, so when a route is
//! changed or dropped, the old handler is not running any more and its [`Target`] can go. The owner first makes the
//! remapping entry raise something else, or nothing, and has that flushed.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::vectors::{self, HostVector};
use crate::vapic::{Endpoint, Trigger};

/// Where interrupts of one entry land.
#[derive(Clone, Debug)]
pub struct Mailbox {
    /// The vCPU's endpoint, which has the mailbox. It lives as long as the hypervisor: a VM keeps its own over restarts.
    pub endpoint: &'static Endpoint,
    /// Which bit of it: the vector that the guest chose.
    pub vector: u8,
    /// Counts what was delivered.
    pub delivered: Arc<AtomicU64>,
}

/// A host vector with the mailbox that its interrupts go to.
#[derive(Debug)]
pub(super) struct Route {
    vector: ManuallyDrop<HostVector>,
    /// Its address is the handler's argument.
    mailbox: Box<Mailbox>,
}

impl Route {
    /// A vector of host CPU `cpu`; `None` where all are taken.
    pub(super) fn new(cpu: u32, mailbox: Mailbox) -> Option<Self> {
        let vector = ManuallyDrop::new(vectors::allocate(cpu)?);
        let mailbox = Box::new(mailbox);
        vectors::set_handler(&vector, post, core::ptr::from_ref(&*mailbox).expose_provenance());
        Some(Self { vector, mailbox })
    }

    /// The host CPU that takes the interrupt.
    pub(super) fn cpu(&self) -> u32 {
        self.vector.cpu()
    }

    /// The vector's number there.
    pub(super) fn number(&self) -> u8 {
        self.vector.number()
    }

    /// Delivers to another mailbox from now on. An interrupt on its way goes there too: none is lost.
    pub(super) fn redirect(&mut self, mailbox: Mailbox) {
        let mailbox = Box::new(mailbox);
        vectors::set_handler(&self.vector, post, core::ptr::from_ref(&*mailbox).expose_provenance());
        self.mailbox = mailbox;
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        // SAFETY: taken once, here, and not used afterwards.
        vectors::free(unsafe { ManuallyDrop::take(&mut self.vector) });
    }
}

/// The handler of every route: runs in interrupt context on the CPU where the vCPU was when the interrupt was bound. If
/// it runs there now, the interrupt itself has brought the CPU out of the guest; wherever else it is, or if it sleeps,
/// the mailbox says whom to tell.
fn post(mailbox: usize) {
    // SAFETY: `mailbox` is the address of the box of a live route: `set_handler` and `free` return only when a handler
    // with the argument before does not run any more, and the box goes after that.
    let mailbox = unsafe { &*core::ptr::with_exposed_provenance::<Mailbox>(mailbox) };
    mailbox.delivered.fetch_add(1, Ordering::Relaxed);
    mailbox.endpoint.post(mailbox.vector, Trigger::Edge);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vapic::Bell;

    #[test]
    fn the_handler_posts_and_counts() {
        let endpoint: &'static Endpoint = Box::leak(Box::new(Endpoint::new(0, 0, Bell::silent())));
        let mailbox = Box::new(Mailbox { endpoint, vector: 0x93, delivered: Arc::default() });
        let argument = core::ptr::from_ref(&*mailbox).expose_provenance();
        post(argument);
        post(argument);
        assert_eq!(endpoint.mailbox().take(), Some([0, 0, 1 << (0x93 - 0x80), 0]));
        assert_eq!(mailbox.delivered.load(Ordering::Relaxed), 2);
    }
}
