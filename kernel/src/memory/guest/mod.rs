//! RAM of one VM: taken from the frame allocator, mapped for its processors, listed once for whoever else maps it.
//!
//! The list of [`GuestBlock`]s is the VM's one memory map. The nested table is filled from it here; whoever gives the
//! VM a device maps the same list for the device, so the two cannot disagree.
//!
//! Nobody holds a Rust reference into guest RAM: the guest's processors and its devices write there at any moment.
//! Bytes are copied in and out through [`copy`](self::copy).

mod blocks;
mod copy;
mod nested;

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use iommu::address::{HostPhysical, PAGE_SIZE};
use iommu::paging::{Attributes, BuildError, ChangeError, MapError, Permissions};
use spin::Mutex;

use self::nested::NestedTable;
pub use self::nested::{NestedFormat, NestedPaging};
use super::{GuestPhysical, KernelFrames, OutOfMemory, Owner, frames, to_pointer};

/// Where a guest sees its processor's local APIC.
const APIC_ADDRESS: u64 = 0xfee0_0000;

/// Guest RAM that is one piece on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestBlock {
    /// Where the guest sees it.
    pub guest: GuestPhysical,
    /// Where it is.
    pub host: HostPhysical,
    /// How many bytes: a multiple of 4 KiB.
    pub length: u64,
    /// Whether the guest, its processors and its devices, may write it. ROM may not be written.
    pub access: Access,
}

/// What a guest may do with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// RAM.
    ReadWrite,
    /// ROM: filled by the VM's builder with [`GuestMemory::load`].
    ReadOnly,
}

impl GuestBlock {
    fn end(&self) -> u64 {
        self.guest.as_u64() + self.length
    }
}

/// The memory of one VM and the table through which its processors reach it. Before it is dropped, the VM's
/// processors have left the guest for good and no device of the VM reaches its memory any more.
pub struct GuestMemory {
    owner: Owner,
    /// Sorted by guest address, without overlap, as long as possible.
    blocks: Vec<GuestBlock>,
    /// What the allocator gave.
    taken: Vec<Range<u64>>,
    root: HostPhysical,
    /// What the nested table shows at the local APIC's address.
    apic_access: Option<HostPhysical>,
    /// Its root never changes and its frames live until the drop. Never locked by an interrupt handler.
    table: Mutex<NestedTable<KernelFrames>>,
}

impl GuestMemory {
    /// Zeroed RAM for the VM with this number at the guest addresses `memory`, of which the parts in `rom` are read-only
    /// for the guest, and a nested table that maps it. All of it is charged to the VM.
    ///
    /// # Errors
    ///
    /// [`GuestMemoryError`]; everything is given back then.
    pub fn new(
        vm: u16,
        memory: impl IntoIterator<Item = Range<u64>>,
        rom: &[Range<u64>],
        paging: NestedPaging,
    ) -> Result<Self, GuestMemoryError> {
        let owner = Owner::Vm(vm);
        let memory: Vec<_> = memory.into_iter().collect();
        let wanted = memory.iter().fold(0, |sum: u64, range| sum.saturating_add(range.end.saturating_sub(range.start)));
        let wanted = usize::try_from(wanted / PAGE_SIZE).unwrap_or(usize::MAX);
        let free = frames().totals().free;
        if wanted > free {
            return Err(GuestMemoryError::Memory(OutOfMemory { owner, frames: wanted, free }));
        }
        let table = NestedTable::new(paging, KernelFrames::new(owner)).map_err(GuestMemoryError::Table)?;
        // From here on the drop gives back what was taken.
        let mut guest = Self {
            owner,
            blocks: Vec::new(),
            taken: Vec::new(),
            root: table.root(),
            apic_access: None,
            table: Mutex::new(table),
        };
        for range in memory {
            guest.add(range, rom)?;
        }
        guest.blocks.sort_by_key(|block| block.guest);
        guest.blocks.dedup_by(blocks::join);
        let table = guest.table.get_mut();
        for block in &guest.blocks {
            let permissions = match block.access {
                Access::ReadWrite => Permissions::ALL,
                Access::ReadOnly => Permissions::READ | Permissions::EXECUTE,
            };
            table
                .map(block.guest, block.host, block.length, Attributes::ram(permissions))
                .map_err(GuestMemoryError::Map)?;
        }
        if paging.apic_access {
            guest.map_apic_access()?;
        }
        Ok(guest)
    }

