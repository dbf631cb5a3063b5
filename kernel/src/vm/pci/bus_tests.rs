use std::sync::Mutex as StdMutex;

use proptest::prelude::*;

use super::*;
use crate::vm::pci::{BARS, Bar};

const MIB: u64 = 1 << 20;

/// A function with a plain configuration space; records where it was placed.
struct Fake {
    name: &'static str,
    bars: [Option<Bar>; BARS],
    space: StdMutex<[u8; 256]>,
    placed: StdMutex<Vec<(usize, Option<u64>)>>,
    written: StdMutex<Vec<(usize, u64, u8, u64)>>,
}

impl Fake {
    fn new(name: &'static str, bars: &[(usize, BarKind, u64)]) -> Arc<Self> {
        let mut all = [None; BARS];
        for &(index, kind, size) in bars {
            all[index] = Some(Bar { kind, size, prefetchable: false });
        }
        let mut space = [0; 256];
        space[..4].copy_from_slice(&[0x34, 0x12, 0xe8, 0x11]);
        space[0x0e] = 0x80;
        space[0x30] = 1;
        Arc::new(Self {
            name,
            bars: all,
            space: space.into(),
            placed: StdMutex::default(),
            written: StdMutex::default(),
        })
    }

    fn take_placed(&self) -> Vec<(usize, Option<u64>)> {
        std::mem::take(&mut self.placed.lock().unwrap())
    }
}

impl VirtualFunction for Fake {
    fn name(&self) -> &dyn std::fmt::Display {
        &self.name
    }

    fn bars(&self) -> [Option<Bar>; BARS] {
        self.bars
    }

    fn config_read(&self, offset: u16, size: u8) -> u32 {
        let space = self.space.lock().unwrap();
        (0..usize::from(size)).rev().fold(0, |value, at| value << 8 | u32::from(space[usize::from(offset) + at]))
    }

    fn config_write(&self, offset: u16, size: u8, value: u32) {
        let mut space = self.space.lock().unwrap();
        for (at, byte) in value.to_le_bytes().into_iter().enumerate().take(size.into()) {
            space[usize::from(offset) + at] = byte;
        }
    }

    fn place(&self, bar: usize, at: Option<u64>) {
        self.placed.lock().unwrap().push((bar, at));
    }

    fn bar_read(&self, bar: usize, offset: u64, _size: u8) -> u64 {
        (bar as u64) << 32 | offset
    }

    fn bar_write(&self, bar: usize, offset: u64, size: u8, value: u64) {
        self.written.lock().unwrap().push((bar, offset, size, value));
    }
}

fn bus(functions: &[&Arc<Fake>]) -> VirtualPciBus {
    let functions: Vec<Arc<dyn VirtualFunction>> =
        functions.iter().map(|function| Arc::clone(function) as Arc<dyn VirtualFunction>).collect();
    let map = AddressMap::new(64 * MIB, VirtualPciBus::bytes_64(&functions)).unwrap();
    VirtualPciBus::new(map, functions).unwrap()
}

fn config(slot: u64, offset: u64) -> u64 {
    slot << 15 | offset
}

fn nvme() -> Arc<Fake> {
    Fake::new("0000:01:00.0", &[(0, BarKind::Memory64, 0x4000)])
}

#[test]
fn only_the_host_bridge_and_the_vms_functions_appear() {
    let device = nvme();
    let bus = bus(&[&device]);
    let mut found = Vec::new();
    for function in 0..0x10_0000 >> 12 {
        if bus.memory_read(function << 12, 2) != 0xffff {
            found.push(function << 12);
        }
    }
    assert_eq!(found, [config(0, 0), config(1, 0)]);
    assert_eq!(bus.memory_read(0x10_0000, 4), 0xffff_ffff, "bus 1 is empty");
    assert_eq!(bus.memory_read(config(0, 0xa), 2), 0x0600, "a host bridge");
    assert_eq!(bus.memory_read(config(0, 0x100), 4), 0, "with no extended capabilities");
}

