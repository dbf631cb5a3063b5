//! The driver over all remapping units of a machine: domains, attachments, interrupts, faults.
//!
//! # How a kernel uses it
//!
//! ```text
//! let mut dmar = Dmar::parse(table)?;                    // print dmar.warnings
//! dmar.check_memory(|first, last| ...)?;
//! // every function's bus mastering is off by now
//! let driver = Driver::bring_up(machine, &dmar, &buses, &Options { .. })?;
//! driver.set_fault_interrupt(apic_id, vector)?;          // handler: driver.drain_faults(|report| ...)
//!
//! let domain = driver.create_domain(&DomainRequest::for_devices(&[nvme]))?;
//! driver.map(domain, Iova::new(0), guest_ram, length, Permissions::READ_WRITE)?;
//! driver.attach(domain, nvme, &aliases)?;                // from here on the device reaches what is mapped
//!
//! let handle = driver.interrupts().allocate(Origin::function(nvme), 4)?;
//! driver.interrupts().program(&handle, 0, Delivery::Remapped { destination_apic_id, vector, trigger })?;
//! let message = driver.interrupts().message(&handle, 0)?; // into the function's MSI or MSI-X registers
//!
//! driver.interrupts().free(handle)?;
//! driver.detach(nvme)?;                                  // bus mastering is off by now
//! driver.destroy_domain(domain)?;
//! ```
//!
//! # What holds at every moment
//!
//! - From the first enable on, a device reaches exactly what the domain that it is attached to maps; an unattached one
//!   reaches nothing.
//! - What [`Driver::unmap`], [`Driver::detach`] and [`Interrupts::free`] took back is out of every cache when they
//!   return without an error. Where a unit did not confirm that, they say so, and the memory of the tables concerned is
//!   never used again.
//! - A call that fails has changed nothing that a device may do, but for taking away.
//!
//! # Locks
//!
//! `registry` (which domains there are and who is attached), then one domain, then a unit's locks in the order that
//! [`crate::unit`] gives. The ledger of faults is taken alone. All are spin locks, held with this processor's
//! interrupts off ([`Machine::without_interrupts`]), so every call may come from an interrupt handler, except from
//! within [`Driver::drain_faults`]'s own callback.

mod attachment;
mod bring_up;
mod domain;
mod error;
mod faults;
mod interrupts;
mod registry;
#[cfg(test)]
mod tests;
mod translation;

use alloc::vec::Vec;

use spin::Mutex;

pub use bring_up::{ApicMode, Options};
pub use domain::{DomainId, DomainRequest};
pub use error::{AttachError, BringUpError, DomainError, InterruptError, InvalidationError};
pub use faults::{Drained, FaultReport};
pub use interrupts::{Delivery, Handle, Interrupts, Origin};
pub use translation::Stage;

pub use crate::unit::{Mode, ModeChoice};

use crate::address::PciAddress;
use crate::dmar::{Coverage, ReservedRange};
use crate::door::Machine;
use crate::driver::registry::Registry;
use crate::fault::Ledger;
use crate::interrupt::entry::DestinationFormat;
use crate::unit::Unit;

/// Whether interrupts are remapped; if not, no device can be given away safely, since its MSIs are writes that it can
/// make to any address and data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptRemapping {
    /// On in every unit.
    On {
        /// How wide destinations are.
        format: DestinationFormat,
        /// Whether they can be posted.
        posting: Posting,
    },
    /// Off everywhere.
    Off(NoInterruptRemapping),
}

/// Whether interrupts can be posted into descriptors, past the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posting {
    /// By every unit, and the processors take them.
    On,
    /// No; interrupts go to host vectors.
    Off(NoPosting),
}

/// Why interrupts are not posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPosting {
    /// The processors take no posted interrupts, as their owner says ([`Options::processors_post`]).
    Processors,
    /// A unit cannot (CAP.PI = 0), though the processors could: their own descriptors still serve what software posts.
    Unit {
        /// The unit's registers.
        base: crate::address::HostPhysical,
    },
}

impl core::fmt::Display for NoPosting {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Processors => f.write_str("the processors take no posted interrupts"),
            Self::Unit { base } => write!(f, "the unit at {base} cannot post interrupts (CAP.PI = 0)"),
        }
    }
}

