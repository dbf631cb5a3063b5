use std::vec::Vec;

use super::*;
use crate::fake::{FakeFunction, Trace, offset};

fn endpoint() -> (FakeFunction, VirtualConfiguration) {
    let function = FakeFunction::endpoint(&Trace::default());
    let bars = Bars::probe(&function);
    let configuration = VirtualConfiguration::new(&function, bars, 1);
    function.take_writes();
    (function, configuration)
}

fn read(pair: &(FakeFunction, VirtualConfiguration), at: u16) -> u32 {
    pair.1.read(&pair.0, at, Width::Double)
}

fn write(pair: &mut (FakeFunction, VirtualConfiguration), at: u16, width: Width, value: u32) -> Changes {
    pair.1.write(&pair.0, at, width, value)
}

#[test]
fn probing_finds_bars_and_leaves_them_alone() {
    let function = FakeFunction::endpoint(&Trace::default());
    let before: Vec<u32> = (0..16).map(|word| function.peek(word * 4, 4)).collect();
    let bars = Bars::probe(&function);
    let after: Vec<u32> = (0..16).map(|word| function.peek(word * 4, 4)).collect();
    assert_eq!(before, after);
    use crate::region::{Bar, BarKind, Rom};
    assert_eq!(
        bars.bars,
        [
            Some(Bar { kind: BarKind::Memory64 { prefetchable: false }, address: 0xfe00_0000, size: 0x4000 }),
            None,
            Some(Bar { kind: BarKind::Io, address: 0xc000, size: 32 }),
            None,
            Some(Bar { kind: BarKind::Memory32 { prefetchable: false }, address: 0xfe01_0000, size: 0x400 }),
            None,
        ]
    );
    assert_eq!(bars.rom, Some(Rom { address: 0xfe02_0000, size: 0x1_0000 }));
}

#[test]
fn sizing_works_and_never_reaches_the_function() {
    let mut pair = endpoint();
    for (at, expected) in [
        (0x10, 0xffff_c004),
        (0x14, u32::MAX),
        (0x18, 0xffff_ffe1),
        (0x1c, 0),
        (0x20, 0xffff_fc00),
        (0x24, 0),
        (0x30, 0xffff_0001),
    ] {
        assert_eq!(read(&pair, at) & !0xf, 0, "{at:#x} starts without an address");
        let changes = write(&mut pair, at, Width::Double, u32::MAX);
        assert_eq!(read(&pair, at), expected, "{at:#x}");
        assert!(changes.contains(Changes::MEMORY));
    }
    assert_eq!(pair.0.take_writes(), []);
}

#[test]
fn placements_follow_bars_and_decoding() {
    let mut pair = endpoint();
    write(&mut pair, 0x10, Width::Double, 0x8000_1000);
    write(&mut pair, 0x14, Width::Double, 0x12);
    let placement = pair.1.placement(0).unwrap();
    assert_eq!((placement.address, placement.size, placement.enabled), (0x12_8000_0000, 0x4000, false));
    assert_eq!(write(&mut pair, 0x04, Width::Word, 0x2), Changes::MEMORY);
    assert!(pair.1.placement(0).unwrap().enabled);
    assert!(!pair.1.placement(2).unwrap().enabled, "ports are not memory");
    assert_eq!(write(&mut pair, 0x04, Width::Word, 0x3), Changes::IO);
    assert!(pair.1.placement(2).unwrap().enabled);
    assert!(!pair.1.placement(6).unwrap().enabled, "the ROM has a bit of its own");
    write(&mut pair, 0x30, Width::Double, 0x9000_0001);
    assert!(pair.1.placement(6).unwrap().enabled);
    assert_eq!(pair.1.placement(1), None);
    assert_eq!(pair.1.placement(7), None);
    // One byte of a BAR at a time.
    write(&mut pair, 0x23, Width::Byte, 0xfe);
    assert_eq!(pair.1.placement(4).unwrap().address, 0xfe00_0000);
}

