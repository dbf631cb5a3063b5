//! QEMU and its firmware.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use system_tests::tools::Qemu;

use super::debian::PackageSet;
use crate::command_line::Offline;
use crate::process::{find_on_path, output_of};

/// The first release whose emulated CPU has an x2APIC.
const OLDEST: u32 = 10;

const DEBIAN_QEMU: PackageSet = PackageSet {
    name: "qemu",
    purpose: "the emulated machine (QEMU and OVMF)",
    suites: &["bookworm", "bookworm-backports"],
    packages: &["qemu-system-x86", "ovmf"],
    wanted: |package| package != "libc6" && package != "gcc-12-base",
    remedy: "install QEMU 10 or newer with its x86-64 system emulator, and OVMF (edk2)",
};

/// Where distributions put OVMF: code and variables.
const FIRMWARE: [(&str, &str); 4] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
];

/// Finds QEMU on PATH, else in the cache, else fetches it.
pub(crate) fn find(options: &Offline) -> Result<Qemu> {
    if let Some(found) = of_the_system() {
        return Ok(found);
    }
    let root = DEBIAN_QEMU.ensure(options)?;
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let library_path = std::env::join_paths([libraries.clone(), root.join("lib/x86_64-linux-gnu")])?;
    let found = Qemu {
        program: root.join("usr/bin/qemu-system-x86_64"),
        arguments: ["usr/share/qemu", "usr/share/seabios"]
            .iter()
            .flat_map(|share| ["-L".into(), root.join(share).into_os_string()])
            .collect(),
        environment: vec![
            ("QEMU_MODULE_DIR".into(), libraries.join("qemu").into_os_string()),
            ("LD_LIBRARY_PATH".into(), library_path),
        ],
        firmware_code: root.join("usr/share/OVMF/OVMF_CODE_4M.fd"),
        firmware_variables: root.join("usr/share/OVMF/OVMF_VARS_4M.fd"),
    };
    let answer = output_of(found.command().arg("--version"))?;
    match version(&answer) {
        Some((major, _)) if major >= OLDEST => Ok(found),
        _ => bail!("the unpacked QEMU is not of version {OLDEST} or newer: {}", answer.trim()),
    }
}

/// The folder with Debian's QEMU and OVMF, if they were fetched.
pub(super) fn unpacked() -> Result<Option<PathBuf>> {
    DEBIAN_QEMU.existing()
}

/// Where it is, for a person.
pub(crate) fn describe(qemu: &Qemu) -> String {
    let answer = output_of(qemu.command().arg("--version")).unwrap_or_default();
    let version = version(&answer).map_or_else(|| "of unknown version".to_owned(), |(_, text)| text);
    format!("{} ({version})", qemu.program.display())
}

fn of_the_system() -> Option<Qemu> {
    let program = find_on_path("qemu-system-x86_64")?;
    let (major, _) = version(&output_of(Command::new(&program).arg("--version")).ok()?)?;
    let (code, variables) = FIRMWARE.iter().find(|(code, variables)| exists(code) && exists(variables))?;
    (major >= OLDEST).then(|| Qemu {
        program,
        arguments: Vec::new(),
        environment: Vec::new(),
        firmware_code: code.into(),
        firmware_variables: variables.into(),
    })
}

fn exists(file: &str) -> bool {
    Path::new(file).exists()
}

/// The major number and the text of `QEMU emulator version 10.0.2 (...)`.
fn version(answer: &str) -> Option<(u32, String)> {
    let line = answer.lines().next()?;
    let number = line.split("version ").nth(1)?.split_whitespace().next()?;
    Some((number.split('.').next()?.parse().ok()?, format!("QEMU {number}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version() {
        let answer = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)\nCopyright";
        assert_eq!(version(answer), Some((10, "QEMU 10.0.2".to_owned())));
        assert_eq!(version("QEMU emulator version 7.2.17"), Some((7, "QEMU 7.2.17".to_owned())));
        assert_eq!(version("something else"), None);
    }
}
