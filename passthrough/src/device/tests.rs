use std::string::String;
use std::vec::Vec;

use super::*;
use crate::config::Changes;
use crate::door::{Event, Width};
use crate::errno::Errno;
use crate::fake::bench::{Bench, ENDPOINT, SIBLING};
use crate::fake::{FakeFunction, offset};
use crate::interrupt::{IrqAction, IrqData, IrqSet, SetIrqsError};
use crate::region::MsixDefect;

const TABLE: u64 = 0x2200;

fn trigger(device: &mut Device<crate::fake::FakeMachine>, index: u32, events: &[Option<Event>]) {
    let count = events.len() as u32;
    let data = IrqData::Events(events);
    device.set_irqs(IrqSet { index, start: 0, count, action: IrqAction::TRIGGER, data }).unwrap();
}

/// What the function holds in the registers that software sets, with bus mastering left out.
fn configuration(function: &FakeFunction) -> Vec<u32> {
    [0x0c, 0x10, 0x14, 0x18, 0x20, 0x30, offset::EXPRESS + 8, offset::ERRORS + 8]
        .into_iter()
        .map(|at| function.peek(at, 4))
        .chain([function.peek(0x04, 2) & !4])
        .collect()
}

#[test]
fn opening_silences_and_resets_the_function() {
    let bench = Bench::new();
    bench.function.poke(0x04, 2, 0x0147);
    bench.function.poke(offset::MSI + 2, 2, 0x01a7);
    bench.function.poke(offset::MSI_X + 2, 2, 0x8040);
    let before = configuration(&bench.function);
    let device = bench.open();
    assert_eq!(bench.function.resets(), 1);
    assert_eq!(device.reset_method(), Some(Method::FunctionLevel));
    assert_eq!(device.info(), DeviceInfo { can_reset: true, regions: 9, irqs: 5 });
    assert_eq!(
        bench.function.command(),
        0x0500,
        "no decoding, no requests, no wire; system errors as the host has them"
    );
    assert_eq!(bench.function.peek(offset::MSI + 2, 2) & 1, 0);
    assert_eq!(bench.function.peek(offset::MSI_X + 2, 2) & 0x8000, 0);
    assert_eq!(bench.function.peek(0x10, 4), 0xfe00_0004, "the host's addresses are back");
    assert_eq!(device.config_read(0x10, Width::Double), 4, "and none of the guest's business");

    device.close().unwrap();
    assert_eq!(bench.function.resets(), 2);
    assert_eq!(configuration(&bench.function), before);
    assert_eq!(bench.function.command() & 4, 0, "bus mastering stays off");
    assert_eq!(bench.remapping.books(), Default::default());
}

#[test]
fn closing_goes_in_order_however_it_comes_about() {
    for explicit in [true, false] {
        let bench = Bench::new();
        let mut device = bench.open_decoding();
        trigger(&mut device, 2, &[Some(Event(1))]);
        bench.trace.lock().unwrap().clear();
        if explicit {
            device.close().unwrap();
        } else {
            drop(device);
        }
        let trace = bench.trace.lock().unwrap().clone();
        let first = |wanted: &str| {
            let found = trace.iter().position(|line| line.starts_with(wanted));
            found.unwrap_or_else(|| panic!("no {wanted:?} in {trace:?}"))
        };
        let order: Vec<usize> =
            ["endpoint command 0x402", "endpoint msix 0x40", "free interrupts", "endpoint reset", "detach", "destroy"]
                .into_iter()
                .map(first)
                .collect();
        assert!(order.is_sorted(), "{trace:?}");
        assert_eq!(bench.remapping.books(), Default::default());
    }
}

#[test]
fn a_device_can_be_opened_again_and_again() {
    let bench = Bench::new();
    for _ in 0..20 {
        let mut device = bench.open_decoding();
        trigger(&mut device, 1, &[Some(Event(1)), Some(Event(2))]);
        assert_eq!(device.address(), ENDPOINT);
    }
    assert_eq!(bench.remapping.books(), Default::default());
}

#[test]
fn bus_mastering_is_the_guests_while_it_is_let() {
    let bench = Bench::new();
    let mut device = bench.open();
    assert_eq!(device.config_write(0x04, Width::Word, 0x0106), Changes::MEMORY | Changes::BUS_MASTER);
    assert_eq!(bench.function.command(), 0x0406, "the wire stays off, system errors are the host's");
    assert!(device.is_bus_master());
    device.set_quarantined(true);
    assert_eq!(bench.function.command() & 4, 0);
    device.config_write(0x04, Width::Word, 0x0002);
    device.config_write(0x04, Width::Word, 0x0006);
    assert_eq!(bench.function.command() & 4, 0);
    assert_eq!(device.config_read(0x04, Width::Word), 0x0006, "the guest sees its own");
    device.set_quarantined(false);
    assert_eq!(bench.function.command() & 4, 4);
    device.config_write(0x04, Width::Word, 0);
    assert_eq!(bench.function.command(), 0x0400);
}