#[test]
fn the_command_register_is_a_copy_and_its_changes_are_told() {
    let mut pair = endpoint();
    assert_eq!(write(&mut pair, 0x04, Width::Double, 0xffff_ffff).bits(), 0b1111);
    assert_eq!(read(&pair, 0x04), 0x0010_07ff, "status stays the function's");
    assert_eq!(write(&mut pair, 0x05, Width::Byte, 0x00), Changes::INTERRUPT_DISABLE);
    assert_eq!(write(&mut pair, 0x04, Width::Byte, 0x03), Changes::BUS_MASTER);
    assert_eq!(pair.0.take_writes(), [], "status bits must not be cleared by writing them back");
    pair.0.poke(0x06, 2, 0xf918);
    assert_eq!(read(&pair, 0x04) >> 16, 0xf918);
}

#[test]
fn hidden_capabilities_are_skipped() {
    let pair = endpoint();
    let mut chain = Vec::new();
    let mut at = read(&pair, 0x34) as u16 & 0xff;
    while at != 0 {
        let header = read(&pair, at);
        chain.push((at, header & 0xff));
        at = (header >> 8 & 0xff) as u16;
    }
    assert_eq!(
        chain,
        [
            (offset::POWER, 0x01),
            (offset::MSI, 0x05),
            (offset::EXPRESS, 0x10),
            (offset::MSI_X, 0x11),
            (offset::ADVANCED, 0x13),
            (offset::VENDOR, 0x09)
        ]
    );
    // Extended: error reporting, then straight to the serial number; PASID is left out and cannot be enabled.
    assert_eq!(read(&pair, offset::ERRORS), 0x1601_0001);
    assert_eq!(read(&pair, offset::SERIAL), 0x0001_0003);
    assert_eq!(read(&pair, offset::SERIAL + 4), 0xcafe_f00d);
    let mut pair = pair;
    write(&mut pair, offset::PASID + 4, Width::Double, u32::MAX);
    assert_eq!(pair.0.take_writes(), []);
}

#[test]
fn a_hidden_first_extended_capability_anchors_the_chain() {
    let function = FakeFunction::endpoint(&Trace::default());
    function.put(offset::ERRORS, 4, 0x1501_001b, 0);
    let configuration = VirtualConfiguration::new(&function, Bars::probe(&function), 0);
    assert_eq!(configuration.read(&function, offset::ERRORS, Width::Double), 0x1600_0000);
    assert_eq!(configuration.read(&function, 0x3d, Width::Byte), 0, "no wire, no pin");
}

#[test]
fn a_chain_in_a_circle_ends() {
    let function = FakeFunction::new("circle", 4096, &Trace::default());
    function.put(0x34, 1, 0x40, 0);
    function.put(0x40, 4, 0x0000_4009, 0);
    function.put(0x100, 4, 0x1001_0003, 0);
    let configuration = VirtualConfiguration::new(&function, Bars::default(), 0);
    assert_eq!(configuration.read(&function, 0x40, Width::Byte), 0x09);
    assert_eq!(configuration.size(), 256, "conventional PCI has no more");
    assert_eq!(configuration.read(&function, 0x100, Width::Word), 0xffff);
    function.put(0x40, 4, 0x0000_4010, 0);
    let configuration = VirtualConfiguration::new(&function, Bars::default(), 0);
    assert_eq!(configuration.read(&function, 0x100, Width::Word), 0x0003);
}

