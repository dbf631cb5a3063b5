//! The parser on a corpus of real machines' tables and malformed ones, where that corpus lies beside the workspace.

use std::path::PathBuf;
use std::string::String;
use std::vec::Vec;
use std::{eprintln, format, fs};

use serde_json::Value;

use crate::address::HostPhysical;
use crate::dmar::{Dmar, DmarError, Scope};

/// The `.bin` files of a folder of the corpus with the `.json` beside each; `None` where there is no corpus.
fn tables(folder: &str) -> Option<Vec<(String, Vec<u8>, Value)>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus").join(folder);
    let Ok(entries) = fs::read_dir(&folder) else {
        eprintln!("skipped: no corpus at {}", folder.display());
        return None;
    };
    let mut tables = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "bin") {
            let description = fs::read_to_string(path.with_extension("json")).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            tables.push((name, fs::read(&path).unwrap(), serde_json::from_str(&description).unwrap()));
        }
    }
    assert!(!tables.is_empty(), "an empty corpus tests nothing");
    Some(tables)
}

#[test]
fn malformed_tables_get_the_expected_class_of_answer() {
    let Some(tables) = tables("malformed") else { return };
    let mut wrong = Vec::new();
    for (name, bytes, description) in tables {
        let answer = match parse_with_memory(&bytes, &description) {
            Err(_) => "reject_table",
            Ok(dmar) if dmar.warnings.is_empty() => "accept",
            Ok(_) => "skip_structure",
        };
        let listed = description["also_acceptable"].as_array().unwrap();
        if description["expected"] != answer && !listed.iter().any(|also| also == answer) {
            wrong.push(format!("{name}: {answer}, expected {} or {listed:?}", description["expected"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn parse_with_memory(bytes: &[u8], description: &Value) -> Result<Dmar, DmarError> {
    let mut dmar = Dmar::parse(bytes)?;
    if let Some(map) = description["memory_map"].as_array() {
        dmar.check_memory(|first: HostPhysical, last: HostPhysical| {
            map.iter().any(|range| {
                range[2] == "ram"
                    && first.as_u64() <= range[1].as_u64().unwrap()
                    && last.as_u64() >= range[0].as_u64().unwrap()
            })
        })?;
    }
    Ok(dmar)
}

#[test]
fn real_tables_are_read_as_an_independent_decoder_reads_them() {
    let Some(tables) = tables("dmar") else { return };
    for (name, bytes, description) in tables {
        let structures = description["structures"].as_array().unwrap();
        let of_kind =
            |kind: u64| structures.iter().filter(move |structure| structure["type"] == kind).collect::<Vec<_>>();
        let units = of_kind(0);
        let dmar = match Dmar::parse(&bytes) {
            Ok(dmar) => dmar,
            Err(error) => {
                assert!(units.iter().any(|unit| unit["base"] == 0), "{name}: {error}");
                continue;
            }
        };
        assert_eq!(description["haw_bits"], dmar.host_address_width, "{name}");
        assert_eq!(dmar.units.len(), units.len(), "{name}");
        for (unit, expected) in dmar.units.iter().zip(units) {
            assert_eq!(expected["base"], unit.base.as_u64(), "{name}");
            assert_eq!(expected["segment"], unit.segment, "{name}");
            assert_eq!(expected["flags"].as_u64().unwrap() & 1 != 0, unit.includes_all, "{name}");
            assert_scopes(&name, &unit.scopes, &expected["scopes"]);
        }
        let order = dmar.structures().map(|(offset, structure)| (offset as u64, structure.name()));
        let theirs = structures
            .iter()
            .map(|structure| (structure["offset"].as_u64().unwrap(), structure["type_name"].as_str().unwrap()));
        let unknown: Vec<_> = dmar.warnings.iter().filter_map(|warning| warning.offset).collect();
        let is_kept = |(offset, name): &(u64, &str)| *name != "RHSA" || !unknown.contains(&(*offset as usize));
        assert_eq!(order.collect::<Vec<_>>(), theirs.filter(is_kept).collect::<Vec<_>>(), "{name}");
        let regions = of_kind(1);
        assert_eq!(dmar.reserved_memory.len(), regions.len(), "{name}: {:?}", dmar.warnings);
        for (region, expected) in dmar.reserved_memory.iter().zip(regions) {
            assert_eq!(expected["base"], region.first.as_u64(), "{name}");
            assert_eq!(expected["end"], region.last.as_u64(), "{name}");
            assert_scopes(&name, &region.scopes, &expected["scopes"]);
        }
        assert_eq!(dmar.root_ports.len(), of_kind(2).len(), "{name}: {:?}", dmar.warnings);
        assert_eq!(dmar.acpi_devices.len(), of_kind(4).len(), "{name}: {:?}", dmar.warnings);
        assert_eq!(dmar.address_translation_caches.len(), of_kind(5).len(), "{name}: {:?}", dmar.warnings);
        assert_eq!(dmar.special_devices.len(), of_kind(6).len(), "{name}: {:?}", dmar.warnings);
    }
}

fn assert_scopes(name: &str, scopes: &[Scope], expected: &Value) {
    let expected = expected.as_array().unwrap();
    assert_eq!(scopes.len(), expected.len(), "{name}");
    for (scope, expected) in scopes.iter().zip(expected) {
        assert_eq!(expected["bus"], scope.start_bus, "{name}");
        assert_eq!(expected["enum_id"], scope.enumeration_id, "{name}");
        let path: Vec<_> = scope.path.iter().map(|hop| Value::from([hop.device, hop.function].to_vec())).collect();
        assert_eq!(expected["path"], Value::from(path), "{name}");
    }
}
