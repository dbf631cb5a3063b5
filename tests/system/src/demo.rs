//! The demo: a Linux guest that owns an NVMe disk and a network card, beside a guest whose device attacks everything.

use std::ops::Range;
use std::path::Path;

use crate::attack::{self, Kind, Try};
use crate::disk;
use crate::log_line::{LogLine, fields};
use crate::machine::Hardware;
use crate::summary::{self, VmSummary};

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
    /// What was found; an error where it proves the contrary or nothing.
    pub finding: Result<String, String>,
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
    Point { claim: claim.to_owned(), finding }
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
    ("interrupts with handles of others", |one, _| one.name == "forged-handle" && one.outcome != "own"),
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
    let mut points: Vec<Point> = REQUIRED
        .iter()
        .map(|(about, is_of_kind)| point(about, all_blocked(tries.iter().filter(|one| is_of_kind(one, &owners)))))
        .collect();
    points.push(point("every attack was blocked", all_blocked(tries.iter())));
    points
}

/// What is proven of these tries together; one of them is quoted.
fn all_blocked<'a>(tries: impl Iterator<Item = &'a Try> + Clone) -> Result<String, String> {
    let findings: Vec<(&Try, Result<String, String>)> = tries.map(|one| (one, one.finding())).collect();
    let flaws: Vec<String> =
        findings.iter().filter_map(|(one, finding)| Some(format!("{one}: {}", finding.as_ref().err()?))).collect();
    match (findings.last(), flaws.as_slice()) {
        (None, _) => Err("the intruder never tried".into()),
        (Some((one, Ok(finding))), []) => Ok(format!("{} tries, such as {one}: {finding}", findings.len())),
        (Some(_), flaws) => Err(flaws.join("; ")),
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

/// The table at the end: a line for each device, and who was stopped.
pub fn summary_table(lines: &[LogLine]) -> String {
    let heading = ["VM", "device", "group", "read and checked", "interrupts", "exits", "DMA faults", "senders"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let attacks = attack::collect(lines, INTRUDER);
    for vm in summary::collect(lines) {
        let checked = if vm.vm == LINUX {
            let reads = results(lines, LINUX, "sha256").len();
            format!("64 MiB {reads} times, SHA-256")
        } else {
            let blocked = attacks.iter().filter(|one| one.report.is_some()).count();
            format!("{blocked} of {} attacks blocked", attacks.len())
        };
        let devices = if vm.devices.is_empty() { vec![summary::DeviceSummary::default()] } else { vm.devices.clone() };
        for (index, device) in devices.iter().enumerate() {
            let once = |text: String| if index == 0 { text } else { String::new() };
            let sender = if device.faults > 0 { device.device.clone() } else { "-".to_owned() };
            rows.push(vec![
                once(vm.vm.clone()),
                format!("{} {}", device.device, device.ids),
                device.group.clone(),
                once(checked.clone()),
                device.interrupts.to_string(),
                once(vm.exits.to_string()),
                device.faults.to_string(),
                sender,
            ]);
        }
    }
    summary::table(&rows)
}

#[cfg(test)]
mod tests;
