//! How a machine ended: because all of its VMs had, or else what killed it, in plain words.
//!
//! There are three witnesses: what the log said last, what the emulator says of its own end, and its record of
//! processors that were reset. `xtask run` and [`crate::case`] ask here.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::log_line::{LogLine, Source};
use crate::summary::{self, VmSummary};

/// How long more lines are awaited after a machine's last words: other CPUs may have something to say too.
const PATIENCE: Duration = Duration::from_secs(2);

/// Signals by which a program ends that has a defect (signal(7)): SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV.
const CRASHES: [i32; 6] = [4, 5, 6, 7, 8, 11];

/// The part of the hypervisor that reports its own failures.
const FAILURE_ROOM: &str = "fault";

/// A line after which a machine does nothing any more, but perhaps say why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastWords {
    /// The loader or the hypervisor found something for which it does not start a guest.
    Refused,
    /// The hypervisor failed.
    Failed,
    /// Every VM has ended, and the machine stays on.
    Idle,
    /// Every VM has ended, and the machine resets or switches itself off.
    Goes,
}

impl LastWords {
    /// Whether a line is one of them.
    pub fn of(line: &LogLine) -> Option<Self> {
        let begins = |text| line.message.starts_with(text);
        match &line.source {
            Source::Guest(_) => None,
            Source::Firmware if begins("The machine has stopped.") => Some(Self::Refused),
            Source::Firmware if begins("Postern does not start: the loader has a defect") => Some(Self::Failed),
            Source::Firmware => None,
            Source::Hypervisor { level, room } if level == "error" && room == FAILURE_ROOM => Some(Self::Failed),
            Source::Hypervisor { .. } if begins("the machine is halted") => Some(Self::Refused),
            Source::Hypervisor { .. } if begins("every VM has ended; the machine stays on") => Some(Self::Idle),
            Source::Hypervisor { .. } if begins("every VM has ended; the machine resets") => Some(Self::Goes),
            Source::Hypervisor { .. } if begins("every VM has ended; the machine switches") => Some(Self::Goes),
            Source::Hypervisor { .. } if begins("the machine stays on and does nothing") => Some(Self::Failed),
            Source::Hypervisor { .. } => None,
        }
    }
}

/// Until when a machine is listened to: a limit, or a little after its last words.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    limit: Option<Instant>,
    /// The last words, and until when more are awaited; a machine that goes ends by itself.
    last_words: Option<(LastWords, Instant)>,
}

impl Watch {
    /// Listens for as long as this (`None`: for ever).
    pub fn limited_to(limit: Option<Duration>) -> Self {
        Self { limit: limit.map(|limit| Instant::now() + limit), last_words: None }
    }

    /// When to stop listening.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.limit, self.last_words) {
            (Some(limit), Some((_, soon))) => Some(limit.min(soon)),
            (limit, last_words) => limit.or(last_words.map(|(_, soon)| soon)),
        }
    }

    /// Takes note of a line.
    pub fn hear(&mut self, line: &LogLine) {
        if let Some(words) = LastWords::of(line).filter(|words| *words != LastWords::Goes) {
            self.last_words = Some((words, Instant::now() + PATIENCE));
        }
    }

    /// The words after which the machine stands still, if it said them.
    pub fn last_words(&self) -> Option<LastWords> {
        self.last_words.map(|(words, _)| words)
    }
}

/// An emulator that is no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Why it ended, where it was not the machine that ended, nor the tests that stopped it.
    pub trouble: Option<String>,
    /// The file with the registers of a processor that took a triple fault, which no guest's can.
    pub triple_fault: Option<PathBuf>,
}

impl Ended {
    /// A QEMU that ended with this status and said this.
    pub fn qemu(status: ExitStatus, complaints: &str, triple_fault: Option<PathBuf>) -> Self {
        let told = || complaints.lines().find(|line| line.contains("terminating on signal"));
        let trouble = if let Some(signal) = status.signal().filter(|signal| CRASHES.contains(signal)) {
            Some(format!("QEMU itself crashed (signal {signal}); this is a defect of QEMU's"))
        } else if let Some(signal) = status.signal() {
            Some(format!("QEMU was killed by signal {signal}, which came from outside"))
        } else if !status.success() {
            Some(format!("QEMU failed ({status}): {complaints}"))
        } else {
            told().map(|said| format!("QEMU was told from outside to stop: {said}"))
        };
        Self { trouble, triple_fault }
    }
}

