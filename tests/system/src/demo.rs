//! The demo: a Linux guest that owns an NVMe disk and a network card, beside a guest whose device attacks everything.

use std::ops::Range;
use std::path::Path;

use crate::attack::{self, Kind, Try, Verdict};
use crate::disk;
use crate::log_line::{LogLine, fields};
use crate::machine::Hardware;
use crate::summary::{self, DeviceSummary, VmSummary};

/// The name of the VM that does honest work.
pub const LINUX: &str = "linux";
/// The name of the VM that attacks.
pub const INTRUDER: &str = "intruder";

/// The demo's configuration; the Linux guest writes `nonce` to its disk.
pub fn configuration(task: &str, nonce: &str) -> String {
    format!(
        r#"# Two VMs side by side, one CPU each. The machine resets when both have ended.
# no_timer_check: Linux gives up when its timer does not tick in time, which an emulated machine under load fails.
at_end = "reset"

[[vm]]
name = "{LINUX}"
cpus = [0]
memory = "512M"
image = {{ linux = {{ kernel = "guests/vmlinuz", initrd = "guests/initrd", cmdline = "console=ttyS0 quiet no_timer_check panic=-1 postern.task={task} postern.nonce={nonce}" }} }}
devices = ["1b36:0010", "8086:10d3"]    # the NVMe disk and the e1000e network card
on_reset = "stop"

[[vm]]
name = "{INTRUDER}"
cpus = [1]
memory = "32M"
image = {{ multiboot = {{ image = "guests/intruder.elf", cmdline = "handles=16" }} }}
devices = ["1234:11e8"]                 # QEMU's edu, a device that does DMA to wherever it is told
on_reset = "stop"
"#
    )
}

/// The demo's machine, with this image on its NVMe disk.
pub fn hardware(image: &Path) -> Hardware {
    Hardware::default().nvme(image).e1000e().edu()
}

/// One thing that the demo has to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// What is to be proven.
    pub claim: String,
    /// What was found.
    pub finding: Finding,
}

/// What there is to say of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is proven by this.
    Proven(String),
    /// The emulator cannot do what the claim is about: nothing is proven, and nothing is held against Postern.
    NotBlockable(String),
    /// This proves the contrary, or nothing does prove it.
    NotProven(String),
}

impl From<Result<String, String>> for Finding {
    fn from(found: Result<String, String>) -> Self {
        match found {
            Ok(proof) => Self::Proven(proof),
            Err(flaw) => Self::NotProven(flaw),
        }
    }
}

/// What is known besides the log.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The SHA-256 of the disk's data before the boot.
    pub sum: &'a str,
    /// What the guest was to write.
    pub nonce: &'a str,
    /// The disk's image.
    pub image: &'a Path,
}

/// Everything that the demo has to prove, with what was found.
pub fn judge(lines: &[LogLine], facts: Facts<'_>) -> Vec<Point> {
    let mut points = linux_points(lines, facts);
    points.extend(attack_points(lines));
    points.push(undisturbed(lines));
    points.push(given_back(&summary::collect(lines)));
    points
}

fn point(claim: &str, finding: Result<String, String>) -> Point {
    Point { claim: claim.to_owned(), finding: finding.into() }
}

/// The guest's `result` lines that have this key.
fn results<'a>(lines: &'a [LogLine], vm: &str, key: &str) -> Vec<Vec<(&'a str, &'a str)>> {
    let said = lines.iter().filter(|line| line.guest() == Some(vm));
    let all = said.filter_map(|line| fields("result", &line.message));
    all.filter(|pairs| pairs.iter().any(|(known, _)| *known == key)).collect()
}

fn value<'a>(pairs: &[(&'a str, &'a str)], key: &str) -> &'a str {
    pairs.iter().find(|(known, _)| *known == key).map_or("", |(_, value)| *value)
}

fn linux_points(lines: &[LogLine], facts: Facts<'_>) -> Vec<Point> {
    vec![
        point("Linux read all of its NVMe disk", all_read(lines, facts.sum)),
        point("what Linux wrote is on the disk", written(facts)),
        point("Linux reached the network through its card", pinged(lines)),
        point("the devices' interrupts reached Linux", interrupted(lines)),
    ]
}

fn all_read(lines: &[LogLine], expected: &str) -> Result<String, String> {
    let reads = results(lines, LINUX, "sha256");
    let sums: Vec<&str> = reads.iter().map(|pairs| value(pairs, "sha256")).collect();
    match sums.as_slice() {
        [] => Err("it reported no sum".into()),
        sums if sums.iter().all(|sum| *sum == expected) => {
            Ok(format!("64 MiB, {} times, SHA-256 {expected}", sums.len()))
        }
        sums => Err(format!("it read {}, on the disk is {expected}", sums.join(", "))),
    }
}

