use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::function::{Bar, BarKind, Capability, ExtendedCapability};
use super::*;

/// A machine of make-believe functions: 4096 bytes each, and which bits of the BARs can be written.
#[derive(Default)]
struct Machine {
    functions: RefCell<BTreeMap<PciAddress, Fake>>,
    segments: Vec<(u16, u8, u8)>,
}

struct Fake {
    bytes: Vec<u8>,
    writable: BTreeMap<u16, u32>,
    decoding_while_sized: bool,
}

impl Fake {
    fn new(vendor: u16, device: u16, class: u32, header_type: u8) -> Self {
        let mut fake = Self { bytes: vec![0; 4096], writable: BTreeMap::new(), decoding_while_sized: false };
        fake.put(0, u32::from(vendor) | u32::from(device) << 16);
        fake.put(8, class << 8 | 1);
        fake.bytes[0xe] = header_type;
        fake.writable.insert(4, 0x7);
        fake.put(4, 0x7);
        fake
    }

    fn put(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn with(mut self, values: &[(usize, u32)]) -> Self {
        values.iter().for_each(|(offset, value)| self.put(*offset, *value));
        self
    }

    fn bar(mut self, offset: usize, value: u32, writable: u32) -> Self {
        self.put(offset, value);
        self.writable.insert(offset as u16, writable);
        self
    }
}

impl Machine {
    fn read<const N: usize>(&self, function: PciAddress, offset: u16) -> [u8; N] {
        assert!(offset < 4096 && usize::from(offset) % N == 0, "bad access at {offset:#x}");
        let offset = usize::from(offset);
        let functions = self.functions.borrow();
        functions.get(&function).map_or([0xff; N], |fake| fake.bytes[offset..offset + N].try_into().unwrap())
    }

    fn add(mut self, bus: u8, device: u8, function: u8, fake: Fake) -> Self {
        self.functions.get_mut().insert(PciAddress::new(0, bus, device, function), fake);
        self
    }
}

impl ConfigurationAccess for Machine {
    fn read_u8(&self, function: PciAddress, offset: u16) -> u8 {
        u8::from_le_bytes(self.read(function, offset))
    }

    fn read_u16(&self, function: PciAddress, offset: u16) -> u16 {
        u16::from_le_bytes(self.read(function, offset))
    }

    fn read_u32(&self, function: PciAddress, offset: u16) -> u32 {
        u32::from_le_bytes(self.read(function, offset))
    }

    fn write_u8(&self, _: PciAddress, offset: u16, _: u8) {
        panic!("nobody writes bytes, at {offset:#x}");
    }

    fn write_u16(&self, function: PciAddress, offset: u16, value: u16) {
        let old = self.read_u32(function, offset & !3);
        let shift = (offset & 2) * 8;
        self.write_u32(function, offset & !3, old & !(0xffff << shift) | u32::from(value) << shift);
    }

    fn write_u32(&self, function: PciAddress, offset: u16, value: u32) {
        let mut functions = self.functions.borrow_mut();
        let Some(fake) = functions.get_mut(&function) else { return };
        if offset >= 0x10 && fake.bytes[4] & 3 != 0 {
            fake.decoding_while_sized = true;
        }
        let writable = fake.writable.get(&offset).copied().unwrap_or(0);
        let offset = usize::from(offset);
        let old = u32::from_le_bytes(fake.bytes[offset..offset + 4].try_into().unwrap());
        fake.put(offset, old & !writable | value & writable);
    }

