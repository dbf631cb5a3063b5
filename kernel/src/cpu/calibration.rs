//! How fast the time-stamp counter and the local APIC's timer are, by what of known speed the machine has.

use core::fmt;

use raw_cpuid::CpuId;
use x86_64::instructions::port::Port;

use super::features::Features;
use super::{apic, clock, timer};
use crate::platform::acpi::PmTimer;

/// How long a measurement takes, in nanoseconds: until it is precise, but not longer than this.
const SPAN: u64 = 20_000_000;
/// How long it takes at least, and how often it is then tried whether it is precise.
const STEP: u64 = 500_000;
/// It is precise when the uncertainty of both its ends is this part of it: 0.05 %.
const PRECISION: u64 = 2000;
/// How often a moment is sampled, to keep the sample that was disturbed least: by firmware's interrupts, or, on a
/// virtual machine, by whoever else wants the processor.
const SAMPLES: usize = 16;
/// The ACPI timer's frequency (ACPI specification section 4.8.3.3).
const PM_TIMER_HZ: u64 = 3_579_545;
/// The programmable interval timer's.
const PIT_HZ: u64 = 1_193_182;
/// As many times is a reference read before it is called broken; each read takes the bus most of a microsecond.
const MOST_READS: u32 = 1_000_000;

/// Where the speed is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// CPUID leaf 15h.
    Cpuid,
    /// The ACPI timer.
    PmTimer,
    /// Channel 2 of the programmable interval timer.
    Pit,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpuid => "CPUID",
            Self::PmTimer => "the ACPI timer",
            Self::Pit => "the PIT",
        })
    }
}

/// Nothing of known speed counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoReference;

impl fmt::Display for NoReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the machine has no clock of known speed: CPUID names none, and neither the ACPI timer nor the PIT counts",
        )
    }
}

impl core::error::Error for NoReference {}

/// What a measurement gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Measured {
    nanoseconds: u64,
    tsc: u64,
    apic: u64,
}

/// Calibrates the clock and chooses how timers count. Runs on the boot CPU, whose local APIC is on, interrupts off.
pub(crate) fn calibrate(features: &Features, pm_timer: Option<PmTimer>) -> Result<Reference, NoReference> {
    apic::set_timer(apic::Timer::OneShot);
    let reference = if let Some(frequency) = by_cpuid().filter(|hertz| clock::set_rate(*hertz, 1_000_000_000)) {
        if !features.tsc_deadline {
            let begin = clock::ticks();
            let measured = measure(frequency, || Some(clock::ticks().wrapping_sub(begin)));
            timer::choose(measured.map(|measured| per_second(measured.apic, measured.nanoseconds)));
        }
        Some(Reference::Cpuid)
    } else {
        let by_pm_timer = pm_timer.and_then(|pm_timer| {
            let mut passed = Passed { last: pm_timer.read(), mask: pm_timer.mask(), total: 0 };
            measure(PM_TIMER_HZ, || Some(passed.count(pm_timer.read())))
        });
        let measured = by_pm_timer.map(|measured| (measured, Reference::PmTimer));
        measured.or_else(|| by_pit().map(|measured| (measured, Reference::Pit))).and_then(|(measured, reference)| {
            timer::choose(Some(per_second(measured.apic, measured.nanoseconds)));
            clock::set_rate(measured.tsc, measured.nanoseconds).then_some(reference)
        })
    };
    if features.tsc_deadline {
        timer::choose(None);
    }
    apic::set_timer_count(0);
    timer::set_up_this_cpu();
    reference.ok_or(NoReference)
}

/// The TSC's frequency as CPUID leaf 15h has it (SDM volume 2, CPUID).
fn by_cpuid() -> Option<u64> {
    CpuId::new().get_tsc_info()?.tsc_frequency().filter(|hertz| *hertz > 0)
}

/// Counts the TSC and the local APIC's timer while `count`, which gives how far the reference has come, makes [`SPAN`].
/// `None` where it does not count.
fn measure(hertz: u64, mut count: impl FnMut() -> Option<u64>) -> Option<Measured> {
    let ticks = |nanoseconds: u64| (u128::from(nanoseconds) * u128::from(hertz) / 1_000_000_000) as u64;
    apic::set_timer_count(u32::MAX);
    let begin = sample(&mut count)?;
    let mut wanted = ticks(STEP);
    for _ in 0..MOST_READS {
        if count()?.saturating_sub(begin.count) < wanted {
            continue;
        }
        let end = sample(&mut count)?;
        if end.count.saturating_sub(begin.count) >= ticks(SPAN) || is_precise(&begin, &end) {
            return Some(Measured {
                nanoseconds: (u128::from(end.count - begin.count) * 1_000_000_000 / u128::from(hertz)) as u64,
                tsc: end.tsc.saturating_sub(begin.tsc),
                apic: u64::from(begin.apic.saturating_sub(end.apic)),
            });
        }
        wanted = end.count.saturating_sub(begin.count) + ticks(STEP);
    }
    None
}

