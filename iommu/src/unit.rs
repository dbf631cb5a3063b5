//! One remapping unit: taken over from firmware, brought up in the manual's order, shut down.
//!
//! [`Probe`] reads what a unit can do and refuses the ones that cannot be used, by name. [`Unit`] holds the structures
//! and takes the steps; [`crate::driver`] orders the steps of all units (VT-d sections 11.4.4 and 6.8; cold start: quiet
//! what firmware left, queue, interrupts, fault message, root table, invalidation, translation, protected memory off).
//!
//! # Locks
//!
//! Each structure has its own: `contexts` (root and context tables), `interrupts` (the interrupt table), `queue`
//! (ring, IQT, the queue bits of FSTS), `commander` (GCMD), `records` (FRCD, the fault bits of FSTS). Who needs several
//! takes them in this order: contexts, interrupts, queue, commander. `records` is taken alone.

mod error;
mod firmware;
mod invalidation;
mod mode;
pub(crate) mod probe;
mod protection;

pub use error::UnitError;
pub use mode::{Mode, ModeChoice};
pub use probe::Probe;

use core::sync::atomic::{AtomicBool, Ordering};

use log::{info, warn};
use spin::Mutex;

use crate::address::{HostPhysical, PAGE_SIZE};
use crate::door::{Clock, Machine};
use crate::fault::record::Records;
use crate::interrupt::entry::DestinationFormat;
use crate::interrupt::table::InterruptTable;
use crate::queue::{Abilities, Descriptor, QueueError};
use crate::registers::capability::{Capability, ExtendedCapability};
use crate::registers::command::{Commander, OneShot, Switch};
use crate::registers::status::{
    EventAddress, EventControl, EventData, EventUpperAddress, InterruptTableAddress, RootTableAddress,
};
use crate::registers::{Window, map};
use crate::table::scalable::PLAIN_PROCESS;
use crate::table::{ContextTables, ScalableTables, Tables};
use crate::unit::invalidation::Invalidation;

/// The machine's time as a clock.
pub(crate) struct Time<'a, M>(pub(crate) &'a M);

impl<M: Machine> Clock for Time<'_, M> {
    fn nanoseconds(&self) -> u64 {
        self.0.nanoseconds()
    }
}

/// How a unit's interrupt table is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptPlan {
    /// The table has `2^order` entries, 8 to 16.
    pub order: u8,
    /// How destinations are written.
    pub format: DestinationFormat,
}

/// One remapping unit with its structures.
pub struct Unit<M: Machine> {
    segment: u16,
    base: HostPhysical,
    window: Window<M::Registers>,
    capability: Capability,
    extended: ExtendedCapability,
    commander: Mutex<Commander>,
    mode: Mode,
    pub(crate) contexts: Mutex<Tables<M::Frames>>,
    pub(crate) interrupts: Option<Mutex<InterruptTable<M::Frames>>>,
    format: DestinationFormat,
    queue: Mutex<Invalidation<M::Frames>>,
    records: Mutex<Records>,
    /// The hardware knows addresses of the structures: they must outlive its use of them.
    known_to_hardware: AtomicBool,
}

impl<M: Machine> Unit<M> {
    /// Makes the structures of a probed unit: everything denied. The hardware does not know of them yet.
    ///
    /// # Errors
    ///
    /// No memory; nothing is kept.
    pub fn new(machine: &M, probe: Probe<M>, mode: Mode, interrupts: Option<InterruptPlan>) -> Result<Self, UnitError> {
        let frames = machine.frames();
        let (coherent, extended) = (probe.extended.coherent(), probe.extended);
        let queue = Invalidation::new(frames.clone(), extended, probe.abilities(), mode == Mode::Scalable)?;
        let contexts = match mode {
            Mode::Legacy => ContextTables::new(frames.clone(), coherent).map(Tables::Legacy),
            Mode::Scalable => {
                let walk_coherent = extended.scalable_mode_coherent();
                ScalableTables::new(frames.clone(), coherent, walk_coherent).map(Tables::Scalable)
            }
        };
        let contexts = match contexts {
            Ok(contexts) => contexts,
            Err(error) => {
                queue.release();
                return Err(error.into());
            }
        };
        let table = match interrupts.map(|plan| InterruptTable::new(frames.clone(), plan.order, coherent)).transpose() {
            Ok(table) => table,
            Err(error) => {
                queue.release();
                contexts.release();
                return Err(error.into());
            }
        };
        Ok(Self {
            segment: probe.segment,
            base: probe.base,
            records: Mutex::new(Records::of(probe.capability)),
            window: probe.window,
            capability: probe.capability,
            extended: probe.extended,
            commander: Mutex::new(Commander::new()),
            mode,
            contexts: Mutex::new(contexts),
            interrupts: table.map(Mutex::new),
            format: interrupts.map_or(DestinationFormat::XApic, |plan| plan.format),
            queue: Mutex::new(queue),
            known_to_hardware: AtomicBool::new(false),
        })
    }

    /// The segment of its devices.
    pub fn segment(&self) -> u16 {
        self.segment
    }

    /// Its registers' address: its name in the log.
    pub fn base(&self) -> HostPhysical {
        self.base
    }

