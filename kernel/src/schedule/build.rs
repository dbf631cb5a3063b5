//! Putting a VM together for a run, and taking it apart.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use configuration::Override;
use iommu::address::PAGE_SIZE;
use log::{error, info};
use spin::Mutex;

use super::Schedule;
use super::desk::HOST_TIMER;
use super::slot::{Running, Slot};
use crate::assignment::{AssignError, Assigned, Liberties, Recipient};
use crate::memory::{GuestMemory, GuestMemoryError, Owner, frames};
use crate::platform::{File, pci};
use crate::vcpu::{self, Settings, Vcpu, VcpuError};
use crate::vm::load::linux::Linux;
use crate::vm::load::multiboot::{Module, Multiboot};
use crate::vm::map::{AddressMap, MapError, Region, RegionKind};
use crate::vm::pci::VirtualFunction;
use crate::vm::{self, Image, KernelHost, Parts, Vm, wall_clock};

/// Why a VM does not start.
#[derive(Clone, Debug)]
pub(super) enum StartError {
    Map(MapError),
    Memory(GuestMemoryError),
    Assign(AssignError),
    Build(vm::BuildError),
    Vcpu(VcpuError),
    /// A file that the loader should have brought.
    NoFile(Box<str>),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Assign(error) => error.fmt(f),
            Self::Build(error) => error.fmt(f),
            Self::Vcpu(error) => error.fmt(f),
            Self::NoFile(path) => {
                write!(f, "the loader did not bring `{path}`; install loader and kernel from the same build")
            }
        }
    }
}

impl core::error::Error for StartError {}

/// Builds the VM of `slot` and leaves it in there, ready to be entered. On an error nothing of it is left.
pub(super) fn build(schedule: &Schedule, slot: &Slot) -> Result<(), StartError> {
    let functions = slot.claims.iter().filter_map(|address| schedule.assignments.function(*address));
    let map = AddressMap::new(slot.configuration.memory.value, bytes_64(functions)).map_err(StartError::Map)?;
    let (memory, rom) = ranges(&map);
    let memory = GuestMemory::new(slot.owner.id, memory, &rom, vcpu::nested_paging()).map_err(StartError::Memory)?;
    let memory = Arc::new(memory);
    for block in memory.blocks() {
        let start = block.host.as_u64();
        info!(target: "memory", "memory vm={} start={start:#x} end={:#x}", slot.name(), start.saturating_add(block.length));
    }
    let recipient = Recipient {
        owner: slot.owner.clone(),
        memory: memory.clone(),
        bus: slot.bus.clone(),
        liberties: Liberties {
            unsafe_interrupts: slot.configuration.allows(Override::UnsafeInterrupts),
            device_tlb: slot.configuration.allows(Override::DeviceTlb),
        },
        complaints: slot.complaints.clone(),
    };
    let assigned = Assigned::open(&schedule.assignments, &recipient, &slot.claims).map_err(StartError::Assign)?;
    let vcpus = vcpus(slot)?;
    let running = match machine(schedule, slot, map, memory, &assigned) {
        Ok(vm) => Running { vm: Arc::new(vm), vcpus },
        Err(error) => {
            assigned.close();
            return Err(error);
        }
    };
    if let Some(Some(first)) = running.vcpus.first().map(Mutex::lock).as_deref_mut() {
        first.start_at(running.vm.start());
    }
    *slot.assigned.lock() = Some(assigned);
    *slot.running.lock() = Some(Arc::new(running));
    Ok(())
}

/// Gives everything back that [`build`] took. Every CPU has left the VM.
pub(super) fn take_apart(slot: &Slot) {
    // The virtual bus first: with it go the functions' BARs out of the guest's table, and its hold on the functions.
    drop(slot.running.lock().take());
    // Out of the lock, since closing takes its time.
    let assigned = slot.assigned.lock().take();
    if let Some(assigned) = assigned {
        assigned.close();
    }
    for endpoint in slot.bus.endpoints() {
        endpoint.reset();
    }
    match frames().in_use(Owner::Vm(slot.owner.id)) {
        0 => info!(target: "memory", "{}: all memory is given back", slot.name()),
        left => {
            error!(target: "memory", "{}: {left} frames are not given back; this is a defect of Postern", slot.name())
        }
    }
}

