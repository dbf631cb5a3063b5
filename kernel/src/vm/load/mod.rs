//! Loaders: they put an image into guest RAM and say in which state ([`Start`](crate::vcpu::Start)) the first virtual
//! CPU starts.
//!
//! Images are not trusted: every field is checked against the file and against the address map, and a broken one is a
//! named error, never a panic and never a write outside RAM.

mod bytes;
pub mod linux;
pub mod multiboot;

use core::fmt;

use super::map::AddressMap;
use super::memory::GuestMemory;
use crate::memory::GuestPhysical;
use crate::vcpu::NotMemory;

/// Why an image cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// A Linux kernel.
    Linux(linux::LinuxError),
    /// A multiboot image.
    Multiboot(multiboot::MultibootError),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linux(error) => error.fmt(f),
            Self::Multiboot(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for LoadError {}

impl From<linux::LinuxError> for LoadError {
    fn from(error: linux::LinuxError) -> Self {
        Self::Linux(error)
    }
}

impl From<multiboot::MultibootError> for LoadError {
    fn from(error: multiboot::MultibootError) -> Self {
        Self::Multiboot(error)
    }
}

/// Where a loader puts things.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The VM's addresses.
    pub map: &'a AddressMap,
    /// The VM's RAM.
    pub memory: &'a dyn GuestMemory,
    /// The ACPI root pointer.
    pub root_pointer: GuestPhysical,
}

impl Target<'_> {
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), NotMemory> {
        self.memory.load(GuestPhysical::new(address), bytes)
    }
}
