//! Time since the hypervisor's first instruction, by the time-stamp counter.

use core::sync::atomic::{AtomicU64, Ordering};

/// The TSC at the first instruction.
static START: AtomicU64 = AtomicU64::new(0);
/// Until the clock is calibrated: 8 GHz, faster than any processor, so that bounded waits end, no wait is long, and
/// time never goes back when the true rate becomes known.
const ASSUMED_RATE: u64 = 1 << 29;
/// Nanoseconds a tick, as a fraction of 2^32.
static RATE: AtomicU64 = AtomicU64::new(ASSUMED_RATE);

/// Makes now the moment from which time is counted.
pub(crate) fn begin() {
    START.store(ticks(), Ordering::Relaxed);
}

/// Says how fast the TSC is: this many ticks in that many nanoseconds. False where that makes no sense.
pub(super) fn set_rate(ticks: u64, nanoseconds: u64) -> bool {
    // Slower than 10 MHz, or faster than the clock assumes at first, is a broken reference.
    let rate = rate(ticks, nanoseconds).filter(|rate| (ASSUMED_RATE..100 << 32).contains(rate));
    if let Some(rate) = rate {
        RATE.store(rate, Ordering::Relaxed);
    }
    rate.is_some()
}

/// The time-stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: RDTSC is on every x86-64 processor and CR4.TSD is clear; it only reads.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Nanoseconds since the hypervisor's first instruction; too few until the clock is calibrated. Never goes back on one
/// CPU.
pub fn nanoseconds() -> u64 {
    let passed = ticks().saturating_sub(START.load(Ordering::Relaxed));
    scale(passed, RATE.load(Ordering::Relaxed))
}

/// Ticks of the TSC in a second.
pub fn frequency() -> u64 {
    let rate = u128::from(RATE.load(Ordering::Relaxed).max(1));
    u64::try_from((1_000_000_000u128 << 32) / rate).unwrap_or(u64::MAX)
}

/// The TSC's value at a moment of [`nanoseconds`]; the past gives a value that is past too.
pub fn ticks_at(nanoseconds: u64) -> u64 {
    let rate = u128::from(RATE.load(Ordering::Relaxed).max(1));
    let passed = (u128::from(nanoseconds) << 32) / rate;
    START.load(Ordering::Relaxed).saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
}

/// Waits until `done` gives something, at most for `nanoseconds`; `None` when the time is over.
pub fn wait_for<T>(nanoseconds: u64, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let end = self::nanoseconds().saturating_add(nanoseconds);
    loop {
        let late = self::nanoseconds() >= end;
        if let Some(result) = done() {
            return Some(result);
        }
        if late {
            return None;
        }
        core::hint::spin_loop();
    }
}

/// Waits for `nanoseconds`.
pub fn delay(nanoseconds: u64) {
    wait_for::<()>(nanoseconds, || None);
}

/// The clock as the libraries see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl iommu::door::Clock for Clock {
    fn nanoseconds(&self) -> u64 {
        nanoseconds()
    }
}

fn scale(ticks: u64, rate: u64) -> u64 {
    ((u128::from(ticks) * u128::from(rate)) >> 32) as u64
}

/// The rate of a counter that made `ticks` in `nanoseconds`.
fn rate(ticks: u64, nanoseconds: u64) -> Option<u64> {
    u64::try_from((u128::from(nanoseconds) << 32).checked_div(u128::from(ticks))?).ok().filter(|rate| *rate > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_turns_ticks_into_nanoseconds() {
        let rate = rate(3_000_000, 1_000_000).unwrap();
        assert_eq!(scale(3_000_000_000, rate), 999_999_999);
        assert_eq!(scale(u64::MAX / 1000, rate) / 1_000_000_000, u64::MAX / 3_000_000_000_000);
        assert_eq!(super::rate(0, 5), None);
        assert_eq!(super::rate(u64::MAX, 1), None);
    }

    #[test]
    fn a_wait_asks_once_even_without_time() {
        assert_eq!(wait_for(0, || Some(3)), Some(3));
    }
}
