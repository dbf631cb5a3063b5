//! Debian's kernel, its modules and busybox, from which the Linux guest is made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use system_tests::tools::LinuxFiles;

use super::debian::PackageSet;
use crate::command_line::Offline;

const DEBIAN_GUEST: PackageSet = PackageSet {
    name: "guest",
    purpose: "the Linux guest (Debian's kernel and busybox)",
    suites: &["bookworm"],
    packages: &["linux-image-amd64", "busybox-static"],
    wanted: |package| {
        package == "busybox-static" || (package.starts_with("linux-image-") && package != "linux-image-amd64")
    },
    remedy: "nothing that is installed can stand in for them",
};

/// Finds them in the cache, else fetches them.
pub(crate) fn find(options: &Offline) -> Result<LinuxFiles> {
    let root = DEBIAN_GUEST.ensure(options)?;
    let kernel = only_file(&root.join("boot"), "vmlinuz-")?;
    let modules = root.join("lib/modules").join(release(&kernel));
    Ok(LinuxFiles { modules, busybox: root.join("bin/busybox"), kernel })
}

/// Where they are, for a person.
pub(crate) fn describe(files: &LinuxFiles) -> String {
    format!("{} (Linux {})", files.kernel.display(), release(&files.kernel))
}

/// The kernel's release, from its file name.
fn release(kernel: &Path) -> String {
    kernel.file_name().unwrap_or_default().to_string_lossy().replacen("vmlinuz-", "", 1)
}

fn only_file(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .with_context(|| format!("{} holds no file {prefix}*", folder.display()))
}
