//! The dump on a corpus of real machines' tables and malformed ones, where that corpus lies beside the workspace.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// The tables of a folder of the corpus, each with its description; none, and a line, where there is no corpus.
fn corpus(folder: &str) -> Vec<(String, Vec<u8>, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus").join(folder);
    let Ok(entries) = fs::read_dir(&folder) else {
        eprintln!("skipped: no corpus at {}", folder.display());
        return Vec::new();
    };
    let mut tables = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "bin") {
            let description = fs::read_to_string(path.with_extension("json")).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            tables.push((name, fs::read(&path).unwrap(), serde_json::from_str(&description).unwrap()));
        }
    }
    assert!(!tables.is_empty(), "an empty corpus tests nothing");
    tables
}

/// Our name of what another decoder found, field by field.
fn translated(structure: &Value) -> Value {
    let flag = |bit: u64| structure["flags"].as_u64().unwrap_or(0) & bit != 0;
    let scopes: Vec<_> = structure["scopes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|scope| {
            let kinds = ["", "endpoint", "bridge", "ioapic", "hpet", "acpi"];
            json!({
                "type": kinds[scope["type"].as_u64().unwrap() as usize],
                "flags": scope["flags"],
                "enumeration_id": scope["enum_id"],
                "start_bus": scope["bus"],
                "path": scope["path"],
            })
        })
        .collect();
    let (name, offset, segment) = (&structure["type_name"], &structure["offset"], &structure["segment"]);
    match name.as_str().unwrap() {
        "DRHD" => json!({
            "type": name, "offset": offset, "segment": segment, "scopes": scopes, "base": structure["base"],
            "size": 4096u64 << structure["size_field"].as_u64().unwrap(), "include_pci_all": flag(1),
        }),
        "RMRR" => json!({
            "type": name, "offset": offset, "segment": segment, "scopes": scopes,
            "base": structure["base"], "end": structure["end"],
        }),
        "ATSR" => json!({
            "type": name, "offset": offset, "segment": segment, "scopes": scopes, "all_ports": flag(1),
        }),
        "RHSA" => json!({
            "type": name, "offset": offset, "base": structure["base"], "proximity_domain": structure["proximity"],
        }),
        "ANDD" => json!({
            "type": name, "offset": offset, "device_number": structure["device_number"],
            "object_name": structure["name"],
        }),
        "SATC" => json!({
            "type": name, "offset": offset, "segment": segment, "scopes": scopes, "atc_required": flag(1),
        }),
        "SIDP" => json!({ "type": name, "offset": offset, "segment": segment, "scopes": scopes }),
        other => panic!("{other}"),
    }
}

#[test]
fn real_tables_are_dumped_as_another_decoder_reads_them() {
    for (name, bytes, description) in corpus("dmar") {
        let (dmar, refused) = Dmar::inspect(&bytes);
        let ours = json::value(&dmar, refused);
        let theirs = description["structures"].as_array().unwrap();
        let half_off = theirs.iter().any(|structure| structure["type"] == 0 && structure["base"] == 0);
        assert_eq!(ours["answer"] == "rejected", half_off, "{name}: {}", ours["error"]);
        if half_off {
            continue;
        }
        assert_eq!(ours["host_address_width"], description["haw_bits"], "{name}");
        let mut structures = ours["structures"].as_array().unwrap().clone();
        for structure in &mut structures {
            structure.as_object_mut().unwrap().remove("usable");
        }
        let left_out: Vec<_> = dmar
            .warnings
            .iter()
            .filter(|warning| warning.structure == "RHSA")
            .map(|warning| Value::from(warning.offset))
            .collect();
        let theirs: Vec<_> =
            theirs.iter().filter(|structure| !left_out.contains(&structure["offset"])).map(translated).collect();
        assert_eq!(structures, theirs, "{name}");
    }
}

#[test]
fn malformed_tables_get_the_expected_class_of_answer() {
    for (name, bytes, description) in corpus("malformed") {
        // What only a memory map can tell is not for a dump.
        if description["memory_map"].is_array() {
            continue;
        }
        let (dmar, refused) = Dmar::inspect(&bytes);
        let answer = match Answer::of(&dmar, refused) {
            Answer::Accepted => "accept",
            Answer::AcceptedWithWarnings => "skip_structure",
            Answer::Rejected => "reject_table",
        };
        let also = description["also_acceptable"].as_array().unwrap();
        assert!(
            description["expected"] == answer || also.iter().any(|also| also == answer),
            "{name}: {answer}, expected {} or {also:?}",
            description["expected"]
        );
        let _ = (text(&dmar, refused), json::text(&dmar, refused));
    }
}