fn written(facts: Facts<'_>) -> Result<String, String> {
    let block = disk::read_block(facts.image).map_err(|error| format!("{error:#}"))?;
    let expected: Vec<u8> = format!("{}\n", facts.nonce).into_bytes().into_iter().cycle().take(block.len()).collect();
    if block != expected {
        return Err("the block behind the data is not what Linux was told to write".into());
    }
    match disk::data_sum(facts.image) {
        Ok(sum) if sum == facts.sum => Ok(format!("4 KiB of {:?}, and nothing else changed", facts.nonce)),
        Ok(_) => Err("the data before the block has changed".into()),
        Err(error) => Err(format!("{error:#}")),
    }
}

fn pinged(lines: &[LogLine]) -> Result<String, String> {
    let pings = results(lines, LINUX, "ping");
    let ping = pings.first().ok_or("it reported no ping")?;
    let (sent, received) = (value(ping, "transmitted"), value(ping, "received"));
    if sent == received && received.parse::<u32>().is_ok_and(|count| count > 0) {
        Ok(format!("{received} of {sent} pings to {} answered", value(ping, "ping")))
    } else {
        Err(format!("{received} of {sent} pings answered"))
    }
}

fn interrupted(lines: &[LogLine]) -> Result<String, String> {
    let counts = results(lines, LINUX, "nvme");
    let counts = counts.first().ok_or("it reported no counts")?;
    let (nvme, card) = (value(counts, "nvme"), value(counts, "eth0"));
    let some = |count: &str| count.parse::<u64>().is_ok_and(|count| count > 0);
    let finding = format!("{nvme} from the disk, {card} from the network card");
    if some(nvme) && some(card) { Ok(finding) } else { Err(finding) }
}

/// Whether a try is of a kind of attack.
type IsOfKind = fn(&Try, &Owners) -> bool;

/// The kinds of attack that the demo must contain: what each is about, and the tries that are of the kind.
const REQUIRED: [(&str, IsOfKind); 9] = [
    ("DMA reads of the other VM's RAM", |one, owners| one.kind == Kind::Read && owners.is_linux(one.number)),
    ("DMA writes to the other VM's RAM", |one, owners| one.kind == Kind::Write && owners.is_linux(one.number)),
    ("DMA reads of the hypervisor's RAM", |one, owners| one.kind == Kind::Read && owners.is_hypervisor(one.number)),
    ("DMA writes to the hypervisor's RAM", |one, owners| one.kind == Kind::Write && owners.is_hypervisor(one.number)),
    ("DMA to the remapping unit's registers", |one, _| one.name == "unit-registers"),
    ("DMA to pages that its VM does not have", |one, _| one.name == "unmapped"),
    ("DMA writes to its own read-only memory", |one, _| one.kind == Kind::Write && one.name == "read-only"),
    ("interrupts with handles of others", |one, _| one.name.starts_with("forged-handle")),
    ("interrupts in compatibility format", |one, _| one.name == "compatibility-format"),
];

/// Whose memory is where.
struct Owners {
    linux: Vec<Range<u64>>,
    hypervisor: Vec<Range<u64>>,
}

impl Owners {
    fn is_linux(&self, address: u64) -> bool {
        self.linux.iter().any(|range| range.contains(&address))
    }

    fn is_hypervisor(&self, address: u64) -> bool {
        self.hypervisor.iter().any(|range| range.contains(&address))
    }
}

fn attack_points(lines: &[LogLine]) -> Vec<Point> {
    let tries = attack::collect(lines, INTRUDER);
    let owners = Owners { linux: attack::memory_of(lines, LINUX), hypervisor: attack::memory_of(lines, "hypervisor") };
    let mut points = Vec::new();
    for (about, is_of_kind) in &REQUIRED {
        points.extend(judged(about, tries.iter().filter(|one| is_of_kind(one, &owners))));
    }
    points.push(all_judged(&tries));
    points
}

/// What is proven of these tries together, and what can not be; one of them is quoted.
fn judged<'a>(about: &str, tries: impl Iterator<Item = &'a Try>) -> Vec<Point> {
    let (mut blocked, mut not_blockable, mut flaws) = (Vec::new(), Vec::new(), Vec::new());
    for one in tries {
        match one.verdict() {
            Verdict::Blocked(report) => blocked.push((one, report)),
            Verdict::Own => {}
            Verdict::NotBlockable(because) => not_blockable.push((one, because)),
            Verdict::Unproven(flaw) => flaws.push(format!("{one}: {flaw}")),
        }
    }
    if !flaws.is_empty() {
        return vec![point(about, Err(flaws.join("; ")))];
    }
    let mut points = Vec::new();
    if let Some((one, report)) = blocked.last() {
        let finding = format!("{} blocked and reported, such as {one}: {report}", tries_in_words(blocked.len()));
        points.push(point(about, Ok(finding)));
    }
    if let Some((one, because)) = not_blockable.last() {
        let count = tries_in_words(not_blockable.len());
        let finding = format!("{count}, such as {one}: not blockable here: {because}; no VM noticed it");
        points.push(Point { claim: about.to_owned(), finding: Finding::NotBlockable(finding) });
    }
    if points.is_empty() {
        points.push(point(about, Err("the intruder never tried".into())));
    }
    points
}

