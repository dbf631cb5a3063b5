use std::vec::Vec;

use super::*;
use crate::config::{Changes, register};
use crate::device::Device;
use crate::door::{InterruptError, Width};
use crate::errno::Errno;
use crate::fake::bench::Bench;
use crate::fake::{FakeMachine, UNKNOWN, offset};

type TestDevice = Device<FakeMachine>;

pub(super) const TABLE: u64 = 0x2200;

fn set(
    device: &mut TestDevice,
    index: u32,
    start: u32,
    action: IrqAction,
    data: IrqData<'_>,
) -> Result<(), SetIrqsError> {
    let count = match data {
        IrqData::None => 1,
        IrqData::Bool(flags) => flags.len() as u32,
        IrqData::Events(events) => events.len() as u32,
    };
    device.set_irqs(IrqSet { index, start, count, action, data })
}

pub(super) fn trigger(device: &mut TestDevice, index: u32, start: u32, events: &[u64]) -> Result<(), SetIrqsError> {
    let events: Vec<Option<Event>> = events.iter().map(|&event| (event != 0).then_some(Event(event))).collect();
    set(device, index, start, IrqAction::TRIGGER, IrqData::Events(&events))
}

fn disable(device: &mut TestDevice, index: u32) -> Result<(), SetIrqsError> {
    device.set_irqs(IrqSet { index, start: 0, count: 0, action: IrqAction::TRIGGER, data: IrqData::None })
}

/// The events by entry, in the order of allocation.
pub(super) fn bound(bench: &Bench) -> Vec<Vec<u64>> {
    let entries = bench.remapping.books().entries;
    entries
        .values()
        .map(|entries| entries.bound.iter().map(|event| event.map_or(0, |event| event.0)).collect())
        .collect()
}

#[test]
fn the_indices_tell_what_the_function_has() {
    let bench = Bench::new();
    let device = bench.open();
    let info = |index| device.irq_info(index).map(|info| (info.count, info.flags.bits()));
    assert_eq!(info(0), Ok((1, 7)));
    assert_eq!(info(1), Ok((8, 9)));
    assert_eq!(info(2), Ok((65, 1)));
    assert_eq!(info(3), Ok((1, 9)));
    assert_eq!(info(4), Ok((1, 9)));
    assert_eq!(info(5), Err(SetIrqsError::UnknownIndex(5)));
}

#[test]
fn arguments_are_checked_in_order() {
    let bench = Bench::new();
    let mut device = bench.open();
    assert_eq!(trigger(&mut device, 9, 0, &[1]), Err(SetIrqsError::UnknownIndex(9)));
    let beyond = trigger(&mut device, 1, 8, &[]);
    assert_eq!(beyond, Err(SetIrqsError::BeyondCount { start: 8, count: 0, of: 8 }));
    assert_eq!(trigger(&mut device, 1, 7, &[1, 2]).unwrap_err().errno(), Errno::EINVAL);
    let wrap = IrqSet { index: 1, start: 1, count: u32::MAX, action: IrqAction::TRIGGER, data: IrqData::None };
    assert_eq!(device.set_irqs(wrap).unwrap_err().errno(), Errno::EINVAL);
    let short = IrqSet { index: 1, start: 0, count: 2, action: IrqAction::TRIGGER, data: IrqData::Bool(&[1]) };
    assert_eq!(device.set_irqs(short), Err(SetIrqsError::ShortData));
    for action in [IrqAction::empty(), IrqAction::MASK | IrqAction::TRIGGER] {
        assert_eq!(set(&mut device, 0, 0, action, IrqData::None).unwrap_err().errno(), Errno::ENOTTY);
    }
    for index in 1..5 {
        assert_eq!(set(&mut device, index, 0, IrqAction::MASK, IrqData::None).unwrap_err().errno(), Errno::ENOTTY);
    }
}

