//! How large a function's windows are: all ones written, what sticks read, the old value written back (PCI Local Bus
//! Specification section 6.2.5.1), with decoding off meanwhile, so that the function answers nowhere else.

use iommu::address::PciAddress;

use super::access::ConfigurationAccess;
use super::function::{Bar, BarKind, Function};
use super::scan::{COMMAND, COMMAND_MEMORY, COMMAND_PORTS};

const FIRST: u16 = 0x10;
const ROM: u16 = 0x30;
const ROM_OF_BRIDGE: u16 = 0x38;

const PORT: u32 = 1 << 0;
const TYPE: u32 = 3 << 1;
const TYPE_64: u32 = 2 << 1;
const PREFETCHABLE: u32 = 1 << 3;

/// Fills in `bars` and `rom`.
pub(super) fn size(access: &impl ConfigurationAccess, function: &mut Function) {
    let (count, rom) = match function.header_type {
        0 => (6, ROM),
        1 => (2, ROM_OF_BRIDGE),
        _ => return,
    };
    // A host bridge decodes memory itself while its decoding is off, and is never given away.
    if function.class.base == 6 && function.class.sub == 0 {
        return;
    }
    let address = function.address;
    let command = access.read_u16(address, COMMAND);
    access.write_u16(address, COMMAND, command & !(COMMAND_MEMORY | COMMAND_PORTS));
    let mut index = 0;
    while index < count {
        let (bar, taken) = bar(access, address, FIRST + index * 4, index + 1 < count);
        if let Some(place) = function.bars.get_mut(usize::from(index)) {
            *place = bar;
        }
        index += taken;
    }
    function.rom = self::rom(access, address, rom);
    access.write_u16(address, COMMAND, command);
}

/// One BAR, and how many registers it takes.
fn bar(access: &impl ConfigurationAccess, function: PciAddress, offset: u16, has_next: bool) -> (Option<Bar>, u16) {
    let low = access.read_u32(function, offset);
    if low & PORT != 0 {
        // Port numbers have 16 bits here; some functions implement no more.
        let mask = probe(access, function, offset, u32::MAX) & !3 & 0xffff;
        return (window(BarKind::Port, u64::from(low & !3), u64::from(mask)), 1);
    }
    let prefetchable = low & PREFETCHABLE != 0;
    if low & TYPE != TYPE_64 || !has_next {
        let mask = probe(access, function, offset, u32::MAX) & !0xf;
        return (window(BarKind::Memory32 { prefetchable }, u64::from(low & !0xf), u64::from(mask)), 1);
    }
    let high = access.read_u32(function, offset + 4);
    let mask = u64::from(probe(access, function, offset + 4, u32::MAX)) << 32
        | u64::from(probe(access, function, offset, u32::MAX) & !0xf);
    let address = u64::from(high) << 32 | u64::from(low & !0xf);
    (window(BarKind::Memory64 { prefetchable }, address, mask), 2)
}

fn rom(access: &impl ConfigurationAccess, function: PciAddress, offset: u16) -> Option<Bar> {
    // Bit 0 enables it, bits 10:1 are reserved or status.
    let low = access.read_u32(function, offset);
    let mask = probe(access, function, offset, !0x7ff) & !0x7ff;
    window(BarKind::Memory32 { prefetchable: false }, u64::from(low & !0x7ff), u64::from(mask))
}

/// What sticks of `ones`; the old value is back afterwards.
fn probe(access: &impl ConfigurationAccess, function: PciAddress, offset: u16, ones: u32) -> u32 {
    let before = access.read_u32(function, offset);
    access.write_u32(function, offset, ones);
    let sticks = access.read_u32(function, offset);
    access.write_u32(function, offset, before);
    sticks
}

/// A window whose address bits that can be set are `mask`: its size is the lowest of them.
fn window(kind: BarKind, address: u64, mask: u64) -> Option<Bar> {
    let size = mask & mask.wrapping_neg();
    (size != 0).then_some(Bar { kind, address, size })
}
