//! Counting what failed.

use guest::{power, println};

/// A test that runs.
pub(crate) struct Check<'n> {
    name: &'n str,
    failures: u32,
}

impl<'n> Check<'n> {
    pub(crate) fn new(name: &'n str) -> Self {
        println!("result {name} begins");
        Self { name, failures: 0 }
    }

    /// Something that must hold.
    pub(crate) fn that(&mut self, what: &str, holds: bool) {
        println!("result {} {what}={}", self.name, if holds { "ok" } else { "failed" });
        if !holds {
            self.failures += 1;
        }
    }

    /// Two values that must be equal; both are shown.
    pub(crate) fn equal<T: PartialEq + core::fmt::Display>(&mut self, what: &str, found: T, expected: T) {
        if found == expected {
            println!("result {} {what}={found}", self.name);
        } else {
            println!("result {} {what}={found} failed: expected {expected}", self.name);
            self.failures += 1;
        }
    }

    /// Ends the VM, with the number of failures as its exit code.
    pub(crate) fn finish(self) -> ! {
        println!("result {} ended failures={}", self.name, self.failures);
        power::exit(self.failures)
    }
}