/// Whether two moments are far enough from each other for how uncertain they are: each by its width, and by a tick of
/// the reference.
fn is_precise(begin: &Sample, end: &Sample) -> bool {
    let (passed, counted) = (end.tsc.saturating_sub(begin.tsc), end.count.saturating_sub(begin.count));
    let tick = passed.checked_div(counted).unwrap_or(passed);
    let uncertain = begin.width.saturating_add(end.width).saturating_add(tick.saturating_mul(2));
    uncertain.saturating_mul(PRECISION) <= passed
}

/// All clocks at one moment.
#[derive(Clone, Copy)]
struct Sample {
    count: u64,
    tsc: u64,
    apic: u32,
    /// How long the moment was, in ticks of the TSC.
    width: u64,
}

/// The shortest of some moments: the clocks are read one after the other, and nothing tells what came between.
fn sample(count: &mut impl FnMut() -> Option<u64>) -> Option<Sample> {
    let mut best: Option<Sample> = None;
    for _ in 0..SAMPLES {
        let before = clock::ticks();
        let now = count()?;
        let tsc = clock::ticks();
        let apic = apic::timer_count();
        let width = clock::ticks().saturating_sub(before);
        if best.is_none_or(|best| width < best.width) {
            best = Some(Sample { count: now, tsc, apic, width });
        }
    }
    best
}

/// How far a counter that wraps has come.
struct Passed {
    last: u32,
    mask: u32,
    total: u64,
}

impl Passed {
    fn count(&mut self, now: u32) -> u64 {
        self.total += u64::from(now.wrapping_sub(self.last) & self.mask);
        self.last = now;
        self.total
    }
}

/// Measures by channel 2 of the PIT, whose output and gate are in port 0x61 and disturb nobody.
fn by_pit() -> Option<Measured> {
    let (mut control, mut data, mut gate) = (Port::<u8>::new(0x43), Port::<u8>::new(0x42), Port::<u8>::new(0x61));
    // SAFETY: these ports are the PIT and the system control port of every PC; channel 2 drives the speaker only, which
    // is switched off. Counter from 0xffff down, mode 0, low byte then high byte.
    unsafe {
        let before = gate.read();
        gate.write(before & !2 | 1);
        control.write(0b1011_0000);
        data.write(0xff);
        data.write(0xff);
        let mut passed = Passed { last: 0xffff, mask: 0xffff, total: 0 };
        let measured = measure(PIT_HZ, || {
            // Latch, then read; it counts down.
            control.write(0b1000_0000);
            let now = u32::from(data.read()) | u32::from(data.read()) << 8;
            Some(passed.count_down(now))
        });
        gate.write(before);
        measured
    }
}

impl Passed {
    fn count_down(&mut self, now: u32) -> u64 {
        self.total += u64::from(self.last.wrapping_sub(now) & self.mask);
        self.last = now;
        self.total
    }
}

fn per_second(ticks: u64, nanoseconds: u64) -> u64 {
    let ticks = u128::from(ticks) * 1_000_000_000;
    ticks.checked_div(u128::from(nanoseconds)).and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_wrap_go_on() {
        let mut passed = Passed { last: 0xff_fff0, mask: 0xff_ffff, total: 0 };
        assert_eq!(passed.count(0xff_fff8), 8);
        assert_eq!(passed.count(0x10), 32);
        let mut passed = Passed { last: 5, mask: 0xffff, total: 0 };
        assert_eq!(passed.count_down(0xfffe), 7);
    }

    #[test]
    fn a_measurement_goes_on_until_it_is_precise() {
        let moment = |count, tsc, width| Sample { count, tsc, apic: 0, width };
        let begin = moment(0, 1000, 100);
        // 1 tick of the reference is 1000 of the TSC: 2 of them and 200 of width are uncertain.
        assert!(!is_precise(&begin, &moment(4000, 4_001_000, 100)));
        assert!(is_precise(&begin, &moment(4400, 4_401_000, 100)));
        assert!(!is_precise(&begin, &moment(4400, 4_401_000, 101)), "a wider moment is less certain");
        assert!(!is_precise(&begin, &moment(0, 2000, 0)), "a reference that stands still says nothing");
    }

    #[test]
    fn ticks_a_second() {
        assert_eq!(per_second(1_000, 1_000_000), 1_000_000);
        assert_eq!(per_second(0, 0), 1);
    }
}
