//! Counting faults per device and owner, and deciding what becomes of each: a line, a number, or silence.
//!
//! A device can fault millions of times a second. The ledger has room for a fixed number of devices, takes no memory
//! while it counts, and lets through a bounded number of reports a second, so that nobody can flood the log or fill
//! memory by faulting.

use alloc::vec::Vec;

use crate::address::PciAddress;
use crate::fault::Reason;

/// How many devices are counted by themselves; the rest share one count.
const DEVICES: usize = 128;
/// How many reasons are counted by themselves for one device; the rest share one count.
const REASONS: usize = 6;
/// A second.
const WINDOW: u64 = 1_000_000_000;

/// What is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Faults of one device that are reported within a second; further ones are only counted.
    pub reports_per_second: u32,
    /// Faults of one device within a second after which it is silenced.
    pub faults_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { reports_per_second: 16, faults_per_second: 512 }
    }
}

/// What to do about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Report it. `unreported` faults of the device went before without a report.
    Report {
        /// How many.
        unreported: u64,
    },
    /// Only count it.
    Count,
    /// Report it and stop the device: its faults are not recorded any more, and its owner has to turn its bus
    /// mastering off.
    Silence {
        /// How many faults of the device went before without a report.
        unreported: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Line {
    device: Option<PciAddress>,
    /// The domain that the device was in: who answers for what is counted here.
    owner: Option<u16>,
    total: u64,
    /// Under all owners.
    ever: u64,
    unreported: u64,
    since: u64,
    in_window: u32,
    reported_in_window: u32,
    silenced: bool,
    /// How often for which reason, under the owner; the first so many reasons.
    reasons: [(Reason, u64); REASONS],
}

/// The counts.
#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    lines: Vec<Line>,
    others: Line,
}

impl Line {
    const fn new(device: Option<PciAddress>, now: u64) -> Self {
        Self {
            device,
            owner: None,
            total: 0,
            ever: 0,
            unreported: 0,
            since: now,
            in_window: 0,
            reported_in_window: 0,
            silenced: false,
            reasons: [(Reason::from_code(0), 0); REASONS],
        }
    }

    fn count_reason(&mut self, reason: Reason) {
        let free = |(known, times): &&mut (Reason, u64)| *known == reason || *times == 0;
        if let Some((known, times)) = self.reasons.iter_mut().find(free) {
            (*known, *times) = (reason, times.saturating_add(1));
        }
    }

    fn count(&mut self, limits: Limits, now: u64) -> Action {
        if now.saturating_sub(self.since) >= WINDOW {
            (self.since, self.in_window, self.reported_in_window) = (now, 0, 0);
        }
        self.total = self.total.saturating_add(1);
        self.ever = self.ever.saturating_add(1);
        self.in_window = self.in_window.saturating_add(1);
        let unreported = self.unreported;
        if self.device.is_some() && !self.silenced && self.in_window >= limits.faults_per_second {
            self.silenced = true;
            self.unreported = 0;
            return Action::Silence { unreported };
        }
        if self.silenced || self.reported_in_window >= limits.reports_per_second {
            self.unreported = self.unreported.saturating_add(1);
            return Action::Count;
        }
        self.reported_in_window += 1;
        self.unreported = 0;
        Action::Report { unreported }
    }
}

impl Ledger {
    /// With nothing counted.
    pub fn new(limits: Limits) -> Self {
        Self { limits, lines: Vec::with_capacity(DEVICES), others: Line::new(None, 0) }
    }

    /// Counts a fault of `device`, which `owner` (a domain's id) answers for, for `reason`, at the time `now`, in
    /// nanoseconds. A
    /// device with a new owner starts at 0, unless it is silenced.
    pub fn count(&mut self, device: PciAddress, owner: Option<u16>, reason: Reason, now: u64) -> Action {
        let limits = self.limits;
        if let Some(line) = self.lines.iter_mut().find(|line| line.device == Some(device)) {
            if line.owner != owner && !line.silenced {
                *line = Line { owner, ever: line.ever, ..Line::new(Some(device), now) };
            }
            line.count_reason(reason);
            return line.count(limits, now);
        }
        if self.lines.len() == DEVICES {
            return self.others.count(limits, now);
        }
        let mut line = Line { owner, ..Line::new(Some(device), now) };
        line.count_reason(reason);
        let action = line.count(limits, now);
        self.lines.push(line);
        action
    }

    /// How often `device` faulted under its owner.
    pub fn total(&self, device: PciAddress) -> u64 {
        self.line(device).map_or(0, |line| line.total)
    }

    /// How often `device` faulted since the start, whoever owned it.
    pub fn ever(&self, device: PciAddress) -> u64 {
        self.line(device).map_or(0, |line| line.ever)
    }

    /// How often `device` faulted under its owner, for each of the first few reasons that it had.
    pub fn reasons(&self, device: PciAddress) -> impl Iterator<Item = (Reason, u64)> {
        self.line(device).into_iter().flat_map(|line| line.reasons).filter(|(_, times)| *times > 0)
    }

    /// Whether `device` is silenced.
    pub fn is_silenced(&self, device: PciAddress) -> bool {
        self.line(device).is_some_and(|line| line.silenced)
    }