/// What killed the machine; `None`: it ended because every VM had.
pub fn death(lines: &[LogLine], ended: &Ended) -> Option<String> {
    if let Some(failure) = failure(lines) {
        return Some(format!("the hypervisor failed: {failure}"));
    }
    if let Some(trouble) = &ended.trouble {
        return Some(trouble.clone());
    }
    if let Some(file) = &ended.triple_fault {
        return Some(format!(
            "the hypervisor failed: a processor took a triple fault, which resets the machine; its registers are in {}",
            file.display()
        ));
    }
    match lines.iter().rev().find_map(LastWords::of) {
        Some(LastWords::Idle | LastWords::Goes) => None,
        Some(LastWords::Refused) => Some(format!("Postern did not start:{}", reasons(lines))),
        Some(LastWords::Failed) | None => {
            Some("the machine was reset or switched off before its VMs had ended, and the log does not say why".into())
        }
    }
}

/// The first line of the hypervisor's report on its own failure, or of the loader's.
fn failure(lines: &[LogLine]) -> Option<&str> {
    let loaders = lines.iter().position(|line| line.is_boots() && LastWords::of(line) == Some(LastWords::Failed));
    if let Some(at) = loaders {
        return Some(lines.get(at + 1).unwrap_or(lines.get(at)?).message.as_str());
    }
    let is_report = |line: &&LogLine| line.is_hypervisors() && LastWords::of(line) == Some(LastWords::Failed);
    lines.iter().find(is_report).map(|line| line.message.as_str())
}

/// What the loader or the hypervisor named as reasons not to start, each on a line of its own.
fn reasons(lines: &[LogLine]) -> String {
    let loaders = lines.iter().position(|line| line.is_boots() && line.message == "Postern does not start.");
    let said: Vec<&LogLine> = match loaders {
        Some(at) => lines.iter().skip(at + 1).collect(),
        None => lines.iter().filter(|line| line.is_error()).collect(),
    };
    let said = said.into_iter().filter(|line| LastWords::of(line).is_none());
    said.map(|line| format!("\n  {}", line.message)).collect()
}

