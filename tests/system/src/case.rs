//! A system test: one boot, and what its log must show.
//!
//! A case is data: a machine, a configuration, expectations on lines. The run waits for lines and for the machine's
//! end, under one deadline; it sleeps nowhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::boot_files::{self, Own};
use crate::ending::{self, LastWords, Watch};
use crate::log_line::LogLine;
use crate::machine::{Event, Hardware, Machine, Running, Serial};
use crate::tools::Tools;
use crate::{bochs, disk_image, volume};

/// Something that a line of the log may be.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// Who says it: the name of a VM, `firmware` for what comes before the kernel, or a part of the hypervisor
    /// (`*` for any).
    who: Who,
    /// Fragments that the line has, in this order.
    fragments: Vec<String>,
}

#[derive(Clone, Debug)]
enum Who {
    Hypervisor,
    Boot,
    Guest(String),
}

impl Pattern {
    /// A line of the hypervisor with these fragments in this order, separated by `...`.
    pub fn hypervisor(text: &str) -> Self {
        Self::new(Who::Hypervisor, text)
    }

    /// A line of firmware or the loader.
    pub fn boot(text: &str) -> Self {
        Self::new(Who::Boot, text)
    }

    /// A line of the console of a VM.
    pub fn guest(vm: &str, text: &str) -> Self {
        Self::new(Who::Guest(vm.to_owned()), text)
    }

    fn new(who: Who, text: &str) -> Self {
        Self { who, fragments: text.split("...").map(|fragment| fragment.trim().to_owned()).collect() }
    }

    /// Whether the line is such a line.
    pub fn matches(&self, line: &LogLine) -> bool {
        let said_by = match &self.who {
            Who::Hypervisor => line.is_hypervisors(),
            Who::Boot => line.is_boots(),
            Who::Guest(vm) => line.guest() == Some(vm),
        };
        if !said_by {
            return false;
        }
        let mut rest = line.message.as_str();
        self.fragments.iter().all(|fragment| match rest.find(fragment.as_str()) {
            Some(at) => {
                rest = rest.get(at + fragment.len()..).unwrap_or_default();
                true
            }
            None => false,
        })
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who = match &self.who {
            Who::Hypervisor => "the hypervisor",
            Who::Boot => "the loader",
            Who::Guest(vm) => vm,
        };
        write!(f, "{who}: {:?}", self.fragments.join(" ... "))
    }
}

/// How a boot ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine resets itself (`at_end = "reset"`).
    Reset,
    /// The machine stays as it is: it is stopped when every expected line was seen.
    Stays,
}

/// What is examined once the boot is over.
type Check = Arc<dyn Fn(&Finished<'_>) -> Result<()> + Send + Sync>;

/// One system test.
#[derive(Clone)]
pub struct Case {
    /// Its name, as a person types it.
    pub name: &'static str,
    /// The machine, where it is QEMU's.
    pub hardware: Hardware,
    /// The machine in Bochs, if the case runs there.
    bochs: Option<bochs::Hardware>,
    /// The configuration on the boot volume.
    pub configuration: String,
    /// Lines that must come, in any order, and how often at least.
    expected: Vec<(Pattern, u64)>,
    /// Lines that must not come.
    forbidden: Vec<Pattern>,
    /// How the boot ends.
    pub end: End,
    /// How long it may take at most.
    pub limit: Duration,
    /// What the log as a whole must show.
    checks: Vec<Check>,
    /// The seed of the NVMe disk that the machine gets, if it gets one.
    disk: Option<u64>,
    /// Whether the machine is paused and continued all the time while guests run.
    disturbed: bool,
    /// Whether files that the configuration names may be absent from the volume.
    absent_files: bool,
}

/// An NVMe disk's image, and the SHA-256 that its data had before the boot.
pub type Disk = (PathBuf, String);

/// A boot that is over.
pub struct Finished<'a> {
    /// All lines.
    pub lines: &'a [LogLine],
    /// The NVMe disk, if the machine had one.
    pub disk: Option<Disk>,
    /// Where the machine's files are; what QEMU was asked to trace is in `qemu-debug.log`.
    pub folder: &'a Path,
}

