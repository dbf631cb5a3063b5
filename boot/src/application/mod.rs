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
use core::convert::Infallible;

use configuration::Reading;
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
    let reading = read_configuration(&text)?;
    let kernel_file = volume.read(KERNEL)?;
    let kernel = place::load(&kernel_file)?;
    let modules = modules::read(&reading, &mut volume)?;
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

/// What the configuration names. Of its mistakes only those end the boot here that leave it unread: the kernel reports
/// all others, with what the machine has against it, in one list.
fn read_configuration(text: &Pages) -> Result<Reading, BootError> {
    let text = core::str::from_utf8(text.bytes()).map_err(|error| BootError::NotText(error.valid_up_to()))?;
    let reading = configuration::read(text);
    match reading.problems().len() {
        0 => Ok(reading),
        _ if !reading.is_toml() => Err(BootError::Configuration(reading.problems().to_vec())),
        count => {
            say!("{CONFIGURATION} has {count} problem(s); they are listed with those that the machine has with it.");
            Ok(reading)
        }
    }
}

/// A region that holds nothing.
const NO_REGION: MemoryRegion = MemoryRegion { start: 0, length: 0, kind: 0, reserved: 0 };
