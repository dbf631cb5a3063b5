//! Structures of linux/vfio.h, byte for byte, in the machine's (little-endian) order.

macro_rules! structure {
    (
        $(#[$doc:meta])*
        $name:ident as $theirs:ident: $size:literal {
            $($(#[$field_doc:meta])* $field:ident at $offset:literal: $kind:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        const _: () = assert!(size_of::<$name>() == $size);
        $(const _: () = assert!(core::mem::offset_of!($name, $field) == $offset);)*

        impl $name {
            /// Its bytes.
            pub const SIZE: usize = $size;

            /// From the first bytes; `None` when there are too few.
            pub fn decode(bytes: &[u8]) -> Option<Self> {
                Some(Self {
                    $($field: {
                        const WIDTH: usize = size_of::<$kind>();
                        let field = bytes.get($offset..$offset + WIDTH)?;
                        <$kind>::from_le_bytes(field.try_into().ok()?)
                    },)*
                })
            }

            /// As bytes; padding is 0.
            pub fn encode(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                $(
                    for (slot, byte) in bytes.iter_mut().skip($offset).zip(self.$field.to_le_bytes()) {
                        *slot = byte;
                    }
                )*
                bytes
            }
        }

        #[cfg(test)]
        #[test]
        #[expect(non_snake_case, reason = "named after the structure that it checks")]
        fn $name() {
            use vfio_bindings::bindings::vfio;
            assert_eq!(size_of::<vfio::$theirs>(), $size);
            $(assert_eq!(core::mem::offset_of!(vfio::$theirs, $field), $offset, stringify!($field));)*
            let bytes: std::vec::Vec<u8> = (1..=$size).collect();
            let decoded = $name::decode(&bytes).unwrap();
            let encoded = decoded.encode();
            let mut covered = std::vec![false; $size];
            $(
                let range = $offset..$offset + size_of::<$kind>();
                assert_eq!(encoded.get(range.clone()), bytes.get(range.clone()), stringify!($field));
                covered.get_mut(range).unwrap().fill(true);
            )*
            assert!(covered.iter().all(|covered| *covered), "every byte has a field");
            assert_eq!($name::decode(&bytes[1..]), None, "too short");
        }
    };
}

structure! {
    /// GROUP_GET_STATUS.
    GroupStatus as vfio_group_status: 8 {
        /// Bytes that the caller offers.
        argsz at 0: u32,
        /// VIABLE 1, CONTAINER_SET 2.
        flags at 4: u32,
    }
}

structure! {
    /// DEVICE_GET_INFO.
    DeviceInfo as vfio_device_info: 24 {
        /// Bytes that the caller offers.
        argsz at 0: u32,
        /// RESET 1, PCI 2, CAPS 128.
        flags at 4: u32,
        /// Region indices.
        num_regions at 8: u32,
        /// Interrupt indices.
        num_irqs at 12: u32,
        /// Where the first capability stands, from the start; 0 for none.
        cap_offset at 16: u32,
        /// 0.
        pad at 20: u32,
    }
}

structure! {
    /// DEVICE_GET_REGION_INFO.
    RegionInfo as vfio_region_info: 32 {
        /// Bytes that the caller offers.
        argsz at 0: u32,
        /// READ 1, WRITE 2, MMAP 4, CAPS 8.
        flags at 4: u32,
        /// Which region.
        index at 8: u32,
        /// Where the first capability stands; 0 for none.
        cap_offset at 12: u32,
        /// Bytes of the region.
        size at 16: u64,
        /// Where it starts in the device's stream.
        offset at 24: u64,
    }
}

structure! {
    /// DEVICE_GET_IRQ_INFO.
    IrqInfo as vfio_irq_info: 16 {
        /// Bytes that the caller offers.
        argsz at 0: u32,
        /// EVENTFD 1, MASKABLE 2, AUTOMASKED 4, NORESIZE 8.
        flags at 4: u32,
        /// Which interrupt.
        index at 8: u32,
        /// Its vectors.
        count at 12: u32,
    }
}

structure! {
    /// DEVICE_SET_IRQS, before its elements.
    IrqSet as vfio_irq_set: 20 {
        /// Bytes that the caller offers, elements included.
        argsz at 0: u32,
        /// One kind of data and one action.
        flags at 4: u32,
        /// Which interrupt.
        index at 8: u32,
        /// The first vector.
        start at 12: u32,
        /// So many vectors.
        count at 16: u32,
    }
}

structure! {
    /// IOMMU_GET_INFO of type1.
    Type1Info as vfio_iommu_type1_info: 24 {
        /// Bytes that the caller offers.
        argsz at 0: u32,
        /// PGSIZES 1, CAPS 2.
        flags at 4: u32,
        /// One bit a page size.
        iova_pgsizes at 8: u64,
        /// Where the first capability stands; 0 for none.
        cap_offset at 16: u32,
        /// 0.
        pad at 20: u32,
    }
}

structure! {
    /// IOMMU_MAP_DMA.
    DmaMap as vfio_iommu_type1_dma_map: 32 {
        /// Bytes that the caller offers.
        argsz at 0: u32,
        /// READ 1, WRITE 2, VADDR 4.
        flags at 4: u32,
        /// The process's address.
        vaddr at 8: u64,
        /// The device's address.
        iova at 16: u64,
        /// Bytes.
        size at 24: u64,
    }
}

structure! {
    /// IOMMU_UNMAP_DMA, before its bitmap.
    DmaUnmap as vfio_iommu_type1_dma_unmap: 24 {
        /// Bytes that the caller offers.
        argsz at 0: u32,
        /// GET_DIRTY_BITMAP 1, ALL 2, VADDR 4.
        flags at 4: u32,
        /// The device's address.
        iova at 8: u64,
        /// Bytes; afterwards those that were unmapped.
        size at 16: u64,
    }
}

structure! {
    /// The header of a capability in a chain.
    CapabilityHeader as vfio_info_cap_header: 8 {
        /// Which.
        id at 0: u16,
        /// Its version.
        version at 2: u16,
        /// Where the next stands, from the start of the structure; 0 for none.
        next at 4: u32,
    }
}

structure! {
    /// One usable range, both ends included.
    IovaRange as vfio_iova_range: 16 {
        /// First address.
        start at 0: u64,
        /// Last address.
        end at 8: u64,
    }
}

structure! {
    /// A part of a region that can be mapped.
    SparseArea as vfio_region_sparse_mmap_area: 16 {
        /// Its first byte.
        offset at 0: u64,
        /// Its bytes.
        size at 8: u64,
    }
}

structure! {
    /// DEVICE_FEATURE, before its payload.
    Feature as vfio_device_feature: 8 {
        /// Bytes that the caller offers, payload included.
        argsz at 0: u32,
        /// The feature in 15:0; GET 16, SET 17, PROBE 18.
        flags at 4: u32,
    }
}

structure! {
    /// DEVICE_PCI_HOT_RESET, before its groups.
    HotReset as vfio_pci_hot_reset: 12 {
        /// Bytes that the caller offers.
        argsz at 0: u32,
        /// 0.
        flags at 4: u32,
        /// So many groups.
        count at 8: u32,
    }
}

structure! {
    /// DEVICE_IOEVENTFD.
    IoEvent as vfio_device_ioeventfd: 32 {
        /// Bytes that the caller offers.
        argsz at 0: u32,
        /// Bytes of the access: 1, 2, 4 or 8.
        flags at 4: u32,
        /// Where in the device's stream.
        offset at 8: u64,
        /// What is written.
        data at 16: u64,
        /// By whose signal; -1 ends it.
        fd at 24: i32,
        /// 0.
        reserved at 28: u32,
    }
}
