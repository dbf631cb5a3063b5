//! An assigned function on its VM's virtual bus.
//!
//! The device object of `passthrough` decides what a guest's access means; this file carries it out: BARs mapped into
//! the guest's table, the MSI-X page trapped, the guest's messages turned into events.
//!
//! Lock: the device's, taken after the virtual bus's own and before those of the driver; never in an interrupt handler.
//! Quarantine alone does not wait for it ([`Guarded`]): it is called with the VM's `assigned` locked.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use iommu::address::{HostPhysical, PciAddress};
use passthrough::config::Changes;
use passthrough::device::{BarPart, Device, DeviceError};
use passthrough::door::{Event, Machine, Message, Owner, Width};
use passthrough::interrupt::SetIrqsError;
use spin::Mutex;

use super::event::Target;
use super::guarded::Guarded;
use super::{Complaints, FunctionSpace, FunctionWindows, Recipient, Remapping};
use crate::cpu::clock::Clock;
use crate::memory::{GuestMemory, GuestPhysical};
use crate::platform::pci;
use crate::vapic::{ApicBus, MsiMessage};
use crate::vm::pci::{BARS, Bar, BarKind, VirtualFunction};

/// The machine of every device object in this kernel.
#[derive(Clone, Copy, Debug)]
pub enum Doors {}

impl Machine for Doors {
    type Configuration = FunctionSpace;
    type Windows = FunctionWindows;
    type Remapping = Remapping;
    type Clock = Clock;
}

/// One BAR of the real function and how it goes into the guest.
#[derive(Debug)]
struct HostBar {
    shown: Bar,
    /// Where its memory is on the host; `None` for ports.
    memory: Option<HostPhysical>,
    parts: Box<[BarPart]>,
}

/// Where the guest has put the BARs.
#[derive(Debug)]
struct Placed {
    at: [Option<u64>; BARS],
    /// The function answers, so that what is placed is mapped, too. In D3hot an access may be an error of the machine's.
    answers: bool,
}

/// The function.
pub struct AssignedFunction<M: Machine = Doors> {
    address: PciAddress,
    owner: Owner,
    pub(super) device: Guarded<M>,
    /// The real function's, for who cannot wait for the device.
    space: M::Configuration,
    bars: [Option<HostBar>; BARS],
    /// Taken after the device's lock or alone.
    placed: Mutex<Placed>,
    memory: Arc<GuestMemory>,
    bus: Arc<ApicBus>,
    complaints: Complaints,
}

impl<M: Machine> AssignedFunction<M> {
    /// Puts an open device on the bus of a VM.
    pub fn new(function: &pci::Function, space: M::Configuration, device: Device<M>, recipient: &Recipient) -> Self {
        let bars = core::array::from_fn(|index| {
            let bar = function.bars.get(index).copied().flatten()?;
            let number = u8::try_from(index).ok()?;
            let parts = device.bar_parts(number).collect();
            Some(HostBar { shown: shown(&bar), memory: bar.memory(), parts })
        });
        Self {
            address: function.address,
            owner: recipient.owner.clone(),
            device: Guarded::new(device),
            space,
            bars,
            placed: Mutex::new(Placed { at: [None; BARS], answers: true }),
            memory: recipient.memory.clone(),
            bus: recipient.bus.clone(),
            complaints: recipient.complaints.clone(),
        }
    }

    /// The function's address on the machine.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// Whether the function can be reset, so that nothing of one VM is left in it for the next.
    pub fn has_reset(&self) -> bool {
        self.device.with(|device| device.reset_method().is_some())
    }

    /// Stops the function's requests, whatever the guest wants, for as long as the VM lives. Waits for nobody.
    pub fn quarantine(&self) {
        self.device.quarantine(&self.space);
    }

    /// Takes the function away from the VM, which has ended: nothing of it is mapped any more, it is silent and reset.
    ///
    /// # Errors
    ///
    /// The function could not be reset; it is silent and blocked all the same.
    pub fn close(self) -> Result<(), DeviceError> {
        self.device.close()
    }

    /// The event that a message of the guest stands for: one vector of one virtual CPU.
    fn event(&self, message: Message) -> Option<Event> {
        let decoded = MsiMessage { address: message.address, data: message.data }.decode();
        let receiver =
            decoded.as_ref().ok().and_then(|interrupt| Some((interrupt, self.bus.sole_receiver(interrupt)?)));
        let Some((interrupt, vcpu)) = receiver.filter(|(interrupt, _)| interrupt.vector >= 16) else {
            self.say(format_args!(
                "the guest's message {:#x} to {:#x} names no single virtual CPU and vector; the interrupt stays off",
                message.data, message.address
            ));
            return None;
        };
        let vcpu = u16::try_from(vcpu).ok()?;
        Some(Target { vm: self.owner.id, vcpu, vector: interrupt.vector }.to_event())
    }

    fn report(&self, result: Result<(), SetIrqsError>) {
        if let Err(refusal) = result {
            self.say(format_args!("an interrupt of the function stays off: {refusal}"));
        }
    }

    fn reset(&self, device: &mut Device<M>) {
        if let Err(error) = device.reset() {
            self.say(format_args!("the guest's reset failed: {error}"));
        }
    }