    /// Maps a page at the local APIC's address. A guest reads and writes it only while its APIC is not in memory.
    fn map_apic_access(&mut self) -> Result<(), GuestMemoryError> {
        let page = frames().allocate_zeroed(self.owner, 1, PAGE_SIZE).map_err(GuestMemoryError::Memory)?;
        self.taken.push(page.as_u64()..page.as_u64() + PAGE_SIZE);
        let address = GuestPhysical::new(APIC_ADDRESS);
        self.table
            .get_mut()
            .map(address, page, PAGE_SIZE, Attributes::registers(Permissions::READ_WRITE))
            .map_err(GuestMemoryError::Map)?;
        self.apic_access = Some(page);
        Ok(())
    }

    /// Takes RAM for one range of guest addresses and notes its blocks.
    fn add(&mut self, range: Range<u64>, rom: &[Range<u64>]) -> Result<(), GuestMemoryError> {
        if range.is_empty() || (range.start | range.end) & (PAGE_SIZE - 1) != 0 {
            return Err(GuestMemoryError::Range { start: range.start, end: range.end });
        }
        let mut at = range.start;
        while at < range.end {
            let (host, length) =
                blocks::take(at, range.end, |count, align| frames().allocate(self.owner, count, align))
                    .map_err(GuestMemoryError::Memory)?;
            self.taken.push(host.as_u64()..host.as_u64() + length);
            // SAFETY: the allocator just gave these bytes to us alone, and the direct map covers them.
            unsafe { super::zero::clear(host, (length / PAGE_SIZE) as usize) };
            for (piece, access) in blocks::cut(at..at + length, rom) {
                self.blocks.push(GuestBlock {
                    guest: GuestPhysical::new(piece.start),
                    host: HostPhysical::new(host.as_u64() + (piece.start - at)),
                    length: piece.end - piece.start,
                    access,
                });
            }
            at += length;
        }
        Ok(())
    }

    /// The one memory map, sorted by guest address: what to map for a device of this VM, and with what access.
    pub fn blocks(&self) -> &[GuestBlock] {
        &self.blocks
    }

    /// All of the RAM, in bytes.
    pub fn size(&self) -> u64 {
        self.blocks.iter().map(|block| block.length).sum()
    }

    /// The nested table's root, for the nested CR3 or the EPT pointer. Constant.
    pub fn nested_root(&self) -> HostPhysical {
        self.root
    }

    /// The page that the nested table shows at the local APIC's address, if it shows one. Constant.
    pub fn apic_access_page(&self) -> Option<HostPhysical> {
        self.apic_access
    }

    /// Copies guest memory, RAM and ROM, into `into`: all of it or nothing. A 2-, 4- or 8-byte copy from an aligned
    /// address is one access.
    ///
    /// # Errors
    ///
    /// [`NotRam`] where part of it is neither.
    pub fn read(&self, address: GuestPhysical, into: &mut [u8]) -> Result<(), NotRam> {
        self.check(address, into.len(), |_| true)?;
        let mut at = address.as_u64();
        let mut left = into;
        while let Some((pointer, length)) = self.contiguous(at, left.len()) {
            let (part, rest) = left.split_at_mut(length);
            // SAFETY: `contiguous` gives RAM of this VM, mapped for as long as `self` lives, `length` bytes of it.
            unsafe { copy::from_guest(pointer, part) };
            left = rest;
            at += length as u64;
        }
        Ok(())
    }

