//! The timer of this CPU's local APIC: one shot, at a moment of the clock.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{apic, clock, current, interrupts, msr};

/// Ticks of the local APIC's timer a nanosecond, as a fraction of 2^32; 0 where the TSC's deadline is used instead.
static RATE: AtomicU64 = AtomicU64::new(0);

/// Makes this CPU's timer fire at `nanoseconds` of the clock, or at once where that is past. The timer's interrupt
/// ends HLT or the guest's turn and tells the [handler](set_handler); who waits looks at the clock.
pub fn set_deadline(nanoseconds: u64) {
    current().deadline.store(nanoseconds, Ordering::Relaxed);
    match RATE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: the timer was put in TSC-deadline mode only where CPUID has it; 0 would switch it off. The fence
            // orders the APIC's own memory-mapped set-up before the write (SDM volume 3 section 11.5.4.1).
            unsafe {
                core::arch::x86_64::_mm_mfence();
                msr::write(msr::TSC_DEADLINE, clock::ticks_at(nanoseconds).max(1));
            }
        }
        rate => {
            let left = nanoseconds.saturating_sub(clock::nanoseconds());
            apic::set_timer_count(count(left, rate));
        }
    }
}

/// Who is told when the timer of a CPU fires: a function that interrupt handlers may call, and its argument.
pub type Handler = (fn(usize), usize);

/// From now on this CPU's timer tells `handler`, or nobody.
pub fn set_handler(handler: Option<Handler>) {
    let (function, argument) = handler.map_or((0, 0), |(function, argument)| (function as usize, argument));
    interrupts::without(|| {
        let [slot, slot_argument] = &current().timer_handler;
        slot.store(function, Ordering::Relaxed);
        slot_argument.store(argument, Ordering::Relaxed);
    });
}

/// The timer's interrupt came. Where the moment is further off than the counter can count it came early, and goes on.
pub(super) fn fired() {
    let [slot, argument] = &current().timer_handler;
    let function = slot.load(Ordering::Relaxed);
    if function != 0 {
        // SAFETY: only `set_handler` stores here, on this CPU with interrupts off, and what is not 0 is of this type.
        let function = unsafe { core::mem::transmute::<usize, fn(usize)>(function) };
        function(argument.load(Ordering::Relaxed));
    }
    if let Some(deadline) = deadline()
        && deadline > clock::nanoseconds()
    {
        set_deadline(deadline);
    }
}

/// Stops this CPU's timer. One interrupt may still come.
pub fn cancel() {
    current().deadline.store(u64::MAX, Ordering::Relaxed);
    match RATE.load(Ordering::Relaxed) {
        // SAFETY: as in `set_deadline`; 0 disarms.
        0 => unsafe { msr::write(msr::TSC_DEADLINE, 0) },
        _ => apic::set_timer_count(0),
    }
}

/// The moment that this CPU's timer is set to, if it is.
pub fn deadline() -> Option<u64> {
    Some(current().deadline.load(Ordering::Relaxed)).filter(|deadline| *deadline != u64::MAX)
}

/// Says how the timers count: on every CPU by the TSC's deadline, or at this many ticks a second.
pub(super) fn choose(ticks_a_second: Option<u64>) {
    let rate = ticks_a_second.map_or(0, |ticks| (u128::from(ticks) << 32) / 1_000_000_000);
    RATE.store(u64::try_from(rate).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Sets this CPU's timer up; it does not run yet.
pub(super) fn set_up_this_cpu() {
    let by_tsc = RATE.load(Ordering::Relaxed) == 0;
    apic::set_timer(if by_tsc { apic::Timer::TscDeadline } else { apic::Timer::OneShot });
}

/// What the counter starts from: rounded up, so that the moment has come when it fires; never 0, which would stop it.
fn count(nanoseconds: u64, rate: u64) -> u32 {
    let ticks = (u128::from(nanoseconds) * u128::from(rate)).div_ceil(1 << 32);
    u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_never_fires_early_nor_stops_the_timer() {
        let half = 1 << 31;
        assert_eq!(count(1000, half), 500);
        assert_eq!(count(1001, half), 501);
        assert_eq!(count(0, half), 1);
        assert_eq!(count(u64::MAX, half), u32::MAX);
    }
}
