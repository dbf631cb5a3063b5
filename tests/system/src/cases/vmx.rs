//! Guests on VMX, in Bochs: each rung of the ladder by which interrupts reach them, on a processor that has just that.

use anyhow::{Result, bail, ensure};

use super::{ended, exerciser};
use crate::bochs::Hardware;
use crate::case::{Case, Finished, Pattern};
use crate::log_line::{LogLine, fields};

/// Processors, and the rung that each reaches.
const POSTING: &str = "arrow_lake";
const DELIVERY: &str = "corei7_haswell_4770";
const WINDOWS: &str = "corei7_sandy_bridge_2600k";
/// The oldest with extended page tables: guests cannot begin in real mode there.
const RESTRICTED: &str = "corei5_lynnfield_750";

pub(super) fn all() -> Vec<Case> {
    vec![
        windows(
            "vmx-interrupt-windows",
            WINDOWS,
            "injection in interrupt windows: ... \"APIC-register virtualization\"",
        ),
        windows(
            "vmx-virtual-delivery",
            DELIVERY,
            "virtual-interrupt delivery without posting: ... \"process posted interrupts\"",
        ),
        wild(),
        refused(),
    ]
}

/// These VMs on two CPUs of this model, on a machine that stays on.
fn case(name: &'static str, cpu_model: &str, vms: &[String]) -> Case {
    Case::new(name, format!("at_end = \"halt\"\n{}", vms.concat()))
        .in_bochs(Hardware { cpu_model: cpu_model.into(), ..Hardware::default() })
        .stays()
        .expect(Pattern::hypervisor("every VM has ended"))
}

/// A guest with two processors, which send each other interrupts and an NMI.
fn pair() -> String {
    exerciser("pair", "0, 1", "test=processors count=100", "debug_exit = true")
}

fn windows(name: &'static str, cpu_model: &str, rung: &str) -> Case {
    case(name, cpu_model, &[pair()])
        .expect(Pattern::hypervisor(&format!("interrupts reach guests by {rung}")))
        .expect(ended("pair", "processors"))
        .forbid(Pattern::guest("pair", "failed"))
        .expect(Pattern::hypervisor("summary vm=pair ... frames=0"))
}

/// Guests that do what no guest should do, one of them with its local APIC in x2APIC mode.
fn wild() -> Case {
    let vms = [
        exerciser("wild", "0", "test=wild", "debug_exit = true"),
        exerciser("extended", "1", "test=x2apic", "debug_exit = true"),
    ];
    case("vmx-wild-guest", POSTING, &vms)
        .expect(ended("wild", "wild"))
        .expect(ended("extended", "x2apic"))
        .forbid(Pattern::guest("wild", "failed"))
        .forbid(Pattern::guest("extended", "failed"))
        .check(|finished| few_accesses(finished, "wild", &["hypercall", "port"]))
        .check(|finished| few_accesses(finished, "extended", &["cpuid", "rdmsr"]))
}

/// A processor that lacks a control that has to be: it is named, and nothing is started.
fn refused() -> Case {
    Case::new("vmx-restricted-guest", format!("at_end = \"halt\"\n{}", exerciser("a", "0", "test=smoke", "")))
        .in_bochs(Hardware { cpu_model: RESTRICTED.into(), ..Hardware::default() })
        .stays()
        .expect(Pattern::hypervisor("the processor has no \"unrestricted guest\""))
        .forbid(Pattern::hypervisor("a starts"))
}

/// Exits for these reasons took five reads and writes of the control structure each at most, but for the few after
/// which there was something to deliver: `accesses vm=VM vcpu=N REASON=EXITS/ACCESSES/MOST ...`.
fn few_accesses(finished: &Finished<'_>, vm: &str, reasons: &[&str]) -> Result<()> {
    const MOST: u64 = 5;
    for reason in reasons {
        let (exits, accesses) = total(finished.lines, vm, reason)?;
        ensure!(exits > 0, "{vm} was never left for {reason}");
        ensure!(
            accesses <= MOST * exits + exits / 20,
            "{exits} exits of {vm} for {reason} took {accesses} accesses to the control structure, more than {MOST} each"
        );
    }
    Ok(())
}

/// Exits and accesses of all virtual CPUs of a VM.
fn total(lines: &[LogLine], vm: &str, reason: &str) -> Result<(u64, u64)> {
    let mut sums = (0, 0);
    for pairs in lines.iter().filter_map(|line| fields("accesses", &line.message)) {
        if !pairs.contains(&("vm", vm)) {
            continue;
        }
        let Some((_, value)) = pairs.iter().find(|(key, _)| *key == reason) else { continue };
        let numbers: Vec<u64> = value.split('/').filter_map(|number| number.parse().ok()).collect();
        let [exits, accesses, _] = numbers.as_slice() else { bail!("`{reason}={value}` is not a tally") };
        sums = (sums.0 + exits, sums.1 + accesses);
    }
    Ok(sums)
}