    /// How many bytes of registers it has.
    pub fn registers_size(&self) -> u64 {
        self.window.size()
    }

    /// CAP.
    pub fn capability(&self) -> Capability {
        self.capability
    }

    /// ECAP.
    pub fn extended(&self) -> ExtendedCapability {
        self.extended
    }

    /// The mode of its root table.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether it reads page tables through the processors' caches.
    pub fn walks_coherently(&self) -> bool {
        match self.mode {
            Mode::Legacy => self.extended.coherent(),
            Mode::Scalable => self.extended.scalable_mode_coherent(),
        }
    }

    /// Whether it walks second-stage tables in its mode.
    pub fn walks_second_stage(&self) -> bool {
        self.mode == Mode::Legacy || self.extended.second_stage()
    }

    /// Whether it walks first-stage tables in its mode.
    pub fn walks_first_stage(&self) -> bool {
        self.mode == Mode::Scalable && self.extended.first_stage()
    }

    /// What shapes its invalidations.
    pub fn abilities(&self) -> Abilities {
        Abilities::of(self.capability, self.extended)
    }

    /// How it wants a destination written.
    pub fn destination_format(&self) -> DestinationFormat {
        self.format
    }

    /// Executes invalidations and waits for them, with one submission where the unit has a queue; see
    /// [`Queue::submit`](crate::queue::Queue::submit).
    pub fn invalidate(
        &self,
        machine: &M,
        descriptors: impl Iterator<Item = Descriptor> + Clone,
    ) -> Result<(), QueueError> {
        self.queue.lock().submit(&self.window, &Time(machine), descriptors)
    }

    /// After something absent became present: flushes the write buffer of a unit that needs it (RWBF). Units that
    /// cache absence (CM) need an invalidation instead.
    pub fn publish(&self, machine: &M) -> Result<(), QueueError> {
        if !self.capability.write_buffer_flush() {
            return Ok(());
        }
        self.command(machine, OneShot::FlushWriteBuffer)
    }

    fn command(&self, machine: &M, command: OneShot) -> Result<(), QueueError> {
        self.commander.lock().issue(&self.window, &Time(machine), command).map_err(QueueError::Command)
    }

    fn switch(&self, machine: &M, switch: Switch, on: bool) -> Result<(), UnitError> {
        Ok(self.commander.lock().set(&self.window, &Time(machine), switch, on)?)
    }

    /// Turns this driver's queue on, if the unit has one. Firmware's is off.
    pub(crate) fn enable_queue(&self, machine: &M) -> Result<(), UnitError> {
        self.known_to_hardware.store(true, Ordering::Relaxed);
        let mut queue = self.queue.lock();
        queue.enable(&self.window, &Time(machine), &mut self.commander.lock())?;
        match queue.slots() {
            Some(slots) => info!("unit {}: queued invalidation on, {slots} descriptors", self.base),
            None => info!("unit {}: invalidation by register, since it has no queue (QI=0)", self.base),
        }
        Ok(())
    }

    /// Points the unit to the interrupt table, empties its cache, and turns remapping on.
    pub(crate) fn enable_interrupts(&self, machine: &M) -> Result<(), UnitError> {
        let Some(interrupts) = &self.interrupts else { return Ok(()) };
        let table = interrupts.lock();
        let address = InterruptTableAddress::default()
            .with_size(u64::from(table.size_code()))
            .with_extended_interrupt_mode(self.format == DestinationFormat::X2Apic)
            .with_frame(table.base().as_u64() / PAGE_SIZE);
        self.publish(machine)?;
        self.window.write(map::INTERRUPT_TABLE_ADDRESS, address);
        self.command(machine, OneShot::SetInterruptTable)?;
        // Units with ESIRTPS did this themselves; once more at start costs nothing.
        self.invalidate(machine, [Descriptor::AllInterrupts].into_iter())?;
        self.switch(machine, Switch::InterruptRemapping, true)?;
        self.switch(machine, Switch::CompatibilityFormat, false)?;
        info!(
            "unit {}: interrupt remapping on, {} entries, {}, compatibility format blocked",
            self.base,
            table.entries(),
            match self.format {
                DestinationFormat::X2Apic => "destinations of 32 bits (EIM)",
                DestinationFormat::XApic => "destinations of 8 bits",
            }
        );
        Ok(())
    }

    /// Points the unit to the root table and empties its caches. From here on, where translation is on, only what the
    /// tables hold is let through.
    pub(crate) fn set_root(&self, machine: &M) -> Result<(), UnitError> {
        let root = self.contexts.lock().root();
        self.publish(machine)?;
        let address =
            RootTableAddress::default().with_mode(self.mode.code().into()).with_frame(root.as_u64() / PAGE_SIZE);
        self.window.write(map::ROOT_TABLE_ADDRESS, address);
        self.command(machine, OneShot::SetRootTable)?;
        // Units with ESRTPS did this themselves; once more at start costs nothing.
        let processes = (self.mode == Mode::Scalable).then_some(Descriptor::AllProcesses);
        let all = [Some(Descriptor::AllContexts), processes, Some(Descriptor::AllTranslations)];
        self.invalidate(machine, all.into_iter().flatten())?;
        Ok(())
    }

