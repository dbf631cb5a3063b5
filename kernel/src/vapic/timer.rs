//! The local APIC's timer (SDM volume 3 section 11.5.4): one-shot and periodic. It counts nanoseconds: the input clock
//! is 1 GHz, so one count is one nanosecond times the divide configuration.

/// A periodic timer fires at most this often; a shorter period would leave its virtual CPU no time to run. In
/// nanoseconds.
const SHORTEST_PERIOD: u64 = 20_000;

/// How the timer goes on after it fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Fires once.
    OneShot,
    /// Fires again and again.
    Periodic,
}

/// The timer. Times are absolute nanoseconds of the host's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    initial: u32,
    /// The divide configuration register as written, bits 0, 1 and 3.
    divide: u32,
    mode: Mode,
    /// When the count reaches 0; `None`: it stands still.
    deadline: Option<u64>,
}

impl Timer {
    pub(super) const fn new() -> Self {
        Self { initial: 0, divide: 0, mode: Mode::OneShot, deadline: None }
    }

    /// Nanoseconds a count.
    fn tick(&self) -> u64 {
        let code = (self.divide & 3) | (self.divide >> 1 & 4);
        if code == 7 { 1 } else { 2 << code }
    }

    fn period(&self) -> u64 {
        // 32 bits times at most 128.
        u64::from(self.initial) * self.tick()
    }

    pub(super) const fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    /// The current count at `now`.
    pub(super) fn current(&self, now: u64) -> u32 {
        let Some(deadline) = self.deadline else { return 0 };
        let left = deadline.saturating_sub(now) / self.tick();
        u32::try_from(left).unwrap_or(u32::MAX).min(self.initial)
    }

    /// A write of the initial count starts the timer, a write of 0 stops it.
    pub(super) fn set_initial(&mut self, count: u32, now: u64) {
        self.initial = count;
        self.deadline = (count != 0).then(|| now.saturating_add(self.first_wait()));
    }

    /// A change of the divide configuration keeps the count that is left.
    pub(super) fn set_divide(&mut self, divide: u32, now: u64) {
        let left = self.current(now);
        self.divide = divide & 0xb;
        if self.deadline.is_some() {
            self.deadline = Some(now.saturating_add(u64::from(left) * self.tick()));
        }
    }

    /// A change of the mode takes effect with the count that is running.
    pub(super) const fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    fn first_wait(&self) -> u64 {
        match self.mode {
            Mode::OneShot => self.period(),
            Mode::Periodic => self.period().max(SHORTEST_PERIOD),
        }
    }

    /// Whether the count reached 0 by `now`. Periods that passed unseen count as one, as they do where the interrupt
    /// is still pending.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else { return false };
        self.deadline = match self.mode {
            Mode::OneShot => None,
            Mode::Periodic => {
                let period = self.period().max(SHORTEST_PERIOD);
                let missed = now.saturating_sub(deadline) / period;
                Some(deadline.saturating_add(period.saturating_mul(missed.saturating_add(1))))
            }
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shot_fires_once() {
        let mut timer = Timer::new();
        timer.set_divide(0xb, 0);
        timer.set_initial(1000, 500);
        assert_eq!(timer.current(600), 900);
        assert!(!timer.expire(1499));
        assert!(timer.expire(1500));
        assert_eq!(timer.current(1500), 0);
        assert!(!timer.expire(u64::MAX));
    }

    #[test]
    fn every_divisor_of_the_manual() {
        for (code, ticks) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
            let mut timer = Timer::new();
            timer.set_divide(code, 0);
            timer.set_initial(10, 0);
            assert_eq!(timer.deadline(), Some(10 * ticks), "divide configuration {code:#x}");
        }
    }

    #[test]
    fn periodic_keeps_its_beat_over_missed_periods() {
        let mut timer = Timer::new();
        timer.set_divide(0xb, 0);
        timer.set_mode(Mode::Periodic);
        timer.set_initial(1_000_000, 0);
        assert!(timer.expire(1_000_000));
        assert_eq!(timer.deadline(), Some(2_000_000));
        assert!(timer.expire(5_500_000));
        assert!(!timer.expire(5_500_001));
        assert_eq!(timer.deadline(), Some(6_000_000));
    }

    #[test]
    fn a_period_of_a_nanosecond_is_stretched() {
        let mut timer = Timer::new();
        timer.set_divide(0xb, 0);
        timer.set_mode(Mode::Periodic);
        timer.set_initial(1, 0);
        assert!(!timer.expire(SHORTEST_PERIOD - 1));
        assert!(timer.expire(SHORTEST_PERIOD));
        assert_eq!(timer.deadline(), Some(2 * SHORTEST_PERIOD));
    }

    #[test]
    fn a_new_divisor_keeps_the_count() {
        let mut timer = Timer::new();
        timer.set_divide(0xb, 0);
        timer.set_initial(1000, 0);
        timer.set_divide(0, 400);
        assert_eq!(timer.current(400), 600);
        assert_eq!(timer.deadline(), Some(400 + 600 * 2));
    }
}
