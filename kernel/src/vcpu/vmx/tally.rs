//! What exits cost: reads and writes of the VMCS from one exit to the next entry, by the exit's reason.

use core::fmt;

/// Basic exit reasons that are counted; higher ones count as the last.
const REASONS: usize = 80;

/// The accesses of one virtual CPU.
#[derive(Clone)]
pub struct Tally {
    counts: [Count; REASONS],
}

/// The accesses for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    exits: u64,
    accesses: u64,
    most: u32,
}

/// The reasons that are shown, with their names.
const SHOWN: [(u16, &str); 9] = [
    (super::exit::EXTERNAL_INTERRUPT, "interrupt"),
    (super::exit::CPUID, "cpuid"),
    (super::exit::HALT, "hlt"),
    (super::exit::VMCALL, "hypercall"),
    (super::exit::PORT, "port"),
    (super::exit::READ_MSR, "rdmsr"),
    (super::exit::WRITE_MSR, "wrmsr"),
    (super::exit::EPT_VIOLATION, "nested-fault"),
    (super::exit::APIC_WRITE, "apic-write"),
];

impl Tally {
    /// Counts an exit for this reason that took so many accesses.
    #[inline]
    pub(super) fn note(&mut self, reason: u16, accesses: u32) {
        let place = usize::from(reason).min(REASONS - 1);
        if let Some(count) = self.counts.get_mut(place) {
            count.exits = count.exits.wrapping_add(1);
            count.accesses = count.accesses.wrapping_add(accesses.into());
            count.most = count.most.max(accesses);
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self { counts: [Count::default(); REASONS] }
    }
}

/// `key=value` for each reason that came: exits, accesses in all, and the most that one took.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (reason, name) in SHOWN {
            let Some(Count { exits, accesses, most }) = self.counts.get(usize::from(reason)) else { continue };
            if *exits != 0 {
                write!(f, "{separator}{name}={exits}/{accesses}/{most}")?;
                separator = " ";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_told_apart_by_reason() {
        let mut tally = Tally::default();
        tally.note(10, 5);
        tally.note(10, 4);
        tally.note(1, 2);
        tally.note(u16::MAX, 9);
        assert_eq!(tally.to_string(), "interrupt=1/2/2 cpuid=2/9/5");
    }
}
