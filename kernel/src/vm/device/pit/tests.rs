use proptest::prelude::*;

use super::*;

/// The first nanosecond of a tick.
fn at(tick: u64) -> u64 {
    super::super::nanoseconds(tick, FREQUENCY)
}

fn programmed(control: u8, count: u16, now: u64) -> Timer {
    let mut timer = Timer::new();
    timer.write(3, control, now);
    let channel = u16::from(control >> 6);
    for byte in count.to_le_bytes() {
        timer.write(channel, byte, now);
    }
    timer
}

fn read_latched(timer: &mut Timer, channel: u8, now: u64) -> u16 {
    timer.write(3, channel << 6, now);
    let low = timer.read(channel.into(), now);
    u16::from_le_bytes([low, timer.read(channel.into(), now)])
}

#[test]
fn a_rate_generator_interrupts_once_a_period() {
    let mut timer = programmed(0x34, 11932, at(100));
    let mut edges = Vec::new();
    for _ in 0..3 {
        let due = timer.deadline().unwrap();
        assert!(!timer.expire(due - 1));
        assert!(timer.expire(due));
        edges.push(due);
    }
    assert_eq!(edges, [at(100 + 11932), at(100 + 2 * 11932), at(100 + 3 * 11932)]);
}

#[test]
fn ticks_that_came_too_late_are_made_up_for_and_the_grid_is_kept() {
    let mut timer = programmed(0x34, 10_000, 0);
    let mut tick = 35_500;
    for left in (0..3).rev() {
        assert!(timer.expire(at(tick)), "{left} are left");
        assert!(!timer.expire(at(tick)), "kept apart");
        if left > 0 {
            tick += CATCH_UP;
            assert_eq!(timer.deadline(), Some(at(tick)));
        }
    }
    assert_eq!(timer.deadline(), Some(at(40_000)));
    assert!(timer.expire(at(49_990)));
    assert_eq!(timer.deadline(), Some(at(49_990 + EDGE_MINIMUM)), "the next is not lost, but kept apart");
}

#[test]
fn what_is_owed_is_bounded_and_forgotten_with_a_new_count() {
    let mut timer = programmed(0x34, 0xffff, 0);
    let mut now = at(200 * 0xffff);
    let made_up = (0..1000).take_while(|_| {
        let raised = timer.expire(now);
        now += at(CATCH_UP) + 1;
        raised
    });
    assert_eq!(made_up.count() as u64, OWED_MAXIMUM);
    let mut timer = programmed(0x34, 2000, 0);
    assert!(timer.expire(at(10_500)));
    for byte in 2500u16.to_le_bytes() {
        timer.write(0, byte, at(10_500));
    }
    assert_eq!(timer.deadline(), Some(at(13_000)));
}

#[test]
fn a_terminal_count_interrupts_once() {
    let mut timer = programmed(0x30, 500, 0);
    assert_eq!(timer.deadline(), Some(at(500)));
    assert!(timer.expire(at(500)));
    assert_eq!(timer.deadline(), None);
    timer.write(0, 10, at(600));
    timer.write(0, 0, at(600));
    assert_eq!(timer.deadline(), Some(at(610)), "writing a count starts it again");
}

#[test]
fn a_new_control_word_stops_the_interrupts() {
    let mut timer = programmed(0x34, 1000, 0);
    timer.write(3, 0x30, 10);
    assert_eq!(timer.deadline(), None);
}

#[test]
fn a_guest_cannot_ask_for_interrupts_without_a_pause() {
    for count in [1, 100] {
        let mut timer = programmed(0x34, count, 0);
        assert!(timer.expire(at(1000)));
        assert_eq!(timer.deadline(), Some(at(1000 + EDGE_MINIMUM)), "nor more for being late");
    }
}

#[test]
fn channel_two_counts_behind_its_gate_and_shows_its_output() {
    let mut timer = programmed(0xb0, 1000, 0);
    assert_eq!(timer.read_gate(at(2000)) & 0x21, 0, "the gate is closed");
    timer.write_gate(1, at(2000));
    assert_eq!(read_latched(&mut timer, 2, at(2400)), 600);
    timer.write_gate(0, at(2500));
    assert_eq!(read_latched(&mut timer, 2, at(9000)), 500, "held");
    timer.write_gate(1, at(10_000));
    assert_eq!(timer.read_gate(at(10_499)) & OUTPUT, 0);
    assert_eq!(timer.read_gate(at(10_500)) & OUTPUT, OUTPUT);
    assert_eq!(read_latched(&mut timer, 2, at(10_501)), 0xffff, "goes on behind its end");
}

#[test]
fn reading_without_a_latch_alternates_between_low_and_high() {
    let mut timer = programmed(0xb0, 0xffff, 0);
    timer.write_gate(1, 0);
    assert_eq!(timer.read(2, at(0x10)), 0xef);
    assert_eq!(timer.read(2, at(0x20f)), 0xfd);
    assert_eq!(timer.read(2, at(0x210)), 0xef);
}

#[test]
fn a_latched_count_stays_until_it_is_read() {
    let mut timer = programmed(0x34, 0x4000, 0);
    timer.write(3, 0x00, at(1));
    timer.write(3, 0x00, at(50));
    assert_eq!(timer.read(0, at(60)), 0xff);
    assert_eq!(timer.read(0, at(70)), 0x3f);
}

#[test]
fn read_back_gives_the_status_before_the_count() {
    let mut timer = programmed(0x34, 1000, 0);
    timer.write(3, 0xc2, at(400));
    assert_eq!(timer.read(0, at(401)), 0x80 | 0x34, "output high, both bytes, mode 2");
    assert_eq!((timer.read(0, 0), timer.read(0, 0)), (88, 2), "600");
    let mut waiting = Timer::new();
    waiting.write(3, 0x30, 0);
    waiting.write(3, 0xe2, 0);
    assert_eq!(waiting.read(0, 0), 0x40 | 0x30, "output low, no count yet");
}

#[test]
fn a_square_wave_is_high_for_the_first_half() {
    let mut timer = Timer::new();
    timer.write_gate(1, 0);
    for (port, byte) in [(3, 0xb6), (2, 100), (2, 0)] {
        timer.write(port, byte, 0);
    }
    let output = |tick| timer.read_gate(at(tick)) & OUTPUT != 0;
    assert!(output(0) && output(49) && !output(50) && !output(99) && output(100));
}

#[test]
fn decimal_counts_have_four_digits() {
    let mut timer = programmed(0x31, 0x1000, 0);
    assert_eq!(timer.deadline(), Some(at(1000)));
    assert_eq!(read_latched(&mut timer, 0, at(1)), 0x0999);
}

proptest! {
    /// Any sequence of accesses: no panic, no deadline in the past, no time that runs backwards.
    #[test]
    fn no_sequence_of_accesses_breaks_it(steps in prop::collection::vec((0u16..5, any::<u8>(), any::<bool>(), 0u64..1 << 24), 0..200)) {
        let mut timer = Timer::new();
        let mut now = 0;
        for (port, value, write, pause) in steps {
            now += pause;
            match (port, write) {
                (4, true) => timer.write_gate(value, now),
                (4, false) => { timer.read_gate(now); }
                (_, true) => timer.write(port, value, now),
                (_, false) => { timer.read(port, now); }
            }
            timer.expire(now);
            prop_assert!(timer.deadline().is_none_or(|due| due > now));
        }
    }
}