#[test]
fn ports_and_memory_lead_to_the_same_registers() {
    let device = nvme();
    let bus = bus(&[&device]);
    assert!(bus.port_write(0xcf8, 4, 0x8000_0800));
    assert_eq!(bus.port_read(0xcf8, 4), Some(0x8000_0800));
    assert_eq!(bus.port_read(0xcfc, 4), Some(0x11e8_1234));
    assert_eq!(bus.port_read(0xcfe, 2), Some(0x11e8));
    assert_eq!(bus.memory_read(config(1, 0), 8), 0x11e8_1234);
    assert_eq!(bus.memory_read(config(1, 2), 4), 0xffff_ffff, "across double words");
    bus.port_write(0xcf8, 4, 0x0000_0800);
    assert_eq!(bus.port_read(0xcfc, 4), Some(0xffff_ffff), "switched off");
    for nowhere in [0x8000_1000, 0x8000_0900, 0x8001_0800] {
        bus.port_write(0xcf8, 4, nowhere);
        assert_eq!(bus.port_read(0xcfd, 1), Some(0xff));
    }
    assert_eq!(bus.port_read(0xcf8, 1), None, "not the bus's: 0xcf9 is the reset register");
    assert!(!bus.port_write(0xcf9, 1, 6));
    bus.port_write(0xcf8, 4, 0x8000_083c);
    bus.port_write(0xcfc, 1, 11);
    assert_eq!(bus.memory_read(config(1, 0x3c), 1), 11);
}

#[test]
fn a_function_stands_alone_in_its_slot_and_has_no_rom() {
    let device = nvme();
    let bus = bus(&[&device]);
    assert_eq!(bus.memory_read(config(1, 0x0c), 4) >> 16 & 0xff, 0);
    assert_eq!(bus.memory_read(config(1, 0x0e), 1), 0);
    bus.memory_write(config(1, 0x30), 4, 0xffff_ffff);
    assert_eq!(bus.memory_read(config(1, 0x30), 4), 0);
}

#[test]
fn bars_are_assigned_apart_inside_their_windows_and_placed() {
    let device = nvme();
    let other = Fake::new(
        "0000:00:02.0",
        &[
            (0, BarKind::Memory32, 0x2_0000),
            (1, BarKind::Memory32, 0x20),
            (2, BarKind::Ports, 0x20),
            (4, BarKind::Memory64, 64 * MIB),
        ],
    );
    let bus = bus(&[&device, &other]);
    assert!(device.take_placed().is_empty());
    bus.activate();
    let placed: Vec<_> = device.take_placed().into_iter().chain(other.take_placed()).collect();
    let at = |index: usize| placed[index].1.unwrap();
    assert_eq!(placed.iter().map(|(bar, _)| *bar).collect::<Vec<_>>(), [0, 0, 1, 2, 4]);
    assert_eq!(at(4), bus.map.window_64().start, "the largest first");
    assert_eq!(at(0), bus.map.window_64().start + 64 * MIB);
    assert_eq!((at(1), at(2)), (bus.map.window_32().start, bus.map.window_32().start + 0x2_0000));
    assert_eq!(at(3), PCI_PORTS_START);
    assert_eq!(bus.memory_read(config(1, 0x10), 8), at(0) | 4, "the guest finds it");
    assert_eq!(bus.memory_read(config(2, 0x18), 4), at(3) | 1);
    assert_eq!(bus.memory_read(config(2, 4), 2), 3, "ports and memory are decoded");
}

const PCI_PORTS_START: u64 = crate::vm::map::PCI_PORTS.start;

#[test]
fn sizing_and_moving_a_bar_moves_the_function() {
    let device = nvme();
    let bus = bus(&[&device]);
    bus.activate();
    let first = device.take_placed()[0].1.unwrap();

    bus.memory_write(config(1, 4), 2, 0);
    assert_eq!(device.take_placed(), [(0, None)], "decoding went off");
    bus.memory_write(config(1, 0x10), 8, u64::MAX);
    assert_eq!(bus.memory_read(config(1, 0x10), 8), !0x3fff | 4);
    let moved = bus.map.window_32().start + 0x10_0000;
    bus.memory_write(config(1, 0x10), 8, moved);
    assert!(device.take_placed().is_empty());
    bus.memory_write(config(1, 4), 2, 2);
    assert_eq!(device.take_placed(), [(0, Some(moved))]);

    bus.memory_write(config(1, 0x10), 4, 0xffff_ffff);
    assert_eq!(device.take_placed(), [(0, None)], "sized with decoding on: outside the window meanwhile");
    bus.memory_write(config(1, 0x10), 8, first);
    assert_eq!(device.take_placed(), [(0, Some(first))]);
    bus.memory_write(config(1, 0x14), 4, 0);
    bus.memory_write(config(1, 0x10), 4, 0x10_0000);
    assert_eq!(device.take_placed(), [(0, None)], "not over RAM");
    bus.memory_write(config(1, 0x10), 8, first);
    bus.deactivate();
    assert_eq!(device.take_placed(), [(0, Some(first)), (0, None)]);
}

