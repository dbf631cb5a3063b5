//! What the hostile guest tried, and whether the hypervisor saw it.
//!
//! The guest announces each try (`attack ...`) and says what it saw of it (`result attack=...`), the hypervisor for each
//! request that was blocked who sent it and why (`fault ...`), and which memory of the machine is whose (`memory ...`).
//! A try is blocked when the guest saw no effect and the hypervisor reported this very request.

use std::ops::Range;

use crate::log_line::{LogLine, fields};

/// What a device tried to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To read memory.
    Read,
    /// To write memory.
    Write,
    /// To interrupt, by a write to where interrupt messages are written.
    Interrupt,
}

/// One try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    /// What.
    pub kind: Kind,
    /// The guest's name for it.
    pub name: String,
    /// The address of the request; of an interrupt, the handle or vector.
    pub number: u64,
    /// What the guest saw: `blocked`, `passed`, `own` (it hit what is its own), `unobservable`, or nothing.
    pub outcome: String,
    /// Why it cannot be observed in this emulator, if so.
    pub because: String,
    /// The hypervisor's report of it.
    pub report: Option<String>,
}

/// What became of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was blocked, and reported with this line.
    Blocked(String),
    /// It hit what is the VM's own, which is allowed.
    Own,
    /// This emulator cannot block it, for this reason; no VM noticed it.
    NotBlockable(String),
    /// It had an effect, or nothing proves that it had none: what is missing, in words.
    Unproven(&'static str),
}

impl Try {
    /// What is proven of it.
    pub fn verdict(&self) -> Verdict {
        let interrupts = self.kind == Kind::Interrupt;
        match (self.outcome.as_str(), &self.report) {
            ("blocked" | "unobservable", Some(report)) => Verdict::Blocked(report.clone()),
            ("blocked", None) => Verdict::Unproven("the hypervisor did not report it"),
            // No emulator has an excuse for memory.
            ("unobservable", None) if interrupts && !self.because.is_empty() => {
                Verdict::NotBlockable(self.because.clone())
            }
            ("own", _) if interrupts => Verdict::Own,
            ("passed", _) => Verdict::Unproven("it had an effect"),
            _ => Verdict::Unproven("the intruder did not say what became of it"),
        }
    }
}

impl std::fmt::Display for Try {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, number, .. } = self;
        match self.kind {
            Kind::Read | Kind::Write => write!(f, "{name} at {number:#x}"),
            Kind::Interrupt => write!(f, "{name} {number:#x}"),
        }
    }
}

/// The tries of the VM `vm`, each with the hypervisor's report of it.
pub fn collect(lines: &[LogLine], vm: &str) -> Vec<Try> {
    let mut tries: Vec<Try> = Vec::new();
    for line in lines.iter().filter(|line| line.guest() == Some(vm)) {
        if let Some(pairs) = fields("attack", &line.message) {
            tries.extend(announced(&pairs));
        } else if let (Some(pairs), Some(one)) = (fields("result", &line.message), tries.last_mut())
            && text(&pairs, "attack") == one.name
        {
            one.outcome = text(&pairs, "outcome").to_owned();
            one.because = line.message.split_once("because=").map_or("", |(_, reason)| reason).to_owned();
        }
    }
    let mut reports: Vec<Option<Report>> = lines.iter().map(|line| Report::parse(line, vm)).collect();
    for one in &mut tries {
        // Each report proves one try; the order of lines of two CPUs proves nothing.
        let matching = reports.iter_mut().find(|report| report.as_ref().is_some_and(|report| report.is_of(one)));
        one.report = matching.and_then(Option::take).map(|report| report.message);
    }
    tries
}

fn announced(pairs: &[(&str, &str)]) -> Option<Try> {
    let (kind, number) = match text(pairs, "kind") {
        "read" => (Kind::Read, number(pairs, "address")?),
        "write" => (Kind::Write, number(pairs, "address")?),
        "interrupt" => (Kind::Interrupt, number(pairs, "interrupt")?),
        _ => return None,
    };
    let (outcome, because) = (String::new(), String::new());
    Some(Try { kind, name: text(pairs, "name").to_owned(), number, outcome, because, report: None })
}

/// The memory of the machine that the hypervisor says belongs to `owner`.
pub fn memory_of(lines: &[LogLine], owner: &str) -> Vec<Range<u64>> {
    let said = lines.iter().filter(|line| line.is_hypervisors());
    said.filter_map(|line| fields("memory", &line.message))
        .filter(|pairs| text(pairs, "vm") == owner)
        .filter_map(|pairs| Some(number(&pairs, "start")?..number(&pairs, "end")?))
        .collect()
}

/// A `fault` line of the hypervisor.
struct Report {
    kind: Kind,
    number: u64,
    message: String,
}

impl Report {
    fn parse(line: &LogLine, vm: &str) -> Option<Self> {
        let pairs = fields("fault", &line.message).filter(|_| line.is_hypervisors())?;
        let names_all = !text(&pairs, "device").is_empty() && !text(&pairs, "reason").is_empty();
        // QEMU's unit does not learn who sent a message that a device wrote by DMA: nobody can name the VM.
        let may_lack_vm = number(&pairs, "interrupt").is_some() && text(&pairs, "vm") == "none";
        if !(text(&pairs, "vm") == vm || may_lack_vm) || !names_all {
            return None;
        }
        let (kind, number) = match (number(&pairs, "interrupt"), text(&pairs, "access")) {
            (Some(handle), _) => (Kind::Interrupt, handle),
            (None, "read") => (Kind::Read, number(&pairs, "address")?),
            (None, "write") => (Kind::Write, number(&pairs, "address")?),
            _ => return None,
        };
        Some(Self { kind, number, message: line.message.clone() })
    }

