//! The parser and the coverage on tables made here, good and broken.

use alloc::vec;
use alloc::vec::Vec;
use std::string::ToString;

use proptest::prelude::*;

use super::*;
use crate::address::{PciAddress, SourceId};

/// A table under construction.
#[derive(Clone)]
struct Builder {
    structures: Vec<u8>,
}

impl Builder {
    fn new() -> Self {
        Self { structures: Vec::new() }
    }

    fn structure(mut self, kind: u16, body: &[u8]) -> Self {
        self.structures.extend(kind.to_le_bytes());
        self.structures.extend((body.len() as u16 + 4).to_le_bytes());
        self.structures.extend(body);
        self
    }

    fn unit(self, includes_all: bool, segment: u16, base: u64, scopes: &[Vec<u8>]) -> Self {
        let mut body = vec![u8::from(includes_all), 0];
        body.extend(segment.to_le_bytes());
        body.extend(base.to_le_bytes());
        body.extend(scopes.concat());
        self.structure(0, &body)
    }

    fn reserved(self, segment: u16, first: u64, last: u64, scopes: &[Vec<u8>]) -> Self {
        let mut body = vec![0, 0];
        body.extend(segment.to_le_bytes());
        body.extend(first.to_le_bytes());
        body.extend(last.to_le_bytes());
        body.extend(scopes.concat());
        self.structure(1, &body)
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = b"DMAR".to_vec();
        bytes.extend((48 + self.structures.len() as u32).to_le_bytes());
        bytes.extend([1, 0]);
        bytes.extend(*b"TEST  TESTTABL\x01\0\0\0TEST\x01\0\0\0");
        bytes.extend([38, 0b101]);
        bytes.extend([0; 10]);
        bytes.extend(self.structures);
        seal(&mut bytes);
        bytes
    }
}

/// Makes the checksum right.
fn seal(bytes: &mut [u8]) {
    bytes[9] = 0;
    bytes[9] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}

fn scope(kind: u8, id: u8, bus: u8, path: &[(u8, u8)]) -> Vec<u8> {
    let mut bytes = vec![kind, 6 + 2 * path.len() as u8, 0, 0, id, bus];
    bytes.extend(path.iter().flat_map(|(device, function)| [*device, *function]));
    bytes
}

/// Two units as in many laptops, an RMRR, and one of everything else.
fn sample() -> Builder {
    Builder::new()
        .unit(true, 0, 0xfed9_1000, &[scope(3, 2, 0xf0, &[(31, 0)]), scope(4, 0, 0, &[(31, 0)])])
        .unit(false, 0, 0xfed9_0000, &[scope(1, 0, 0, &[(2, 0)]), scope(2, 0, 0, &[(28, 0), (0, 0)])])
        .reserved(0, 0x7a00_0000, 0x7a0f_ffff, &[scope(1, 0, 0, &[(20, 0)]), scope(1, 0, 0, &[(2, 0)])])
        .structure(2, &[[0, 0, 0, 0].to_vec(), scope(2, 0, 0, &[(28, 0)])].concat())
        .structure(3, &[0u32.to_le_bytes().to_vec(), 0xfed9_0000u64.to_le_bytes().to_vec(), vec![1, 0, 0, 0]].concat())
        .structure(4, &[[0, 0, 0, 1].as_slice(), b"\\_SB.PCI0.I2C0\0"].concat())
        .structure(5, &[[1, 0, 0, 0].to_vec(), scope(1, 0, 0, &[(2, 0)])].concat())
        .structure(6, &[[0, 0, 0, 0].to_vec(), scope(1, 0, 0, &[(3, 0)])].concat())
}

/// Bridge 00:1c.0 leads to buses 1 to 4, bridge 01:00.0 to 2 to 4.
struct Tree;

impl Buses for Tree {
    fn bridge(&self, function: PciAddress) -> Option<BridgeBuses> {
        let (secondary, subordinate) = match (function.segment, function.source) {
            (0, source) if source == SourceId::new(0, 28, 0) => (1, 4),
            (0, source) if source == SourceId::new(1, 0, 0) => (2, 4),
            // What an absent function reads as.
            (0, source) if source == SourceId::new(0, 30, 0) => (0xff, 0xff),
            _ => return None,
        };
        Some(BridgeBuses { secondary, subordinate })
    }
}

