//! The guest-physical address map: where RAM, firmware area, PCI windows and interrupt controllers of a VM lie.
//!
//! One table; the loaders, the e820 and multiboot memory maps, the ACPI tables and the virtual PCI bus all derive from
//! it, so they cannot disagree.
//!
//! ```text
//! 0                 RAM (conventional memory)
//! 0x9_FC00          RAM that firmware keeps (extended BIOS data area, video memory, ROM area with the ACPI tables)
//! 0x10_0000         RAM up to min(memory, 2 GiB)
//! 0xB000_0000       PCI configuration space, memory mapped (ECAM), 16 buses
//! 0xC000_0000       32-bit PCI window, up to 0xFE00_0000
//! 0xFEC0_0000       I/O APIC
//! 0xFEE0_0000       local APIC
//! 0x1_0000_0000     the rest of RAM, then the 64-bit PCI window
//! ```

use alloc::vec::Vec;
use core::fmt;

use crate::memory::GuestPhysical;

/// Where RAM below 4 GiB ends at the latest.
const LOW_MEMORY_LIMIT: u64 = 0x8000_0000;
/// Where RAM above 4 GiB starts.
const HIGH_MEMORY: u64 = 0x1_0000_0000;
/// The unit in which a VM gets memory: a large page.
const MEMORY_UNIT: u64 = 0x20_0000;
/// The smallest VM.
const MEMORY_MINIMUM: u64 = MEMORY_UNIT;
/// The largest VM: what a three-level second stage (39 bits) can reach, less room for the 64-bit window.
const MEMORY_MAXIMUM: u64 = 1 << 38;
/// The smallest 64-bit PCI window.
const WINDOW_64_MINIMUM: u64 = 1 << 30;
/// The largest 64-bit PCI window.
const WINDOW_64_MAXIMUM: u64 = 1 << 37;
/// Bytes of configuration space of one bus.
const BUS_CONFIGURATION: u64 = 1 << 20;
/// How many buses the configuration window has.
const BUSES: u64 = 16;

/// The registers of the I/O APIC.
pub const IO_APIC: Range = Range { start: 0xfec0_0000, length: 0x1000 };
/// The registers of the local APICs, at their reset address.
pub const LOCAL_APIC: Range = Range { start: 0xfee0_0000, length: 0x1000 };
/// I/O ports for functions' I/O BARs.
pub const PCI_PORTS: Range = Range { start: 0xc000, length: 0x3000 };
/// Where the ACPI tables lie: the part of the ROM area that guests search for the root pointer.
pub const ACPI_TABLES: Range = Range { start: 0xe_0000, length: 0x2_0000 };
/// Conventional memory in which the loaders keep what they hand over (boot parameters, command line, descriptor
/// table, first page tables). It is RAM for the guest, who may use it once it has read them.
pub const LOADER_AREA: Range = Range { start: 0x1_0000, length: 0x7_0000 };
/// Where conventional memory ends and the extended BIOS data area begins.
const CONVENTIONAL_END: u64 = 0x9_fc00;
/// Where memory above the ROM area starts.
const EXTENDED_MEMORY: u64 = 0x10_0000;

/// Guest-physical addresses (or I/O ports) from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub start: u64,
    /// How many; never so many that the end passes the address space.
    pub length: u64,
}

impl Range {
    /// The first address behind the range.
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// Whether `length` bytes from `start` on all lie in here.
    pub const fn contains(self, start: u64, length: u64) -> bool {
        match start.checked_add(length) {
            Some(end) => start >= self.start && end <= self.end(),
            None => false,
        }
    }

    /// Whether the two share an address.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end() && self.length != 0 && other.length != 0
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end())
    }
}

/// What a region is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// RAM that the guest may use.
    Memory,
    /// RAM that the guest must leave alone: it holds tables.
    Firmware,
    /// The memory-mapped PCI configuration space.
    Configuration,
    /// A window for BARs: what lies there belongs to the functions of the virtual bus.
    PciWindow,
    /// An interrupt controller.
    InterruptController,
}

/// One row of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its addresses.
    pub range: Range,
    /// What it is for.
    pub kind: RegionKind,
}

/// A row of the memory map as guests get it (ACPI section 15, "address range types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// Its addresses.
    pub range: Range,
    /// 1 RAM, 2 reserved.
    pub kind: u32,
}

/// Type 1 of [`E820Entry`]: RAM.
pub const E820_MEMORY: u32 = 1;
/// Type 2 of [`E820Entry`]: reserved.
pub const E820_RESERVED: u32 = 2;