    fn is_of(&self, one: &Try) -> bool {
        // The unit records the page of an address.
        let same = if self.kind == Kind::Interrupt {
            self.number == one.number
        } else {
            self.number >> 12 == one.number >> 12
        };
        self.kind == one.kind && same
    }
}

fn text<'a>(pairs: &[(&'a str, &'a str)], key: &str) -> &'a str {
    pairs.iter().find(|(known, _)| *known == key).map_or("", |(_, value)| *value)
}

fn number(pairs: &[(&str, &str)], key: &str) -> Option<u64> {
    u64::from_str_radix(text(pairs, key).strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(log: &str) -> Vec<Try> {
        collect(&log.lines().filter_map(LogLine::parse).collect::<Vec<_>>(), "intruder")
    }

    const TRIED: &str = "[    1.000000] intruder  | attack name=unmapped kind=read address=0x5000123\n";
    const REPORTED: &str = "[    1.000001] warn  iommu     | fault vm=intruder device=0000:00:04.0 access=read address=0x5000000 reason=0x6\n";
    const SEEN: &str = "[    1.000002] intruder  | result attack=unmapped outcome=blocked data=unchanged\n";

    #[test]
    fn a_try_is_proven_blocked_by_both_sides() {
        let verdict = |log: &[&str]| tries(&log.concat())[0].verdict();
        assert!(matches!(verdict(&[TRIED, REPORTED, SEEN]), Verdict::Blocked(_)));
        assert!(matches!(verdict(&[TRIED, SEEN, REPORTED]), Verdict::Blocked(_)));
        let passed = SEEN.replace("blocked", "passed");
        for log in [&[TRIED, SEEN][..], &[TRIED, REPORTED], &[TRIED, REPORTED, &passed]] {
            assert!(matches!(verdict(log), Verdict::Unproven(_)), "{log:?}");
        }
    }

    #[test]
    fn a_report_of_something_else_proves_nothing() {
        for (from, to) in [
            ("0x5000000", "0x5001000"),
            ("vm=intruder", "vm=linux"),
            ("device=0000:00:04.0", ""),
            ("reason=0x6", ""),
            ("access=read", "access=write"),
            // A guest that writes the hypervisor's words is still a guest.
            ("warn  iommu    ", "intruder "),
        ] {
            let log = [TRIED, &REPORTED.replace(from, to), SEEN].concat();
            assert_eq!(tries(&log)[0].report, None, "{to}");
        }
    }

    #[test]
    fn dma_has_no_excuse() {
        for excuse in ["own own-interrupts=1", "unobservable because=the emulator cannot"] {
            let log = [TRIED, &SEEN.replace("blocked", excuse)].concat();
            assert!(matches!(tries(&log)[0].verdict(), Verdict::Unproven(_)), "{excuse}");
        }
    }

    #[test]
    fn a_report_proves_only_one_try() {
        let both = tries(&[TRIED, REPORTED, SEEN, TRIED, SEEN].concat());
        assert!(both[0].report.is_some() && both[1].report.is_none());
    }

    #[test]
    fn interrupts_are_matched_by_handle_and_what_the_emulator_cannot_block_is_said() {
        let announced = |name: &str, number: &str| {
            format!(
                "[    1.000000] intruder  | attack name={name} kind=interrupt interrupt={number} address=0xfee00070 data=0x0\n"
            )
        };
        let log = [
            &announced("forged-handle", "0x3"),
            "[    1.000001] warn  iommu     | fault vm=intruder device=0000:00:04.0 interrupt=0x3 reason=0x26\n",
            "[    1.000001] intruder  | result attack=forged-handle outcome=unobservable because=no source\n",
            &announced("forged-handle", "0x5"),
            "[    1.000001] warn  iommu     | fault vm=none device=0000:ff:1f.7 access=write interrupt=0x5 reason=0x22\n",
            "[    1.000001] intruder  | result attack=forged-handle outcome=unobservable because=no source\n",
            &announced("forged-handle", "0x4"),
            "[    1.000001] intruder  | result attack=forged-handle outcome=own own-interrupts=1\n",
            &announced("compatibility-format", "0x31"),
            "[    1.000001] intruder  | result attack=compatibility-format outcome=unobservable because=QEMU delivers it\n",
            &announced("compatibility-format", "0x32"),
            "[    1.000001] intruder  | result attack=compatibility-format outcome=unobservable\n",
        ]
        .concat();
        let verdicts: Vec<_> = tries(&log).iter().map(Try::verdict).collect();
        assert!(matches!(&verdicts[0], Verdict::Blocked(report) if report.contains("reason=0x26")));
        assert!(matches!(&verdicts[1], Verdict::Blocked(report) if report.contains("reason=0x22")));
        assert_eq!(verdicts[2], Verdict::Own);
        assert_eq!(verdicts[3], Verdict::NotBlockable("QEMU delivers it".into()));
        assert!(matches!(verdicts[4], Verdict::Unproven(_)));
    }

    #[test]
    fn memory_has_owners() {
        let log = "[    1.000000] info  memory    | memory vm=linux start=0x10000000 end=0x30000000\n\
                   [    1.000000] linux     | memory vm=linux start=0x0 end=0x1\n";
        let lines: Vec<LogLine> = log.lines().filter_map(LogLine::parse).collect();
        assert_eq!(memory_of(&lines, "linux").first(), Some(&(0x1000_0000..0x3000_0000)));
        assert_eq!(memory_of(&lines, "hypervisor"), []);
    }
}