#[test]
fn every_structure_is_read() {
    let dmar = Dmar::parse(&sample().bytes()).unwrap();
    assert_eq!(dmar.warnings, []);
    assert_eq!(dmar.host_address_width, 39);
    assert_eq!(dmar.flags, Flags::INTERRUPT_REMAPPING | Flags::DMA_CONTROL_OPT_IN);
    assert_eq!(dmar.units.len(), 2);
    assert!(dmar.units[0].includes_all && !dmar.units[1].includes_all);
    assert_eq!(dmar.units[0].last().as_u64(), 0xfed9_1fff);
    assert_eq!(dmar.units[1].scopes[1].path, [Hop { device: 28, function: 0 }, Hop { device: 0, function: 0 }]);
    assert_eq!(dmar.reserved_memory[0].last.as_u64(), 0x7a0f_ffff);
    assert_eq!(dmar.root_ports[0].scopes.len(), 1);
    assert_eq!(dmar.affinities[0].proximity_domain, 1);
    assert_eq!(dmar.acpi_devices[0].name, "\\_SB.PCI0.I2C0");
    assert!(dmar.address_translation_caches[0].required);
    assert_eq!(dmar.special_devices[0].scopes[0].path[0].device, 3);
}

#[test]
fn a_device_is_behind_the_unit_that_names_it_before_the_one_that_takes_the_rest() {
    let dmar = Dmar::parse(&sample().bytes()).unwrap();
    let coverage = Coverage::resolve(&dmar, &Tree);
    assert_eq!(coverage.unit_of(PciAddress::new(0, 0, 2, 0)), Some(1), "named");
    assert_eq!(coverage.unit_of(PciAddress::new(0, 1, 0, 0)), Some(1), "the bridge itself");
    assert_eq!(coverage.unit_of(PciAddress::new(0, 3, 7, 1)), Some(1), "below the bridge");
    assert_eq!(coverage.unit_of(PciAddress::new(0, 0, 28, 0)), Some(0), "above the bridge: the rest");
    assert_eq!(coverage.unit_of(PciAddress::new(1, 0, 2, 0)), None, "no unit has segment 1");
    let io_apic = coverage.io_apic(2).unwrap();
    assert_eq!((io_apic.unit, io_apic.source), (0, PciAddress::new(0, 0xf0, 31, 0)));
    assert_eq!(coverage.io_apic(3), None);
    assert_eq!(coverage.hpet(0).unwrap().source.source, SourceId::new(0, 31, 0));
    assert_eq!(coverage.unresolved(), 0);
}

#[test]
fn an_unnamed_device_without_a_unit_for_the_rest_is_uncovered() {
    let bytes = Builder::new().unit(false, 0, 0xfed9_0000, &[scope(3, 0, 0xff, &[(0, 0)]), scope(1, 0, 0, &[(2, 0)])]);
    let coverage = Coverage::resolve(&Dmar::parse(&bytes.bytes()).unwrap(), &Tree);
    assert_eq!(coverage.unit_of(PciAddress::new(0, 0, 2, 0)), Some(0));
    assert_eq!(coverage.unit_of(PciAddress::new(0, 0, 3, 0)), None);
    assert_eq!(coverage.unit_of(PciAddress::new(0, 0xff, 0, 0)), None, "an I/O APIC's id is not a function");
}

#[test]
fn a_path_through_an_absent_bridge_covers_nothing() {
    let bytes = Builder::new()
        .unit(false, 0, 0xfed9_0000, &[scope(1, 0, 0, &[(30, 0), (0, 0)]), scope(1, 0, 0, &[(29, 0), (0, 0)])])
        .bytes();
    let coverage = Coverage::resolve(&Dmar::parse(&bytes).unwrap(), &Tree);
    assert_eq!(coverage.unresolved(), 2);
    assert_eq!(coverage.unit_of(PciAddress::new(0, 0xff, 0, 0)), None);
}

#[test]
fn the_narrowest_scope_wins() {
    let bytes = Builder::new()
        .unit(false, 0, 0xfed9_0000, &[scope(2, 0, 0, &[(28, 0)])])
        .unit(false, 0, 0xfed9_1000, &[scope(2, 0, 0, &[(28, 0), (0, 0)])])
        .unit(false, 0, 0xfed9_2000, &[scope(1, 0, 4, &[(5, 0)])])
        .bytes();
    let coverage = Coverage::resolve(&Dmar::parse(&bytes).unwrap(), &Tree);
    assert_eq!(coverage.unit_of(PciAddress::new(0, 1, 1, 0)), Some(0));
    assert_eq!(coverage.unit_of(PciAddress::new(0, 4, 0, 0)), Some(1));
    assert_eq!(coverage.unit_of(PciAddress::new(0, 4, 5, 0)), Some(2));
}

