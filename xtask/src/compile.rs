//! Building what boots: the loader, the kernel and the test guests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use system_tests::child;
use system_tests::tools::Images;

use crate::command_line::Offline;
use crate::process::output_of;
use crate::provision::{TARGETS, Toolchain};
use crate::workspace;

/// The target folder of what boots: another compiler may work there than on the host's programs.
fn output() -> PathBuf {
    workspace::target().join("freestanding")
}

/// Lints everything that boots, as it is built for its own targets: one command for each.
pub(crate) fn lints(options: &Offline) -> Result<Vec<Command>> {
    let toolchain = Toolchain::find(options)?;
    let guests = guest_binaries(options)?;
    let [freestanding, uefi] = TARGETS;
    let mut commands =
        vec![toolchain.lints(uefi, &["postern-boot"]), toolchain.lints(freestanding, &freestanding_packages(&guests))];
    for command in &mut commands {
        command.current_dir(workspace::root()).env("CARGO_TARGET_DIR", output());
    }
    Ok(commands)
}

fn freestanding_packages(guests: &[GuestBinary]) -> Vec<&str> {
    let mut packages = vec!["postern-kernel"];
    packages.extend(guests.iter().map(|guest| guest.package.as_str()));
    packages.dedup();
    packages
}

/// Builds everything that boots; cargo shows its progress.
pub(crate) fn build(options: &Offline) -> Result<Images> {
    let toolchain = Toolchain::find(options)?;
    let guests = guest_binaries(options)?;
    let output = output();
    let [freestanding, uefi] = TARGETS;
    let cargo = |target: &str, packages: &[&str]| -> Result<PathBuf> {
        let mut command = toolchain.cargo();
        command.current_dir(workspace::root()).args([
            "build",
            "--release",
            "--bins",
            "--target",
            target,
            "--target-dir",
        ]);
        command.arg(&output);
        for package in packages {
            command.args(["--package", package]);
        }
        if options.offline {
            command.arg("--offline");
        }
        let status = child::bound(&command).stdin(Stdio::null()).status().context("cannot start cargo")?;
        if !status.success() {
            bail!("building {} for {target} failed", packages.join(", "));
        }
        Ok(output.join(target).join("release"))
    };
    let uefi_folder = cargo(uefi, &["postern-boot"])?;
    let folder = cargo(freestanding, &freestanding_packages(&guests))?;
    Ok(Images {
        loader: uefi_folder.join("postern-boot.efi"),
        kernel: folder.join("postern-kernel"),
        guests: guests.into_iter().map(|guest| (guest.binary.clone(), folder.join(guest.binary))).collect(),
    })
}

/// A binary of a package under `tests/guests`.
#[derive(Debug, PartialEq, Eq)]
struct GuestBinary {
    package: String,
    binary: String,
}

fn guest_binaries(options: &Offline) -> Result<Vec<GuestBinary>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root()).args(["metadata", "--no-deps", "--format-version", "1"]);
    if options.offline {
        command.arg("--offline");
    }
    let metadata = serde_json::from_str(&output_of(&command)?).context("cannot read `cargo metadata`")?;
    Ok(guests_in(&metadata, &workspace::root().join("tests/guests")))
}

fn guests_in(metadata: &Value, folder: &Path) -> Vec<GuestBinary> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut guests = Vec::new();
    for package in list(&metadata["packages"]) {
        if !Path::new(&text(&package["manifest_path"])).starts_with(folder) {
            continue;
        }
        for target in list(&package["targets"]) {
            if list(&target["kind"]).iter().any(|kind| kind == "bin") {
                guests.push(GuestBinary { package: text(&package["name"]), binary: text(&target["name"]) });
            }
        }
    }
    guests
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn guests_are_the_binaries_under_their_folder() {
        let metadata = json!({ "packages": [
            { "name": "test-guests", "manifest_path": "/r/tests/guests/Cargo.toml", "targets": [
                { "name": "test_guests", "kind": ["lib"] }, { "name": "intruder", "kind": ["bin"] } ] },
            { "name": "xtask", "manifest_path": "/r/xtask/Cargo.toml", "targets": [{ "name": "xtask", "kind": ["bin"] }] },
        ]});
        let expected = GuestBinary { package: "test-guests".into(), binary: "intruder".into() };
        assert_eq!(guests_in(&metadata, Path::new("/r/tests/guests")), [expected]);
    }
}