#[test]
fn a_reset_keeps_what_the_guest_has_set_up() {
    let bench = Bench::new();
    let mut device = bench.open_decoding();
    device.region_write(0, TABLE + 12, Width::Double, 0);
    trigger(&mut device, 2, &[Some(Event(1))]);
    device.config_write(offset::MSI_X + 2, Width::Word, 0x8000);
    device.region_write(0, TABLE + 5 * 16 + 12, Width::Double, 0);
    let entry = bench.windows.entry(0, TABLE, 0);
    bench.windows.bytes.lock().unwrap().clear();
    assert_eq!(device.config_write(offset::EXPRESS + 8, Width::Word, 0xa810), Changes::RESET);
    device.reset().unwrap();
    assert_eq!(bench.function.resets(), 2);
    assert_eq!(bench.function.command(), 0x0406);
    assert_eq!(bench.function.peek(0x10, 4), 0xfe00_0004);
    assert_eq!(bench.function.peek(offset::MSI_X + 2, 2), 0x8040);
    assert_eq!(bench.windows.entry(0, TABLE, 0), entry);
    assert_eq!(entry[3], 0);
    assert_eq!(bench.windows.entry(0, TABLE, 5)[3], 1, "nobody listens to this one, whatever its mask");
}

#[test]
fn a_function_without_a_reset_is_silenced_all_the_same() {
    let bench = Bench::new();
    bench.function.put(offset::EXPRESS + 4, 4, 0x8002, 0);
    bench.function.put(offset::ADVANCED + 3, 1, 0, 0);
    bench.function.put(offset::POWER + 4, 2, 8, 3);
    bench.function.poke(0x04, 2, 0x0007);
    bench.function.poke(offset::MSI + 2, 2, 0x01a7);
    bench.function.poke(offset::MSI_X + 2, 2, 0x8040);
    let parts = Parts { bus: None, ..bench.parts() };
    let device = Device::<crate::fake::FakeMachine>::open(&bench.group(), ENDPOINT, parts).unwrap();
    assert!(!device.info().can_reset);
    assert_eq!(bench.function.resets(), 0);
    assert_eq!(bench.function.command(), 0x0400);
    assert_eq!(bench.function.peek(offset::MSI + 2, 2), 0x0186);
    assert_eq!(bench.function.peek(offset::MSI_X + 2, 2), 0x0040);
    device.close().unwrap();
    assert_eq!(bench.function.command(), 0x0003, "as it was, without bus mastering");
}

#[test]
fn a_restart_takes_everything_away() {
    let bench = Bench::new();
    let mut device = bench.open_decoding();
    device.region_write(0, TABLE + 12, Width::Double, 0);
    trigger(&mut device, 2, &[Some(Event(1))]);
    device.restart().unwrap();
    assert_eq!(device.active_irq(), None);
    assert!(bench.remapping.books().entries.is_empty());
    assert_eq!(device.config_read(0x04, Width::Word), 0);
    assert_eq!(device.config_read(0x14, Width::Double), 0);
    assert_eq!(bench.function.command(), 0x0400);
    assert!(device.msix_is_masked(0));
    assert_eq!(bench.remapping.books().domains.len(), 1, "it stays in its container");
}

#[test]
fn a_function_that_does_not_come_back_is_poisoned_by_name() {
    let bench = Bench::new();
    let mut device = bench.open_decoding();
    trigger(&mut device, 1, &[Some(Event(1))]);
    bench.function.set_silence(u32::MAX);
    let refusal = device.reset().unwrap_err();
    assert_eq!(refusal.errno(), Errno::ETIMEDOUT);
    let text = std::format!("{refusal}");
    assert!(text.starts_with("0000:01:00.0 did not answer within 60 s after function-level reset"), "{text}");
    assert!(device.poison().is_some());
    assert_eq!(device.config_read(0x00, Width::Double), u32::MAX);
    assert_eq!(device.config_write(0x04, Width::Word, 7), Changes::empty());
    assert_eq!(device.region_read(0, 0, Width::Double), 0xffff_ffff);
    assert_eq!(device.region_write(0, TABLE, Width::Double, 0), None);
    let set = IrqSet { index: 1, start: 0, count: 0, action: IrqAction::TRIGGER, data: IrqData::None };
    assert_eq!(device.set_irqs(set), Err(SetIrqsError::Poisoned));
    assert_eq!(device.reset().unwrap_err().errno(), Errno::ETIMEDOUT);
    assert_eq!(device.close().unwrap_err().errno(), Errno::ETIMEDOUT, "nobody may think that it was reset");
    assert_eq!(bench.remapping.books(), Default::default());
    // It still does not answer: it cannot be opened.
    assert_eq!(bench.try_open().unwrap_err(), DeviceError::NoAnswer(ENDPOINT));
    assert_eq!(bench.remapping.books(), Default::default());
}