#[test]
fn messages_stay_in_the_copy() {
    let mut pair = endpoint();
    assert_eq!(pair.1.msi_capacity(), 8);
    assert_eq!(write(&mut pair, offset::MSI + 4, Width::Double, 0xfee0_1007), Changes::MSI);
    assert_eq!(write(&mut pair, offset::MSI + 8, Width::Double, 0x1), Changes::MSI);
    assert_eq!(write(&mut pair, offset::MSI + 12, Width::Word, 0x4041), Changes::MSI);
    // Enabled with 32 messages, of which the function has 8.
    assert_eq!(write(&mut pair, offset::MSI + 2, Width::Word, 0xffff), Changes::MSI);
    let view = pair.1.msi().unwrap();
    assert!(view.enabled);
    assert_eq!(view.count, 8);
    assert_eq!(view.message, Message { address: 0x1_fee0_1004, data: 0x4041 });
    assert_eq!(view.message(6), Message { address: 0x1_fee0_1004, data: 0x4046 });
    assert_eq!(pair.1.read(&pair.0, offset::MSI + 2, Width::Word), 0x01f7, "read-only bits stay");
    assert_eq!(pair.0.take_writes(), [], "the function sees none of it");
    // Mask bits are the guest's straight.
    write(&mut pair, offset::MSI + 16, Width::Double, 0x5);
    assert_eq!(pair.0.peek(offset::MSI + 16, 4), 0x5);

    assert_eq!(write(&mut pair, offset::MSI_X + 2, Width::Word, 0xffff), Changes::MSI_X);
    assert_eq!(pair.1.msix(), Some(MsixView { enabled: true, all_masked: true, size: 65 }));
    assert_eq!(pair.0.peek(offset::MSI_X + 2, 2), 0x0040);
    assert_eq!(write(&mut pair, offset::MSI_X + 2, Width::Word, 0x8000), Changes::MSI_X);
    assert_eq!(write(&mut pair, offset::MSI_X + 2, Width::Word, 0x8000), Changes::empty(), "nothing changed");
    use crate::door::Message;
}

#[test]
fn device_control_reaches_the_function_in_part() {
    let mut pair = endpoint();
    let control = offset::EXPRESS + 8;
    // Reset, phantom functions, payload 4096, read request 4096, relaxed ordering and the error switches.
    assert_eq!(write(&mut pair, control, Width::Word, 0xd6bf | 0x8000), Changes::RESET);
    let real = pair.0.peek(control, 2);
    assert_eq!(real & 0x8000, 0, "the reset is the caller's");
    assert_eq!(real & 0x0200, 0, "no phantom functions");
    assert_eq!(real & 0x00e0, 0, "the payload size is the host's");
    assert_eq!(real & 0x7000, 0x5000, "the read request is the guest's");
    assert_eq!(real & 0x001f, 0x001f);
    assert_eq!(pair.1.read(&pair.0, control, Width::Word) & 0x80e0, 0x00a0, "the copy shows the wish, not the reset");
    // Not below the payload size.
    pair.0.poke(control, 2, 0x5040);
    write(&mut pair, control, Width::Word, 0x0000);
    assert_eq!(pair.0.peek(control, 2) & 0x70e0, 0x2040);
    // ARI stays off.
    write(&mut pair, offset::EXPRESS + 40, Width::Word, 0xffff);
    assert_eq!(pair.0.peek(offset::EXPRESS + 40, 2), 0xffdf);
    // The link is not the guest's.
    write(&mut pair, offset::EXPRESS + 16, Width::Word, 0xffff);
    assert_eq!(pair.0.peek(offset::EXPRESS + 16, 2), 0);
}

#[test]
fn a_reset_bit_without_the_capability_does_nothing() {
    let mut pair = endpoint();
    pair.0.put(offset::EXPRESS + 4, 4, 0x8002, 0);
    assert_eq!(write(&mut pair, offset::EXPRESS + 8, Width::Word, 0x8000), Changes::empty());
    assert_eq!(write(&mut pair, offset::ADVANCED + 4, Width::Byte, 1), Changes::RESET);
    pair.0.put(offset::ADVANCED + 3, 1, 0x02, 0);
    assert_eq!(write(&mut pair, offset::ADVANCED + 4, Width::Byte, 1), Changes::empty());
}

#[test]
fn power_is_asked_for_and_wake_up_is_none_of_the_guests() {
    let mut pair = endpoint();
    assert_eq!(read(&pair, offset::POWER) >> 16, 0x0603, "no state wakes");
    assert_eq!(write(&mut pair, offset::POWER + 4, Width::Word, 0x8103), Changes::POWER);
    assert_eq!(pair.1.power_request(), 3);
    assert_eq!(pair.0.peek(offset::POWER + 4, 2), 0, "changing it is the caller's");
    assert_eq!(write(&mut pair, offset::POWER + 4, Width::Double, 0), Changes::POWER);
    assert_eq!(pair.1.power_request(), 0);
}