/// Every VM of the configuration was summed up at its end, and holds no memory.
///
/// # Errors
/// A sentence about the first of which this is not so.
pub fn given_back(configuration: &str, lines: &[LogLine]) -> Result<(), String> {
    let summaries = summary::collect(lines);
    for name in vms(configuration) {
        match frames(&summaries, &name) {
            Some(0) => {}
            Some(frames) => return Err(format!("{name} still holds {frames} frames after its end")),
            None => return Err(format!("{name} was not summed up at its end")),
        }
    }
    Ok(())
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmEnd {
    /// As the hypervisor said it: `linux: powered off`.
    pub words: String,
    /// Whether it never ran, crashed, or never ended.
    pub is_failure: bool,
}

/// How each VM of the configuration ended, by what the hypervisor said of it last.
pub fn ends(configuration: &str, lines: &[LogLine]) -> Vec<VmEnd> {
    let end = |name: String| {
        let (ended, refused) = (format!("{name}: "), format!("{name} does not start: "));
        let is_about = |line: &&LogLine| {
            matches!(&line.source, Source::Hypervisor { room, .. } if room == "schedule")
                && (line.message.starts_with(&ended) || line.message.starts_with(&refused))
        };
        match lines.iter().rev().find(is_about) {
            Some(line) => VmEnd { words: line.message.clone(), is_failure: line.is_error() },
            None => VmEnd { words: format!("{name} did not end"), is_failure: true },
        }
    };
    vms(configuration).into_iter().map(end).collect()
}

/// The VMs of the configuration that have not ended, as a part of a sentence: `linux, other`.
pub fn still_running(configuration: &str, lines: &[LogLine]) -> String {
    let summaries = summary::collect(lines);
    let left = vms(configuration).into_iter().filter(|name| frames(&summaries, name).is_none());
    left.collect::<Vec<_>>().join(", ")
}

fn vms(configuration: &str) -> Vec<String> {
    let parsed = configuration::parse(configuration).map(|parsed| parsed.vms).unwrap_or_default();
    parsed.into_iter().map(|vm| vm.name.value).collect()
}

fn frames(summaries: &[VmSummary], name: &str) -> Option<u64> {
    summaries.iter().find(|one| one.vm == *name)?.frames
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: &str = "[    1.000000] error fault       | cpu 1: page fault (#PF), error code 0x0\n\
                         [    1.000000] error fault       | reading 0x8: nothing is mapped there\n\
                         [    1.000000] error fault       | the machine is halted; this is a defect of the hypervisor\n";
    const RESETS: &str = "[    2.000000] info  schedule    | every VM has ended; the machine resets\n";

    fn lines(log: &str) -> Vec<LogLine> {
        log.lines().filter_map(LogLine::parse).collect()
    }

    fn ended(status: i32, complaints: &str) -> Ended {
        Ended::qemu(ExitStatus::from_raw(status), complaints, None)
    }

    #[test]
    fn an_orderly_end_is_one_that_the_hypervisor_announced() {
        assert_eq!(death(&lines(RESETS), &ended(0, "")), None);
        assert_eq!(death(&lines(&RESETS.replace("resets", "stays on and does nothing")), &ended(0, "")), None);
        let guests = RESETS.replace("info  schedule ", "linux          ");
        for log in ["", guests.as_str()] {
            assert!(death(&lines(log), &ended(0, "")).unwrap().contains("before its VMs had ended"), "{log}");
        }
    }

    #[test]
    fn each_way_to_die_has_its_sentence() {
        let said = |log: &str, ended: Ended| death(&lines(log), &ended).unwrap();
        assert!(said(FAULT, ended(0, "")).contains("the hypervisor failed: cpu 1: page fault"));
        assert!(said("", ended(9, "")).contains("killed by signal 9"));
        assert!(said("", ended(11, "")).contains("QEMU itself crashed (signal 11)"));
        assert!(said("", ended(256, "qemu: no such device")).contains("no such device"));
        let terminated = "qemu-system-x86_64: terminating on signal 15 from pid 7 (kill)";
        assert!(said(RESETS, ended(0, terminated)).contains("from pid 7"));
        let triple = Ended { triple_fault: Some("/log".into()), ..ended(0, "") };
        assert!(said("", triple).contains("triple fault"));
        let defect = "Postern does not start: the loader has a defect. Please report it.\npanicked at x";
        assert!(said(defect, ended(0, "")).contains("panicked at x"));
    }

    #[test]
    fn a_refusal_repeats_its_reasons() {
        let loaders = "Read x\nPostern does not start.\nline 1: one\nline 2: two\nThe machine has stopped.";
        let kernels = "[    1.000000] warn  vm          | careful\n[    1.000000] error config      | line 1: one\n\
                       [    1.000000] error config      | line 2: two\n\
                       [    1.000000] error kernel      | the machine is halted: nothing was started\n";
        for log in [loaders, kernels] {
            let said = death(&lines(log), &ended(0, "")).unwrap();
            assert_eq!(said, "Postern did not start:\n  line 1: one\n  line 2: two");
        }
    }

    #[test]
    fn a_machine_that_stands_still_is_listened_to_a_little_longer() {
        let far = Some(Duration::from_secs(1000));
        let mut watch = Watch::limited_to(far);
        for line in lines(RESETS) {
            watch.hear(&line);
        }
        assert_eq!(watch.last_words(), None);
        for limit in [far, None] {
            let mut watch = Watch::limited_to(limit);
            lines(FAULT).iter().for_each(|line| watch.hear(line));
            assert_eq!(watch.last_words(), Some(LastWords::Failed));
            assert!(watch.deadline().unwrap() < Instant::now() + Duration::from_secs(100));
        }
    }

    #[test]
    fn memory_that_is_not_given_back_and_vms_that_run_are_found() {
        let text = "[[vm]]\nname = \"a\"\ncpus = [0]\nmemory = \"2M\"\nimage = { multiboot = { image = \"x\" } }\n";
        let log = |rest: &str| lines(&format!("[    0.000001] info  schedule  | summary vm=a exits=1{rest}"));
        assert!(given_back(text, &log(" frames=0")).is_ok());
        assert!(given_back(text, &log(" frames=1")).is_err());
        assert!(given_back(text, &log("")).is_err());
        assert!(given_back(text, &[]).is_err());
        assert_eq!(still_running(text, &[]), "a");
        let end = |log: &str| ends(text, &lines(log)).remove(0);
        let off = "[    0.000001] info  schedule    | a: powered off\n";
        assert_eq!(end(off), VmEnd { words: "a: powered off".into(), is_failure: false });
        for bad in ["a: crashed: it executes nothing", "a does not start: no such image"] {
            let log =
                format!("[    0.000001] error schedule    | {bad}\n{}", off.replace("info  schedule    |", "linux | "));
            assert_eq!(end(&log), VmEnd { words: bad.into(), is_failure: true });
        }
        assert!(end("").is_failure);
        assert_eq!(still_running(text, &log(" frames=1")), "");
    }
}
