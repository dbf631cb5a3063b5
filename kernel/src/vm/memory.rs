//! RAM of a VM as its builders see it.

use crate::memory::{GuestPhysical, HostPhysical};
use crate::vcpu::NotMemory;

/// Guest RAM by guest-physical address. It is zero before anything is written.
pub trait GuestMemory {
    /// Copies RAM into `into`.
    ///
    /// # Errors
    /// [`NotMemory`] when not all of it is RAM; nothing is copied then.
    fn read(&self, address: GuestPhysical, into: &mut [u8]) -> Result<(), NotMemory>;

    /// Copies `from` into RAM, as the VM's builder does: what the guest may only read is filled too.
    ///
    /// # Errors
    /// [`NotMemory`] when not all of it is RAM; nothing is copied then.
    fn load(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotMemory>;

    /// Copies `from` into RAM, as a store of the guest does.
    ///
    /// # Errors
    /// [`NotMemory`] when not all of it is RAM that the guest may write; nothing is copied then.
    fn write(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotMemory>;

    /// Where a page that the guest can write is on the host, for as long as this memory lives.
    fn host_page(&self, page: GuestPhysical) -> Option<HostPhysical>;

    /// The root of the table through which processors reach it. Constant.
    fn nested_root(&self) -> HostPhysical;

    /// The page that the table shows at the local APIC's address, if it shows one.
    fn apic_access_page(&self) -> Option<HostPhysical> {
        None
    }
}

impl GuestMemory for crate::memory::GuestMemory {
    fn read(&self, address: GuestPhysical, into: &mut [u8]) -> Result<(), NotMemory> {
        self.read(address, into).map_err(|_| NotMemory)
    }

    fn load(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotMemory> {
        self.load(address, from).map_err(|_| NotMemory)
    }

    fn write(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotMemory> {
        self.write(address, from).map_err(|_| NotMemory)
    }

    fn host_page(&self, page: GuestPhysical) -> Option<HostPhysical> {
        self.blocks()
            .iter()
            .find(|block| page >= block.guest && page.as_u64() - block.guest.as_u64() < block.length)
            .filter(|block| block.access == crate::memory::Access::ReadWrite)?;
        self.host_of(page)
    }

    fn nested_root(&self) -> HostPhysical {
        self.nested_root()
    }

    fn apic_access_page(&self) -> Option<HostPhysical> {
        self.apic_access_page()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::vm::map::AddressMap;

    /// RAM below 4 GiB of a map, in this process's memory; only what is written takes room.
    pub(crate) struct FakeMemory {
        ranges: Vec<(u64, u64)>,
        pages: Mutex<BTreeMap<u64, Box<[u8; 4096]>>>,
    }

    impl FakeMemory {
        pub(crate) fn new(map: &AddressMap) -> Self {
            let ranges = map.memory().map(|range| (range.start, range.end())).collect();
            Self { ranges, pages: Mutex::default() }
        }

        pub(crate) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
            let mut bytes = vec![0; length];
            self.read(GuestPhysical::new(address), &mut bytes).unwrap();
            bytes
        }

        pub(crate) fn u32(&self, address: u64) -> u32 {
            u32::from_le_bytes(self.bytes(address, 4).try_into().unwrap())
        }

        pub(crate) fn u64(&self, address: u64) -> u64 {
            u64::from_le_bytes(self.bytes(address, 8).try_into().unwrap())
        }

        /// Text up to its NUL.
        pub(crate) fn text(&self, address: u64) -> String {
            let bytes = (address..).map(|at| self.bytes(at, 1)[0]).take_while(|byte| *byte != 0).collect();
            String::from_utf8(bytes).unwrap()
        }

        fn check(&self, address: GuestPhysical, length: usize) -> Result<u64, NotMemory> {
            let start = address.as_u64();
            let end = start.checked_add(length as u64).ok_or(NotMemory)?;
            let inside = self.ranges.iter().any(|range| start >= range.0 && end <= range.1);
            inside.then_some(start).ok_or(NotMemory)
        }
    }

    impl GuestMemory for FakeMemory {
        fn read(&self, address: GuestPhysical, into: &mut [u8]) -> Result<(), NotMemory> {
            let start = self.check(address, into.len())?;
            let pages = self.pages.lock().unwrap();
            for (at, byte) in (start..).zip(into) {
                *byte = pages.get(&(at / 4096)).map_or(0, |page| page[(at % 4096) as usize]);
            }
            Ok(())
        }

        fn load(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotMemory> {
            self.write(address, from)
        }

        fn write(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotMemory> {
            let start = self.check(address, from.len())?;
            let mut pages = self.pages.lock().unwrap();
            for (at, byte) in (start..).zip(from) {
                pages.entry(at / 4096).or_insert_with(|| Box::new([0; 4096]))[(at % 4096) as usize] = *byte;
            }
            Ok(())
        }

        fn host_page(&self, _: GuestPhysical) -> Option<HostPhysical> {
            None
        }

        fn nested_root(&self) -> HostPhysical {
            HostPhysical::new(0x7000)
        }
    }
}
