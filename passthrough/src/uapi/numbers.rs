//! Numbers of linux/vfio.h.

/// What GET_API_VERSION answers.
pub const API_VERSION: u32 = 0;
/// The type byte of every call.
pub const CALL_TYPE: u8 = b';';
/// The number of the first call.
pub const CALL_BASE: u8 = 100;

/// The call number of `n` as a process passes it: no direction and no size are encoded.
pub const fn call(n: u8) -> u32 {
    (CALL_TYPE as u32) << 8 | (CALL_BASE + n) as u32
}

/// Calls on any object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the calls")]
#[repr(u8)]
pub enum Call {
    GetApiVersion = 0,
    CheckExtension = 1,
    SetIommu = 2,
    GroupGetStatus = 3,
    GroupSetContainer = 4,
    GroupUnsetContainer = 5,
    GroupGetDevice = 6,
    DeviceGetInfo = 7,
    DeviceGetRegionInfo = 8,
    DeviceGetIrqInfo = 9,
    DeviceSetIrqs = 10,
    DeviceReset = 11,
    /// On a device; 12 on a container is IOMMU_GET_INFO.
    DeviceGetPciHotResetInfo = 12,
    /// On a device; 13 on a container is IOMMU_MAP_DMA.
    DevicePciHotReset = 13,
    /// On a device; 16 on a container is IOMMU_DISABLE.
    DeviceIoEvent = 16,
    /// On a device; 17 on a container is IOMMU_DIRTY_PAGES.
    DeviceFeature = 17,
}

impl Call {
    /// The number as a process passes it.
    pub const fn number(self) -> u32 {
        call(self as u8)
    }
}

/// On a container: IOMMU_GET_INFO.
pub const IOMMU_GET_INFO: u32 = call(12);
/// On a container: IOMMU_MAP_DMA.
pub const IOMMU_MAP_DMA: u32 = call(13);
/// On a container: IOMMU_UNMAP_DMA.
pub const IOMMU_UNMAP_DMA: u32 = call(14);
/// On a container: IOMMU_DIRTY_PAGES.
pub const IOMMU_DIRTY_PAGES: u32 = call(17);

/// Extensions, and types of SET_IOMMU.
pub mod extension {
    /// The type1 driver.
    pub const TYPE1: u32 = 1;
    /// Its second version.
    pub const TYPE1_V2: u32 = 3;
    /// DMA is coherent with the processors' caches.
    pub const COHERENT: u32 = 4;
    /// No remapping at all.
    pub const NO_IOMMU: u32 = 8;
    /// One call unmaps everything.
    pub const UNMAP_ALL: u32 = 9;
    /// Host addresses can be invalidated and set anew.
    pub const UPDATE_ADDRESS: u32 = 10;
}

/// Flags of the structures.
pub mod flags {
    /// Device info: can be reset.
    pub const DEVICE_RESET: u32 = 1;
    /// Device info: is a PCI function.
    pub const DEVICE_PCI: u32 = 2;
    /// Device info: has capabilities.
    pub const DEVICE_CAPABILITIES: u32 = 1 << 7;
    /// Region info: has capabilities.
    pub const REGION_CAPABILITIES: u32 = 8;
    /// SET_IRQS: no elements.
    pub const IRQ_DATA_NONE: u32 = 1;
    /// SET_IRQS: one byte a vector.
    pub const IRQ_DATA_BOOL: u32 = 2;
    /// SET_IRQS: one descriptor a vector.
    pub const IRQ_DATA_EVENT: u32 = 4;
    /// SET_IRQS: mask.
    pub const IRQ_MASK: u32 = 8;
    /// SET_IRQS: unmask.
    pub const IRQ_UNMASK: u32 = 16;
    /// SET_IRQS: trigger.
    pub const IRQ_TRIGGER: u32 = 32;
    /// Type1 info: page sizes are there.
    pub const INFO_PAGE_SIZES: u32 = 1;
    /// Type1 info: capabilities are there.
    pub const INFO_CAPABILITIES: u32 = 2;
    /// Mapping: devices may read.
    pub const MAP_READ: u32 = 1;
    /// Mapping: devices may write.
    pub const MAP_WRITE: u32 = 2;
    /// Mapping: a new host address for an invalidated one.
    pub const MAP_ADDRESS: u32 = 4;
    /// Unmapping: everything.
    pub const UNMAP_ALL: u32 = 2;
    /// Feature: read it.
    pub const FEATURE_GET: u32 = 1 << 16;
    /// Feature: write it.
    pub const FEATURE_SET: u32 = 1 << 17;
    /// Feature: only ask whether it is there.
    pub const FEATURE_PROBE: u32 = 1 << 18;
}

/// Ids in capability chains.
pub mod capability {
    /// Region: parts that can be mapped.
    pub const SPARSE_MAP: u16 = 1;
    /// Region: type and subtype.
    pub const REGION_TYPE: u16 = 2;
    /// Region: the MSI-X table may be mapped.
    pub const MSIX_MAPPABLE: u16 = 3;
    /// Type1: usable address ranges.
    pub const ADDRESS_RANGE: u16 = 1;
    /// Type1: dirty tracking.
    pub const MIGRATION: u16 = 2;
    /// Type1: mappings left.
    pub const MAPPINGS_LEFT: u16 = 3;
}