    fn segments(&self) -> Vec<(u16, u8, u8)> {
        self.segments.clone()
    }
}

fn machine() -> Machine {
    Machine { segments: vec![(0, 0, 0x1f)], ..Machine::default() }
}

fn endpoint() -> Fake {
    Fake::new(0x8086, 0x1234, 0x01_0802, 0)
}

/// A bridge to `bus`.
fn bridge(bus: u8) -> Fake {
    Fake::new(0x1b36, 0xc, 0x06_0400, 1).with(&[(0x18, u32::from(bus) << 8 | u32::from(bus) << 16)])
}

#[test]
fn every_bus_behind_every_bridge_is_found_in_order() {
    let machine = machine()
        .add(0, 0, 0, Fake::new(0x8086, 0x29c0, 0x06_0000, 0))
        .add(0, 1, 0, bridge(1))
        .add(0, 2, 0, bridge(3))
        .add(1, 0, 0, bridge(2))
        .add(2, 4, 0, Fake { bytes: endpoint().bytes, ..endpoint() }.with(&[(0xc, 0x80 << 16)]))
        .add(2, 4, 3, endpoint())
        .add(2, 5, 1, endpoint()) // Without a function 0 it is not there.
        .add(3, 0, 0, endpoint())
        .add(0x10, 0, 0, endpoint()); // A second root bus.
    let found = enumerate(&machine);
    let order: Vec<_> = found.functions.iter().map(|function| function.address.source.to_string()).collect();
    assert_eq!(order, ["00:00.0", "00:01.0", "00:02.0", "01:00.0", "02:04.0", "02:04.3", "03:00.0", "10:00.0"]);
    assert_eq!(found.problems, []);
    assert_eq!(found.functions[5].parent, Some(PciAddress::new(0, 1, 0, 0)));
    assert!(found.functions[5].multifunction && !found.functions[6].multifunction);
    assert_eq!(found.functions[7].parent, None);
}

#[test]
fn bus_mastering_goes_off_except_for_bridges() {
    let mut quiet = endpoint();
    quiet.put(4, 3);
    let machine = machine().add(0, 1, 0, bridge(1)).add(1, 0, 0, endpoint()).add(0, 3, 0, quiet);
    let found = enumerate(&machine);
    let masters: Vec<_> = found.functions.iter().map(|function| function.was_bus_master).collect();
    assert_eq!(masters, [false, false, true]);
    let command = |bus, device| machine.read_u16(PciAddress::new(0, bus, device, 0), COMMAND);
    assert_eq!((command(0, 1), command(1, 0), command(0, 3)), (7, 3, 3), "and decoding is back on");
}

#[test]
fn bars_are_sized_with_decoding_off_and_put_back() {
    let fake = endpoint()
        .bar(0x10, 0xfebf_0004, 0xffff_c000) // 64-bit, 16 KiB
        .bar(0x14, 0x0000_0001, 0xffff_ffff)
        .bar(0x18, 0x0000_c041, 0xffff_ffe0) // 32 ports
        .bar(0x1c, 0xfd00_0008, 0xff00_0000) // 16 MiB, prefetchable
        .bar(0x24, 0x0000_0004, 0xffff_f000) // 64-bit in the last register: taken for what fits
        .bar(0x30, 0xfeb0_0001, 0xfffc_0001); // ROM, 256 KiB
    let machine = machine().add(0, 1, 0, fake);
    let function = enumerate(&machine).functions.remove(0);
    let bar = |kind, address, size| Some(Bar { kind, address, size });
    assert_eq!(
        function.bars,
        [
            bar(BarKind::Memory64 { prefetchable: false }, 0x1_febf_0000, 0x4000),
            None,
            bar(BarKind::Port, 0xc040, 0x20),
            bar(BarKind::Memory32 { prefetchable: true }, 0xfd00_0000, 0x100_0000),
            None,
            bar(BarKind::Memory32 { prefetchable: false }, 0, 0x1000),
        ]
    );
    assert_eq!(function.rom, bar(BarKind::Memory32 { prefetchable: false }, 0xfeb0_0000, 0x4_0000));
    let address = function.address;
    for (offset, value) in [(0x10, 0xfebf_0004), (0x14, 1), (0x18, 0xc041), (0x1c, 0xfd00_0008), (0x30, 0xfeb0_0001)] {
        assert_eq!(machine.read_u32(address, offset), value, "register {offset:#x}");
    }
    assert!(!machine.functions.borrow()[&address].decoding_while_sized);
}

#[test]
fn capabilities_are_listed() {
    let fake = endpoint().with(&[
        (0x04, 0x0010_0007),
        (0x34, 0x43), // reserved bits set
        (0x40, 0x0000_5005),
        (0x50, 0x0002_0010), // endpoint
        (0x54, 1 << 28),
        (0x100, 0x1401_000d),
        (0x104, 0x001d_005f),
        (0x140, 0x0001_0010),
        (0x14c, 0x0008_0000), // initial VFs 0, total VFs 8
    ]);
    let function = enumerate(&machine().add(0, 1, 0, fake)).functions.remove(0);
    assert_eq!(function.capabilities, [Capability { id: 5, offset: 0x40 }, Capability { id: 0x10, offset: 0x50 }]);
    assert_eq!(function.express, Some(Express { kind: ExpressKind::Endpoint, function_level_reset: true }));
    assert_eq!(
        function.extended_capabilities,
        [
            ExtendedCapability { id: 0xd, version: 1, offset: 0x100 },
            ExtendedCapability { id: 0x10, version: 1, offset: 0x140 }
        ]
    );
    assert_eq!(function.acs, Some(Acs { offset: 0x100, capability: 0x5f, control: 0x1d }));
    assert_eq!(function.virtual_functions, Some(8));
}

#[test]
fn lists_that_loop_or_leave_are_cut_and_named() {
    let address = PciAddress::new(0, 0, 1, 0);
    for (values, length, offset) in [
        (&[(0x34usize, 0x40u32), (0x40, 0x5005), (0x50, 0x4001)][..], 2, 0x40),
        (&[(0x34, 0x40), (0x40, 0x4005)], 1, 0x40),
        (&[(0x34, 0x40), (0x40, 0x1005)], 1, 0x10),
        (&[(0x34, 0x40), (0x40, 0xffff_ffff)], 0, 0x40),
    ] {
        let fake = endpoint().with(&[(4, 0x0010_0007)]).with(values);
        let found = enumerate(&machine().add(0, 1, 0, fake));
        assert_eq!(found.functions[0].capabilities.len(), length);
        assert_eq!(found.problems, [PciProblem::BadList { function: address, offset }]);
    }
    for (values, length, problem) in [
        (&[(0x100usize, 0x1401_0001u32), (0x140, 0x1001_0002)][..], 2, Some(0x100)),
        (&[(0x100, 0x0401_0001)], 1, Some(0x40)),
        (&[(0x100, 0x1401_0001), (0x140, u32::MAX)], 1, Some(0x140)),
        (&[(0x100, u32::MAX)], 0, None),
        (&[(0x100, 0)], 0, None),
    ] {
        let fake = endpoint().with(&[(4, 0x0010_0007), (0x34, 0x40), (0x40, 0x0002_0010)]).with(values);
        let found = enumerate(&machine().add(0, 1, 0, fake));
        assert_eq!(found.functions[0].extended_capabilities.len(), length);
        let expected: Vec<_> =
            problem.into_iter().map(|offset| PciProblem::BadList { function: address, offset }).collect();
        assert_eq!(found.problems, expected);
    }
}

#[test]
fn bridges_that_lead_back_or_away_are_named() {
    let machine = machine()
        .add(0, 1, 0, bridge(1))
        .add(1, 0, 0, bridge(1)) // to its own bus
        .add(1, 1, 0, bridge(0)) // no bus given
        .add(1, 2, 0, bridge(0x20)) // no configuration space
        .add(0, 2, 0, bridge(1)); // a second way
    let found = enumerate(&machine);
    assert_eq!(found.functions.len(), 5);
    let bad: Vec<_> = found
        .problems
        .iter()
        .map(|problem| match problem {
            PciProblem::BadBus { bridge, bus } => (bridge.source.to_string(), *bus),
            PciProblem::BadList { .. } => panic!(),
        })
        .collect();
    let bad: Vec<_> = bad.iter().map(|(bridge, bus)| (bridge.as_str(), *bus)).collect();
    assert_eq!(bad, [("00:01.0", 1), ("01:02.0", 0x20), ("01:00.0", 1)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Functions with any content at all: enumeration ends, and finds each once.
    #[test]
    fn any_content_is_survived(
        functions in prop::collection::btree_map((0..4u8, 0..4u8, 0..3u8), prop::collection::vec(any::<u8>(), 320), 0..12),
    ) {
        let mut machine = machine();
        for ((bus, device, function), content) in &functions {
            let mut fake = endpoint();
            fake.bytes[..content.len()].copy_from_slice(content);
            fake.bytes[0xe] &= 0x83;
            fake.bytes[0x19] &= 0x1f;
            machine = machine.add(*bus, *device, *function, fake);
        }
        let found = enumerate(&machine);
        let mut addresses: Vec<_> = found.functions.iter().map(|function| function.address).collect();
        addresses.sort();
        addresses.dedup();
        prop_assert_eq!(addresses.len(), found.functions.len());
        prop_assert!(addresses.len() <= functions.len());
    }
}