    /// Forgets what `device` did, but for [`ever`](Self::ever): its owner left, or somebody decided to listen to it
    /// again.
    pub fn forget(&mut self, device: PciAddress) {
        if let Some(line) = self.lines.iter_mut().find(|line| line.device == Some(device)) {
            *line = Line { ever: line.ever, ..Line::new(Some(device), line.since) };
        }
    }

    /// Every device that faulted, with its count since the start.
    pub fn devices(&self) -> impl Iterator<Item = (PciAddress, u64)> {
        self.lines.iter().filter_map(|line| Some((line.device?, line.ever)))
    }

    fn line(&self, device: PciAddress) -> Option<&Line> {
        self.lines.iter().find(|line| line.device == Some(device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: PciAddress = PciAddress::new(0, 1, 0, 0);
    const READ: Reason = Reason::from_code(6);
    const LIMITS: Limits = Limits { reports_per_second: 2, faults_per_second: 5 };

    #[test]
    fn reports_are_limited_and_what_was_left_out_is_told() {
        let mut ledger = Ledger::new(LIMITS);
        assert_eq!(ledger.count(DEVICE, None, READ, 0), Action::Report { unreported: 0 });
        assert_eq!(ledger.count(DEVICE, None, READ, 1), Action::Report { unreported: 0 });
        assert_eq!(ledger.count(DEVICE, None, READ, 2), Action::Count);
        assert_eq!(ledger.count(DEVICE, None, READ, 3), Action::Count);
        assert_eq!(
            ledger.count(PciAddress::new(0, 2, 0, 0), None, READ, 3),
            Action::Report { unreported: 0 },
            "another device"
        );
        assert_eq!(ledger.count(DEVICE, None, READ, WINDOW), Action::Report { unreported: 2 });
        assert_eq!(ledger.total(DEVICE), 5);
    }

    #[test]
    fn reasons_are_counted_for_each_device_and_owner() {
        let mut ledger = Ledger::new(LIMITS);
        let reasons = |ledger: &Ledger| -> std::vec::Vec<(u8, u64)> {
            ledger.reasons(DEVICE).map(|(reason, times)| (reason.code(), times)).collect()
        };
        for code in [6, 5, 6, 6] {
            ledger.count(DEVICE, Some(1), Reason::from_code(code), 0);
        }
        assert_eq!(reasons(&ledger), [(6, 3), (5, 1)]);
        ledger.count(DEVICE, Some(2), READ, 0);
        assert_eq!(reasons(&ledger), [(6, 1)], "another owner");
        for code in 1..=255 {
            ledger.count(DEVICE, Some(2), Reason::from_code(code), 0);
        }
        assert_eq!(reasons(&ledger).len(), REASONS, "no more memory than there is");
        assert_eq!(ledger.total(DEVICE), 256);
    }

    #[test]
    fn a_storm_silences_its_device_once() {
        let mut ledger = Ledger::new(LIMITS);
        let actions: Vec<_> = (0..7).map(|time| ledger.count(DEVICE, None, READ, time)).collect();
        assert_eq!(actions[4], Action::Silence { unreported: 2 });
        assert_eq!(actions[5..], [Action::Count, Action::Count]);
        assert!(ledger.is_silenced(DEVICE));
        assert_eq!(ledger.count(DEVICE, None, READ, 9 * WINDOW), Action::Count, "until somebody decides otherwise");
        ledger.forget(DEVICE);
        assert!(!ledger.is_silenced(DEVICE));
        assert_eq!((ledger.total(DEVICE), ledger.ever(DEVICE)), (0, 8));
        ledger.count(DEVICE, None, READ, 9 * WINDOW);
        assert_eq!((ledger.total(DEVICE), ledger.ever(DEVICE)), (1, 9));
    }

    #[test]
    fn a_new_owner_does_not_answer_for_the_old_one() {
        let mut ledger = Ledger::new(LIMITS);
        for time in 0..4 {
            ledger.count(DEVICE, Some(1), READ, time);
        }
        assert_eq!(ledger.count(DEVICE, Some(2), READ, 4), Action::Report { unreported: 0 });
        assert_eq!((ledger.total(DEVICE), ledger.ever(DEVICE)), (1, 5));
        for time in 5..9 {
            ledger.count(DEVICE, Some(2), READ, time);
        }
        assert_eq!(ledger.count(DEVICE, None, READ, 10), Action::Count, "silence outlives the owner");
    }

    #[test]
    fn slow_faults_never_silence() {
        let mut ledger = Ledger::new(LIMITS);
        for time in 0..100 {
            assert_ne!(ledger.count(DEVICE, None, READ, time * WINDOW / 2), Action::Silence { unreported: 0 });
        }
        assert!(!ledger.is_silenced(DEVICE));
    }

    #[test]
    fn strangers_without_number_share_one_line() {
        let mut ledger = Ledger::new(LIMITS);
        for bus in 0..=255 {
            for device in 0..32 {
                ledger.count(PciAddress::new(0, bus, device, 0), None, READ, 0);
            }
        }
        assert_eq!(ledger.devices().count(), DEVICES);
        assert_eq!(ledger.lines.capacity(), DEVICES);
        assert_eq!(ledger.count(PciAddress::new(0, 255, 31, 7), None, READ, 0), Action::Count);
    }
}
