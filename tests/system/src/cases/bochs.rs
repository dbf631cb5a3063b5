//! The cases that run in Bochs, from the disk of a lab machine. How to add one: [`crate::bochs`].

use super::{configuration, exerciser};
use crate::bochs::Hardware;
use crate::case::{Case, Pattern};

pub(super) fn all() -> Vec<Case> {
    vec![no_engine()]
}

/// A processor with neither VMX nor SVM: what the machine has is listed, and then comes the refusal.
fn no_engine() -> Case {
    Case::new("bochs-no-engine", configuration(&[exerciser("a", "0", "test=smoke", "")]))
        .in_bochs(Hardware { cpu_model: "athlon64_venice".into(), ..Hardware::default() })
        .stays()
        .expect(Pattern::hypervisor("2 of 2 CPUs are online"))
        .expect(Pattern::hypervisor("this processor does not show"))
        .forbid(Pattern::hypervisor("a starts"))
}
