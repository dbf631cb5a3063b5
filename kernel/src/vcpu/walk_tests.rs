use super::*;
use crate::vcpu::testing::{FakeEngine, FakeMachine};

const KERNEL: u64 = PRESENT | WRITABLE;
const EVERYONE: u64 = KERNEL | USER;

/// Four levels at 0x1000, 0x2000, 0x3000, 0x4000; 0x5000 is mapped at 0, the page behind it for users too.
fn machine() -> FakeMachine {
    let machine = FakeMachine::new(0x10000);
    for (at, entry) in [
        (0x1000, 0x2000 | EVERYONE),
        (0x2000, 0x3000 | EVERYONE),
        (0x2008, 0x4000_0000 | LARGE | KERNEL),
        (0x3000, 0x4000 | EVERYONE),
        (0x3008, 0x0060_0000 | LARGE | KERNEL),
        (0x3010, 0x0060_2000 | LARGE | KERNEL),
        (0x4000, 0x5000 | KERNEL),
        (0x4008, 0x6000 | EVERYONE),
        (0x4010, 0x7000 | PRESENT),
        (0x4018, 0x8000 | KERNEL | NO_EXECUTE),
    ] {
        machine.put(at, &u64::to_le_bytes(entry));
    }
    machine
}

fn paging(mode: Mode) -> Paging {
    Paging {
        mode,
        root: 0x1000,
        write_protect: true,
        no_execute: true,
        smep: true,
        smap: true,
        page_size_extension: true,
        user: false,
    }
}

fn fault(address: u64, error: u32) -> Result<GuestPhysical, Trouble> {
    Err(Trouble::Page { address, error })
}

#[test]
fn four_levels_and_their_large_pages() {
    let (machine, paging) = (machine(), paging(Mode::Long));
    for (linear, expected) in [(0x123, 0x5123), (0x20_0456, 0x60_0456), (0x4000_0789, 0x4000_0789)] {
        assert_eq!(paging.translate(linear, Access::Read, &machine), Ok(GuestPhysical::new(expected)));
    }
    assert_eq!(paging.translate(0x5000, Access::Read, &machine), fault(0x5000, 0));
    assert_eq!(paging.translate(0x40_0000, Access::Read, &machine), fault(0x40_0000, 0x9), "reserved bit 13");
    assert!(matches!(paging.translate(1 << 47, Access::Read, &machine), Err(Trouble::Exception(_))));
}

#[test]
fn rights_are_those_of_the_manual() {
    let (machine, kernel) = (machine(), paging(Mode::Long));
    let user = kernel.with_user(true);
    let ok = |address| Ok(GuestPhysical::new(address));
    assert_eq!(kernel.translate(0x2000, Access::Write, &machine), fault(0x2000, 0x3), "write protection");
    let unprotected = Paging { write_protect: false, ..kernel };
    assert_eq!(unprotected.translate(0x2000, Access::Write, &machine), ok(0x7000));
    assert_eq!(kernel.translate(0x3000, Access::Fetch, &machine), fault(0x3000, 0x11), "no-execute");
    assert_eq!(kernel.translate(0x1000, Access::Read, &machine), fault(0x1000, 0x1), "SMAP");
    assert_eq!(kernel.translate(0x1000, Access::Fetch, &machine), fault(0x1000, 0x11), "SMEP");
    let suspended = Paging { smap: false, ..kernel };
    assert_eq!(suspended.translate(0x1000, Access::Write, &machine), ok(0x6000));
    assert_eq!(user.translate(0x1000, Access::Write, &machine), ok(0x6000));
    assert_eq!(user.translate(0, Access::Write, &machine), fault(0, 0x7));
}

#[test]
fn no_execute_is_reserved_while_it_is_off() {
    let paging = Paging { no_execute: false, ..paging(Mode::Long) };
    assert_eq!(paging.translate(0x3000, Access::Read, &machine()), fault(0x3000, 0x9));
}

