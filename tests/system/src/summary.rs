//! The hypervisor's counts at the end of a VM, and the table that a run ends with.

use crate::log_line::{LogLine, fields};

/// What the hypervisor counted for one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmSummary {
    /// The VM's name.
    pub vm: String,
    /// Exits to the hypervisor.
    pub exits: u64,
    /// Requests of its devices that were blocked.
    pub faults: u64,
    /// How often it was started again.
    pub restarts: u64,
    /// Frames that it still holds after everything was given back; `None` until the VM itself was summed up.
    pub frames: Option<u64>,
    /// How often its virtual CPUs together were put on a CPU, on another one than before, and to sleep.
    pub turns: u64,
    /// See `turns`.
    pub moves: u64,
    /// See `turns`.
    pub sleeps: u64,
    /// Its devices.
    pub devices: Vec<DeviceSummary>,
}

/// What the hypervisor counted for one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceSummary {
    /// `SSSS:BB:DD.F`.
    pub device: String,
    /// The number of its group.
    pub group: String,
    /// `VVVV:DDDD`.
    pub ids: String,
    /// Interrupts delivered to the VM.
    pub interrupts: u64,
    /// Requests that were blocked.
    pub faults: u64,
}

/// Collects the `summary` lines of a log.
pub fn collect(lines: &[LogLine]) -> Vec<VmSummary> {
    let mut vms: Vec<VmSummary> = Vec::new();
    let said = lines.iter().filter(|line| line.is_hypervisors());
    for pairs in said.filter_map(|line| fields("summary", &line.message)) {
        let text = |key: &str| pairs.iter().find(|(known, _)| *known == key).map_or("", |(_, value)| *value);
        let number = |key: &str| text(key).parse().unwrap_or_default();
        let name = text("vm");
        let at = vms.iter().position(|known| known.vm == name).unwrap_or(vms.len());
        if at == vms.len() {
            vms.push(VmSummary { vm: name.to_owned(), ..VmSummary::default() });
        }
        let Some(vm) = vms.get_mut(at) else { continue };
        if text("device").is_empty() {
            (vm.exits, vm.faults) = (number("exits"), number("faults"));
            (vm.turns, vm.moves, vm.sleeps) = (number("turns"), number("moves"), number("sleeps"));
            (vm.restarts, vm.frames) = (number("restarts"), text("frames").parse().ok());
        } else {
            let device = DeviceSummary {
                device: text("device").to_owned(),
                group: text("group").to_owned(),
                ids: text("ids").to_owned(),
                interrupts: number("interrupts"),
                faults: number("faults"),
            };
            // A VM that was started again reports its devices again.
            vm.devices.retain(|known| known.device != device.device);
            vm.devices.push(device);
        }
    }
    vms
}

/// A table of text with aligned columns; the first row is the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text.push_str(&rules.join("  "));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_collected_for_each_vm_and_device() {
        let log = "[    1.000000] info  vm        | summary vm=linux exits=120 faults=0 restarts=1 frames=0 turns=9 moves=3 sleeps=5\n\
                   [    1.000001] info  vm        | summary device=0000:01:00.0 vm=linux group=3 ids=1b36:0010 interrupts=5 faults=0\n\
                   [    1.000002] info  vm        | summary device=0000:01:00.0 vm=linux group=3 ids=1b36:0010 interrupts=7 faults=0\n\
                   [    1.000003] linux     | summary vm=forged exits=1\n\
                   [    1.000004] info  vm        | summary vm=intruder exits=9 faults=11 new_key=1\n";
        let lines: Vec<LogLine> = log.lines().filter_map(LogLine::parse).collect();
        let vms = collect(&lines);
        assert_eq!(vms.len(), 2);
        assert_eq!((vms[0].exits, vms[0].restarts, vms[0].devices.len()), (120, 1, 1));
        assert_eq!((vms[0].turns, vms[0].moves, vms[0].sleeps), (9, 3, 5));
        assert_eq!((vms[0].devices[0].interrupts, vms[0].devices[0].group.as_str()), (7, "3"));
        assert_eq!((vms[1].vm.as_str(), vms[1].faults), ("intruder", 11));
    }

    #[test]
    fn columns_are_aligned() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        assert_eq!(table(&[row(&["a", "bbb"]), row(&["cccc", "d"])]), "a     bbb\n----  ---\ncccc  d\n");
    }
}