#[test]
fn msi_writes_the_remapped_message_and_never_the_guests() {
    let bench = Bench::new();
    let mut device = bench.open();
    device.config_write(offset::MSI + 4, Width::Double, 0xfee0_0000);
    device.config_write(offset::MSI + 12, Width::Word, 0x41);
    device.config_write(offset::MSI + 2, Width::Word, 0x0001);
    assert_eq!(bench.function.peek(offset::MSI + 2, 2) & 1, 0, "forced off until set up");
    assert_eq!(trigger(&mut device, 1, 0, &[]), Err(SetIrqsError::NoVectors));
    assert_eq!(disable(&mut device, 1), Err(SetIrqsError::NotEnabled(IrqIndex::Msi)));

    trigger(&mut device, 1, 0, &[7, 0, 9]).unwrap();
    let books = bench.remapping.books();
    let (id, entries) = books.entries.first_key_value().unwrap();
    assert!(entries.block);
    assert_eq!(bound(&bench), [[7, 0, 9, 0]]);
    assert_eq!(bench.function.peek(offset::MSI + 4, 4), 0xfee0_0010 | id << 5);
    assert_eq!(bench.function.peek(offset::MSI + 12, 2), 0);
    assert_eq!(bench.function.peek(offset::MSI + 2, 2) & 0x71, 0x21, "on, with 4 messages");
    assert_eq!(device.config_read(offset::MSI + 4, Width::Double), 0xfee0_0000, "the guest reads its own");

    // Replace one, take one away, ask for more than there are.
    trigger(&mut device, 1, 1, &[8, 0]).unwrap();
    assert_eq!(bound(&bench), [[7, 8, 0, 0]]);
    assert_eq!(trigger(&mut device, 1, 3, &[5]), Err(SetIrqsError::BeyondAllocation(3)));
    trigger(&mut device, 1, 0, &[]).unwrap();
    assert_eq!(bound(&bench), [[7, 8, 0, 0]]);

    disable(&mut device, 1).unwrap();
    assert_eq!(bench.function.peek(offset::MSI + 2, 2) & 0x71, 0);
    assert!(bench.remapping.books().entries.is_empty());
}

#[test]
fn msix_vectors_come_and_go_one_by_one() {
    let bench = Bench::new();
    let mut device = bench.open_decoding();
    device.region_write(0, TABLE + 3 * 16, Width::Quad, 0xfee0_0000);
    device.region_write(0, TABLE + 3 * 16 + 8, Width::Double, 0x51);
    assert_eq!(device.region_write(0, TABLE + 3 * 16 + 12, Width::Double, 0), Some(3));
    trigger(&mut device, 2, 3, &[33]).unwrap();
    let id = *bench.remapping.books().entries.first_key_value().unwrap().0;
    assert_eq!(bench.windows.entry(0, TABLE, 3), [0xfee0_0010 | id << 5, 0, 0, 0]);
    assert_eq!(bench.windows.entry(0, TABLE, 4)[3], 1, "every other vector is masked");
    assert_eq!(bench.function.peek(offset::MSI_X + 2, 2) & 0xc000, 0x8000);

    // A masked vector with an event stays masked in the function until the guest unmasks it.
    trigger(&mut device, 2, 64, &[99]).unwrap();
    assert_eq!(bench.windows.entry(0, TABLE, 64)[3], 1);
    device.region_write(0, TABLE + 64 * 16 + 12, Width::Double, 0);
    assert_eq!(bench.windows.entry(0, TABLE, 64)[3], 1, "not before the event is settled");
    trigger(&mut device, 2, 64, &[99]).unwrap();
    assert_eq!(bench.windows.entry(0, TABLE, 64)[3], 0);
    device.region_write(0, TABLE + 64 * 16 + 12, Width::Double, 1);
    assert_eq!(bench.windows.entry(0, TABLE, 64)[3], 1);
    // A vector without an event never opens.
    device.region_write(0, TABLE + 5 * 16 + 12, Width::Double, 0);
    assert_eq!(bench.windows.entry(0, TABLE, 5)[3], 1);

    // Another event for the same vector leaves the message as it is.
    let before = bench.windows.entry(0, TABLE, 3);
    trigger(&mut device, 2, 3, &[34]).unwrap();
    assert_eq!(bench.windows.entry(0, TABLE, 3), before);
    assert_eq!(bound(&bench), [[34], [99]]);
    trigger(&mut device, 2, 3, &[0]).unwrap();
    assert_eq!(bench.windows.entry(0, TABLE, 3)[3], 1);
    assert_eq!(bound(&bench), [[99]]);

    disable(&mut device, 2).unwrap();
    assert!(bench.remapping.books().entries.is_empty());
    assert_eq!(bench.function.peek(offset::MSI_X + 2, 2) & 0xc000, 0);
    assert_eq!(bench.windows.entry(0, TABLE, 64)[3], 1);
}

#[test]
fn the_table_is_written_with_decoding_on_and_left_as_it_was() {
    let bench = Bench::new();
    let mut device = bench.open();
    trigger(&mut device, 2, 0, &[1]).unwrap();
    assert_eq!(bench.function.command() & register::command::MEMORY, 0);
    let trace = bench.trace.lock().unwrap().clone();
    let on = trace.iter().filter(|line| line.starts_with("endpoint command") && line.ends_with('2')).count();
    assert!(on > 0, "{trace:?}");
    assert_ne!(bench.windows.entry(0, TABLE, 0)[0], 0);
}

