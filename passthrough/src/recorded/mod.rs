//! Recorded behaviour of Linux's VFIO, replayed on the objects of this crate.
//!
//! The recordings lie beside the repository (`../shared/corpus/vfio`); without them the tests say so and pass. What a
//! front end would do between a process and these objects (copying arguments, looking up descriptors, handles that
//! share a device) is done in [`replay`].

mod configuration;
mod containers;
mod irqs;
mod machine;
mod replay;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::string::String;
use std::vec::Vec;
use std::{format, println};

use machine::Recording;
use serde_json::Value;

fn corpus() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/vfio");
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no recordings at {}", path.display());
    None
}

fn unpack(path: &Path) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text
}

/// Replays every scenario of these kinds; so many steps must have been compared.
fn replay(kinds: &[&str], at_least: usize) {
    let Some(path) = corpus() else { return };
    let recording = Recording::read(&path);
    let mut divergences: Vec<String> = Vec::new();
    let (mut compared, mut left_out, mut scenarios) = (0, 0, 0);
    for file in ["shared.jsonl.gz", "shared-bulk.jsonl.gz"] {
        for line in unpack(&path.join(file)).lines() {
            let scenario: Value = serde_json::from_str(line).unwrap();
            if !kinds.contains(&scenario["kind"].as_str().unwrap()) || scenario.get("caveat").is_some() {
                continue;
            }
            let result = replay::run(&recording, &scenario);
            compared += result.compared;
            left_out += result.left_out;
            scenarios += 1;
            divergences.extend(result.divergence.map(|text| format!("{}: {text}", scenario["id"].as_str().unwrap())));
        }
    }
    println!("{scenarios} scenarios, {compared} steps compared, {left_out} left out");
    let shown = divergences.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
    assert!(divergences.is_empty(), "{} of {scenarios} scenarios diverge:\n{shown}", divergences.len());
    assert!(compared >= at_least, "{compared} steps compared");
}

#[test]
fn life_cycles_go_as_in_vfio() {
    replay(&["close_order", "fuzz_life", "group_basic", "intremap_off", "set_iommu", "two_groups", "viable"], 1500);
}

#[test]
fn mappings_go_as_in_vfio() {
    let kinds = [
        "dma_limit",
        "fuzz_map",
        "iommu_info",
        "map_align",
        "map_flags",
        "map_many",
        "map_overlap",
        "map_window",
        "map_wrap",
        "unmap",
        "unmap_flags",
    ];
    replay(&kinds, 8000);
}

#[test]
fn interrupts_go_as_in_vfio() {
    replay(&["fuzz_irq", "irq_badfd", "irq_info", "irq_matrix", "irq_switch", "irq_vectors"], 20_000);
}

#[test]
fn devices_tell_what_vfio_tells() {
    replay(&["device_info", "region_info"], 700);
}

#[test]
fn configuration_registers_answer_as_in_vfio() {
    let Some(path) = corpus() else { return };
    let recording = Recording::read(&path);
    let mut divergences: Vec<String> = Vec::new();
    let (mut compared, mut explained) = (0, 0);
    for line in unpack(&path.join("shared-bulk.jsonl.gz")).lines() {
        let scenario: Value = serde_json::from_str(line).unwrap();
        if scenario["kind"].as_str().unwrap().starts_with("config_probe") {
            let probes = configuration::run(&recording, &scenario);
            compared += probes.compared;
            explained += probes.explained;
            divergences.extend(probes.divergences);
        }
    }
    println!("{compared} registers compared, {explained} treated otherwise on purpose");
    let shown = divergences.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
    assert!(divergences.is_empty(), "{} of {compared} registers diverge:\n{shown}", divergences.len());
    assert!(compared > 2500, "{compared} registers compared");
}