/// Why no map can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The memory is not a whole number of large pages, or too little, or too much.
    Memory {
        /// The bytes asked for.
        bytes: u64,
    },
    /// The 64-bit BARs do not fit any window.
    Window {
        /// The bytes that the BARs need.
        bytes: u64,
    },
    /// The processor has no such addresses.
    Width {
        /// The first address behind RAM and windows.
        end: u64,
        /// The processor's physical address bits.
        bits: u8,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { bytes } => write!(
                f,
                "a VM cannot have {bytes:#x} bytes of memory: it must be a multiple of 2 MiB from 2 MiB to 256 GiB; \
                 change `memory` in the configuration"
            ),
            Self::Window { bytes } => write!(
                f,
                "the 64-bit BARs of the assigned functions need {bytes:#x} bytes, and a VM's 64-bit PCI window has at \
                 most {WINDOW_64_MAXIMUM:#x}; assign fewer functions to this VM"
            ),
            Self::Width { end, bits } => write!(
                f,
                "the VM's RAM and PCI windows end at {end:#x}, and this processor's physical addresses have {bits} \
                 bits; give the VM less `memory`, or functions with smaller BARs"
            ),
        }
    }
}

impl core::error::Error for MapError {}

/// The address map of one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressMap {
    /// Sorted by address, without overlap.
    regions: Vec<Region>,
    low_memory: u64,
    high_memory: u64,
    window_64: Range,
}

impl AddressMap {
    /// The map of a VM with `memory` bytes of RAM whose functions have `bars_64` bytes of 64-bit BARs in all.
    ///
    /// # Errors
    /// [`MapError`] when the sizes break a rule.
    pub fn new(memory: u64, bars_64: u64) -> Result<Self, MapError> {
        if !memory.is_multiple_of(MEMORY_UNIT) || !(MEMORY_MINIMUM..=MEMORY_MAXIMUM).contains(&memory) {
            return Err(MapError::Memory { bytes: memory });
        }
        let low_memory = memory.min(LOW_MEMORY_LIMIT);
        let high_memory = memory - low_memory;
        // Twice the sum leaves room for the alignment of each.
        let window_length = bars_64
            .checked_mul(2)
            .and_then(u64::checked_next_power_of_two)
            .map(|length| length.max(WINDOW_64_MINIMUM))
            .filter(|length| *length <= WINDOW_64_MAXIMUM)
            .ok_or(MapError::Window { bytes: bars_64 })?;
        let window_start = (HIGH_MEMORY + high_memory).next_multiple_of(window_length);
        let window_64 = Range { start: window_start, length: window_length };

        let mut regions = Vec::new();
        let mut region = |start: u64, end: u64, kind| {
            if end > start {
                regions.push(Region { range: Range { start, length: end - start }, kind });
            }
        };
        region(0, CONVENTIONAL_END, RegionKind::Memory);
        region(CONVENTIONAL_END, EXTENDED_MEMORY, RegionKind::Firmware);
        region(EXTENDED_MEMORY, low_memory, RegionKind::Memory);
        region(0xb000_0000, 0xb000_0000 + BUSES * BUS_CONFIGURATION, RegionKind::Configuration);
        region(0xc000_0000, 0xfe00_0000, RegionKind::PciWindow);
        region(IO_APIC.start, IO_APIC.end(), RegionKind::InterruptController);
        region(LOCAL_APIC.start, LOCAL_APIC.end(), RegionKind::InterruptController);
        region(HIGH_MEMORY, HIGH_MEMORY + high_memory, RegionKind::Memory);
        region(window_64.start, window_64.end(), RegionKind::PciWindow);
        Ok(Self { regions, low_memory, high_memory, window_64 })
    }

    /// Whether a guest that is told of `bits` physical address bits, as many as the processor has, can reach all of it.
    ///
    /// # Errors
    /// [`MapError::Width`] when it cannot.
    pub fn check_width(&self, bits: u8) -> Result<(), MapError> {
        let end = self.window_64.end();
        let limit = 1u64.checked_shl(bits.into()).unwrap_or(u64::MAX);
        if end <= limit { Ok(()) } else { Err(MapError::Width { end, bits }) }
    }

    /// All rows, sorted by address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// What RAM must be behind the map: one or two ranges, each a multiple of 2 MiB. The firmware area is part of the
    /// first, so that large pages cover it.
    pub fn memory(&self) -> impl Iterator<Item = Range> {
        let low = Range { start: 0, length: self.low_memory };
        let high = Range { start: HIGH_MEMORY, length: self.high_memory };
        [low, high].into_iter().filter(|range| range.length != 0)
    }

    /// Where RAM below 4 GiB ends.
    pub fn low_memory_end(&self) -> u64 {
        self.low_memory
    }

    /// The memory-mapped configuration space: of bus 0 first.
    pub fn configuration(&self) -> Range {
        Range { start: 0xb000_0000, length: BUSES * BUS_CONFIGURATION }
    }

