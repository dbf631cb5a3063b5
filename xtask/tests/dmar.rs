//! `cargo xtask dmar` as a process, on tables made for this test (`tests/dmar`): what it prints, and its exit status.
//!
//! `laptop` and `server` have every kind of structure between them; `warnings` has some that are left out; `half-off`
//! names a unit at address 0, `endless` a structure of length 0.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Every table with the exit status that it deserves.
const TABLES: [(&str, i32); 5] = [("laptop", 0), ("server", 0), ("warnings", 3), ("half-off", 2), ("endless", 2)];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dmar")
}

fn dmar(file: &Path, json: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("dmar").arg(file).args(json.then_some("--json"));
    command.output().expect("the built xtask starts")
}

fn expected(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn tables_are_shown_to_people_and_judged_by_the_exit_status() {
    for (name, status) in TABLES {
        let output = dmar(&folder().join(format!("{name}.bin")), false);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected(&format!("{name}.txt")), "{name}");
        assert_eq!(output.status.code(), Some(status), "{name}");
    }
}

#[test]
fn programs_get_every_structure_with_its_fields_and_scopes() {
    let parse = |text: &str| serde_json::from_str::<Value>(text).expect("one JSON value");
    for (name, status) in TABLES {
        let output = dmar(&folder().join(format!("{name}.bin")), true);
        let printed = parse(&String::from_utf8_lossy(&output.stdout));
        assert_eq!(printed, parse(&expected(&format!("{name}.json"))), "{name}");
        assert_eq!(output.status.code(), Some(status), "{name}");
    }
}

#[test]
fn a_table_that_cannot_be_read_is_no_rejected_table() {
    let absent = folder().join("there-is-no-such-table.bin");
    let output = dmar(&absent, false);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot open") && said.contains("there-is-no-such-table.bin"), "{said}");
}