#[test]
fn a_reset_that_fails_at_open_fails_the_open_and_gives_everything_back() {
    let bench = Bench::new();
    bench.function.set_silence(u32::MAX);
    assert!(matches!(bench.try_open(), Err(DeviceError::Reset(ResetError::NoAnswer { .. }))));
    assert_eq!(bench.remapping.books(), Default::default());
}

#[test]
fn an_msix_capability_that_contradicts_the_bars_is_named() {
    for (table, pending, expected) in [
        (0x2201, 0x3000, MsixDefect::NoBar(1)),
        (0x2202, 0x3000, MsixDefect::NoBar(2)),
        (0x2206, 0x3000, MsixDefect::NoBar(6)),
        (0x3c00, 0x3000, MsixDefect::BeyondBar(0)),
        (0x2200, 0x3ff8, MsixDefect::BeyondBar(0)),
        (0x2200, 0x2608, MsixDefect::Overlap),
    ] {
        let bench = Bench::new();
        bench.function.put(offset::MSI_X + 4, 4, table, 0);
        bench.function.put(offset::MSI_X + 8, 4, pending, 0);
        let expected = DeviceError::MsixDefect { function: ENDPOINT, defect: expected };
        assert_eq!(check_function(&bench.function, ENDPOINT), Err(expected.clone()));
        assert_eq!(bench.try_open().unwrap_err(), expected, "{table:#x} {pending:#x}");
        assert_eq!(bench.remapping.books(), Default::default());
    }
}

#[test]
fn power_goes_down_and_comes_back_with_its_configuration() {
    let bench = Bench::new();
    let mut device = bench.open_decoding();
    device.region_write(0, TABLE + 12, Width::Double, 0);
    trigger(&mut device, 2, &[Some(Event(1))]);
    assert!(device.placement(0).unwrap().enabled);
    assert_eq!(device.config_write(offset::POWER + 4, Width::Word, 3), Changes::POWER);
    assert_eq!(bench.function.peek(offset::POWER + 4, 2) & 3, 3);
    assert!(!device.answers() && !device.placement(0).unwrap().enabled, "nothing answers in D3hot");
    assert_eq!(device.config_write(offset::POWER + 4, Width::Word, 3), Changes::empty());
    assert_eq!(device.config_write(offset::POWER + 4, Width::Word, 0), Changes::POWER);
    assert_eq!(bench.function.resets(), 2, "the function forgot everything on the way");
    assert_eq!(bench.function.command(), 0x0406);
    assert_eq!(bench.function.peek(0x10, 4), 0xfe00_0004);
    assert_eq!(bench.function.peek(offset::MSI_X + 2, 2) & 0x8000, 0x8000);
    assert!(device.placement(0).unwrap().enabled);
}

#[test]
fn a_power_state_that_the_function_does_not_have_changes_nothing() {
    let bench = Bench::new();
    bench.function.writable(offset::POWER + 4, 2, 0);
    let mut device = bench.open_decoding();
    assert_eq!(device.config_write(offset::POWER + 4, Width::Word, 1), Changes::empty());
    assert!(device.placement(0).unwrap().enabled);
    assert_eq!(device.config_read(offset::POWER + 4, Width::Word), 0);
}

#[test]
fn a_function_that_does_not_wake_is_poisoned() {
    let bench = Bench::new();
    let mut device = bench.open_decoding();
    bench.function.set_silence(u32::MAX);
    device.config_write(offset::POWER + 4, Width::Word, 3);
    assert_eq!(device.config_write(offset::POWER + 4, Width::Word, 0), Changes::POWER);
    assert!(device.poison().is_some());
    assert!(!device.placement(0).unwrap().enabled);
    assert_eq!(device.close().unwrap_err().errno(), Errno::ETIMEDOUT);

    let bench = Bench::new();
    let mut device = bench.open_decoding();
    bench.function.set_silence(u32::MAX);
    device.config_write(offset::POWER + 4, Width::Word, 3);
    assert_eq!(device.close().unwrap_err().errno(), Errno::ETIMEDOUT);
    assert_eq!(bench.remapping.books(), Default::default());
}