#[cfg(test)]
mod tests {
    use vfio_bindings::bindings::vfio;

    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_header() {
        assert_eq!(u32::from(CALL_TYPE), u32::from(vfio::VFIO_TYPE));
        assert_eq!(u32::from(CALL_BASE), vfio::VFIO_BASE);
        assert_eq!(API_VERSION, vfio::VFIO_API_VERSION);
        assert_eq!(Call::DeviceSetIrqs.number(), 0x3b6e);
        for (ours, theirs) in [
            (extension::TYPE1, vfio::VFIO_TYPE1_IOMMU),
            (extension::TYPE1_V2, vfio::VFIO_TYPE1v2_IOMMU),
            (extension::COHERENT, vfio::VFIO_DMA_CC_IOMMU),
            (extension::NO_IOMMU, vfio::VFIO_NOIOMMU_IOMMU),
            (extension::UNMAP_ALL, vfio::VFIO_UNMAP_ALL),
            (extension::UPDATE_ADDRESS, vfio::VFIO_UPDATE_VADDR),
            (flags::DEVICE_RESET, vfio::VFIO_DEVICE_FLAGS_RESET),
            (flags::DEVICE_PCI, vfio::VFIO_DEVICE_FLAGS_PCI),
            (flags::DEVICE_CAPABILITIES, vfio::VFIO_DEVICE_FLAGS_CAPS),
            (flags::REGION_CAPABILITIES, vfio::VFIO_REGION_INFO_FLAG_CAPS),
            (flags::IRQ_DATA_NONE, vfio::VFIO_IRQ_SET_DATA_NONE),
            (flags::IRQ_DATA_BOOL, vfio::VFIO_IRQ_SET_DATA_BOOL),
            (flags::IRQ_DATA_EVENT, vfio::VFIO_IRQ_SET_DATA_EVENTFD),
            (flags::IRQ_MASK, vfio::VFIO_IRQ_SET_ACTION_MASK),
            (flags::IRQ_UNMASK, vfio::VFIO_IRQ_SET_ACTION_UNMASK),
            (flags::IRQ_TRIGGER, vfio::VFIO_IRQ_SET_ACTION_TRIGGER),
            (flags::INFO_PAGE_SIZES, vfio::VFIO_IOMMU_INFO_PGSIZES),
            (flags::INFO_CAPABILITIES, vfio::VFIO_IOMMU_INFO_CAPS),
            (flags::MAP_READ, vfio::VFIO_DMA_MAP_FLAG_READ),
            (flags::MAP_WRITE, vfio::VFIO_DMA_MAP_FLAG_WRITE),
            (flags::MAP_ADDRESS, vfio::VFIO_DMA_MAP_FLAG_VADDR),
            (flags::UNMAP_ALL, vfio::VFIO_DMA_UNMAP_FLAG_ALL),
            (flags::FEATURE_GET, vfio::VFIO_DEVICE_FEATURE_GET),
            (flags::FEATURE_SET, vfio::VFIO_DEVICE_FEATURE_SET),
            (flags::FEATURE_PROBE, vfio::VFIO_DEVICE_FEATURE_PROBE),
            (u32::from(capability::SPARSE_MAP), vfio::VFIO_REGION_INFO_CAP_SPARSE_MMAP),
            (u32::from(capability::REGION_TYPE), vfio::VFIO_REGION_INFO_CAP_TYPE),
            (u32::from(capability::MSIX_MAPPABLE), vfio::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE),
            (u32::from(capability::ADDRESS_RANGE), vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE),
            (u32::from(capability::MIGRATION), vfio::VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION),
            (u32::from(capability::MAPPINGS_LEFT), vfio::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL),
        ] {
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn the_flags_of_the_objects_are_those_of_the_header() {
        use crate::device::RegionFlags;
        use crate::group::GroupStatus;
        use crate::interrupt::{IrqAction, IrqFlags, IrqIndex};
        assert_eq!(GroupStatus::VIABLE.bits(), vfio::VFIO_GROUP_FLAGS_VIABLE);
        assert_eq!(GroupStatus::CONTAINER_SET.bits(), vfio::VFIO_GROUP_FLAGS_CONTAINER_SET);
        assert_eq!(RegionFlags::READ.bits(), vfio::VFIO_REGION_INFO_FLAG_READ);
        assert_eq!(RegionFlags::WRITE.bits(), vfio::VFIO_REGION_INFO_FLAG_WRITE);
        assert_eq!(RegionFlags::MMAP.bits(), vfio::VFIO_REGION_INFO_FLAG_MMAP);
        assert_eq!(IrqFlags::EVENT.bits(), vfio::VFIO_IRQ_INFO_EVENTFD);
        assert_eq!(IrqFlags::MASKABLE.bits(), vfio::VFIO_IRQ_INFO_MASKABLE);
        assert_eq!(IrqFlags::AUTOMASKED.bits(), vfio::VFIO_IRQ_INFO_AUTOMASKED);
        assert_eq!(IrqFlags::NORESIZE.bits(), vfio::VFIO_IRQ_INFO_NORESIZE);
        assert_eq!(IrqAction::MASK.bits(), flags::IRQ_MASK);
        assert_eq!(IrqAction::UNMASK.bits(), flags::IRQ_UNMASK);
        assert_eq!(IrqAction::TRIGGER.bits(), flags::IRQ_TRIGGER);
        for index in IrqIndex::ALL {
            assert_eq!(IrqIndex::from_number(index as u32), Some(index));
        }
        assert_eq!(IrqIndex::MsiX as u32, vfio::VFIO_PCI_MSIX_IRQ_INDEX);
        assert_eq!(IrqIndex::Request as u32, vfio::VFIO_PCI_REQ_IRQ_INDEX);
    }
}