#[test]
fn one_kind_at_a_time() {
    let bench = Bench::new();
    let mut device = bench.open_decoding();
    for (index, kind) in [(0, IrqIndex::Line), (1, IrqIndex::Msi), (2, IrqIndex::MsiX)] {
        trigger(&mut device, index, 0, &[1]).unwrap();
        assert_eq!(device.active_irq(), Some(kind));
        for other in (0..3).filter(|other| *other != index) {
            assert_eq!(trigger(&mut device, other, 0, &[2]), Err(SetIrqsError::OtherActive(kind)));
        }
        disable(&mut device, index).unwrap();
        assert_eq!(device.active_irq(), None);
    }
}

#[test]
fn software_fires_what_has_an_event() {
    let bench = Bench::new();
    let mut device = bench.open_decoding();
    let none = IrqSet { index: 2, start: 0, count: 3, action: IrqAction::TRIGGER, data: IrqData::None };
    assert_eq!(device.set_irqs(none), Err(SetIrqsError::NotEnabled(IrqIndex::MsiX)));
    trigger(&mut device, 2, 0, &[10, 0, 12]).unwrap();
    device.set_irqs(none).unwrap();
    assert_eq!(bench.remapping.take_signalled(), [Event(10), Event(12)]);
    set(&mut device, 2, 0, IrqAction::TRIGGER, IrqData::Bool(&[0, 1, 1])).unwrap();
    assert_eq!(bench.remapping.take_signalled(), [Event(12)]);
}

#[test]
fn an_unknown_event_clears_the_block_up_to_it() {
    let bench = Bench::new();
    let mut device = bench.open_decoding();
    let unknown = Err(SetIrqsError::Hardware(InterruptError::UnknownEvent(UNKNOWN)));
    assert_eq!(trigger(&mut device, 2, 0, &[1, UNKNOWN.0]), unknown);
    assert_eq!(device.active_irq(), None, "the first call leaves it off");
    assert!(bench.remapping.books().entries.is_empty());

    trigger(&mut device, 2, 0, &[1, 2, 3, 4]).unwrap();
    assert_eq!(trigger(&mut device, 2, 1, &[5, UNKNOWN.0, 6]), unknown);
    assert_eq!(bound(&bench), [[1], [4]]);
}

#[test]
fn too_few_entries_are_told_and_nothing_stays() {
    let bench = Bench::new();
    let mut device = bench.open_decoding();
    bench.remapping.limit_entries(3);
    let too_few = Err(SetIrqsError::Hardware(InterruptError::TooFew { available: 3 }));
    assert_eq!(trigger(&mut device, 1, 0, &[1, 2, 3, 4]), too_few);
    assert_eq!(trigger(&mut device, 2, 0, &[1, 2, 3, 4]).unwrap_err().errno(), Errno::ENOSPC);
    assert!(bench.remapping.books().entries.is_empty());
    trigger(&mut device, 2, 0, &[1, 2, 3]).unwrap();
}

#[test]
fn a_wire_masks_itself_until_it_is_ended() {
    let bench = Bench::new();
    let mut device = bench.open();
    assert_eq!(bench.function.command() & 0x400, 0x400, "off until set up");
    trigger(&mut device, 0, 0, &[5]).unwrap();
    assert_eq!(bench.function.command() & 0x400, 0);

    assert!(!device.handle_line(), "somebody else's");
    bench.function.poke(register::STATUS, 2, 0x0018);
    assert!(device.handle_line());
    assert_eq!(bench.remapping.take_signalled(), [Event(5)]);
    assert_eq!(bench.function.command() & 0x400, 0x400);
    assert!(!device.handle_line(), "masked");
    device.end_line();
    assert_eq!(bench.function.command() & 0x400, 0);
    assert!(device.handle_line(), "still asserted: again");

    set(&mut device, 0, 0, IrqAction::UNMASK, IrqData::None).unwrap();
    assert_eq!(bench.function.command() & 0x400, 0);
    set(&mut device, 0, 0, IrqAction::MASK, IrqData::Bool(&[0])).unwrap();
    assert_eq!(bench.function.command() & 0x400, 0);
    set(&mut device, 0, 0, IrqAction::MASK, IrqData::Bool(&[1])).unwrap();
    assert_eq!(bench.function.command() & 0x400, 0x400);

    // The guest's own bit masks too, and on its own.
    set(&mut device, 0, 0, IrqAction::UNMASK, IrqData::None).unwrap();
    assert_eq!(device.config_write(0x04, Width::Word, 0x0400), Changes::INTERRUPT_DISABLE);
    assert_eq!(bench.function.command() & 0x400, 0x400);
    device.end_line();
    assert_eq!(bench.function.command() & 0x400, 0x400);
    device.config_write(0x04, Width::Word, 0);
    assert_eq!(bench.function.command() & 0x400, 0);

    disable(&mut device, 0).unwrap();
    assert_eq!(bench.function.command() & 0x400, 0x400);
    assert!(bench.remapping.books().lines.is_empty());
    assert_eq!(disable(&mut device, 0), Err(SetIrqsError::NotEnabled(IrqIndex::Line)));
}