#[test]
fn a_bar_cannot_cover_another_and_gets_its_place_when_that_one_leaves() {
    let (one, two) = (nvme(), nvme());
    let bus = bus(&[&one, &two]);
    bus.activate();
    let first = one.take_placed()[0].1.unwrap();
    two.take_placed();
    bus.memory_write(config(2, 0x10), 8, first);
    assert_eq!(two.take_placed(), [(0, None)]);
    assert_eq!(bus.window_read(false, first, 4), Some(0), "still the first one's");
    bus.memory_write(config(1, 4), 2, 0);
    assert_eq!((one.take_placed(), two.take_placed()), (vec![(0, None)], vec![(0, Some(first))]));
}

#[test]
fn trapped_accesses_reach_the_function_with_bar_and_offset() {
    let device = Fake::new("x", &[(1, BarKind::Memory32, 0x1000), (3, BarKind::Ports, 0x20)]);
    let bus = bus(&[&device]);
    let window = bus.map.window_32().start;
    assert_eq!(bus.window_read(false, window, 4), None, "not decoded yet");
    bus.activate();
    assert_eq!(bus.window_read(false, window + 0x10, 4), Some(1 << 32 | 0x10));
    assert_eq!(bus.window_read(false, window + 0xffe, 4), None, "across its end");
    assert_eq!(bus.window_read(false, PCI_PORTS_START, 1), None, "ports are another space");
    assert_eq!(bus.window_read(true, PCI_PORTS_START + 4, 4), Some(3 << 32 | 4));
    assert!(bus.window_write(false, window + 8, 8, 7));
    assert!(!bus.window_write(false, window + 0x1000, 8, 7));
    assert_eq!(*device.written.lock().unwrap(), [(1, 8, 8, 7)]);
}

#[test]
fn what_does_not_fit_is_named() {
    let error = |functions: Vec<Arc<Fake>>| {
        let functions: Vec<Arc<dyn VirtualFunction>> =
            functions.into_iter().map(|f| f as Arc<dyn VirtualFunction>).collect();
        let map = AddressMap::new(64 * MIB, 0).unwrap();
        VirtualPciBus::new(map, functions).err().unwrap()
    };
    let huge = Fake::new("0000:05:00.0", &[(2, BarKind::Memory32, 1 << 31)]);
    assert_eq!(
        error(vec![huge]).to_string(),
        "BAR 2 of 0000:05:00.0 (0x80000000 bytes) does not fit into the VM's 32-bit PCI window; assign fewer functions \
         to this VM"
    );
    let odd = Fake::new("0000:05:00.0", &[(0, BarKind::Memory32, 0x3000)]);
    assert_eq!(error(vec![odd]), PciError::Size { function: "0000:05:00.0".into(), bar: 0, size: 0x3000 });
    let last = Fake::new("0000:05:00.0", &[(5, BarKind::Memory64, 0x1000)]);
    assert!(matches!(error(vec![last]), PciError::Size { bar: 5, .. }));
    let many = (0..32).map(|_| Fake::new("x", &[])).collect();
    assert_eq!(error(many), PciError::TooManyFunctions { count: 32 });
}

proptest! {
    /// Whatever a guest writes: no two BARs overlap, none leaves the windows, and functions are told of each change.
    #[test]
    fn placements_stay_apart(writes in prop::collection::vec((1u64..4, 0u64..0x40, 0u8..4, any::<u64>(), any::<bool>()), 0..60)) {
        let functions = [nvme(), Fake::new("b", &[(0, BarKind::Memory32, 0x10), (2, BarKind::Ports, 0x10)]), nvme()];
        let bus = bus(&functions.iter().collect::<Vec<_>>());
        bus.activate();
        for (slot, offset, size, value, near) in writes {
            let value = if near { bus.map.window_32().start + (value & 0xff) * 0x10 } else { value };
            bus.memory_write(config(slot, offset), 1 << size, value);
            bus.memory_read(config(slot, offset), 1 << size);
            let placements = bus.placements.read();
            for (index, placement) in placements.iter().enumerate() {
                let Some(at) = placement.at else { continue };
                let windows = [crate::vm::map::PCI_PORTS, bus.map.window_32(), bus.map.window_64()];
                prop_assert!(windows.iter().any(|window| window.contains(at, placement.bar.size)));
                prop_assert!(!placement::is_taken(&placements, &placements[index], at));
            }
        }
        let mut known = std::collections::BTreeMap::new();
        for (index, function) in functions.iter().enumerate() {
            for (bar, at) in function.take_placed() {
                prop_assert!(known.insert((index, bar), at).flatten().is_none() || at.is_none());
            }
        }
        for placement in bus.placements.read().iter() {
            prop_assert_eq!(known.get(&(placement.function, placement.index)).copied().flatten(), placement.at);
        }
    }
}
