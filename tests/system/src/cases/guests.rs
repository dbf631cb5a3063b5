//! Guests without devices: what a VM gives them.

use super::{configuration, ended, exerciser};
use crate::case::{Case, Pattern};

pub(super) fn all() -> Vec<Case> {
    vec![multiboot(), power_off(), two_processors(), legacy_interrupts(), wild_guest(), guest_crash(), debug_exit()]
}

/// A Multiboot guest finds what the protocol promises, and a second one powers off by ACPI.
fn multiboot() -> Case {
    let vms = [exerciser("one", "0", "test=smoke", "debug_exit = true"), exerciser("two", "1", "test=off", "")];
    Case::new("multiboot-guest", configuration(&vms))
        .expect(ended("one", "smoke"))
        .forbid(Pattern::guest("one", "failed"))
        .forbid(Pattern::guest("two", "power=still-on"))
}

/// The machine switches itself off when its VM has.
fn power_off() -> Case {
    let configuration = configuration(&[exerciser("a", "0", "test=off", "")]).replace("reset", "power-off");
    Case::new("power-off", configuration).expect(Pattern::hypervisor("the machine switches itself off"))
}

/// A guest starts its second processor and sends it interrupts; another uses its APIC in x2APIC mode.
fn two_processors() -> Case {
    let vms = [exerciser("pair", "0, 1", "test=processors", "debug_exit = true")];
    Case::new("two-processors", configuration(&vms))
        .expect(ended("pair", "processors"))
        .forbid(Pattern::guest("pair", "failed"))
}

/// A guest that knows only the 8259s gets their interrupts.
fn legacy_interrupts() -> Case {
    let vms = [exerciser("old", "0", "test=legacy", "debug_exit = true")];
    Case::new("legacy-interrupts", configuration(&vms))
        .expect(ended("old", "legacy"))
        .forbid(Pattern::guest("old", "failed"))
}

/// A guest does what no guest should do; it gets what the architecture says, and its neighbour notices nothing.
fn wild_guest() -> Case {
    let vms = [
        exerciser("wild", "0", "test=wild", "debug_exit = true"),
        exerciser("extended", "1", "test=x2apic", "debug_exit = true"),
    ];
    Case::new("wild-guest", configuration(&vms))
        .expect(ended("wild", "wild"))
        .expect(ended("extended", "x2apic"))
        .forbid(Pattern::guest("wild", "failed"))
        .forbid(Pattern::guest("extended", "failed"))
}

/// Guests crash in several ways: each VM ends with its reason, and a neighbour goes on.
fn guest_crash() -> Case {
    const WAYS: [(&str, &str); 4] = [
        ("fetch", "it executes at 0xfd000000"),
        ("tables", "its page tables lead to 0xfd000000"),
        ("descriptors", "delivery of vector 0x3 touched 0xfd0000"),
        ("instruction", "accesses 0xfd000000"),
    ];
    let mut vms = vec![exerciser("neighbour", "0", "test=smoke", "debug_exit = true")];
    for (index, (way, _)) in WAYS.iter().enumerate() {
        vms.push(exerciser(way, &(index + 1).to_string(), &format!("test=crash how={way}"), "on_reset = \"stop\""));
    }
    let mut case = Case::new("guest-crash", configuration(&vms)).expect(ended("neighbour", "smoke"));
    case.hardware.cpus = 5;
    WAYS.iter().fold(case, |case, (way, reason)| {
        case.expect(Pattern::hypervisor(&format!("{way}: crashed: ... {reason}")))
            .expect(Pattern::hypervisor(&format!("summary vm={way} ... frames=0")))
            .expect(Pattern::guest(way, &format!("result test=crash crashes={way}")))
            .forbid(Pattern::guest(way, "ended failures"))
    })
}

/// The number that a guest writes to the debug exit port is reported.
fn debug_exit() -> Case {
    let vms = [exerciser("exits", "0", "test=nothing", "debug_exit = true")];
    Case::new("debug-exit", configuration(&vms))
        .expect(Pattern::guest("exits", "ended failures=1"))
        .expect(Pattern::hypervisor("exits: ended by its debug exit with status 1"))
}