    /// Copies `from` into guest RAM, as a store of the guest would: all of it or nothing. A 2-, 4- or 8-byte copy to an
    /// aligned address is one access.
    ///
    /// # Errors
    ///
    /// [`NotRam`] where part of it is ROM or nothing.
    pub fn write(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotRam> {
        self.check(address, from.len(), |block| block.access == Access::ReadWrite)?;
        self.store(address, from);
        Ok(())
    }

    /// Copies `from` into guest memory, ROM included, as the VM's builder does: all of it or nothing.
    ///
    /// # Errors
    ///
    /// [`NotRam`] where part of it is neither RAM nor ROM.
    pub fn load(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotRam> {
        self.check(address, from.len(), |_| true)?;
        self.store(address, from);
        Ok(())
    }

    fn store(&self, address: GuestPhysical, from: &[u8]) {
        let mut at = address.as_u64();
        let mut left = from;
        while let Some((pointer, length)) = self.contiguous(at, left.len()) {
            let (part, rest) = left.split_at(length);
            // SAFETY: as in `read`.
            unsafe { copy::to_guest(part, pointer) };
            left = rest;
            at += length as u64;
        }
    }

    /// Where a guest address is on the host, if it is RAM or ROM.
    pub fn host_of(&self, address: GuestPhysical) -> Option<HostPhysical> {
        let block = self.block_at(address.as_u64())?;
        block.host.checked_add(address.as_u64() - block.guest.as_u64())
    }

    /// Where the guest's processors are led by an address, be it RAM or registers.
    #[cfg(test)]
    pub(crate) fn translate(&self, address: GuestPhysical) -> Option<HostPhysical> {
        self.table.lock().translate(address.as_u64())
    }

    fn block_at(&self, address: u64) -> Option<&GuestBlock> {
        let behind = self.blocks.partition_point(|block| block.guest.as_u64() <= address);
        self.blocks.get(behind.checked_sub(1)?).filter(|block| address < block.end())
    }

    /// That each of `length` bytes lies in a block that `suits`.
    fn check(&self, address: GuestPhysical, length: usize, suits: impl Fn(&GuestBlock) -> bool) -> Result<(), NotRam> {
        let refused = NotRam { address, length: length as u64 };
        let end = address.checked_add(length as u64).ok_or(refused)?.as_u64();
        let mut at = address.as_u64();
        while at < end {
            at = self.block_at(at).filter(|block| suits(block)).ok_or(refused)?.end();
        }
        Ok(())
    }

    /// Where the first of `length` bytes are, and how many lie together there. `None` at the end.
    fn contiguous(&self, address: u64, length: usize) -> Option<(*mut u8, usize)> {
        let block = self.block_at(address).filter(|_| length > 0)?;
        let offset = address - block.guest.as_u64();
        let here = usize::try_from(block.length - offset).unwrap_or(usize::MAX);
        Some((to_pointer(block.host.checked_add(offset)?), here.min(length)))
    }

    /// Lets the guest's processors reach device registers (a BAR) at guest addresses that hold nothing yet, uncached.
    ///
    /// # Errors
    ///
    /// [`MapError`] names what stands against it; nothing is changed then.
    pub fn map_registers(&self, guest: GuestPhysical, host: HostPhysical, length: u64) -> Result<(), MapError> {
        self.table.lock().map(guest, host, length, Attributes::registers(Permissions::READ_WRITE))
    }

    /// Takes device registers away from the guest's processors. RAM in the range is a mistake of the caller and is
    /// refused.
    ///
    /// `flush` makes every processor of the VM forget its translations of the given guest addresses and returns when
    /// all of them have; tables that emptied are freed after it.
    ///
    /// # Errors
    ///
    /// [`UnmapError`]; nothing is changed then.
    pub fn unmap_registers(
        &self,
        guest: GuestPhysical,
        length: u64,
        flush: impl FnOnce(Range<u64>),
    ) -> Result<(), UnmapError> {
        let end = guest.as_u64().saturating_add(length);
        if let Some(block) = self.blocks.iter().find(|block| block.guest.as_u64() < end && guest.as_u64() < block.end())
        {
            return Err(UnmapError::Ram { guest: block.guest, length: block.length });
        }
        self.table.lock().unmap(guest, length, flush).map_err(UnmapError::Table)
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        for range in self.taken.drain(..) {
            let count = ((range.end - range.start) / PAGE_SIZE) as usize;
            if let Err(error) = frames().free(self.owner, HostPhysical::new(range.start), count) {
                log::error!("memory of {} is not given back: {error}", self.owner);
            }
        }
    }
}

impl fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestMemory").field("owner", &self.owner).field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

/// Not all of these bytes are memory of the VM that allows the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRam {
    /// The first of the bytes.
    pub address: GuestPhysical,
    /// How many.
    pub length: u64,
}

impl fmt::Display for NotRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not all of the {:#x} bytes at guest address {} are memory of the VM", self.length, self.address)
    }
}

impl core::error::Error for NotRam {}

/// Why device registers were not taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmapError {
    /// The range holds RAM.
    Ram {
        /// The RAM's first address.
        guest: GuestPhysical,
        /// Its bytes.
        length: u64,
    },
    /// The table refused.
    Table(ChangeError),
}

impl fmt::Display for UnmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ram { guest, length } => {
                write!(f, "the range holds {length:#x} bytes of RAM at guest address {guest}, which stay mapped")
            }
            Self::Table(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for UnmapError {}

/// Why a VM has no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestMemoryError {
    /// A range of guest addresses is empty or not made of whole pages.
    Range {
        /// Its first address.
        start: u64,
        /// The first address behind it.
        end: u64,
    },
    /// The machine has not enough.
    Memory(OutOfMemory),
    /// The nested table cannot be made.
    Table(BuildError),
    /// A block cannot be mapped.
    Map(MapError),
}

impl fmt::Display for GuestMemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { start, end } => {
                write!(f, "guest memory from {start:#x} to {end:#x} is not a range of whole 4 KiB pages")
            }
            Self::Memory(error) => error.fmt(f),
            Self::Table(error) => write!(f, "the VM's nested table cannot be made: {error}"),
            Self::Map(error) => write!(f, "the VM's memory cannot be mapped: {error}"),
        }
    }
}

impl core::error::Error for GuestMemoryError {}

#[cfg(test)]
mod tests;
