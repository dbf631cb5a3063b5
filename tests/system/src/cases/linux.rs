//! Debian's Linux as a guest.

use anyhow::{Context, Result, bail, ensure};

use super::{E1000E, EDU, NVME, configuration, exerciser, linux};
use crate::case::{Case, Finished, Pattern};
use crate::demo::{self, Facts, Finding};
use crate::log_line::fields;
use crate::machine::Hardware;

/// What the demo's guest writes to its disk.
const NONCE: &str = "written-by-the-system-test";

pub(super) fn all() -> Vec<Case> {
    vec![the_demo(), two_cpus(), crashing_linux()]
}

/// The demo of `cargo xtask run`, every point of it.
fn the_demo() -> Case {
    Case::new("demo", demo::configuration("demo", NONCE)).on(Hardware::default().e1000e().edu()).with_disk(2).check(
        |finished| {
            let (image, sum) = finished.disk.as_ref().context("the demo has no disk")?;
            let points = demo::judge(finished.lines, Facts { sum, nonce: NONCE, image });
            let flaws: Vec<String> = points
                .into_iter()
                .filter_map(|point| match point.finding {
                    Finding::NotProven(flaw) => Some(format!("{}: {flaw}", point.claim)),
                    _ => None,
                })
                .collect();
            ensure!(flaws.is_empty(), "not proven: {}", flaws.join("; "));
            Ok(())
        },
    )
}

/// Linux with two virtual CPUs and a disk. Not on CPU 0: in QEMU's TCG whoever restores x87 state on another CPU, as
/// Linux does when it switches between processes, may break the first one's while that enters or leaves a guest.
fn two_cpus() -> Case {
    let vms = [linux("linux", "1, 2", "postern.task=disk", &format!("devices = [\"{NVME}\", \"{E1000E}\"]"))];
    let hardware = Hardware { cpus: 3, ..Hardware::default() };
    Case::new("linux-two-cpus", configuration(&vms))
        .on(hardware.e1000e())
        .with_disk(3)
        .expect(Pattern::guest("linux", "result cpus=2 kernel_errors=0"))
        .check(disk_was_read)
}

/// A Linux that panics, with its disk at work, ends; the neighbour and its device go on.
fn crashing_linux() -> Case {
    let vms = [
        linux("linux", "0", "postern.task=crash", &format!("devices = [\"{NVME}\"]")),
        exerciser("neighbour", "1", "test=msi count=60000", &format!("debug_exit = true\ndevices = [\"{EDU}\"]")),
    ];
    Case::new("linux-crash", configuration(&vms))
        .on(Hardware::default().edu())
        .with_disk(4)
        .expect(Pattern::guest("linux", "result crash=now"))
        .expect(Pattern::guest("neighbour", "counted=60000"))
        .check(disk_was_read)
}

/// The sum that the guest reported is that of the disk.
pub(super) fn disk_was_read(finished: &Finished<'_>) -> Result<()> {
    let (_, sum) = finished.disk.as_ref().context("the case has no disk")?;
    let said = finished.lines.iter().filter(|line| line.guest() == Some("linux"));
    let mut sums = said.filter_map(|line| {
        let pairs = fields("result", &line.message)?;
        pairs.into_iter().find(|(key, _)| *key == "sha256").map(|(_, value)| value)
    });
    match sums.next() {
        Some(found) if found == sum => Ok(()),
        Some(found) => bail!("the guest read {found}, on the disk is {sum}"),
        None => bail!("the guest reported no sum"),
    }
}
