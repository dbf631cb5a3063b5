//! The MSI-X table (PCI 3.0 section 6.8.2): where it is, what the guest sees of it, and what the function gets.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use iommu::address::PAGE_SIZE;

use super::Bars;
use crate::config::register::msix;
use crate::door::{ConfigurationSpace, Message, Width, Windows};

/// Where a function keeps its table and its pending bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixGeometry {
    /// Entries of the table, 1 to 2048.
    pub size: u16,
    /// The table's BAR.
    pub table_bar: u8,
    /// The table's offset there, a multiple of 8.
    pub table_offset: u64,
    /// The pending bits' BAR.
    pub pending_bar: u8,
    /// The pending bits' offset there, a multiple of 8.
    pub pending_offset: u64,
}

/// Why a function's MSI-X capability cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsixDefect {
    /// It names a BAR that is no memory BAR of the function.
    NoBar(u8),
    /// The table or the pending bits pass the end of their BAR.
    BeyondBar(u8),
    /// Table and pending bits overlap.
    Overlap,
}

impl fmt::Display for MsixDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBar(bar) => write!(f, "its MSI-X capability names BAR {bar}, which is no memory of the function"),
            Self::BeyondBar(bar) => write!(f, "its MSI-X table or pending bits pass the end of BAR {bar}"),
            Self::Overlap => f.write_str("its MSI-X table and pending bits overlap"),
        }
    }
}

impl MsixGeometry {
    /// Reads the capability at `at` and checks it against the BARs.
    pub(crate) fn read(space: &impl ConfigurationSpace, at: u16, bars: &Bars) -> Result<Self, MsixDefect> {
        let control = space.read_u16(at.saturating_add(msix::CONTROL));
        let place = |offset: u16| {
            let value = space.read_u32(at.saturating_add(offset));
            (u8::try_from(value & msix::BAR).unwrap_or(7), u64::from(value & !msix::BAR))
        };
        let (table_bar, table_offset) = place(msix::TABLE);
        let (pending_bar, pending_offset) = place(msix::PENDING);
        let size = (control & msix::SIZE).saturating_add(1);
        let geometry = Self { size, table_bar, table_offset, pending_bar, pending_offset };
        for (bar, range) in [(table_bar, geometry.table()), (pending_bar, geometry.pending())] {
            let found = bars.get(bar).filter(|found| found.kind != super::BarKind::Io).ok_or(MsixDefect::NoBar(bar))?;
            if range.end > found.size {
                return Err(MsixDefect::BeyondBar(bar));
            }
        }
        let (table, pending) = (geometry.table(), geometry.pending());
        if table_bar == pending_bar && table.start < pending.end && pending.start < table.end {
            return Err(MsixDefect::Overlap);
        }
        Ok(geometry)
    }

    /// The table's bytes in its BAR.
    pub fn table(&self) -> Range<u64> {
        let length = u64::from(self.size).saturating_mul(msix::ENTRY);
        self.table_offset..self.table_offset.saturating_add(length)
    }

    /// The pending bits' bytes in their BAR: one bit a vector, in whole 8 bytes.
    pub fn pending(&self) -> Range<u64> {
        let length = u64::from(self.size.div_ceil(64)).saturating_mul(8);
        self.pending_offset..self.pending_offset.saturating_add(length)
    }

    /// The pages of BAR `bar` that hold the table, so that accesses there must come to this crate.
    pub fn trapped(&self, bar: u8) -> Option<Range<u64>> {
        let table = self.table();
        let end = table.end.checked_next_multiple_of(PAGE_SIZE)?;
        (bar == self.table_bar).then_some(table.start & !(PAGE_SIZE - 1)..end)
    }
}

/// The table as the guest wrote it.
#[derive(Debug)]
pub(crate) struct MsixTable {
    entries: Vec<[u32; 4]>,
}

impl MsixTable {
    pub(crate) fn new(size: u16) -> Self {
        // After a reset every vector is masked.
        Self { entries: vec![[0, 0, 0, msix::MASKED]; usize::from(size)] }
    }

