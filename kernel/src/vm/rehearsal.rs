//! What [`Vm::build`](super::Vm::build) would refuse, found without a VM: the loaders write into memory that is only
//! measured, and the bus gets functions that only have BARs.
//!
//! `schedule` rehearses every VM of the configuration before it builds the first, so that an image that is no image or
//! does not fit is reported with everything else that is wrong.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::machine::{self, BuildError, Image};
use super::map::AddressMap;
use super::memory::GuestMemory;
use super::pci::{BARS, Bar, PciError, VirtualFunction, VirtualPciBus};
use crate::memory::{GuestPhysical, HostPhysical};
use crate::vcpu::NotMemory;

/// Whether a VM with this map and so many virtual CPUs can run `image`.
///
/// # Errors
/// As [`Vm::build`](super::Vm::build).
pub fn check_image(map: &AddressMap, cpus: usize, image: Image<'_>) -> Result<(), BuildError> {
    machine::load(map, cpus, &Measured(map), image).map(drop)
}

/// Whether the virtual bus of a VM with this map has room for functions with these names and BARs.
///
/// # Errors
/// As [`VirtualPciBus::new`].
pub fn check_bus<N: fmt::Display + Send + Sync + 'static>(
    map: &AddressMap,
    functions: impl IntoIterator<Item = (N, [Option<Bar>; BARS])>,
) -> Result<(), PciError> {
    let shown = |(name, bars)| Arc::new(Shown { name, bars }) as Arc<dyn VirtualFunction>;
    VirtualPciBus::new(map.clone(), functions.into_iter().map(shown).collect::<Vec<_>>()).map(drop)
}

/// RAM that keeps nothing.
struct Measured<'a>(&'a AddressMap);

impl Measured<'_> {
    fn check(&self, address: GuestPhysical, length: usize) -> Result<(), NotMemory> {
        let inside = self.0.memory().any(|range| range.contains(address.as_u64(), length as u64));
        inside.then_some(()).ok_or(NotMemory)
    }
}

impl GuestMemory for Measured<'_> {
    fn read(&self, address: GuestPhysical, into: &mut [u8]) -> Result<(), NotMemory> {
        self.check(address, into.len())?;
        into.fill(0);
        Ok(())
    }

    fn load(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotMemory> {
        self.check(address, from.len())
    }

    fn write(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotMemory> {
        self.check(address, from.len())
    }

    fn host_page(&self, _: GuestPhysical) -> Option<HostPhysical> {
        None
    }

    fn nested_root(&self) -> HostPhysical {
        HostPhysical::new(0)
    }
}

/// A function that nobody has taken: it has BARs and answers nothing.
struct Shown<N> {
    name: N,
    bars: [Option<Bar>; BARS],
}

impl<N: fmt::Display + Send + Sync> VirtualFunction for Shown<N> {
    fn name(&self) -> &dyn fmt::Display {
        &self.name
    }

    fn bars(&self) -> [Option<Bar>; BARS] {
        self.bars
    }

    fn config_read(&self, _: u16, _: u8) -> u32 {
        u32::MAX
    }

    fn config_write(&self, _: u16, _: u8, _: u32) {}

    fn place(&self, _: usize, _: Option<u64>) {}

    fn bar_read(&self, _: usize, _: u64, _: u8) -> u64 {
        u64::MAX
    }

    fn bar_write(&self, _: usize, _: u64, _: u8, _: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::load::LoadError;
    use crate::vm::load::linux::{Linux, LinuxError};
    use crate::vm::load::multiboot::{Multiboot, MultibootError};
    use crate::vm::pci::BarKind;

    #[test]
    fn images_that_are_none_or_do_not_fit_are_refused_without_memory() {
        let map = AddressMap::new(2 << 20, 0).unwrap();
        let linux = Image::Linux(Linux { kernel: &[0; 100], initrd: None, command_line: "" });
        let refused = check_image(&map, 1, linux).unwrap_err();
        assert!(matches!(refused, BuildError::Load(LoadError::Linux(LinuxError::Short { length: 100 }))), "{refused}");

        // A Multiboot header with address fields: 16 bytes at 4 MiB.
        let mut file = [0u8; 64];
        let flags = 1u32 << 16;
        let words = [0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002 + flags), 0x40_0000, 0x40_0000, 0, 0, 0x40_0000];
        for (place, word) in file.chunks_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let image = Image::Multiboot(Multiboot { name: "a", image: &file, command_line: "", modules: &[] });
        let refused = check_image(&map, 1, image).unwrap_err();
        let does_not_fit = matches!(refused, BuildError::Load(LoadError::Multiboot(MultibootError::DoesNotFit { .. })));
        assert!(does_not_fit, "{refused}");
        assert_eq!(check_image(&AddressMap::new(8 << 20, 0).unwrap(), 1, image), Ok(()));
        assert_eq!(check_image(&map, 255, image), Err(BuildError::Cpus(255)));
    }

    #[test]
    fn bars_that_fit_no_window_are_refused_by_name() {
        let map = AddressMap::new(2 << 20, 0).unwrap();
        let mut bars = [None; BARS];
        bars[0] = Some(Bar { kind: BarKind::Memory32, size: 1 << 29, prefetchable: false });
        assert_eq!(check_bus(&map, [("one", bars)]), Ok(()));
        let refused = check_bus(&map, [("one", bars), ("two", bars)]).unwrap_err().to_string();
        assert!(refused.contains("BAR 0 of two"), "{refused}");
    }
}
