//! Interrupts of devices: entries allocated, programmed, named by messages, and given back.
//!
//! An entry is absent until it is programmed, and again from [`Interrupts::mask`] or [`Interrupts::free`] on. Every
//! change of a present entry is followed by the invalidation of its cache before the call returns.

use crate::address::{HostPhysical, PciAddress};
use crate::door::Machine;
use crate::driver::{Driver, InterruptError, InterruptRemapping, InvalidationError, Posting};
use crate::interrupt::entry::{Entry, Source, Trigger};
use crate::interrupt::message::{Message, RedirectionEntry};
use crate::queue::Descriptor;
use crate::unit::Unit;

/// Who sends an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A PCI function.
    Function {
        /// The function; its unit serves the interrupt.
        device: PciAddress,
        /// The ids that it may sign with.
        signs: Source,
    },
    /// An I/O APIC, by its id in the MADT.
    IoApic(u8),
    /// An HPET that sends MSIs, by its number.
    Hpet(u8),
}

impl Origin {
    /// A function that signs with its own id alone.
    pub const fn function(device: PciAddress) -> Self {
        Self::Function { device, signs: Source::Exact(device.source) }
    }
}

/// Where an interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To a processor.
    Remapped {
        /// The processor's APIC id.
        destination_apic_id: u32,
        /// The vector there, 16 to 255.
        vector: u8,
        /// Edge for MSI and MSI-X.
        trigger: Trigger,
    },
    /// Into a posted-interrupt descriptor. Only where [`InterruptRemapping::On`] says
    /// [`Posting::On`].
    Posted {
        /// The descriptor, aligned to 64 bytes; it stays where it is until the entry is masked or freed.
        descriptor: HostPhysical,
        /// The guest's vector.
        vector: u8,
        /// Notify even while the descriptor suppresses notifications.
        urgent: bool,
    },
}

/// Entries of one unit's interrupt table, in a row. Goes back by [`Interrupts::free`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "entries are given back by Interrupts::free"]
pub struct Handle {
    unit: usize,
    first: u16,
    count: u16,
    source: Source,
}

impl Handle {
    /// How many entries it has.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The index of its first entry: the number that faults name.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// The index of its unit.
    pub fn unit(&self) -> usize {
        self.unit
    }
}

/// The interrupt side of a [`Driver`].
#[derive(Debug)]
pub struct Interrupts<'a, M: Machine> {
    driver: &'a Driver<M>,
}

impl<M: Machine> Driver<M> {
    /// Its interrupt side.
    pub fn interrupts(&self) -> Interrupts<'_, M> {
        Interrupts { driver: self }
    }
}