#[test]
fn a_sleeping_function_is_reset_without_losing_its_configuration() {
    for by_restart in [false, true] {
        let bench = Bench::new();
        let mut device = bench.open_decoding();
        device.config_write(offset::POWER + 4, Width::Word, 3);
        if by_restart {
            device.restart().unwrap()
        } else {
            device.reset().unwrap()
        }
        assert_eq!(bench.function.peek(0x10, 4), 0xfe00_0004);
        assert_eq!(bench.function.peek(offset::POWER + 4, 2) & 3, 0);
        device.config_write(offset::POWER + 4, Width::Word, 3);
        device.close().unwrap();
        assert_eq!(bench.function.peek(0x10, 4), 0xfe00_0004);
        assert_eq!(bench.function.peek(offset::POWER + 4, 2) & 3, 0);
    }
}

#[test]
fn regions_say_what_can_be_mapped() {
    let bench = Bench::new();
    let device = bench.open();
    let info = |index| device.region_info(index).map(|info| (info.size, info.flags.bits(), info.has_msix_table));
    assert_eq!(info(0), Ok((0x4000, 7, true)));
    assert_eq!(info(1), Ok((0, 0, false)));
    assert_eq!(info(2), Ok((32, 3, false)), "ports are not mapped");
    assert_eq!(info(4), Ok((0x400, 3, false)), "less than a page is not mapped");
    assert_eq!(info(6), Ok((0x1_0000, 1, false)));
    assert_eq!(info(7), Ok((4096, 3, false)));
    assert_eq!(info(8).unwrap_err().errno(), Errno::EINVAL);

    let parts = |bar| -> Vec<(u64, u64, bool)> {
        device.bar_parts(bar).map(|part| (part.offset, part.length, part.trapped)).collect()
    };
    assert_eq!(parts(0), [(0, 0x2000, false), (0x2000, 0x1000, true), (0x3000, 0x1000, false)]);
    assert_eq!(parts(1), []);
    assert_eq!(parts(2), []);
    assert_eq!(parts(4), [(0, 0x400, true)]);
}

#[test]
fn a_bus_is_reset_only_when_nobody_else_is_on_it() {
    let plain = |bench: &Bench| {
        // No function-level reset, and D3hot keeps the state.
        bench.function.put(offset::EXPRESS + 4, 4, 0x8002, 0);
        bench.function.put(offset::ADVANCED + 3, 1, 0, 0);
        bench.function.put(offset::POWER + 4, 2, 8, 3);
    };
    let bench = Bench::new();
    plain(&bench);
    let device = bench.open();
    assert_eq!(device.reset_method(), Some(Method::Bus));
    assert_eq!((bench.function.resets(), bench.sibling.resets()), (1, 1));
    assert_eq!(bench.function.peek(0x10, 4), 0xfe00_0004);
    drop(device);

    let bench = Bench::new();
    plain(&bench);
    bench.registry.claim(SIBLING, &bench.owner).unwrap();
    let mut parts = bench.parts();
    let group = bench.group();
    let sibling = Device::<crate::fake::FakeMachine>::open(
        &group,
        SIBLING,
        Parts { configuration: bench.sibling.clone(), bus: None, ..bench.parts() },
    )
    .unwrap();
    parts.line = false;
    let mut device = Device::<crate::fake::FakeMachine>::open(&group, ENDPOINT, parts).unwrap();
    assert_eq!(device.reset_method(), None, "the sibling is in use");
    assert_eq!(device.reset().unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(device.irq_info(0).unwrap().count, 0);
    assert_eq!(bench.sibling.resets(), 0);
    device.restart().unwrap();
    drop(device);
    drop(sibling);
}

#[test]
fn the_ladder_takes_the_finest_step() {
    for (express, advanced, power, expected) in [
        (0x1000_8002, 3, 0, Method::FunctionLevel),
        (0x8002, 3, 0, Method::AdvancedFeatures),
        (0x8002, 1, 0, Method::PowerManagement),
        (0x8002, 0, 8, Method::Bus),
    ] {
        let bench = Bench::new();
        bench.function.put(offset::EXPRESS + 4, 4, express, 0);
        bench.function.put(offset::ADVANCED + 3, 1, advanced, 0);
        bench.function.put(offset::POWER + 4, 2, power, 3);
        let mut device = bench.open_decoding();
        assert_eq!(device.reset_method(), Some(expected));
        assert_eq!(bench.function.resets(), 1, "{expected}");
        device.reset().unwrap();
        assert_eq!(bench.function.resets(), 2, "{expected}");
        assert_eq!(bench.function.command(), 0x0406, "{expected}");
        bench.trace.lock().unwrap().clear();
        device.config_write(0x04, Width::Word, 0x0006);
        device.reset().unwrap();
        let trace: Vec<String> = bench.trace.lock().unwrap().clone();
        let at = trace.iter().position(|line| line == "endpoint reset").unwrap();
        let before = trace[..at].iter().rfind(|line| line.starts_with("endpoint command")).unwrap();
        assert_eq!(before, "endpoint command 0x402", "requests are stopped first, {expected}");
    }
}
