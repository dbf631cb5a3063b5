//! Windows that a VM opens for its own devices: further device addresses at which they reach RAM of the VM.
//!
//! A guest asks by hypercall. It gains nothing that it has not: only RAM of its own can be named, and the container's
//! rules hold, so that no window covers RAM, another window or the addresses of interrupt messages.

use alloc::boxed::Box;
use core::fmt;

use arrayvec::ArrayVec;
use iommu::address::{HostPhysical, Iova, PAGE_SIZE};
use passthrough::container::{Container, ContainerError, Mapping};
use passthrough::door::{Access, RemappingHardware};
use spin::Mutex;

use crate::memory::{self, GuestBlock};

/// Hypercall: lets devices reach RCX's RAM (guest address; RDX bytes) at RBX (device address). Answers 0.
const MAP_FOR_DEVICES: u64 = 0x100;
/// Hypercall: takes the window at RBX, RCX bytes long, away. When it answers, 0, no device reaches anything through it.
const UNMAP_FOR_DEVICES: u64 = 0x101;

/// How many windows a VM may have at once.
const LIMIT: usize = 64;
/// The longest window: what is mapped and unmapped in a time that nobody notices.
const LONGEST: u64 = 2 << 20;

/// The windows of one VM, closed with its container at the latest.
pub struct DmaWindows<R: RemappingHardware> {
    container: Container<R>,
    /// What the VM's RAM consists of.
    blocks: Box<[GuestBlock]>,
    open: Mutex<ArrayVec<(Iova, u64), LIMIT>>,
}

/// Why a window is not opened or closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowError {
    /// It is empty, no whole pages, or too long.
    Length(u64),
    /// Not all of it is RAM of the VM that lies together.
    NotRam(u64),
    /// The VM has as many as it may have.
    TooMany,
    /// There is no such window.
    Absent(u64),
    /// The container's rules forbid it.
    Container(ContainerError),
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => {
                write!(f, "a window of {length:#x} bytes is not made of whole pages, or longer than {LONGEST:#x}")
            }
            Self::NotRam(address) => write!(f, "the RAM at guest address {address:#x} is too short for the window"),
            Self::TooMany => write!(f, "a VM has at most {LIMIT} windows"),
            Self::Absent(window) => write!(f, "there is no such window at {window:#x}"),
            Self::Container(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for WindowError {}

impl<R: RemappingHardware> DmaWindows<R> {
    /// None yet, for the VM with this container and RAM.
    pub fn new(container: Container<R>, blocks: &[GuestBlock]) -> Self {
        Self { container, blocks: blocks.into(), open: Mutex::new(ArrayVec::new()) }
    }

    /// The answer to a hypercall of this number; `None` if it is none of these, or was refused.
    pub fn call(&self, number: u64, arguments: [u64; 3]) -> Option<u64> {
        let [first, second, third] = arguments;
        match number {
            MAP_FOR_DEVICES => self.open(first, second, third).ok(),
            UNMAP_FOR_DEVICES => self.close(first, second).ok(),
            _ => None,
        }
        .map(|()| 0)
    }

    /// Lets devices reach `length` bytes of RAM at `address` at `window`, too.
    ///
    /// # Errors
    ///
    /// [`WindowError`]; nothing has changed then.
    pub fn open(&self, window: u64, address: u64, length: u64) -> Result<(), WindowError> {
        if length == 0 || length > LONGEST || (window | address | length) & (PAGE_SIZE - 1) != 0 {
            return Err(WindowError::Length(length));
        }
        let host = ram(&self.blocks, address, length).ok_or(WindowError::NotRam(address))?;
        let iova = Iova::new(window);
        let mut open = self.open.lock();
        if open.is_full() {
            return Err(WindowError::TooMany);
        }
        let mapping = Mapping { iova, host, length, access: Access::READ_WRITE };
        self.container.map(mapping).map_err(WindowError::Container)?;
        open.push((iova, length));
        Ok(())
    }

    /// Takes a window away.
    ///
    /// # Errors
    ///
    /// [`WindowError`]; nothing has changed then.
    pub fn close(&self, window: u64, length: u64) -> Result<(), WindowError> {
        let iova = Iova::new(window);
        let mut open = self.open.lock();
        let at = open.iter().position(|known| *known == (iova, length)).ok_or(WindowError::Absent(window))?;
        self.container.unmap(iova, length).map_err(WindowError::Container)?;
        open.swap_remove(at);
        Ok(())
    }
}

impl<R: RemappingHardware> fmt::Debug for DmaWindows<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaWindows").field("open", &*self.open.lock()).finish_non_exhaustive()
    }
}

/// Where RAM that the guest may write is, if all of it lies in one block.
fn ram(blocks: &[GuestBlock], address: u64, length: u64) -> Option<HostPhysical> {
    let end = address.checked_add(length)?;
    let block = blocks.iter().find(|block| {
        let start = block.guest.as_u64();
        start <= address && start.checked_add(block.length).is_some_and(|behind| end <= behind)
    })?;
    let offset = address.checked_sub(block.guest.as_u64())?;
    (block.access == memory::Access::ReadWrite).then(|| block.host.checked_add(offset)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestPhysical;

    fn block(guest: u64, length: u64, access: memory::Access) -> GuestBlock {
        GuestBlock {
            guest: GuestPhysical::new(guest),
            host: HostPhysical::new(0x1_0000_0000 + guest * 2),
            length,
            access,
        }
    }

    #[test]
    fn only_writable_ram_of_one_block_can_be_named() {
        let blocks = [
            block(0, 0xA_0000, memory::Access::ReadWrite),
            block(0xE_0000, 0x2_0000, memory::Access::ReadOnly),
            block(0x10_0000, 0x10_0000, memory::Access::ReadWrite),
        ];
        assert_eq!(ram(&blocks, 0x1000, 0x1000), Some(HostPhysical::new(0x1_0000_1000)));
        assert_eq!(ram(&blocks, 0x1F_F000, 0x1000), Some(HostPhysical::new(0x1_0020_0000 + 0xF_F000)));
        for (address, length) in [
            (0x9_F000, 0x2000),
            (0xB_0000, 0x1000),
            (0xF_0000, 0x1000),
            (0x1F_F000, 0x2000),
            (u64::MAX - 0xFFF, 0x1000),
            (0x20_0000, 0x1000),
        ] {
            assert_eq!(ram(&blocks, address, length), None, "{address:#x}");
        }
    }
}
