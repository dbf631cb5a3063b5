//! All system tests.

mod bochs;
mod devices;
mod guests;
mod linux;
mod options;
mod refusals;
mod restarts;
mod sharing;
mod vmx;

use crate::case::{Case, Pattern};

/// Every system test that runs in QEMU, the longest first, so that none is left alone at the end.
pub fn all() -> Vec<Case> {
    let mut cases = linux::all();
    cases.extend(restarts::all());
    cases.extend(sharing::all());
    cases.extend(options::all());
    cases.extend(devices::all());
    cases.extend(guests::all());
    cases.extend(refusals::all());
    cases
}

/// Every test that runs in Bochs, the longest first.
pub fn bochs() -> Vec<Case> {
    let mut cases = vmx::all();
    cases.extend(bochs::all());
    cases
}

/// The device ids of QEMU's edu.
const EDU: &str = "1234:11e8";
/// The device ids of QEMU's NVMe disk.
const NVME: &str = "1b36:0010";
/// The device ids of QEMU's virtio network card.
const VIRTIO_NET: &str = "1af4:1041";
/// The device ids of QEMU's e1000e.
const E1000E: &str = "8086:10d3";

/// A configuration of these VMs on a machine that resets when all have ended.
fn configuration(vms: &[String]) -> String {
    format!("at_end = \"reset\"\n{}", vms.concat())
}

/// The same VM with virtual CPUs that share CPUs: what `cpus` is to be instead of a list.
fn sharing(vm: &str, count: u32, on: &str) -> String {
    let (before, rest) = vm.split_once("cpus = [").unwrap_or_default();
    let (_, after) = rest.split_once(']').unwrap_or_default();
    format!("{before}cpus = {{ count = {count}, on = [{on}] }}{after}")
}

/// A VM that runs the guest `exerciser` with this command line; `more` are further lines of its configuration.
fn exerciser(name: &str, cpus: &str, command_line: &str, more: &str) -> String {
    format!(
        "\n[[vm]]\nname = \"{name}\"\ncpus = [{cpus}]\nmemory = \"32M\"\n\
         image = {{ multiboot = {{ image = \"guests/exerciser.elf\", cmdline = \"{command_line}\" }} }}\n{more}\n"
    )
}

/// A VM that runs Debian's Linux with this task; `no_timer_check` as in the demo.
fn linux(name: &str, cpus: &str, task: &str, more: &str) -> String {
    format!(
        "\n[[vm]]\nname = \"{name}\"\ncpus = [{cpus}]\nmemory = \"512M\"\n\
         image = {{ linux = {{ kernel = \"guests/vmlinuz\", initrd = \"guests/initrd\", \
         cmdline = \"console=ttyS0 quiet no_timer_check panic=-1 {task}\" }} }}\non_reset = \"stop\"\n{more}\n"
    )
}

/// The line with which the exerciser ends when nothing failed.
fn ended(vm: &str, test: &str) -> Pattern {
    Pattern::guest(vm, &format!("result test={test} ended failures=0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = all().iter().chain(&bochs()).map(|case| case.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn configurations_are_right_where_they_are_meant_to_be() {
        for case in all().into_iter().chain(bochs()) {
            let problems = configuration::parse(&case.configuration).err().unwrap_or_default();
            assert_eq!(problems.is_empty(), case.name != "broken-configuration", "{}: {problems:?}", case.name);
        }
    }
}