    pub(crate) fn reset(&mut self) {
        self.entries.fill([0, 0, 0, msix::MASKED]);
    }

    /// The guest's message of a vector.
    pub(crate) fn message(&self, vector: u16) -> Option<Message> {
        let [low, high, data, _] = *self.entries.get(usize::from(vector))?;
        Some(Message { address: u64::from(low) | u64::from(high) << 32, data })
    }

    /// Whether the guest masked a vector; vectors beyond the table are.
    pub(crate) fn is_masked(&self, vector: u16) -> bool {
        self.entries.get(usize::from(vector)).is_none_or(|entry| entry[3] & msix::MASKED != 0)
    }

    /// Reads the bytes at `offset`, naturally aligned.
    pub(crate) fn read(&self, offset: u64, width: Width) -> u64 {
        (0..width.bytes()).fold(0, |value, index| {
            let byte = self.byte(offset.saturating_add(index));
            value | u64::from(byte) << (index * 8)
        })
    }

    fn byte(&self, offset: u64) -> u8 {
        let Some((entry, word, byte)) = place(offset) else { return u8::MAX };
        let value = self.entries.get(entry).and_then(|entry| entry.get(word)).map(|word| word.to_le_bytes());
        value.and_then(|bytes| bytes.get(byte).copied()).unwrap_or(u8::MAX)
    }

    /// Writes the low bytes of `value`; tells the vector.
    pub(crate) fn write(&mut self, offset: u64, width: Width, value: u64) -> Option<u16> {
        let length = usize::try_from(width.bytes()).unwrap_or(8);
        for (index, byte) in (0..).zip(value.to_le_bytes()).take(length) {
            let (entry, word, at) = place(offset.saturating_add(index))?;
            let Some(word) = self.entries.get_mut(entry).and_then(|entry| entry.get_mut(word)) else { continue };
            let mut bytes = word.to_le_bytes();
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
            *word = u32::from_le_bytes(bytes);
        }
        u16::try_from(offset / msix::ENTRY).ok()
    }
}

/// Entry, word and byte of an offset in the table.
fn place(offset: u64) -> Option<(usize, usize, usize)> {
    let entry = usize::try_from(offset / msix::ENTRY).ok()?;
    let within = usize::try_from(offset % msix::ENTRY).ok()?;
    Some((entry, within / 4, within % 4))
}

/// The table in the function.
pub(crate) struct PhysicalTable<'a, W> {
    pub(crate) windows: &'a W,
    pub(crate) geometry: MsixGeometry,
}

impl<W: Windows> PhysicalTable<'_, W> {
    /// Gives a vector its message; it is masked while it changes.
    pub(crate) fn set(&self, vector: u16, message: Message, masked: bool) {
        self.set_masked(vector, true);
        let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
        self.write(vector, 0, u32::from_le_bytes([a, b, c, d]));
        self.write(vector, 4, u32::from_le_bytes([e, f, g, h]));
        self.write(vector, 8, message.data);
        if !masked {
            self.set_masked(vector, false);
        }
    }

    /// Masks or unmasks a vector. Once it returns from masking, the function sends no more for it.
    pub(crate) fn set_masked(&self, vector: u16, masked: bool) {
        self.write(vector, 12, u32::from(masked));
        if masked && vector < self.geometry.size {
            // Reading the function's memory pushes the write there, and what it sent before it here.
            self.windows.read(self.geometry.table_bar, self.place(vector, 12), Width::Double);
        }
    }

    fn place(&self, vector: u16, offset: u64) -> u64 {
        let entry = u64::from(vector).saturating_mul(msix::ENTRY);
        self.geometry.table_offset.saturating_add(entry).saturating_add(offset)
    }

    fn write(&self, vector: u16, offset: u64, value: u32) {
        if vector >= self.geometry.size {
            return;
        }
        self.windows.write(self.geometry.table_bar, self.place(vector, offset), Width::Double, u64::from(value));
    }
}
