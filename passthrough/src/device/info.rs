//! What a device tells of itself: DEVICE_GET_INFO and GET_REGION_INFO.

use bitflags::bitflags;
use iommu::address::PAGE_SIZE;

use super::{Device, DeviceError};
use crate::door::Machine;
use crate::region::BarKind;

/// What DEVICE_GET_INFO tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The device can be reset.
    pub can_reset: bool,
    /// Region indices, whether or not something is behind them.
    pub regions: u32,
    /// Interrupt indices.
    pub irqs: u32,
}

bitflags! {
    /// What can be done with a region.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RegionFlags: u32 {
        /// Reading.
        const READ = 1;
        /// Writing.
        const WRITE = 2;
        /// Mapping (parts of) it straight.
        const MMAP = 4;
    }
}

/// What GET_REGION_INFO tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// What can be done.
    pub flags: RegionFlags,
    /// Bytes; 0 when nothing is behind the index.
    pub size: u64,
    /// The region holds the MSI-X table, and the rest of it may be mapped.
    pub has_msix_table: bool,
}

/// A run of a memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarPart {
    /// Its first byte in the BAR.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// Accesses must come to [`Device::region_read`] and [`Device::region_write`]; else the part can be mapped
    /// straight into the guest.
    pub trapped: bool,
}

/// The region index of the expansion ROM.
const ROM: u32 = 6;
/// The region index of configuration space.
const CONFIGURATION: u32 = 7;
/// The region index of the legacy VGA window, which no device of this crate has.
const REGIONS: u32 = 9;

impl<M: Machine> Device<M> {
    /// DEVICE_GET_INFO.
    pub fn info(&self) -> DeviceInfo {
        DeviceInfo { can_reset: self.method.is_some(), regions: REGIONS, irqs: 5 }
    }

    /// GET_REGION_INFO, by VFIO's number: 0 to 5 BARs, 6 ROM, 7 configuration space.
    pub fn region_info(&self, index: u32) -> Result<RegionInfo, DeviceError> {
        let nothing = RegionInfo { flags: RegionFlags::empty(), size: 0, has_msix_table: false };
        let bars = self.configuration.bars();
        match index {
            ROM => {
                Ok(bars.rom.map_or(nothing, |rom| RegionInfo { flags: RegionFlags::READ, size: rom.size, ..nothing }))
            }
            CONFIGURATION => Ok(RegionInfo {
                flags: RegionFlags::READ | RegionFlags::WRITE,
                size: u64::from(self.configuration.size()),
                ..nothing
            }),
            0..ROM => {
                let number = u8::try_from(index).unwrap_or(u8::MAX);
                let Some(bar) = bars.get(number) else { return Ok(nothing) };
                let mut flags = RegionFlags::READ | RegionFlags::WRITE;
                flags.set(RegionFlags::MMAP, self.bar_parts(number).any(|part| !part.trapped));
                let has_msix_table = self.msix_geometry().is_some_and(|geometry| geometry.table_bar == number);
                Ok(RegionInfo { flags, size: bar.size, has_msix_table })
            }
            _ => Err(DeviceError::UnknownRegion(index)),
        }
    }

    /// A memory BAR in runs, in order: what can be mapped straight, and what must be trapped. Nothing for an I/O BAR.
    pub fn bar_parts(&self, bar: u8) -> impl Iterator<Item = BarPart> + use<M> {
        let size = match self.configuration.bars().get(bar) {
            Some(found) if found.kind != BarKind::Io => found.size,
            _ => 0,
        };
        let trapped = if size < PAGE_SIZE {
            // Less than a page: whatever shares the page must not be the guest's.
            0..size
        } else {
            let pages = self.msix_geometry().and_then(|geometry| geometry.trapped(bar)).unwrap_or(size..size);
            pages.start.min(size)..pages.end.min(size)
        };
        [(0, trapped.start, false), (trapped.start, trapped.end, true), (trapped.end, size, false)]
            .into_iter()
            .map(|(start, end, trapped)| BarPart { offset: start, length: end.saturating_sub(start), trapped })
            .filter(|part| part.length > 0)
    }
}