impl Case {
    /// A case on the usual machine with this configuration, which resets at its end.
    pub fn new(name: &'static str, configuration: impl Into<String>) -> Self {
        Self {
            name,
            hardware: Hardware::default(),
            bochs: None,
            configuration: configuration.into(),
            expected: Vec::new(),
            forbidden: Vec::new(),
            end: End::Reset,
            limit: Duration::from_secs(180),
            checks: Vec::new(),
            disk: None,
            disturbed: false,
            absent_files: false,
        }
    }

    /// The same with another machine.
    pub fn on(mut self, hardware: Hardware) -> Self {
        self.hardware = hardware;
        self
    }

    /// The same on this machine in Bochs.
    pub fn in_bochs(mut self, hardware: bochs::Hardware) -> Self {
        self.bochs = Some(hardware);
        self
    }

    /// The same, which must show this line.
    pub fn expect(self, pattern: Pattern) -> Self {
        self.expect_times(pattern, 1)
    }

    /// The same, which must show such lines so often.
    pub fn expect_times(mut self, pattern: Pattern, times: u64) -> Self {
        self.expected.push((pattern, times));
        self
    }

    /// The same, which must not show this line.
    pub fn forbid(mut self, pattern: Pattern) -> Self {
        self.forbidden.push(pattern);
        self
    }

