//! Where the BARs of a VM's functions lie: first as firmware would place them, then as the guest moves them.

use alloc::string::ToString;
use alloc::vec::Vec;

use super::registers::{BarRegisters, DECODE_MEMORY, DECODE_PORTS};
use super::{Bar, BarKind, PciError, VirtualFunction};
use crate::vm::map::{AddressMap, PCI_PORTS, Range};

/// A page: no two memory BARs are first placed in the same, so that each can be mapped into the guest.
const PAGE: u64 = 4096;

/// One BAR and where it answers now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    /// The function's place in the list of functions.
    pub(super) function: usize,
    pub(super) index: usize,
    pub(super) bar: Bar,
    pub(super) at: Option<u64>,
}

impl Placement {
    fn range_at(&self, at: u64) -> Range {
        Range { start: at, length: self.bar.size }
    }

    /// The offset of an address in this BAR.
    pub(super) fn offset_of(&self, ports: bool, address: u64, size: u8) -> Option<u64> {
        let at = self.at.filter(|_| ports == (self.bar.kind == BarKind::Ports))?;
        self.range_at(at).contains(address, size.into()).then(|| address - at)
    }
}

/// Every BAR of every function, nowhere yet.
///
/// # Errors
/// [`PciError::Size`] for a BAR that cannot be.
pub(super) fn all<'a>(functions: impl Iterator<Item = &'a dyn VirtualFunction>) -> Result<Vec<Placement>, PciError> {
    let mut placements = Vec::new();
    for (function, owner) in functions.enumerate() {
        for (index, bar) in owner.bars().into_iter().enumerate() {
            let Some(bar) = bar else { continue };
            let minimum = if bar.kind == BarKind::Ports { 4 } else { 16 };
            let lacks_register = bar.kind == BarKind::Memory64 && index + 1 >= super::BARS;
            if !bar.size.is_power_of_two() || bar.size < minimum || lacks_register {
                return Err(PciError::Size { function: owner.name().to_string(), bar: index, size: bar.size });
            }
            placements.push(Placement { function, index, bar, at: None });
        }
    }
    Ok(placements)
}

/// The first address of each BAR, largest first so that alignment wastes nothing.
///
/// # Errors
/// [`PciError::NoRoom`] names the first that does not fit.
pub(super) fn first_addresses(
    placements: &[Placement],
    map: &AddressMap,
    name: impl Fn(usize) -> alloc::string::String,
) -> Result<Vec<(Placement, u64)>, PciError> {
    let mut ordered: Vec<Placement> = placements.to_vec();
    ordered.sort_by_key(|placement| core::cmp::Reverse(placement.bar.size));
    let mut next = [PCI_PORTS, map.window_32(), map.window_64()].map(|window| window.start);
    let mut addresses = Vec::new();
    for placement in ordered {
        let Bar { kind, size, .. } = placement.bar;
        let (next, window) = match (kind, &mut next) {
            (BarKind::Ports, [next, ..]) => (next, PCI_PORTS),
            (BarKind::Memory32, [_, next, _]) => (next, map.window_32()),
            (BarKind::Memory64, [.., next]) => (next, map.window_64()),
        };
        let alignment = if kind == BarKind::Ports { size } else { size.max(PAGE) };
        let address = next.checked_next_multiple_of(alignment).filter(|address| window.contains(*address, size));
        let Some(address) = address else {
            return Err(PciError::NoRoom { function: name(placement.function), bar: placement.index, size, kind });
        };
        *next = address + size.max(alignment);
        addresses.push((placement, address));
    }
    Ok(addresses)
}

/// Where a BAR should answer by its register and its function's command register; `None`: nowhere. A place outside
/// the windows is nowhere: the guest's RAM and devices cannot be covered.
pub(super) fn wanted(placement: &Placement, registers: &BarRegisters, command: u32, map: &AddressMap) -> Option<u64> {
    let ports = placement.bar.kind == BarKind::Ports;
    if command & (if ports { DECODE_PORTS } else { DECODE_MEMORY }) == 0 {
        return None;
    }
    let address = registers.address(placement.index);
    let inside = |window: Range| window.contains(address, placement.bar.size);
    let allowed = if ports { inside(PCI_PORTS) } else { inside(map.window_32()) || inside(map.window_64()) };
    allowed.then_some(address)
}

/// Whether a BAR at `at` would cover part of another that answers already.
pub(super) fn is_taken(placements: &[Placement], candidate: &Placement, at: u64) -> bool {
    let range = candidate.range_at(at);
    placements.iter().any(|other| {
        let same = other.function == candidate.function && other.index == candidate.index;
        let same_space = (other.bar.kind == BarKind::Ports) == (candidate.bar.kind == BarKind::Ports);
        !same && same_space && other.at.is_some_and(|at| other.range_at(at).overlaps(range))
    })
}