    /// One line of log, as long as the VM has not caused too many.
    fn say(&self, what: fmt::Arguments<'_>) {
        self.complaints.warn(format_args!("{}: {}: {what}", self.owner, self.address));
    }

    /// Maps what is placed, or takes it out of the guest's table, after the function began or ceased to answer.
    fn follow_power(&self, answers: bool) {
        let mut placed = self.placed.lock();
        if core::mem::replace(&mut placed.answers, answers) == answers {
            return;
        }
        for (bar, at) in self.bars.iter().zip(placed.at) {
            let (Some(bar), Some(at)) = (bar, at) else { continue };
            if answers {
                self.map(bar, at);
            } else {
                self.unmap(bar, at);
            }
        }
    }

    fn map(&self, bar: &HostBar, at: u64) {
        let Some(host) = bar.memory else { return };
        for part in bar.parts.iter().filter(|part| !part.trapped) {
            let from = (at.checked_add(part.offset), host.checked_add(part.offset));
            let (Some(guest), Some(host)) = from else { continue };
            if let Err(error) = self.memory.map_registers(GuestPhysical::new(guest), host, part.length) {
                self.say(format_args!("BAR memory at {guest:#x} is reached through exits alone: {error}"));
            }
        }
    }

    fn unmap(&self, bar: &HostBar, at: u64) {
        if bar.memory.is_none() {
            return;
        }
        for part in bar.parts.iter().filter(|part| !part.trapped) {
            let Some(guest) = at.checked_add(part.offset) else { continue };
            let flush = |_| self.bus.flush_translations();
            if let Err(error) = self.memory.unmap_registers(GuestPhysical::new(guest), part.length, flush) {
                self.say(format_args!("BAR memory at {guest:#x} stays mapped: {error}"));
            }
        }
    }
}

impl<M: Machine> VirtualFunction for AssignedFunction<M>
where
    Device<M>: Send,
    M::Configuration: Send + Sync,
{
    fn name(&self) -> &dyn fmt::Display {
        &self.address
    }

    fn bars(&self) -> [Option<Bar>; BARS] {
        core::array::from_fn(|index| self.bars.get(index)?.as_ref().map(|bar| bar.shown))
    }

    fn config_read(&self, offset: u16, size: u8) -> u32 {
        let Some(width) = Width::from_bytes(size.into()) else { return u32::MAX };
        self.device.with(|device| device.config_read(offset, width))
    }

    fn config_write(&self, offset: u16, size: u8, value: u32) {
        let Some(width) = Width::from_bytes(size.into()) else { return };
        self.device.with(|device| {
            let changes = device.config_write(offset, width, value);
            if changes.contains(Changes::RESET) {
                self.reset(device);
            }
            if changes.intersects(Changes::POWER | Changes::RESET) {
                self.follow_power(device.answers());
            }
            if changes.intersects(Changes::MSI | Changes::MSI_X) {
                let result = device.follow_messages(|message| self.event(message));
                self.report(result);
            }
        });
    }

    fn place(&self, bar: usize, at: Option<u64>) {
        let Some(Some(host)) = self.bars.get(bar) else { return };
        let mut placed = self.placed.lock();
        let answers = placed.answers;
        let Some(place) = placed.at.get_mut(bar) else { return };
        if *place == at {
            return;
        }
        let before = core::mem::replace(place, at);
        if !answers {
            return;
        }
        if let Some(before) = before {
            self.unmap(host, before);
        }
        if let Some(now) = at {
            self.map(host, now);
        }
    }

    fn bar_read(&self, bar: usize, offset: u64, size: u8) -> u64 {
        let (Ok(bar), Some(width)) = (u8::try_from(bar), Width::from_bytes(size.into())) else { return u64::MAX };
        self.device.with(|device| device.region_read(bar, offset, width))
    }

    fn bar_write(&self, bar: usize, offset: u64, size: u8, value: u64) {
        let (Ok(bar), Some(width)) = (u8::try_from(bar), Width::from_bytes(size.into())) else { return };
        self.device.with(|device| {
            if let Some(vector) = device.region_write(bar, offset, width, value) {
                let result = device.follow_vector(vector, |message| self.event(message));
                self.report(result);
            }
        });
    }
}

impl<M: Machine> fmt::Debug for AssignedFunction<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssignedFunction")
            .field("address", &self.address)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// The BARs of a function as the virtual bus of its VM will show them.
pub fn shown_bars(function: &pci::Function) -> [Option<Bar>; BARS] {
    function.bars.map(|bar| bar.as_ref().map(shown))
}

/// A BAR of the machine as the virtual bus shows it.
fn shown(bar: &pci::Bar) -> Bar {
    let (kind, prefetchable) = match bar.kind {
        pci::BarKind::Port => (BarKind::Ports, false),
        pci::BarKind::Memory32 { prefetchable } => (BarKind::Memory32, prefetchable),
        pci::BarKind::Memory64 { prefetchable } => (BarKind::Memory64, prefetchable),
    };
    Bar { kind, size: bar.size, prefetchable }
}
