//! Virtual CPUs that take turns on CPUs: what interrupts them while they wait, sleep or move is counted exactly.
//!
//! Those that take turns do so on CPU 0 alone, or nowhere on CPU 0: each switch restores x87 state, and in the emulator
//! that disturbs a guest of CPU 0 from every other CPU (`kernel/src/vcpu/extended.rs`).

use anyhow::{Context, Result, ensure};

use super::{EDU, NVME, configuration, ended, exerciser, linux, sharing};
use crate::case::{Case, Finished, Pattern};
use crate::machine::Hardware;
use crate::summary::{self, VmSummary};

pub(super) fn all() -> Vec<Case> {
    vec![linux_shares(), four_on_one(), moving(), both_kinds()]
}

fn device() -> String {
    format!("debug_exit = true\ndevices = [\"{EDU}\"]")
}

/// Four virtual CPUs of two VMs on one CPU: a device interrupts one that waits for its turn, since its VM's other virtual
/// CPU plays; the second VM's processors interrupt each other.
fn four_on_one() -> Case {
    let vms = [
        sharing(&exerciser("directed", "", "test=directed state=spin count=100", &device()), 2, "0"),
        sharing(&exerciser("pair", "", "test=processors count=50", "debug_exit = true"), 2, "0"),
    ];
    Case::new("shared-one-cpu", configuration(&vms))
        .on(Hardware::default().edu())
        .expect(Pattern::guest("directed", "counted=100"))
        .expect(ended("directed", "directed"))
        .expect(ended("pair", "processors"))
        .forbid(Pattern::guest("directed", "failed"))
        .forbid(Pattern::guest("pair", "failed"))
        .check(|finished| {
            let (directed, pair) = (of(finished, "directed")?, of(finished, "pair")?);
            ensure!(directed.turns >= 200, "the device's processor was never descheduled: {directed:?}");
            ensure!(pair.sleeps >= 50, "the processor that answers never slept: {pair:?}");
            ensure!(directed.moves == 0 && pair.moves == 0, "somebody left the only CPU: {directed:?}, {pair:?}");
            Ok(())
        })
}

/// Three busy virtual CPUs on two CPUs, which rotate: interrupts come to a processor that moves all the time.
fn moving() -> Case {
    let vms = [
        sharing(&exerciser("moves", "", "test=directed state=spin count=300", &device()), 2, "1, 2"),
        sharing(&exerciser("third", "", "test=msi count=2000", &device()), 1, "1, 2"),
    ];
    Case::new("shared-moving", configuration(&vms))
        .on(Hardware { cpus: 3, ..Hardware::default() }.edu().edu())
        .expect(Pattern::guest("moves", "counted=300"))
        .expect(Pattern::guest("third", "counted=2000"))
        .expect(ended("moves", "directed"))
        .expect(ended("third", "msi"))
        .forbid(Pattern::guest("moves", "failed"))
        .forbid(Pattern::guest("third", "failed"))
        .check(|finished| {
            for name in ["moves", "third"] {
                let vm = of(finished, name)?;
                ensure!(vm.moves >= 20, "it hardly moved: {vm:?}");
            }
            Ok(())
        })
}

/// A pinned VM beside one that shares the other CPU with itself: the pinned one has one turn for each time it slept, and
/// a processor that is asleep whenever its interrupt comes misses none.
fn both_kinds() -> Case {
    let vms = [
        exerciser("pinned", "1", "test=msi count=500", &device()),
        sharing(&exerciser("halted", "", "test=directed state=halt count=200", &device()), 2, "0"),
    ];
    Case::new("shared-and-pinned", configuration(&vms))
        .on(Hardware::default().edu().edu())
        .expect(Pattern::guest("pinned", "counted=500"))
        .expect(Pattern::guest("halted", "counted=200"))
        .expect(ended("pinned", "msi"))
        .expect(ended("halted", "directed"))
        .forbid(Pattern::guest("pinned", "failed"))
        .forbid(Pattern::guest("halted", "failed"))
        .check(|finished| {
            let (pinned, halted) = (of(finished, "pinned")?, of(finished, "halted")?);
            ensure!(pinned.turns <= pinned.sleeps + 1, "the pinned one was descheduled: {pinned:?}");
            ensure!(pinned.moves == 0 && halted.moves == 0, "somebody moved: {pinned:?}, {halted:?}");
            // It does not where the interrupt is faster than its HLT.
            ensure!(halted.sleeps >= 100, "the processor that halts did not sleep: {halted:?}");
            Ok(())
        })
}

/// Linux with two virtual CPUs shares its only CPU with another VM at work, and reads its whole disk.
fn linux_shares() -> Case {
    let vms = [
        sharing(&linux("linux", "", "postern.task=disk", &format!("devices = [\"{NVME}\"]")), 2, "0"),
        sharing(&exerciser("busy", "", "test=msi count=2000", &device()), 1, "0"),
    ];
    Case::new("linux-shares-cpu", configuration(&vms))
        .on(Hardware::default().edu())
        .with_disk(5)
        .expect(Pattern::guest("linux", "result cpus=2 kernel_errors=0"))
        .expect(Pattern::guest("busy", "counted=2000"))
        .expect(ended("busy", "msi"))
        .check(super::linux::disk_was_read)
}

fn of(finished: &Finished<'_>, vm: &str) -> Result<VmSummary> {
    let vms = summary::collect(finished.lines);
    vms.into_iter().find(|one| one.vm == vm).with_context(|| format!("{vm} was not summed up"))
}