    /// The same, examined by `check` when it is over.
    pub fn check(mut self, check: impl Fn(&Finished<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// The same with a volume that lacks what was not built.
    pub fn lacking_files(mut self) -> Self {
        self.absent_files = true;
        self
    }

    /// The same on a machine that is paused and continued all the time from a guest's first line on, and stays as it is
    /// at the end.
    pub fn disturbed(mut self) -> Self {
        self.disturbed = true;
        self.stays()
    }

    /// The same on a machine that stays as it is at the end.
    pub fn stays(mut self) -> Self {
        self.end = End::Stays;
        self
    }

    /// The same with an NVMe disk of this seed behind a root port.
    pub fn with_disk(mut self, seed: u64) -> Self {
        self.disk = Some(seed);
        self
    }

    /// Boots and judges; `show` gets every line as it comes.
    ///
    /// # Errors
    /// What was not as it must be, with the place of the whole log.
    pub fn run(&self, tools: &Tools, mut show: impl FnMut(&LogLine)) -> Result<()> {
        let folder = tools.output.join(self.name);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut lines = Vec::new();
        let booted = self.boot(tools, &folder, &mut lines, &mut show);
        booted.and_then(|disk| self.examine(&Finished { lines: &lines, disk, folder: &folder })).map_err(|error| {
            let (log, end) = (folder.join("serial.log"), end_of(&lines));
            anyhow!("{error:#}\nThe end of the log, which is in {}:\n{end}", log.display())
        })
    }

    /// Starts the machine; its NVMe disk, if there is one.
    fn start(&self, tools: &Tools, folder: &Path) -> Result<(Box<dyn Running>, Option<Disk>)> {
        let own = Own { may_be_absent: self.absent_files, ..Own::default() };
        let files = boot_files::collect(&tools.parts, &self.configuration, &own)?;
        if let Some(hardware) = &self.bochs {
            let emulator = tools.bochs.as_ref().context("this case runs in Bochs, which was not asked for")?;
            disk_image::write(&folder.join(bochs::DISK), &files)?;
            return Ok((Box::new(bochs::Machine::start(emulator, hardware, folder)?), None));
        }
        let volume = folder.join("boot.img");
        volume::write(&volume, &files)?;
        let mut hardware = self.hardware.clone();
        let mut disk = None;
        if let Some(seed) = self.disk {
            let image = folder.join("nvme.img");
            let sum = crate::disk::create(&image, seed)?;
            hardware = hardware.nvme(&image);
            disk = Some((image, sum));
        }
        Ok((Box::new(Machine::start(&tools.qemu, &hardware, &volume, folder, Serial::Lines)?), disk))
    }

    /// Boots; the disk, if there is one.
    fn boot(
        &self,
        tools: &Tools,
        folder: &Path,
        lines: &mut Vec<LogLine>,
        show: &mut dyn FnMut(&LogLine),
    ) -> Result<Option<Disk>> {
        let (mut machine, disk) = self.start(tools, folder)?;
        let mut watch = Watch::limited_to(Some(self.limit));
        let mut missing = self.expected.clone();
        let mut undisturbed = self.disturbed;
        loop {
            if self.end == End::Stays && missing.is_empty() {
                machine.stop()?;
                break;
            }
            match machine.next(watch.deadline())? {
                Event::Line(line) => {
                    show(&line);
                    watch.hear(&line);
                    if undisturbed && line.guest().is_some() {
                        machine.disturb()?;
                        undisturbed = false;
                    }
                    if let Some(pattern) = self.forbidden.iter().find(|pattern| pattern.matches(&line)) {
                        bail!("a line that must not come ({pattern}): {}", line.show(false));
                    }
                    for (pattern, times) in &mut missing {
                        *times -= u64::from(pattern.matches(&line)).min(*times);
                    }
                    missing.retain(|(_, times)| *times > 0);
                    lines.push(line);
                }
                Event::Ended(ended) => {
                    if let Some(death) = ending::death(lines, &ended) {
                        bail!("{death}");
                    }
                    if self.end == End::Stays {
                        bail!("the machine ended early{}", listed(&missing));
                    }
                    break;
                }
                Event::DeadlinePassed => {
                    let death = match watch.last_words() {
                        None | Some(LastWords::Idle) => None,
                        Some(_) => ending::death(lines, &machine.stop()?),
                    };
                    match death {
                        Some(death) => bail!("{death}"),
                        None if watch.last_words().is_some() => bail!("the machine stands still{}", listed(&missing)),
                        None => bail!("not over after {} s{}", self.limit.as_secs(), listed(&missing)),
                    }
                }
            }
        }
        if !missing.is_empty() {
            bail!("the machine ended{}", listed(&missing));
        }
        if self.end == End::Reset {
            ending::given_back(&self.configuration, lines).map_err(anyhow::Error::msg)?;
        }
        Ok(disk)
    }

    fn examine(&self, finished: &Finished<'_>) -> Result<()> {
        self.checks.iter().try_for_each(|check| check(finished))
    }
}

/// The last lines of a log, indented.
fn end_of(lines: &[LogLine]) -> String {
    const SHOWN: usize = 20;
    if lines.is_empty() {
        return "    (nothing was said)".into();
    }
    let last = lines.iter().skip(lines.len().saturating_sub(SHOWN));
    last.map(|line| format!("    {}", line.show(false))).collect::<Vec<_>>().join("\n")
}

fn listed(missing: &[(Pattern, u64)]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = missing.iter().map(|(pattern, times)| format!("{pattern} ({times} times)")).collect();
    format!(" without these lines: {}", lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(raw: &str) -> LogLine {
        LogLine::parse(raw).unwrap()
    }

    #[test]
    fn fragments_must_come_in_order_and_from_the_right_source() {
        let said = line("[    0.000001] info  iommu     | unit 0: 48 bits, queue on");
        assert!(Pattern::hypervisor("unit 0 ... queue").matches(&said));
        assert!(!Pattern::hypervisor("queue ... unit 0").matches(&said));
        assert!(!Pattern::guest("iommu", "unit 0").matches(&said));
        assert!(!Pattern::boot("unit 0").matches(&said));
        assert!(Pattern::guest("linux", "$").matches(&line("[    0.000001] linux     | / $")));
        assert!(Pattern::boot("loading").matches(&line("BdsDxe: loading")));
    }
}