/// The whole of the intruder's tries, whatever they were about.
fn all_judged(tries: &[Try]) -> Point {
    const CLAIM: &str = "every attack that this emulator can block was blocked";
    let count = Count::of(tries);
    let flaws: Vec<String> = tries
        .iter()
        .filter_map(|one| match one.verdict() {
            Verdict::Unproven(flaw) => Some(format!("{one}: {flaw}")),
            _ => None,
        })
        .collect();
    if tries.is_empty() {
        return point(CLAIM, Err("the intruder never tried".into()));
    }
    if !flaws.is_empty() {
        return point(CLAIM, Err(flaws.join("; ")));
    }
    let own = count.all - count.blocked - count.not_blockable;
    let Count { blocked, not_blockable, all } = count;
    point(CLAIM, Ok(format!("of {all} tries {blocked} were blocked, {not_blockable} cannot be, {own} hit its own")))
}

/// `1 try`, `2 tries`.
fn tries_in_words(count: usize) -> String {
    if count == 1 { "1 try".into() } else { format!("{count} tries") }
}

/// What the intruder's tries came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Blocked and reported.
    pub blocked: usize,
    /// Tries that the emulator cannot block.
    pub not_blockable: usize,
    /// All of them.
    pub all: usize,
}

impl Count {
    fn of(tries: &[Try]) -> Self {
        let count = |is_such: fn(&Verdict) -> bool| tries.iter().filter(|one| is_such(&one.verdict())).count();
        Self {
            blocked: count(|verdict| matches!(verdict, Verdict::Blocked(_))),
            not_blockable: count(|verdict| matches!(verdict, Verdict::NotBlockable(_))),
            all: tries.len(),
        }
    }

    /// What the intruder's tries of this log came to.
    pub fn in_log(lines: &[LogLine]) -> Self {
        Self::of(&attack::collect(lines, INTRUDER))
    }
}

fn undisturbed(lines: &[LogLine]) -> Point {
    let ended = lines.iter().any(|line| line.guest() == Some(LINUX) && line.message == "result task=demo ended");
    let states = results(lines, LINUX, "kernel_errors");
    let errors = states.first().map(|pairs| value(pairs, "kernel_errors"));
    let finding = match errors {
        Some("0") if ended => Ok("no kernel message of severity error".into()),
        Some(count) => Err(format!("{count} kernel messages of severity error")),
        None => Err("it did not come to its end".into()),
    };
    point("Linux was not disturbed", finding)
}

fn given_back(vms: &[VmSummary]) -> Point {
    let held = |name: &str| vms.iter().find(|vm| vm.vm == name).and_then(|vm| vm.frames);
    let finding = match (held(LINUX), held(INTRUDER)) {
        (Some(0), Some(0)) => Ok("no frame of either VM is left".into()),
        (Some(linux), Some(intruder)) => {
            Err(format!("frames still held: {linux} by {LINUX}, {intruder} by {INTRUDER}"))
        }
        _ => Err("the hypervisor did not sum up both VMs".into()),
    };
    point("both VMs gave everything back", finding)
}

/// The table at the end: a line for each device, and who was stopped. At most 80 columns wide for the demo's names.
pub fn summary_table(lines: &[LogLine]) -> String {
    let heading = ["VM", "device", "group", "read and checked", "interrupts", "exits", "DMA faults"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let count = Count::in_log(lines);
    for vm in summary::collect(lines) {
        let reads = results(lines, &vm.vm, "sha256").len();
        let checked = match vm.vm.as_str() {
            LINUX if reads > 0 => format!("64 MiB {reads}x, SHA-256"),
            INTRUDER if count.all > 0 => format!("{} of {} blocked", count.blocked, count.all),
            _ => "-".to_owned(),
        };
        let devices = if vm.devices.is_empty() { vec![DeviceSummary::default()] } else { vm.devices.clone() };
        for (index, device) in devices.iter().enumerate() {
            let once = |text: String| if index == 0 { text } else { String::new() };
            // Segment 0 is the only one of most machines.
            let address = device.device.strip_prefix("0000:").unwrap_or(&device.device);
            let faults = match device.faults {
                0 => "0".to_owned(),
                faults => format!("{faults} by {address}"),
            };
            rows.push(vec![
                once(vm.vm.clone()),
                if address.is_empty() { "-".to_owned() } else { address.to_owned() },
                device.group.clone(),
                once(checked.clone()),
                device.interrupts.to_string(),
                once(vm.exits.to_string()),
                faults,
            ]);
        }
    }
    summary::table(&rows)
}

#[cfg(test)]
mod tests;
