//! Whose physical addresses are whose: a BAR is mapped straight into a guest, so what it decodes must be the function's
//! alone. What firmware, or the function itself, wrote into the BAR is not believed.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use iommu::address::PciAddress;

use crate::platform::pci::Function;

/// I/O APICs, timers, remapping units, local APICs, flash: what chipsets decode below 4 GiB, whatever a BAR says.
const CHIPSET: Range<u64> = 0xfec0_0000..0x1_0000_0000;

/// Whose a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Another function's BAR. Expansion ROMs stay switched off.
    Function(PciAddress),
    /// A remapping unit's registers.
    RemappingUnit,
    /// The memory through which configuration space is reached.
    ConfigurationSpace,
    /// The chipset's own.
    Chipset,
    /// It is no range of addresses at all: it wraps.
    Nobody,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(address) => write!(f, "belongs to {address}, too"),
            Self::RemappingUnit => f.write_str("holds registers of a remapping unit"),
            Self::ConfigurationSpace => f.write_str("holds the machine's configuration space"),
            Self::Chipset => f.write_str("is the chipset's"),
            Self::Nobody => f.write_str("leaves the address space"),
        }
    }
}

/// A BAR that is not its function's alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The BAR, 0 to 5.
    pub bar: usize,
    /// What it decodes.
    pub range: Range<u64>,
    /// Who else is there.
    pub holder: Holder,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bar, range, holder } = self;
        write!(
            f,
            "its BAR {bar} decodes {:#x} to {:#x}, which {holder}; have firmware place PCI devices anew, or take the \
             other device out",
            range.start,
            range.end.saturating_sub(1)
        )
    }
}

/// The first BAR of `function` that touches a BAR of the others in `functions`, or something in `platform`.
pub(super) fn conflict(
    function: &Function,
    functions: &[Function],
    platform: &[(Range<u64>, Holder)],
) -> Option<Conflict> {
    let others = functions.iter().filter(|other| other.address != function.address);
    let mut taken: Vec<(Range<u64>, Holder)> = others
        .flat_map(|other| {
            other.bars.iter().flatten().filter_map(|bar| {
                let start = bar.memory()?.as_u64();
                Some((start..start.saturating_add(bar.size), Holder::Function(other.address)))
            })
        })
        .collect();
    taken.extend_from_slice(platform);
    taken.push((CHIPSET, Holder::Chipset));
    function.bars.iter().enumerate().find_map(|(index, bar)| {
        let bar = bar.as_ref()?;
        let start = bar.memory()?.as_u64();
        let Some(end) = start.checked_add(bar.size) else {
            return Some(Conflict { bar: index, range: start..u64::MAX, holder: Holder::Nobody });
        };
        let met = taken.iter().find(|(other, _)| start < other.end && other.start < end);
        met.map(|(_, holder)| Conflict { bar: index, range: start..end, holder: *holder })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::pci::{Bar, BarKind};

    const UNIT: Range<u64> = 0x7000_0000..0x7000_1000;

    fn at(device: u8, address: u64, size: u64) -> Function {
        let mut function = Function::bare(PciAddress::new(0, 0, device, 0));
        function.bars[2] = Some(Bar { kind: BarKind::Memory64 { prefetchable: false }, address, size });
        function
    }

    fn met(address: u64, size: u64) -> Option<Holder> {
        let functions = [at(1, address, size), at(2, 0x8000_4000, 0x4000), at(3, 0, 0x1000)];
        let found = conflict(&functions[0], &functions, &[(UNIT, Holder::RemappingUnit)]);
        found.map(|conflict| {
            assert_eq!((conflict.bar, conflict.range.start), (2, address));
            conflict.holder
        })
    }

    #[test]
    fn a_bar_is_its_functions_alone() {
        assert_eq!(met(0x8000_0000, 0x4000), None);
        assert_eq!(met(0x8000_8000, 0x8000), None);
        assert_eq!(met(0, 0x10_0000), None, "firmware gave it no place");
        let neighbour = Some(Holder::Function(PciAddress::new(0, 0, 2, 0)));
        assert_eq!(met(0x8000_0000, 0x8000), neighbour);
        assert_eq!(met(0x8000_7000, 0x1000), neighbour);
        assert_eq!(met(0x4000_0000, 0x4000_0000), Some(Holder::RemappingUnit));
        assert_eq!(met(0xfee0_0000, 0x1000), Some(Holder::Chipset));
        assert_eq!(met(u64::MAX - 0xfff, 0x2000), Some(Holder::Nobody));
    }
}
