//! VMs that end and begin again, with their devices.

use super::{EDU, configuration, exerciser};
use crate::case::{Case, Pattern};
use crate::in_use;
use crate::machine::Hardware;
use crate::summary;

/// How often the long test starts its VMs again.
const MANY: u64 = 20;

pub(super) fn all() -> Vec<Case> {
    vec![many(), ways()]
}

/// Two VMs reset themselves 20 times with DMA under way: their devices work in each life, and no frame is lost.
fn many() -> Case {
    resetting("reset-20-times", [("control", "cf9"), ("fault", "triple-fault")], MANY)
        .check(|finished| in_use::has_settled(finished.lines))
}

/// The other ways to reset.
fn ways() -> Case {
    resetting("reset-ways", [("keys", "keyboard"), ("register", "acpi")], 2)
}

fn resetting(name: &'static str, vms: [(&'static str, &str); 2], restarts: u64) -> Case {
    let devices = format!("devices = [\"{EDU}\"]\nrestarts = {restarts}");
    let texts: Vec<String> = vms
        .iter()
        .enumerate()
        .map(|(cpu, (vm, way))| exerciser(vm, &cpu.to_string(), &format!("test=reset way={way}"), &devices))
        .collect();
    let case = Case::new(name, configuration(&texts)).on(Hardware::default().edu().edu());
    vms.iter().fold(case, |case, (vm, way)| {
        let vm = *vm;
        case.expect_times(Pattern::guest(vm, &format!("result test=reset resets={way}")), restarts + 1)
            .forbid(Pattern::guest(vm, "failed"))
            .check(move |finished| {
                let vms = summary::collect(finished.lines);
                let found = vms.iter().find(|one| one.vm == vm).map(|one| (one.restarts, one.frames));
                anyhow::ensure!(found == Some((restarts, Some(0))), "{vm}: restarts and frames are {found:?}");
                Ok(())
            })
    })
}
