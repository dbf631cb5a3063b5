//! The application: what talks to firmware and changes the machine.
//!
//! Memory that is allocated here is never freed: either the kernel gets it, as memory of kind
//! [`handoff::MemoryKind::Loader`], or the machine has stopped.

mod console;
mod error;
mod firmware;
mod jump;
mod memory;
mod modules;
mod place;
mod processor;
mod serial;
mod volume;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::convert::Infallible;

use configuration::{Configuration, Machine};
use handoff::{Array, Handoff, MemoryKind, MemoryRegion};
use uefi::Status;

use self::console::say;
use self::error::BootError;
use self::memory::Pages;
use self::volume::Volume;

const CONFIGURATION: &str = "postern.toml";
const KERNEL: &str = "postern-kernel.elf";

#[uefi::entry]
fn main() -> Status {
    console::open();
    match run() {
        Ok(never) => match never {},
        Err(error) => console::stop(&error),
    }
}

fn run() -> Result<Infallible, BootError> {
    say!("Postern {}", env!("CARGO_PKG_VERSION"));
    firmware::stop_watchdog();
    let processor = processor::check()?;
    let mut volume = Volume::open()?;
    let text = volume.read(CONFIGURATION)?;
    let configuration = read_configuration(&text, &mut volume)?;
    let kernel_file = volume.read(KERNEL)?;
    let kernel = place::load(&kernel_file)?;
    let modules = modules::read(&configuration, &mut volume)?;
    let framebuffer = firmware::framebuffer();
    let rsdp = firmware::rsdp().ok_or(BootError::NoAcpi)?;
    drop(volume);

    let mut exit = firmware::Exit::prepare()?;
    let stack = Pages::allocate(handoff::BOOT_STACK_SIZE, BootError::memory_for("the kernel's first stack"))?;
    let trampoline = jump::Trampoline::prepare()?;
    let root = place::build_tables(&kernel, &trampoline, &framebuffer, exit.end_of_ram()?, processor)?;
    // Filled in when the last allocation is done and the map is final.
    let handoff = Box::leak(Box::new(Handoff {
        magic: handoff::MAGIC,
        version: handoff::VERSION,
        size: size_of::<Handoff>() as u32,
        rsdp,
        memory_map: Array::default(),
        kernel: kernel.memory,
        kernel_file: kernel_file.range(),
        configuration: text.range(),
        modules,
        framebuffer,
    }));
    say!("Leaving firmware; the kernel's entry is at {:#x}.", kernel.entry);
    console::close();
    exit.exclude(kernel.memory, MemoryKind::Kernel);
    handoff.memory_map = exit.leave()?;
    jump::to_kernel(trampoline, root, stack, kernel.entry, handoff)
}

/// The configuration, if it is one and everything that it names is on the volume.
fn read_configuration(text: &Pages, volume: &mut Volume) -> Result<Configuration, BootError> {
    let text = core::str::from_utf8(text.bytes()).map_err(|error| BootError::NotText(error.valid_up_to()))?;
    let configuration = configuration::parse(text).map_err(BootError::Configuration)?;
    let files: Vec<&str> =
        configuration.files().into_iter().map(|file| file.value.as_str()).filter(|path| volume.holds(path)).collect();
    let problems = configuration.check(&Machine { files: Some(&files), ..Machine::default() });
    if problems.is_empty() { Ok(configuration) } else { Err(BootError::Configuration(problems)) }
}

/// A region that holds nothing.
const NO_REGION: MemoryRegion = MemoryRegion { start: 0, length: 0, kind: 0, reserved: 0 };
