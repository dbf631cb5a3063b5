//! What happens to a VM's RAM when a remapping unit does not confirm that the VM's devices have lost it: it is kept from
//! everybody, since a cache may still lead a device there.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use log::error;
use passthrough::door::Owner;

/// Whether a unit left something unconfirmed. A clone is the same doubt.
#[derive(Clone, Debug, Default)]
pub struct Doubt(Arc<AtomicBool>);

impl Doubt {
    /// A unit did not confirm that something is out of its caches.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A hold on what devices of a VM can reach. Let go of when nothing leads them there any more; never, if that is in
/// doubt.
#[derive(Debug)]
pub struct Kept<T> {
    /// Taken by the drop.
    held: Option<T>,
    owner: Owner,
    doubt: Doubt,
}

impl<T> Kept<T> {
    /// Holds what devices of `owner` can reach, for good once `doubt` is raised.
    pub fn new(held: T, owner: Owner, doubt: Doubt) -> Self {
        Self { held: Some(held), owner, doubt }
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if self.doubt.is_raised() {
            error!(
                "{}: its RAM is not used again before the machine is reset: a remapping unit did not confirm that the \
                 VM's devices have lost it",
                self.owner
            );
            core::mem::forget(self.held.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_doubt_is_never_let_go() {
        for (doubtful, holders) in [(false, 1), (true, 2)] {
            let (ram, doubt) = (Arc::new(()), Doubt::default());
            let kept = Kept::new(ram.clone(), Owner::new(0, "linux"), doubt.clone());
            if doubtful {
                doubt.raise();
            }
            drop(kept);
            assert_eq!(Arc::strong_count(&ram), holders);
        }
    }
}
