//! Counting what failed.

use guest::clock::Clock;
use guest::multiboot::Information;
use guest::{power, println};

/// A test that runs.
pub(crate) struct Check<'n> {
    name: &'n str,
    failures: u32,
}

impl<'n> Check<'n> {
    pub(crate) fn new(name: &'n str) -> Self {
        println!("result test={name} begins");
        Self { name, failures: 0 }
    }

    /// Something that must hold.
    pub(crate) fn that(&mut self, what: &str, holds: bool) {
        println!("result test={} {what}={}", self.name, if holds { "ok" } else { "failed" });
        if !holds {
            self.failures += 1;
        }
    }

    /// Two values that must be equal; both are shown.
    pub(crate) fn equal<T: PartialEq + core::fmt::Display>(&mut self, what: &str, found: T, expected: T) {
        if found == expected {
            println!("result test={} {what}={found}", self.name);
        } else {
            println!("result test={} {what}={found} expected={expected} {what}=failed", self.name);
            self.failures += 1;
        }
    }

    /// Something worth knowing.
    pub(crate) fn note(&self, what: &str, value: impl core::fmt::Display) {
        println!("result test={} {what}={value}", self.name);
    }

    /// The clock; a failure where there is none.
    pub(crate) fn clock(&mut self) -> Option<Clock> {
        let clock = Clock::find();
        if clock.is_none() {
            self.that("clock", false);
        }
        clock
    }

    /// Ends the VM, with the number of failures as its exit code.
    pub(crate) fn finish(self) -> ! {
        println!("result test={} ended failures={}", self.name, self.failures);
        power::exit(self.failures)
    }
}

/// A decimal number of the command line.
pub(crate) fn number(multiboot: &Information, key: &str, default: u32) -> u32 {
    multiboot.option(key).and_then(|text| text.parse().ok()).unwrap_or(default)
}
