//! Debian's kernel, its modules and busybox, from which the Linux guest is made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

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
    remedy: "give a kernel and an initramfs of your own with --kernel and --initrd",
};

/// The pieces of the Linux guest.
pub(crate) struct GuestFiles {
    /// The kernel's bzImage.
    pub(crate) kernel: PathBuf,
    /// The folder with the kernel's modules (`.../lib/modules/RELEASE`).
    pub(crate) modules: PathBuf,
    /// A statically linked busybox.
    pub(crate) busybox: PathBuf,
    /// The kernel's release.
    pub(crate) release: String,
}

impl GuestFiles {
    /// Finds them in the cache, else fetches them.
    pub(crate) fn find(options: &Offline) -> Result<Self> {
        let root = DEBIAN_GUEST.ensure(options)?;
        let kernel = only_file(&root.join("boot"), "vmlinuz-")?;
        let release = kernel.file_name().unwrap_or_default().to_string_lossy().replacen("vmlinuz-", "", 1);
        Ok(Self {
            modules: root.join("lib/modules").join(&release),
            busybox: root.join("bin/busybox"),
            kernel,
            release,
        })
    }

    /// Where they are, for a person.
    pub(crate) fn describe(&self) -> String {
        format!("{} (Linux {})", self.kernel.display(), self.release)
    }
}

fn only_file(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .with_context(|| format!("{} holds no file {prefix}*", folder.display()))
}