#[test]
fn reserved_memory_is_found_by_device_and_a_broken_range_is_not_forgotten() {
    let bytes = sample().reserved(0, 0x7b00_0000, 0x7a00_0000, &[scope(1, 0, 0, &[(20, 0)])]).bytes();
    let dmar = Dmar::parse(&bytes).unwrap();
    assert_eq!(dmar.warnings.len(), 1);
    let coverage = Coverage::resolve(&dmar, &Tree);
    let ranges: Vec<_> = coverage.reserved_for(PciAddress::new(0, 0, 20, 0)).collect();
    assert_eq!(ranges.iter().map(|range| range.usable).collect::<Vec<_>>(), [true, false]);
    assert_eq!(coverage.reserved_for(PciAddress::new(0, 0, 21, 0)).count(), 0);
    assert_eq!(coverage.with_reserved_memory(), [PciAddress::new(0, 0, 2, 0), PciAddress::new(0, 0, 20, 0)]);
    assert_eq!(coverage.address_translation_cache(PciAddress::new(0, 0, 2, 0)), Some(true));
    assert!(coverage.below_translating_root_port(PciAddress::new(0, 2, 0, 0)));
    assert!(!coverage.below_translating_root_port(PciAddress::new(0, 0, 2, 0)));
}

#[test]
fn the_memory_map_has_the_last_word() {
    let mut dmar = Dmar::parse(&sample().bytes()).unwrap();
    dmar.check_memory(|_, last| last.as_u64() < 0x7b00_0000).unwrap();
    assert!(dmar.reserved_memory[0].defect.is_some());
    assert_eq!(
        dmar.warnings[0].to_string(),
        "RMRR left out: its range from 0x7a000000 to 0x7a0fffff lies in RAM; its devices cannot be given away"
    );
    let refused = dmar.check_memory(|first, _| first.as_u64() == 0xfed9_0000).unwrap_err();
    assert_eq!(refused, DmarError::RegistersInRam { base: HostPhysical::new(0xfed9_0000) });
}

#[test]
fn what_hides_a_unit_or_its_devices_refuses_the_table() {
    let base = HostPhysical::new(0xfed9_0000);
    let one = |base, scopes: &[Vec<u8>]| Builder::new().unit(false, 0, base, scopes).bytes();
    let mut wide = one(0xfed9_0000, &[]);
    wide[53] = 15;
    seal(&mut wide);
    let mut cases: Vec<(Vec<u8>, DmarError)> = vec![
        (Builder::new().bytes(), DmarError::NoUnits),
        (Builder::new().structure(0, &[0; 8]).bytes(), DmarError::UnitTruncated { offset: 48, length: 12 }),
        (one(0, &[]), DmarError::RegisterBase { base: HostPhysical::new(0) }),
        (one(0xfed9_0800, &[]), DmarError::RegisterBase { base: HostPhysical::new(0xfed9_0800) }),
        (one(0xfee0_0000, &[]), DmarError::RegisterBase { base: HostPhysical::new(0xfee0_0000) }),
        (one(u64::MAX - 4095, &[]), DmarError::RegisterBase { base: HostPhysical::new(u64::MAX - 4095) }),
        (wide, DmarError::RegisterBase { base }),
        (
            one(0xfed9_0000, &[vec![1, 0]]),
            DmarError::UnitScopes { offset: 48, problem: Problem::ScopeLength { length: 0 } },
        ),
        (
            one(0xfed9_0000, &[vec![1, 9, 0, 0, 0, 0, 0, 0]]),
            DmarError::UnitScopes { offset: 48, problem: Problem::ScopePastStructure { length: 9 } },
        ),
        (one(0xfed9_0000, &[vec![1]]), DmarError::UnitScopes { offset: 48, problem: Problem::ScopeTruncated }),
        (
            Builder::new().unit(false, 0, 0xfed9_0000, &[]).unit(false, 1, 0xfed9_0000, &[]).bytes(),
            DmarError::RegistersOverlap { first: base, second: base },
        ),
        (
            Builder::new().unit(true, 2, 0xfed9_0000, &[]).unit(true, 2, 0xfed9_1000, &[]).bytes(),
            DmarError::TwoIncludeAll { segment: 2 },
        ),
        (
            Builder::new()
                .unit(false, 0, 0xfed9_0000, &[scope(3, 7, 0, &[(1, 0)])])
                .unit(false, 0, 0xfed9_1000, &[scope(3, 7, 0, &[(1, 0)])])
                .bytes(),
            DmarError::IoApicTwice { id: 7 },
        ),
        (
            sample().reserved(0, 0xfed9_0000, 0xfed9_0fff, &[scope(1, 0, 0, &[(1, 0)])]).bytes(),
            DmarError::ReservedMemoryOverRegisters { first: base, base },
        ),
    ];
    let mut flipped = sample().bytes();
    flipped[60] ^= 1;
    cases.push((flipped.clone(), Dmar::parse(&flipped).unwrap_err()));
    assert!(matches!(cases.last().unwrap().1, DmarError::Checksum { .. }));
    for (bytes, expected) in cases {
        let refused = Dmar::parse(&bytes).unwrap_err();
        assert_eq!(refused, expected);
        assert!(refused.to_string().starts_with("DMAR table refused: "), "{refused}");
    }
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let good = sample().bytes();
    for length in 0..good.len() {
        assert!(Dmar::parse(&good[..length]).is_err(), "{length} bytes");
    }
    let mut long = good.clone();
    long.extend([0xff; 64]);
    assert!(Dmar::parse(&long).is_ok(), "what follows the table is not the table");
    for (offset, value) in [(0, b'X'), (4, 47), (7, 0xff), (36, 10), (36, 0xff)] {
        let mut bytes = good.clone();
        bytes[offset] = value;
        seal(&mut bytes);
        assert!(Dmar::parse(&bytes).is_err(), "byte {offset} = {value:#x}");
    }
    for length in 0..4u8 {
        let mut bytes = good.clone();
        bytes[50] = length;
        bytes[51] = 0;
        seal(&mut bytes);
        assert!(matches!(Dmar::parse(&bytes), Err(DmarError::StructureLength { offset: 48, .. })));
    }
}

