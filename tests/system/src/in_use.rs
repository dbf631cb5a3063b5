//! What the hypervisor itself uses, as its log says at the start of its work and at the end: `in use: hypervisor ...`.

use anyhow::{Context, Result, ensure};

use crate::log_line::LogLine;

/// What the hypervisor may use more at the end than at the start, in KiB, however many lives its VMs had: memory that is
/// made once, at the first use. Less than a page a life, or what a life takes of the heap, when a life comes 40 times.
const FRAMES: u64 = 64;
const UNITS: u64 = 64;
/// The tables of the instruction decoder are most of it.
const HEAP: u64 = 450;

/// KiB.
#[derive(Clone, Copy, Debug)]
struct InUse {
    /// Frames of the hypervisor that are not its heap's.
    frames: u64,
    heap: u64,
    units: u64,
}

impl InUse {
    fn parse(line: &LogLine) -> Option<Self> {
        let said = line.message.strip_prefix("in use: ").filter(|_| line.is_hypervisors())?;
        let numbers: Vec<u64> =
            said.split(|one: char| !one.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        let [hypervisor, heap, mapped, units, ..] = *numbers.as_slice() else { return None };
        Some(Self { frames: hypervisor.checked_sub(mapped)?, heap, units })
    }
}

/// That the hypervisor kept nothing of the VMs that came and went.
pub(crate) fn has_settled(lines: &[LogLine]) -> Result<()> {
    let mut said = lines.iter().filter_map(InUse::parse);
    let first = said.next().context("the hypervisor did not say what it uses")?;
    let last = said.next_back().context("the hypervisor did not say in the end what it uses")?;
    for (what, before, after, more) in [
        ("frames", first.frames, last.frames, FRAMES),
        ("heap", first.heap, last.heap, HEAP),
        ("the remapping units' tables", first.units, last.units, UNITS),
    ] {
        ensure!(after <= before + more, "{what}: {before} KiB before and {after} KiB after");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(after: &str) -> Result<()> {
        let before = "hypervisor 448 KiB (heap 22 of 64 KiB), remapping units 76 KiB, VMs 0 KiB; free 2076916 KiB";
        let lines = [before, after].map(|said| format!("[    0.217491] info  memory      | in use: {said}"));
        has_settled(&lines.iter().filter_map(|line| LogLine::parse(line)).collect::<Vec<_>>())
    }

    #[test]
    fn a_frame_or_some_heap_lost_in_each_life_is_noticed() {
        let ended = "hypervisor 844 KiB (heap 387 of 448 KiB), remapping units 80 KiB, VMs 0 KiB; free 2076516 KiB";
        settled(ended).unwrap();
        for (from, to) in [("844", "928"), ("387", "550"), ("units 80", "units 164")] {
            settled(&ended.replace(from, to)).unwrap_err();
        }
        settled("nothing").unwrap_err();
    }
}