    /// The last bus of the configuration space.
    pub fn last_bus(&self) -> u8 {
        (BUSES - 1) as u8
    }

    /// The PCI window below 4 GiB.
    pub fn window_32(&self) -> Range {
        Range { start: 0xc000_0000, length: 0x3e00_0000 }
    }

    /// The PCI window above RAM.
    pub fn window_64(&self) -> Range {
        self.window_64
    }

    /// What lies at an address.
    pub fn region_of(&self, address: GuestPhysical) -> Option<&Region> {
        self.regions.iter().find(|region| region.range.contains(address.as_u64(), 1))
    }

    /// Whether these bytes are RAM that a loader may fill.
    pub fn is_memory(&self, start: u64, length: u64) -> bool {
        self.regions.iter().any(|region| region.kind == RegionKind::Memory && region.range.contains(start, length))
    }

    /// The memory map for guests. PCI windows are left out: what the map does not name is free for functions.
    pub fn e820(&self) -> impl Iterator<Item = E820Entry> {
        self.regions.iter().filter_map(|region| {
            let kind = match region.kind {
                RegionKind::Memory => E820_MEMORY,
                RegionKind::Firmware | RegionKind::Configuration | RegionKind::InterruptController => E820_RESERVED,
                RegionKind::PciWindow => return None,
            };
            Some(E820Entry { range: region.range, kind })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_that_fits_below_the_hole_stays_there() {
        let map = AddressMap::new(512 << 20, 0).unwrap();
        assert_eq!(map.memory().collect::<Vec<_>>(), [Range { start: 0, length: 512 << 20 }]);
        assert_eq!(map.window_64(), Range { start: 4 * GIB, length: GIB });
    }

    #[test]
    fn the_rest_of_a_large_memory_lies_above_four_gib() {
        let map = AddressMap::new(5 * GIB, 0).unwrap();
        let memory: Vec<_> = map.memory().collect();
        assert_eq!(memory, [Range { start: 0, length: 2 * GIB }, Range { start: 4 * GIB, length: 3 * GIB }]);
        assert_eq!(map.window_64().start, 7 * GIB);
    }

    #[test]
    fn the_e820_map_keeps_tables_and_configuration_space_from_use() {
        let map = AddressMap::new(64 << 20, 0).unwrap();
        let kind_at = |address| map.e820().find(|entry| entry.range.contains(address, 1)).map(|entry| entry.kind);
        assert_eq!(kind_at(0x1000), Some(E820_MEMORY));
        assert_eq!(kind_at(ACPI_TABLES.start), Some(E820_RESERVED));
        assert_eq!(kind_at(0x10_0000), Some(E820_MEMORY));
        assert_eq!(kind_at(0xb000_0000), Some(E820_RESERVED));
        assert_eq!(kind_at(0xb0ff_ffff), Some(E820_RESERVED));
        assert_eq!(kind_at(0xc000_0000), None, "a PCI window is not in the map");
        assert!(map.is_memory(LOADER_AREA.start, LOADER_AREA.length));
    }

    #[test]
    fn sizes_that_break_the_rule_are_refused_with_the_number() {
        for bytes in [0, 0x10_0000, 0x40_1000, MEMORY_MAXIMUM + MEMORY_UNIT, u64::MAX] {
            assert_eq!(AddressMap::new(bytes, 0), Err(MapError::Memory { bytes }));
        }
        assert_eq!(AddressMap::new(GIB, u64::MAX), Err(MapError::Window { bytes: u64::MAX }));
    }

    #[test]
    fn a_map_that_passes_the_processors_addresses_is_refused() {
        let map = AddressMap::new(64 * GIB, 0).unwrap();
        assert_eq!(map.check_width(36), Err(MapError::Width { end: 67 * GIB, bits: 36 }));
        assert_eq!(map.check_width(37), Ok(()));
        let window = AddressMap::new(GIB, 32 * GIB).unwrap();
        assert_eq!(window.check_width(36), Err(MapError::Width { end: 128 * GIB, bits: 36 }));
        assert_eq!(window.check_width(64), Ok(()));
    }

    proptest! {
        #[test]
        fn regions_are_sorted_and_apart(units in 1u64..65536, bars in 0u64..(1 << 36)) {
            let map = AddressMap::new(units * MEMORY_UNIT, bars).unwrap();
            for pair in map.regions().windows(2) {
                prop_assert!(pair[0].range.end() <= pair[1].range.start, "{:?}", pair);
            }
            prop_assert_eq!(map.memory().map(|range| range.length).sum::<u64>(), units * MEMORY_UNIT);
            prop_assert!(map.window_64().length >= bars);
        }
    }
}