#[test]
fn a_wire_that_the_function_cannot_disable_is_masked_at_the_controller() {
    let bench = Bench::new();
    bench.function.writable(register::COMMAND, 2, 0x0147);
    let mut device = bench.open();
    trigger(&mut device, 0, 0, &[5]).unwrap();
    let masked = || bench.remapping.books().lines.values().next().unwrap().2;
    assert!(!masked());
    assert!(device.handle_line(), "its status is not asked");
    assert!(masked());
    device.end_line();
    assert!(!masked());
}

#[test]
fn a_wire_takes_events_as_vfio_does() {
    let bench = Bench::new();
    let mut device = bench.open();
    // Without a target it is enabled all the same.
    trigger(&mut device, 0, 0, &[0]).unwrap();
    assert_eq!(device.active_irq(), Some(IrqIndex::Line));
    set(&mut device, 0, 0, IrqAction::TRIGGER, IrqData::None).unwrap();
    assert_eq!(bench.remapping.take_signalled(), []);
    trigger(&mut device, 0, 0, &[6]).unwrap();
    set(&mut device, 0, 0, IrqAction::TRIGGER, IrqData::None).unwrap();
    assert_eq!(bench.remapping.take_signalled(), [Event(6)]);

    let unmask = |device: &mut TestDevice, event| set(device, 0, 0, IrqAction::UNMASK, IrqData::Events(&[event]));
    unmask(&mut device, Some(Event(70))).unwrap();
    assert_eq!(unmask(&mut device, Some(Event(71))).unwrap_err().errno(), Errno::EBUSY);
    set(&mut device, 0, 0, IrqAction::MASK, IrqData::None).unwrap();
    device.resample(Event(71));
    assert_eq!(bench.function.command() & 0x400, 0x400);
    device.resample(Event(70));
    assert_eq!(bench.function.command() & 0x400, 0);
    unmask(&mut device, None).unwrap();
    unmask(&mut device, Some(Event(71))).unwrap();
    let masking = set(&mut device, 0, 0, IrqAction::MASK, IrqData::Events(&[None]));
    assert_eq!(masking.unwrap_err().errno(), Errno::ENOTTY);
}

#[test]
fn notifications_are_fired_set_and_taken() {
    let bench = Bench::new();
    let mut device = bench.open();
    for index in [3, 4] {
        let kind = IrqIndex::from_number(index).unwrap();
        assert_eq!(set(&mut device, index, 0, IrqAction::TRIGGER, IrqData::None), Err(SetIrqsError::NotEnabled(kind)));
        set(&mut device, index, 0, IrqAction::TRIGGER, IrqData::Bool(&[1])).unwrap();
        assert_eq!(disable(&mut device, index), Err(SetIrqsError::NotEnabled(kind)));
        trigger(&mut device, index, 0, &[u64::from(index)]).unwrap();
        assert_eq!(trigger(&mut device, index, 0, &[]), Err(SetIrqsError::OneVector));
        set(&mut device, index, 0, IrqAction::TRIGGER, IrqData::None).unwrap();
    }
    device.report_error();
    device.request_release();
    assert_eq!(bench.remapping.take_signalled(), [Event(3), Event(4), Event(3), Event(4)]);
    disable(&mut device, 3).unwrap();
    device.report_error();
    assert_eq!(bench.remapping.take_signalled(), []);
}

#[test]
fn every_failure_leaves_books_that_close_clean() {
    for kind in [0u32, 1, 2] {
        let mut failures = 0;
        for fail_after in 0.. {
            let bench = Bench::new();
            let mut device = bench.open_decoding();
            let before = bench.remapping.books();
            bench.remapping.fail_after(Some(fail_after));
            let events: &[u64] = if kind == 0 { &[1] } else { &[1, 2, 3] };
            let result = trigger(&mut device, kind, 0, events);
            bench.remapping.fail_after(None);
            if result.is_ok() {
                break;
            }
            failures += 1;
            assert_eq!(bench.remapping.books(), before, "kind {kind}, call {fail_after}");
            assert_eq!(device.active_irq(), None);
            device.close().unwrap();
            assert_eq!(bench.remapping.books(), Default::default());
        }
        assert!(failures >= 1, "kind {kind}");
    }
}
