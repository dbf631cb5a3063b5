//! What the hostile guest tried, and whether the hypervisor saw it.

use crate::log_line::{LogLine, fields};

/// The attacks that the demo must contain, by the beginnings of their names, with what each is about.
pub const REQUIRED: [(&str, &str); 9] = [
    ("read-linux", "a DMA read of the other VM's RAM"),
    ("write-linux", "a DMA write to the other VM's RAM"),
    ("read-hypervisor", "a DMA read of the hypervisor's RAM"),
    ("write-hypervisor", "a DMA write to the hypervisor's RAM"),
    ("unit-registers", "a DMA to the remapping unit's registers"),
    ("unmapped", "a DMA to a page that its VM does not have"),
    ("read-only", "a DMA write to a page that its VM may only read"),
    ("forged-handle", "an interrupt with another device's handle"),
    ("compatibility-format", "an interrupt in compatibility format"),
];

/// One attack of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attack {
    /// Its name.
    pub name: String,
    /// What the guest saw: `blocked`, `passed`, `unobservable`, or nothing.
    pub outcome: String,
    /// Why it cannot be observed here, if so.
    pub because: String,
    /// The hypervisor's line about it.
    pub report: Option<String>,
}

impl Attack {
    /// Whether the guest saw no effect and the hypervisor reported it.
    pub fn is_blocked(&self) -> bool {
        self.outcome == "blocked" && self.report.is_some()
    }

    /// What is proven; an error where it is not.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn finding(&self) -> Result<String, String> {
        match (self.outcome.as_str(), &self.report) {
            ("blocked", Some(report)) => Ok(format!("blocked: {report}")),
            ("blocked", None) => Err("it had no effect, but the hypervisor did not report it".into()),
            ("unobservable", _) => Ok(format!("not blocked by this emulator: {}", self.because)),
            ("passed", _) => Err("it had an effect".into()),
            _ => Err("the intruder did not say what became of it".into()),
        }
    }
}

/// An attack that is going on.
struct Aim {
    /// Where it is aimed: the page of an address or the handle of an interrupt.
    target: Option<Target>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Page(u64),
    Handle(u64),
}

/// The attacks of the VM `vm`, each with the hypervisor's report that came between its announcement and the next.
pub fn collect(lines: &[LogLine], vm: &str) -> Vec<Attack> {
    let mut attacks: Vec<Attack> = Vec::new();
    let mut aim = Aim { target: None };
    for line in lines {
        if line.guest() == Some(vm) {
            if let Some(pairs) = fields("attack", &line.message) {
                aim = Aim { target: target(&pairs) };
                attacks.push(Attack {
                    name: text(&pairs, "name").to_owned(),
                    outcome: String::new(),
                    because: String::new(),
                    report: None,
                });
            } else if let (Some(pairs), Some(attack)) = (fields("result", &line.message), attacks.last_mut())
                && text(&pairs, "attack") == attack.name
            {
                // What it hit was its own, which it could not know: no attack.
                if text(&pairs, "outcome") == "own" {
                    attacks.pop();
                    continue;
                }
                attack.outcome = text(&pairs, "outcome").to_owned();
                attack.because = line.message.split_once("because=").map_or("", |(_, reason)| reason).to_owned();
            }
        } else if line.is_hypervisors()
            && let (Some(pairs), Some(attack)) = (fields("fault", &line.message), attacks.last_mut())
            && attack.report.is_none()
            && text(&pairs, "vm") == vm
            && !text(&pairs, "device").is_empty()
            && !text(&pairs, "reason").is_empty()
            && target(&pairs) == aim.target
        {
            attack.report = Some(line.message.clone());
        }
    }
    attacks
}

fn text<'a>(pairs: &[(&'a str, &'a str)], key: &str) -> &'a str {
    pairs.iter().find(|(known, _)| *known == key).map_or("", |(_, value)| *value)
}

fn target(pairs: &[(&str, &str)]) -> Option<Target> {
    let number = |key: &str| u64::from_str_radix(text(pairs, key).strip_prefix("0x")?, 16).ok();
    number("interrupt").map(Target::Handle).or_else(|| number("address").map(|address| Target::Page(address >> 12)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attacks(log: &str) -> Vec<Attack> {
        collect(&log.lines().filter_map(LogLine::parse).collect::<Vec<_>>(), "intruder")
    }

    const ANNOUNCED: &str = "[    1.000000] intruder  | attack name=unmapped kind=write address=0x5000123\n";
    const REPORTED: &str = "[    1.000001] warn  iommu     | fault vm=intruder device=0000:00:04.0 access=write address=0x5000000 reason=0x5 : not writable\n";
    const BLOCKED: &str = "[    1.000002] intruder  | result attack=unmapped outcome=blocked\n";

    #[test]
    fn an_attack_is_proven_by_both_sides() {
        let both = attacks(&[ANNOUNCED, REPORTED, BLOCKED].concat());
        assert!(both[0].is_blocked() && both[0].finding().is_ok());
        assert!(attacks(&[ANNOUNCED, BLOCKED].concat())[0].finding().is_err());
        assert!(attacks(&[ANNOUNCED, REPORTED].concat())[0].finding().is_err());
        assert!(attacks(&[ANNOUNCED, REPORTED, &BLOCKED.replace("blocked", "passed")].concat())[0].finding().is_err());
    }

    #[test]
    fn a_report_of_something_else_proves_nothing() {
        for (from, to) in
            [("0x5000000", "0x5001000"), ("vm=intruder", "vm=linux"), ("device=0000:00:04.0", ""), ("reason=0x5", "")]
        {
            let log = [ANNOUNCED, &REPORTED.replace(from, to), BLOCKED].concat();
            assert_eq!(attacks(&log)[0].report, None, "{to}");
        }
        // A guest that writes the hypervisor's words is still a guest.
        let forged = REPORTED.replace("warn  iommu    ", "intruder ");
        assert_eq!(attacks(&[ANNOUNCED, &forged, BLOCKED].concat())[0].report, None);
    }

    #[test]
    fn what_hits_its_own_is_no_attack() {
        assert_eq!(attacks(&[ANNOUNCED, &BLOCKED.replace("blocked", "own")].concat()), []);
    }

    #[test]
    fn what_the_emulator_cannot_block_is_said() {
        let log = "[    1.000000] intruder  | attack name=compatibility-format kind=interrupt address=0xfee00000\n\
                   [    1.000001] intruder  | result attack=compatibility-format outcome=unobservable because=QEMU delivers it\n";
        assert_eq!(attacks(log)[0].finding(), Ok("not blocked by this emulator: QEMU delivers it".into()));
    }
}
