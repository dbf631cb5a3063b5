//! The machine itself: what its parts become when they are put together, and what its virtual CPUs ask of it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use spin::Mutex;

use super::acpi::{self, AcpiError};
use super::counters::Counters;
use super::host::Host;
use super::load::linux::{self, Linux};
use super::load::multiboot::{self, Multiboot};
use super::load::{LoadError, Target};
use super::map::{AddressMap, IO_APIC, RegionKind};
use super::memory::GuestMemory;
use super::pci::{self, PciError, VirtualFunction, VirtualPciBus};
use super::ports::Ports;
use super::wiring::Wiring;
use crate::memory::{GuestPhysical, HostPhysical};
use crate::vapic::{ApicBus, Requests};
use crate::vcpu::{End, NotMemory, Platform, Start};

/// What a VM is made of.
pub struct Parts<'a, M> {
    /// Its addresses, with room for the functions' BARs.
    pub map: AddressMap,
    /// RAM for [`AddressMap::memory`], zeroed. `assignment` holds it too, for the functions.
    pub memory: Arc<M>,
    /// The functions that it owns, in the order in which they appear on its bus.
    pub functions: Vec<Arc<dyn VirtualFunction>>,
    /// Its interrupt bus: one place for each of its virtual CPUs. The same for every restart.
    pub bus: Arc<ApicBus>,
    /// What it runs.
    pub image: Image<'a>,
    /// Whether it has a debug exit at port 0xf4.
    pub debug_exit: bool,
    /// The hypervisor around it.
    pub host: Arc<dyn Host>,
    /// The time that its clock starts with: seconds since 1970, UTC.
    pub wall: i64,
}

/// What a VM runs.
#[derive(Clone, Copy, Debug)]
pub enum Image<'a> {
    /// A Linux kernel.
    Linux(Linux<'a>),
    /// A multiboot image.
    Multiboot(Multiboot<'a>),
}

/// Why a VM cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// Its bus.
    Pci(PciError),
    /// Its ACPI tables.
    Acpi(AcpiError),
    /// Its image.
    Load(LoadError),
    /// It has more virtual CPUs than APIC ids.
    Cpus(usize),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(error) => error.fmt(f),
            Self::Acpi(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::Cpus(count) => {
                write!(f, "the VM has {count} virtual CPUs, and 254 have an APIC id; give it fewer `cpus`")
            }
        }
    }
}

impl core::error::Error for BuildError {}

/// The most virtual CPUs: APIC id 255 is everyone.
const CPUS_MAXIMUM: u8 = 254;

/// A machine, ready to run or running. Dropping it takes its functions' BARs back.
pub struct Vm<M> {
    map: AddressMap,
    memory: Arc<M>,
    wiring: Wiring,
    pci: VirtualPciBus,
    host: Arc<dyn Host>,
    debug_exit: bool,
    start: Start,
    ended: Mutex<Option<End>>,
    counters: Counters,
}

impl<M: GuestMemory> Vm<M> {
    /// Puts the parts together: BARs assigned and decoded, tables and image in RAM.
    ///
    /// # Errors
    /// [`BuildError`]; BARs that were placed are taken back, and the parts are dropped.
    pub fn build(parts: Parts<'_, M>) -> Result<Self, BuildError> {
        let Parts { map, memory, functions, bus, image, debug_exit, host, wall } = parts;
        let start = load(&map, bus.endpoints().len(), memory.as_ref(), image)?;
        let pci = VirtualPciBus::new(map.clone(), functions).map_err(BuildError::Pci)?;
        pci.activate();
        let wiring = Wiring::new(bus, wall, host.nanoseconds());
        let (ended, counters) = (Mutex::new(None), Counters::default());
        Ok(Self { map, memory, wiring, pci, host, debug_exit, start, ended, counters })
    }
}

/// Fills a VM's RAM: its tables, then its image. Gives the state in which its first virtual CPU begins.
pub(super) fn load(
    map: &AddressMap,
    cpus: usize,
    memory: &dyn GuestMemory,
    image: Image<'_>,
) -> Result<Start, BuildError> {
    let cpus = u8::try_from(cpus).ok().filter(|cpus| *cpus <= CPUS_MAXIMUM).ok_or(BuildError::Cpus(cpus))?;
    let root_pointer = acpi::write(map, cpus, memory).map_err(BuildError::Acpi)?;
    let target = Target { map, memory, root_pointer };
    match image {
        Image::Linux(linux) => linux::load(target, linux).map_err(LoadError::from),
        Image::Multiboot(multiboot) => multiboot::load(target, multiboot).map_err(LoadError::from),
    }
    .map_err(BuildError::Load)
}

impl<M> Vm<M> {
    /// The state in which the first virtual CPU begins; the others wait for their start-up interrupt.
    pub fn start(&self) -> Start {
        self.start
    }

    /// Its addresses.
    pub fn map(&self) -> &AddressMap {
        &self.map
    }

    /// Its RAM.
    pub fn memory(&self) -> &Arc<M> {
        &self.memory
    }