#[test]
fn what_only_a_driver_knows_passes_straight() {
    let mut pair = endpoint();
    write(&mut pair, 0xf0, Width::Double, 0x1122_3344);
    assert_eq!(pair.0.take_writes(), [(0xf0, 4, 0x1122_3344)]);
    write(&mut pair, offset::VENDOR + 5, Width::Byte, 0x77);
    assert_eq!(read(&pair, offset::VENDOR + 4), 0x7700);
    // Header of a capability: never.
    write(&mut pair, offset::VENDOR, Width::Double, 0);
    assert_eq!(read(&pair, offset::VENDOR), 0x0010_0009);
}

#[test]
fn accesses_past_the_end_find_nobody() {
    let mut pair = endpoint();
    assert_eq!(read(&pair, 4096), u32::MAX);
    assert_eq!(pair.1.read(&pair.0, 4094, Width::Double), 0xffff_0000, "byte by byte");
    assert_eq!(pair.1.read(&pair.0, u16::MAX, Width::Word), 0xffff);
    assert_eq!(write(&mut pair, 4096, Width::Double, 0), Changes::empty());
    assert_eq!(write(&mut pair, u16::MAX, Width::Double, 0), Changes::empty());
    // Across registers, byte by byte.
    assert_eq!(pair.1.read(&pair.0, 0x01, Width::Word), 0x7812);
    assert_eq!(write(&mut pair, 0x03, Width::Word, 0x02ff), Changes::MEMORY);
}

#[test]
fn a_reset_brings_back_what_a_guest_finds_at_power_on() {
    let mut pair = endpoint();
    let fresh: Vec<u32> = (0..1024).map(|word| read(&pair, word * 4)).collect();
    for at in (0x04..0x40).step_by(4).chain((offset::MSI..offset::MSI + 16).step_by(4)) {
        write(&mut pair, at, Width::Double, u32::MAX);
    }
    write(&mut pair, offset::MSI_X + 2, Width::Word, 0xc000);
    pair.1.reset();
    pair.0.poke(0x0c, 4, 0);
    let after: Vec<u32> = (0..1024).map(|word| read(&pair, word * 4)).collect();
    assert_eq!(fresh, after);
}

#[test]
fn a_write_leaves_the_neighbours_alone() {
    let mut pair = endpoint();
    // Cache line and latency, then a byte that is nobody's, then self test.
    write(&mut pair, 0x0c, Width::Double, 0x1122_3344);
    assert_eq!(pair.0.take_writes(), [(0x0c, 2, 0x3344), (0x0f, 1, 0x11)]);
    // Device status behind device control holds errors that writing them back would clear.
    pair.0.poke(offset::EXPRESS + 10, 2, 0x000f);
    write(&mut pair, offset::EXPRESS + 8, Width::Double, 0xffff_2810);
    assert_eq!(pair.0.peek(offset::EXPRESS + 10, 2), 0x000f);
}

#[test]
fn a_bar_above_4_gib_is_sized_in_both_halves() {
    let function = FakeFunction::new("large", 256, &Trace::default());
    function.put(0x18, 4, 0x000c, 0);
    function.put(0x1c, 4, 0x0080, 0xffff_fffe);
    let bars = Bars::probe(&function);
    assert_eq!(bars.get(2).map(|bar| (bar.address, bar.size)), Some((0x80_0000_0000, 0x2_0000_0000)));
    let mut pair = (function.clone(), VirtualConfiguration::new(&function, bars, 0));
    for at in [0x18, 0x1c] {
        write(&mut pair, at, Width::Double, u32::MAX);
    }
    assert_eq!((read(&pair, 0x18), read(&pair, 0x1c)), (0x0000_000c, 0xffff_fffe));
    write(&mut pair, 0x1c, Width::Double, 0x13);
    assert_eq!(pair.1.placement(2).unwrap().address, 0x12_0000_0000);
}