impl<M: Machine> Interrupts<'_, M> {
    /// Takes `count` (at least 1) entries for one sender. For multi-message MSI, `count` is the number of messages
    /// that the function is given, a power of two; for MSI-X any number.
    pub fn allocate(&self, origin: Origin, count: u16) -> Result<Handle, InterruptError> {
        if let InterruptRemapping::Off(reason) = self.driver.interrupt_remapping {
            return Err(InterruptError::Off(reason));
        }
        let (unit, source) = self.locate(origin)?;
        let table = self.driver.units.get(unit).and_then(|unit| unit.interrupts.as_ref());
        let table = table.ok_or(InterruptError::Full { count })?;
        let count = count.max(1);
        let first = self.driver.machine.without_interrupts(|| table.lock().allocate(count));
        first.map(|first| Handle { unit, first, count, source }).ok_or(InterruptError::Full { count })
    }

    /// Directs entry `index` of `handle`. It may be in use: each interrupt goes either way, none is lost where the
    /// processor can exchange 16 bytes or only the processor and vector change.
    pub fn program(&self, handle: &Handle, index: u16, delivery: Delivery) -> Result<(), InterruptError> {
        let unit = self.unit(handle)?;
        let entry = match delivery {
            Delivery::Remapped { destination_apic_id: apic_id, vector, trigger } => {
                if vector < 16 {
                    return Err(InterruptError::Vector { vector });
                }
                let destination =
                    unit.destination_format().destination(apic_id).ok_or(InterruptError::Destination { apic_id })?;
                Entry::remapped(handle.source, destination, vector, trigger)
            }
            Delivery::Posted { descriptor, vector, urgent } => {
                if let InterruptRemapping::On { posting: Posting::Off(reason), .. } = self.driver.interrupt_remapping {
                    return Err(InterruptError::NoPosting(reason));
                }
                if !descriptor.is_aligned(64) {
                    return Err(InterruptError::Misaligned { descriptor });
                }
                Entry::posted(handle.source, descriptor, vector, urgent)
            }
        };
        self.set(unit, handle, index, entry)
    }

    /// Blocks entry `index`: when this returns, no interrupt comes through it.
    pub fn mask(&self, handle: &Handle, index: u16) -> Result<(), InterruptError> {
        let unit = self.unit(handle)?;
        self.set(unit, handle, index, Entry::default())
    }

    /// The message that makes the function send entry `index`: for MSI-X, into the table's entry; for MSI, that of
    /// index 0, whose low data bits the function replaces by the number of the message.
    pub fn message(&self, handle: &Handle, index: u16) -> Result<Message, InterruptError> {
        checked(handle, index)?;
        Ok(Message::of(handle.first, index))
    }

    /// The redirection entry that makes an I/O APIC's pin send entry `index`, masked. `vector` and `level` are those
    /// that the entry was programmed with.
    pub fn redirection(
        &self,
        handle: &Handle,
        index: u16,
        vector: u8,
        level: bool,
        active_low: bool,
    ) -> Result<RedirectionEntry, InterruptError> {
        let entry = checked(handle, index)?;
        Ok(RedirectionEntry::remapped(entry, vector, level, active_low))
    }

    /// Blocks all entries of `handle` and gives them back.
    ///
    /// # Errors
    ///
    /// The unit did not confirm; the entries are absent in memory and are never given to anybody again.
    pub fn free(&self, handle: Handle) -> Result<(), InterruptError> {
        let unit = self.unit(&handle)?;
        let Some(table) = &unit.interrupts else { return Ok(()) };
        let machine = &self.driver.machine;
        machine.without_interrupts(|| {
            let mut table = table.lock();
            if table.withdraw(handle.first, handle.count) {
                // One submission for the whole block.
                unit.invalidate(machine, unit.abilities().cover_interrupts(handle.first, handle.count))
                    .map_err(|error| InterruptError::Invalidation(InvalidationError { base: unit.base(), error }))?;
            }
            table.free(handle.first, handle.count);
            Ok(())
        })
    }

    fn locate(&self, origin: Origin) -> Result<(usize, Source), InterruptError> {
        let coverage = &self.driver.coverage;
        match origin {
            Origin::Function { device, signs } => {
                coverage.unit_of(device).map(|unit| (unit, signs)).ok_or(InterruptError::Uncovered { device })
            }
            Origin::IoApic(id) => coverage
                .io_apic(id)
                .map(|placement| (placement.unit, Source::Exact(placement.source.source)))
                .ok_or(InterruptError::UnknownIoApic { id }),
            // HPETs with several blocks sign with several functions.
            Origin::Hpet(number) => coverage
                .hpet(number)
                .map(|placement| (placement.unit, Source::Functions { source: placement.source.source, ignored: 3 }))
                .ok_or(InterruptError::UnknownHpet { number }),
        }
    }

    fn unit(&self, handle: &Handle) -> Result<&Unit<M>, InterruptError> {
        self.driver.units.get(handle.unit).ok_or(InterruptError::Index { index: 0, count: handle.count })
    }

    fn set(&self, unit: &Unit<M>, handle: &Handle, index: u16, entry: Entry) -> Result<(), InterruptError> {
        let number = checked(handle, index)?;
        let Some(table) = &unit.interrupts else { return Ok(()) };
        let machine = &self.driver.machine;
        machine.without_interrupts(|| {
            let mut table = table.lock();
            let was_present = table.entry(number).present();
            let invalidate =
                || unit.invalidate(machine, [Descriptor::Interrupts { first: number, mask: 0 }].into_iter());
            let result = table.set(number, entry, unit.capability().caching_mode(), invalidate);
            let result = match result {
                Ok(()) if !was_present && entry.present() && !unit.capability().caching_mode() => unit.publish(machine),
                result => result,
            };
            result.map_err(|error| InterruptError::Invalidation(InvalidationError { base: unit.base(), error }))
        })
    }
}

/// The table's index of a handle's entry.
fn checked(handle: &Handle, index: u16) -> Result<u16, InterruptError> {
    let outside = InterruptError::Index { index, count: handle.count };
    if index >= handle.count {
        return Err(outside);
    }
    handle.first.checked_add(index).ok_or(outside)
}