    /// Its virtual bus.
    pub fn pci(&self) -> &VirtualPciBus {
        &self.pci
    }

    /// What it did so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Why it ended, once it has.
    pub fn ended(&self) -> Option<End> {
        *self.ended.lock()
    }

    /// Lets the devices do what is due: timer interrupts, console output and input.
    fn expire(&self, now: u64) {
        self.counters.count_tick();
        let due = self.wiring.expire(now);
        self.wiring.announce_all();
        if due.flush {
            self.host.console_flush();
        }
        if due.dropped != 0 {
            self.host.console_dropped(due.dropped);
        }
        if due.look {
            self.wiring.type_in(now, || self.host.console_read());
        }
    }

    /// Sets interrupt pin `pin` (0: INTA# to 3: INTD#) of the function in slot `slot` of the virtual bus.
    pub fn set_function_pin(&self, slot: u8, pin: u8, asserted: bool) {
        self.wiring.set_pin(pci::interrupt_pin(slot, pin), asserted);
    }

    fn ports(&self) -> Ports<'_> {
        Ports { wiring: &self.wiring, pci: &self.pci, host: self.host.as_ref(), debug_exit: self.debug_exit }
    }

    fn finish(&self, reason: End) {
        let first = {
            let mut ended = self.ended.lock();
            let first = ended.is_none();
            ended.get_or_insert(reason);
            first
        };
        if first {
            for endpoint in self.wiring.bus().endpoints() {
                endpoint.request(Requests::STOP);
            }
        }
    }
}

impl<M> Drop for Vm<M> {
    fn drop(&mut self) {
        self.pci.deactivate();
        self.host.console_flush();
    }
}

impl<M> fmt::Debug for Vm<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm").field("ended", &self.ended()).field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl<M: GuestMemory + Send + Sync> Platform for Vm<M> {
    fn port_read(&self, _vcpu: usize, port: u16, size: u8) -> u32 {
        self.counters.count_port();
        self.ports().read(port, size)
    }

    fn port_write(&self, _vcpu: usize, port: u16, size: u8, value: u32) {
        self.counters.count_port();
        if let Some(end) = self.ports().write(port, size, value) {
            self.finish(end);
        }
    }

    fn mmio_read(&self, _vcpu: usize, address: GuestPhysical, size: u8) -> u64 {
        self.counters.count_register();
        let Some(region) = self.map.region_of(address) else { return u64::MAX };
        let address = address.as_u64();
        let offset = address.saturating_sub(region.range.start);
        match region.kind {
            RegionKind::Configuration => self.pci.memory_read(offset, size),
            RegionKind::PciWindow => self.pci.window_read(false, address, size).unwrap_or(u64::MAX),
            RegionKind::InterruptController if region.range == IO_APIC => self.wiring.io_apic_read(offset).into(),
            _ => u64::MAX,
        }
    }

    fn mmio_write(&self, _vcpu: usize, address: GuestPhysical, size: u8, value: u64) {
        self.counters.count_register();
        let Some(region) = self.map.region_of(address) else { return };
        let address = address.as_u64();
        let offset = address.saturating_sub(region.range.start);
        match region.kind {
            RegionKind::Configuration => self.pci.memory_write(offset, size, value),
            RegionKind::PciWindow => {
                self.pci.window_write(false, address, size, value);
            }
            RegionKind::InterruptController if region.range == IO_APIC => {
                self.wiring.io_apic_write(offset, value as u32);
            }
            _ => {}
        }
    }

    fn read_memory(&self, address: GuestPhysical, into: &mut [u8]) -> Result<(), NotMemory> {
        self.memory.read(address, into)
    }

    fn write_memory(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotMemory> {
        self.memory.write(address, from)
    }

    fn host_page(&self, page: GuestPhysical) -> Option<HostPhysical> {
        self.memory.host_page(page)
    }

    fn nested_root(&self) -> HostPhysical {
        self.memory.nested_root()
    }

    fn apic_access_page(&self) -> Option<HostPhysical> {
        self.memory.apic_access_page()
    }

    fn end(&self, reason: End) {
        self.finish(reason);
    }

    fn timers(&self, vcpu: usize) -> Option<u64> {
        if vcpu != 0 {
            return None;
        }
        let now = self.host.nanoseconds();
        if self.wiring.announced() <= now {
            self.expire(now);
        }
        Some(self.wiring.announced()).filter(|deadline| *deadline != u64::MAX)
    }

    fn broadcast_eoi(&self, vector: u8) {
        self.wiring.end_of_interrupt(vector);
    }

    fn acknowledge_external(&self) -> Option<u8> {
        self.wiring.acknowledge_external()
    }

    fn hypercall(&self, _vcpu: usize, number: u64, arguments: [u64; 3]) -> Option<u64> {
        self.host.hypercall(number, arguments)
    }

    fn guest_line(&self, _vcpu: usize, line: &[u8]) {
        if self.wiring.allows_line(line.len(), self.host.nanoseconds()) {
            self.host.console_line(line);
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