/// The guest's RAM, and what of it is read-only: the whole pages that hold firmware's tables.
fn ranges(map: &AddressMap) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
    let firmware = map.regions().iter().filter(|region| region.kind == RegionKind::Firmware);
    let whole_pages =
        |region: &Region| region.range.start.next_multiple_of(PAGE_SIZE)..region.range.end() / PAGE_SIZE * PAGE_SIZE;
    let memory = map.memory().map(|range| range.start..range.end()).collect();
    (memory, firmware.map(whole_pages).filter(|range| !range.is_empty()).collect())
}

/// Bytes of all 64-bit BARs.
pub(super) fn bytes_64<'a>(functions: impl Iterator<Item = &'a pci::Function>) -> u64 {
    let bars = functions.flat_map(|function| function.bars.iter().flatten());
    bars.filter(|bar| matches!(bar.kind, pci::BarKind::Memory64 { .. }))
        .fold(0, |sum: u64, bar| sum.saturating_add(bar.size.max(4096)))
}

fn vcpus(slot: &Slot) -> Result<Vec<Mutex<Option<Vcpu>>>, StartError> {
    (0..slot.bus.endpoints().len())
        .map(|index| {
            let settings = Settings {
                index,
                x2apic: true,
                bus: slot.bus.clone(),
                owner: Owner::Vm(slot.owner.id),
                timer: HOST_TIMER,
            };
            Vcpu::new(settings).map(|vcpu| Mutex::new(Some(vcpu))).map_err(StartError::Vcpu)
        })
        .collect()
}

fn machine(
    schedule: &Schedule,
    slot: &Slot,
    map: AddressMap,
    memory: Arc<GuestMemory>,
    assigned: &Assigned,
) -> Result<Vm<GuestMemory>, StartError> {
    let functions = assigned.functions().iter().map(|function| function.clone() as Arc<dyn VirtualFunction>).collect();
    let mut modules = Vec::new();
    let image = image(Files(&schedule.files), &slot.configuration.image, &mut modules)?;
    let windows = assigned.dma_windows(memory.blocks());
    let parts = Parts {
        map,
        memory,
        functions,
        bus: slot.bus.clone(),
        image,
        debug_exit: slot.configuration.debug_exit,
        host: Arc::new(KernelHost::new(&slot.owner.name, windows)),
        // A machine without a clock: its guests begin in 1970, as a PC's with an empty battery do.
        wall: wall_clock::read().unwrap_or(0),
    };
    Vm::build(parts).map_err(StartError::Build)
}

/// What the loader brought.
#[derive(Clone, Copy)]
pub(super) struct Files<'a>(pub(super) &'a [File]);

impl Files<'_> {
    fn find(self, path: &str) -> Result<&'static [u8], StartError> {
        let found = self.0.iter().find(|file| file.path == path);
        found.map(|file| file.bytes).ok_or_else(|| StartError::NoFile(path.into()))
    }
}

/// What a VM runs, with its files; `modules` is where those of a Multiboot image are listed.
///
/// # Errors
///
/// [`StartError::NoFile`].
pub(super) fn image<'a>(
    files: Files<'_>,
    image: &'a configuration::Image,
    modules: &'a mut Vec<Module<'a>>,
) -> Result<Image<'a>, StartError> {
    match image {
        configuration::Image::Linux(linux) => Ok(Image::Linux(Linux {
            kernel: files.find(&linux.kernel.value)?,
            initrd: linux.initrd.as_ref().map(|initrd| files.find(&initrd.value)).transpose()?,
            command_line: &linux.cmdline,
        })),
        configuration::Image::Multiboot(multiboot) => {
            for module in &multiboot.modules {
                let name = &module.path.value;
                modules.push(Module { name, data: files.find(name)?, command_line: &module.cmdline });
            }
            Ok(Image::Multiboot(Multiboot {
                name: &multiboot.image.value,
                image: files.find(&multiboot.image.value)?,
                command_line: &multiboot.cmdline,
                modules,
            }))
        }
    }
}