#[test]
fn three_levels_ignore_rights_in_the_first() {
    let machine = machine();
    // The first level's entries have no rights bits.
    machine.put(0x1000, &u64::to_le_bytes(0x3000 | PRESENT));
    let paging = paging(Mode::Extended);
    assert_eq!(paging.translate(0x123, Access::Write, &machine), Ok(GuestPhysical::new(0x5123)));
    assert_eq!(paging.translate(0x4000_0000, Access::Read, &machine), fault(0x4000_0000, 0));
}

#[test]
fn two_levels_with_large_pages() {
    let machine = FakeMachine::new(0x10000);
    machine.put(0x1000, &0x2003u32.to_le_bytes());
    machine.put(0x1004, &0x0040_6083u32.to_le_bytes());
    machine.put(0x2004, &0x5001u32.to_le_bytes());
    let paging = paging(Mode::Legacy);
    assert_eq!(paging.translate(0x1abc, Access::Read, &machine), Ok(GuestPhysical::new(0x5abc)));
    assert_eq!(paging.translate(0x1abc, Access::Write, &machine), fault(0x1abc, 0x3));
    assert_eq!(paging.translate(0x40_0abc, Access::Write, &machine), Ok(GuestPhysical::new(0x3_0040_0abc)));
    assert_eq!(paging.translate(0x80_0000, Access::Read, &machine), fault(0x80_0000, 0));
}

#[test]
fn tables_outside_memory_end_the_machine() {
    let paging = Paging { root: 0xffff_f000, ..paging(Mode::Long) };
    let result = paging.translate(0, Access::Read, &machine());
    assert!(matches!(result, Err(Trouble::Crash(CrashReason::PageTableOutsideMemory { .. }))), "{result:?}");
}

#[test]
fn walks_set_the_flags_that_the_processor_sets() {
    let (machine, paging) = (machine(), paging(Mode::Long));
    let entry = |at| u64::from_le_bytes(machine.get(at)) & (ACCESSED | DIRTY);
    paging.translate(0, Access::Read, &machine).unwrap();
    assert_eq!([0x1000, 0x2000, 0x3000, 0x4000].map(entry), [ACCESSED; 4]);
    paging.translate(0, Access::Write, &machine).unwrap();
    assert_eq!([0x3000, 0x4000, 0x4008].map(entry), [ACCESSED, ACCESSED | DIRTY, 0]);
}

#[test]
fn a_trail_holds_until_an_entry_on_it_changes() {
    let (machine, paging) = (machine(), paging(Mode::Long));
    let walk = || {
        let mut trail = Trail::NEW;
        paging.translate_by(0x123, Access::Read, &machine, Some(&mut trail)).unwrap();
        trail
    };
    for (at, entry) in [(0x1000, 0x2000 | EVERYONE), (0x3000, 0x4000 | EVERYONE), (0x4000, 0x5000 | KERNEL)] {
        let trail = walk();
        assert!(trail.holds());
        machine.put(at, &u64::to_le_bytes(entry | DIRTY));
        assert!(trail.holds(), "the processor's own flags change nothing");
        machine.put(at, &u64::to_le_bytes(entry ^ 0x8000));
        assert!(!trail.holds(), "{at:#x}");
        machine.put(at, &u64::to_le_bytes(entry));
    }
    assert!(!Trail::LOST.holds());
}

#[test]
fn the_mode_follows_the_registers() {
    let mut engine = FakeEngine::new();
    assert_eq!(Paging::of(&engine).mode, Mode::Off);
    engine.set_system(SystemRegister::Cr0, bits::CR0_PG | bits::CR0_PE);
    assert_eq!(Paging::of(&engine).mode, Mode::Legacy);
    engine.set_system(SystemRegister::Cr4, bits::CR4_PAE);
    assert_eq!(Paging::of(&engine).mode, Mode::Extended);
    engine.set_system(SystemRegister::Efer, bits::EFER_LMA);
    assert_eq!(Paging::of(&engine).mode, Mode::Long);
}