#[test]
fn what_hides_nothing_is_left_out_with_a_warning() {
    let scopes = |scope: Vec<u8>| Builder::new().unit(true, 0, 0xfed9_0000, &[scope]);
    let unit = Builder::new().unit(true, 0, 0xfed9_0000, &[]);
    let device = [scope(1, 0, 0, &[(1, 0)])];
    let cases = [
        (scopes(scope(6, 0, 0, &[(1, 0)])), Problem::ScopeKind { kind: 6 }),
        (scopes(scope(1, 0, 0, &[])), Problem::ScopePath { length: 6 }),
        (scopes(vec![1, 7, 0, 0, 0, 0, 1]), Problem::ScopePath { length: 7 }),
        (scopes(scope(1, 0, 0, &[(32, 0)])), Problem::ScopeHop { device: 32, function: 0 }),
        (scopes(scope(1, 0, 0, &[(0, 8)])), Problem::ScopeHop { device: 0, function: 8 }),
        (scopes(scope(1, 0, 0, &[(0, 0); 124])), Problem::ScopeTooDeep { hops: 124 }),
        (unit.clone().structure(9, &[]), Problem::UnknownStructure { kind: 9 }),
        (unit.clone().structure(1, &[0; 16]), Problem::StructureTruncated { length: 20, needed: 24 }),
        (unit.clone().structure(4, &[0, 0]), Problem::StructureTruncated { length: 6, needed: 9 }),
        (unit.clone().structure(4, &[0, 0, 0, 1, b'A']), Problem::Name),
        (unit.clone().structure(5, &[0, 0, 0, 0]), Problem::NoScopes),
        (unit.clone().reserved(0, 0x1000, 0x1fff, &[]), Problem::NoScopes),
        (unit.clone().reserved(3, 0x1000, 0x1fff, &device), Problem::SegmentWithoutUnit { segment: 3 }),
        (unit.clone().reserved(0, 0xfee0_0000, 0xfee0_0fff, &device), Problem::ReservedMemoryOverInterrupts),
        (
            unit.clone().reserved(0, 0, u64::MAX, &device),
            Problem::ReservedMemoryRange { first: HostPhysical::new(0), last: HostPhysical::new(u64::MAX) },
        ),
        (
            unit.clone().reserved(0, 0, 0, &device),
            Problem::ReservedMemoryUnaligned { first: HostPhysical::new(0), last: HostPhysical::new(0) },
        ),
    ];
    for (builder, problem) in cases {
        let dmar = Dmar::parse(&builder.bytes()).unwrap();
        assert_eq!(dmar.warnings.iter().map(|warning| warning.problem).collect::<Vec<_>>(), [problem]);
        assert_eq!(dmar.units.len(), 1);
        assert!(dmar.warnings[0].to_string().contains("left out: "));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_hurt(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Dmar::parse(&bytes);
    }

    /// Any structures at all behind a good header: an answer, and scopes that resolve without harm.
    #[test]
    fn random_structures_never_hurt(bytes in proptest::collection::vec(0u8..40, 0..300)) {
        let builder = Builder { structures: [sample().structures, bytes].concat() };
        if let Ok(dmar) = Dmar::parse(&builder.bytes()) {
            let coverage = Coverage::resolve(&dmar, &Tree);
            for bus in 0..=255 {
                let _ = coverage.unit_of(PciAddress::new(0, bus, 0, 0));
            }
        }
    }

    /// A good table with some bytes changed and the checksum made right again.
    #[test]
    fn mutations_never_hurt(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = sample().bytes();
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        seal(&mut bytes);
        if let Ok(dmar) = Dmar::parse(&bytes) {
            prop_assert!(!dmar.units.is_empty());
            let _ = Coverage::resolve(&dmar, &Tree);
        }
    }
}
