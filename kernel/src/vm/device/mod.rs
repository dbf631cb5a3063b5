//! The virtual devices of a PC that guests expect, each a register file without side effects of its own.
//!
//! A device takes the time (nanoseconds of the host's clock) as an argument and returns what happened; the VM's wiring
//! ([`super::wiring`]) owns the locks, the interrupt pins and the console. So every device runs in host tests with a
//! clock of the test's own.

pub mod cmos;
pub mod console;
pub mod pic;
pub mod pit;
pub mod power;
pub mod serial;

/// Nanoseconds in a second.
const NANOSECONDS: u128 = 1_000_000_000;

/// How many ticks of a clock with `frequency` (Hz) pass in `nanoseconds`, rounded down. Exact: no drift adds up.
fn ticks(nanoseconds: u64, frequency: u64) -> u64 {
    (u128::from(nanoseconds) * u128::from(frequency) / NANOSECONDS) as u64
}

/// How many nanoseconds it takes until `ticks` of a clock with `frequency` (Hz) have passed, rounded up; at most
/// [`u64::MAX`].
fn nanoseconds(ticks: u64, frequency: u64) -> u64 {
    let nanoseconds = (u128::from(ticks) * NANOSECONDS).div_ceil(u128::from(frequency));
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_tick_has_passed_at_its_nanosecond_and_not_before(count in 1u64..1 << 40, frequency in 1u64..10_000_000) {
            let at = nanoseconds(count, frequency);
            prop_assume!(at != u64::MAX);
            prop_assert!(ticks(at, frequency) >= count);
            prop_assert!(ticks(at - 1, frequency) < count);
        }
    }
}
