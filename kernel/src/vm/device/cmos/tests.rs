use proptest::prelude::*;

use super::*;

/// 2026-01-02 15:04:05 UTC, a Friday.
const WALL: i64 = 1_767_366_245;

fn read(cmos: &mut Cmos, register: u8, now: u64) -> u8 {
    cmos.write(0, register, now);
    cmos.read(1, now)
}

fn write(cmos: &mut Cmos, register: u8, value: u8, now: u64) {
    cmos.write(0, register, now);
    cmos.write(1, value, now);
}

#[test]
fn the_clock_shows_the_wall_time_in_decimal_digits_and_goes_on() {
    let mut cmos = Cmos::new(WALL, 7 * SECOND);
    let shown: Vec<u8> =
        [0x32, 9, 8, 7, 6, 4, 2, 0].into_iter().map(|register| read(&mut cmos, register, 7 * SECOND)).collect();
    assert_eq!(shown, [0x20, 0x26, 0x01, 0x02, 6, 0x15, 0x04, 0x05]);
    assert_eq!(read(&mut cmos, 0, 9 * SECOND), 0x07);
    assert_eq!(read(&mut cmos, 0x0d, 0), VALID);
}

#[test]
fn binary_and_twelve_hour_modes() {
    let mut cmos = Cmos::new(WALL, 0);
    write(&mut cmos, 0x0b, BINARY, 0);
    assert_eq!(read(&mut cmos, 4, 0), AFTERNOON | 3);
    write(&mut cmos, 4, 12, 0);
    write(&mut cmos, 0x0b, BINARY | HOURS_24, 0);
    assert_eq!(read(&mut cmos, 4, 0), 0, "twelve in the morning is midnight");
}

#[test]
fn a_guest_can_set_the_time() {
    let mut cmos = Cmos::new(WALL, 0);
    write(&mut cmos, 0x0b, SETTING | HOURS_24, 0);
    for (register, value) in [(0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x58)] {
        write(&mut cmos, register, value, 0);
    }
    assert_eq!(read(&mut cmos, 0, 5 * SECOND), 0x58, "stands while it is set");
    write(&mut cmos, 0x0b, HOURS_24, 5 * SECOND);
    assert_eq!(read(&mut cmos, 0, 6 * SECOND), 0x59);
    let shown: Vec<u8> = [0x32, 9, 8, 7].into_iter().map(|register| read(&mut cmos, register, 7 * SECOND)).collect();
    assert_eq!(shown, [0x20, 0x00, 0x01, 0x01]);
}

#[test]
fn the_update_flag_warns_before_the_second_ends() {
    let mut cmos = Cmos::new(WALL, 0);
    assert_eq!(read(&mut cmos, 0x0a, SECOND / 2) & UPDATING, 0);
    assert_eq!(read(&mut cmos, 0x0a, SECOND - 1) & UPDATING, UPDATING);
    assert_eq!(read(&mut cmos, 0x0a, SECOND) & UPDATING, 0);
}

#[test]
fn an_update_interrupts_until_it_is_read() {
    let mut cmos = Cmos::new(WALL, 0);
    assert_eq!(cmos.deadline(), None);
    write(&mut cmos, 0x0b, HOURS_24 | UPDATED, 0);
    assert_eq!(cmos.deadline(), Some(SECOND));
    cmos.update(SECOND);
    assert!(cmos.interrupt());
    assert_eq!(cmos.deadline(), None);
    let flags = read(&mut cmos, 0x0c, SECOND);
    assert_eq!(flags & (REQUEST | UPDATED | ALARM), REQUEST | UPDATED);
    assert!(!cmos.interrupt());
    assert_eq!(cmos.deadline(), Some(2 * SECOND));
}

#[test]
fn an_alarm_fires_in_its_second() {
    let mut cmos = Cmos::new(WALL, 0);
    for (register, value) in [(1, 0x08), (3, 0x04), (5, 0xff), (0x0b, HOURS_24 | ALARM)] {
        write(&mut cmos, register, value, 0);
    }
    cmos.update(2 * SECOND);
    assert!(!cmos.interrupt());
    cmos.update(3 * SECOND);
    assert!(cmos.interrupt());
}

#[test]
fn the_periodic_interrupt_has_its_rate() {
    let mut cmos = Cmos::new(WALL, 0);
    write(&mut cmos, 0x0b, HOURS_24 | PERIODIC, 0);
    assert_eq!(cmos.deadline(), Some(976_563), "1024 Hz");
    cmos.update(976_563);
    assert_eq!(read(&mut cmos, 0x0c, 976_563), REQUEST | PERIODIC);
}

proptest! {
    #[test]
    fn no_sequence_of_accesses_breaks_it(
        wall: i64,
        steps in prop::collection::vec((0u8..64, any::<u8>(), any::<bool>(), 0u64..1 << 34), 0..100),
    ) {
        let mut cmos = Cmos::new(wall, 0);
        let mut now = 0;
        for (register, value, writes, pause) in steps {
            now += pause;
            if writes {
                write(&mut cmos, register, value, now);
            } else {
                read(&mut cmos, register, now);
            }
            cmos.update(now);
            prop_assert!(cmos.deadline().is_none_or(|due| due > now));
        }
    }
}