    /// Turns translation on, and then the protected memory ranges off, which would still block what the tables allow.
    pub(crate) fn enable_translation(&self, machine: &M) -> Result<(), UnitError> {
        self.switch(machine, Switch::Translation, true)?;
        info!("unit {}: DMA remapping on, everything denied that no domain allows", self.base);
        self.disable_protected_memory(machine)
    }

    /// Has the unit announce faults by an interrupt with `vector` (16 to 255) at one processor.
    ///
    /// # Errors
    ///
    /// The processor's id needs more than 8 bits and the unit has no 32-bit destinations, or the registers do not hold
    /// what was written.
    pub fn set_fault_message(&self, apic_id: u32, vector: u8) -> Result<(), UnitError> {
        if apic_id > 0xfe && self.format == DestinationFormat::XApic {
            return Err(UnitError::FaultDestination { apic_id });
        }
        let _owned = self.records.lock();
        let data = EventData::default().with_data(u32::from(vector));
        let address = EventAddress::from_bits(0xfee0_0000 | (apic_id & 0xff) << 12);
        self.mask_faults();
        self.window.write(map::FAULT_EVENT_DATA, data);
        self.window.write(map::FAULT_EVENT_ADDRESS, address);
        self.window.write(map::FAULT_EVENT_UPPER_ADDRESS, EventUpperAddress::from_bits(apic_id & !0xff));
        let held = (self.window.read(map::FAULT_EVENT_DATA), self.window.read(map::FAULT_EVENT_ADDRESS));
        self.window.write(map::FAULT_EVENT_CONTROL, EventControl::default());
        if held != (data, address) || self.window.read(map::FAULT_EVENT_CONTROL).masked() {
            self.mask_faults();
            return Err(UnitError::FaultMessage);
        }
        Ok(())
    }

    fn mask_faults(&self) {
        self.window.write(map::FAULT_EVENT_CONTROL, EventControl::default().with_masked(true));
        // Read back, so that no message is under way any more.
        let _ = self.window.read(map::FAULT_EVENT_CONTROL);
    }

    /// The fault records with the registers that they are in.
    pub(crate) fn with_records<T>(&self, work: impl FnOnce(&mut Records, &Window<M::Registers>) -> T) -> T {
        work(&mut self.records.lock(), &self.window)
    }

    /// The invalidation of process entries of a domain that goes with one of a context entry: in scalable mode.
    pub(crate) fn process_entry(&self, domain: u16) -> Option<Descriptor> {
        (self.mode == Mode::Scalable).then_some(Descriptor::Process { domain, process: PLAIN_PROCESS })
    }

    /// The invalidation of every translation of a domain.
    pub(crate) fn whole_domain(&self, domain: u16, second_stage: bool) -> Descriptor {
        match self.mode {
            Mode::Scalable if !second_stage => Descriptor::ProcessTranslations { domain, process: PLAIN_PROCESS },
            _ => Descriptor::Domain { domain },
        }
    }

    /// Turns everything off and gives the structures back. Devices are free from here on: their bus mastering is off,
    /// or whoever comes next wants them so.
    ///
    /// # Errors
    ///
    /// The first step that failed. The structures are then kept from everyone, since the unit may still read them.
    pub fn shut_down(self, machine: &M) -> Result<(), UnitError> {
        self.mask_faults();
        if self.known_to_hardware.load(Ordering::Relaxed) {
            self.switch(machine, Switch::Translation, false)?;
            if self.interrupts.is_some() {
                self.invalidate(machine, [Descriptor::AllInterrupts].into_iter())?;
                self.switch(machine, Switch::InterruptRemapping, false)?;
            }
            self.queue.lock().disable(&self.window, &Time(machine), &mut self.commander.lock())?;
            info!("unit {}: off", self.base);
        }
        self.give_back();
        Ok(())
    }

    /// Makes every interrupt entry absent.
    pub(crate) fn withdraw_interrupts(&self, machine: &M) -> Result<(), QueueError> {
        let Some(interrupts) = &self.interrupts else { return Ok(()) };
        let mut table = interrupts.lock();
        let (most, last) = (table.withdraw(0, u16::MAX), table.withdraw(u16::MAX, 1));
        if most || last { self.invalidate(machine, [Descriptor::AllInterrupts].into_iter()) } else { Ok(()) }
    }

    /// Whether the hardware was told where the structures are.
    pub(crate) fn is_known_to_hardware(&self) -> bool {
        self.known_to_hardware.load(Ordering::Relaxed)
    }

    /// Gives the structures back if the hardware never knew of them, and keeps them from everyone otherwise.
    pub(crate) fn abandon(self) {
        if self.known_to_hardware.load(Ordering::Relaxed) {
            warn!("unit {}: left as it is, denying; its tables stay where they are", self.base);
        } else {
            self.give_back();
        }
    }

    fn give_back(self) {
        self.contexts.into_inner().release();
        self.queue.into_inner().release();
        if let Some(table) = self.interrupts {
            table.into_inner().release();
        }
    }
}