/// Why interrupts are not remapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoInterruptRemapping {
    /// The DMAR table says that the platform cannot.
    Platform,
    /// A unit cannot (ECAP.IR = 0): what is behind it could send any interrupt.
    Unit {
        /// The unit's registers.
        base: crate::address::HostPhysical,
    },
    /// A unit has no invalidation queue (ECAP.QI = 0), without which its interrupt entries cannot be changed safely.
    Queue {
        /// The unit's registers.
        base: crate::address::HostPhysical,
    },
}

impl core::fmt::Display for NoInterruptRemapping {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Platform => f.write_str("the DMAR table says that the platform does not remap interrupts"),
            Self::Unit { base } => write!(f, "the unit at {base} does not remap interrupts (ECAP.IR = 0)"),
            Self::Queue { base } => {
                write!(f, "the unit at {base} has no queue to invalidate interrupt entries by (ECAP.QI = 0)")
            }
        }
    }
}

/// The driver. See the [module](self).
pub struct Driver<M: Machine> {
    machine: M,
    units: Vec<Unit<M>>,
    coverage: Coverage,
    interrupt_remapping: InterruptRemapping,
    output_bits: u8,
    registry: Mutex<Registry<M>>,
    ledger: Mutex<Ledger>,
}

impl<M: Machine> core::fmt::Debug for Driver<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Driver")
            .field("units", &self.units.len())
            .field("interrupt_remapping", &self.interrupt_remapping)
            .finish_non_exhaustive()
    }
}

impl<M: Machine> Driver<M> {
    /// The machine that it drives.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The units, in the DMAR table's order.
    pub fn units(&self) -> &[Unit<M>] {
        &self.units
    }

    /// The index of the unit that a function is behind; `None` where nothing stands between it and memory, so that it
    /// cannot be isolated.
    pub fn unit_of(&self, function: PciAddress) -> Option<usize> {
        self.coverage.unit_of(function)
    }

    /// Whether interrupts are remapped, or why not.
    pub fn interrupt_remapping(&self) -> InterruptRemapping {
        self.interrupt_remapping
    }

    /// The memory that firmware reserved for a function. A function with any can be given away only if it is known not
    /// to need it any more.
    pub fn reserved_memory(&self, function: PciAddress) -> impl Iterator<Item = ReservedRange> {
        self.coverage.reserved_for(function)
    }

    /// The resolved scopes of the DMAR table.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Takes everything from every device but the memory that firmware reserved for it, and leaves the units on and
    /// denying: for a reboot, or a next system, that takes the units over as they are. Unlike after
    /// [`shut_down`](Self::shut_down), no device is free in between. The tables stay where they are for good.
    ///
    /// # Errors
    ///
    /// The first device or unit that failed; all others are done.
    pub fn leave_denying(self) -> Result<(), AttachError> {
        let mut result = Ok(());
        let given: Vec<PciAddress> = self.machine.without_interrupts(|| {
            let registry = self.registry.lock();
            let given = registry.attachments.iter().filter(|(_, attachment)| !registry.is_reserved(attachment.domain));
            given.map(|(device, _)| *device).collect()
        });
        for device in given {
            result = result.and(self.detach(device));
        }
        for unit in &self.units {
            let confirmed = self.machine.without_interrupts(|| unit.withdraw_interrupts(&self.machine));
            let failed = |error| AttachError::Invalidation(InvalidationError { base: unit.base(), error });
            result = result.and(confirmed.map_err(failed));
        }
        self.units.into_iter().for_each(Unit::abandon);
        result
    }

    /// Turns every unit off and gives all memory back: for a reboot, or for the next system. Devices' bus mastering is
    /// off, or they reach all memory from here on.
    ///
    /// # Errors
    ///
    /// The first unit that failed; the others are off. Memory that a failed unit may still reach is not given back.
    pub fn shut_down(self) -> Result<(), BringUpError> {
        let Self { machine, units, registry, .. } = self;
        let mut result = Ok(());
        for unit in units {
            let base = unit.base();
            if let Err(error) = unit.shut_down(&machine) {
                result = result.and(Err(BringUpError { base, error }));
            }
        }
        registry.into_inner().dissolve(result.is_ok());
        result
    }
}
