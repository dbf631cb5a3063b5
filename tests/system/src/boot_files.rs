//! What lies on the boot volume for a configuration.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::initramfs;
use crate::tools::Parts;
use crate::volume::{Files, Source};

/// Files that a user gives in place of those that are made here.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The folder in which the configuration's files are looked for first.
    pub folder: Option<PathBuf>,
    /// The file for `guests/vmlinuz`.
    pub kernel: Option<PathBuf>,
    /// The file for `guests/initrd`.
    pub initrd: Option<PathBuf>,
    /// Whether files may be left out that are nowhere.
    pub may_be_absent: bool,
}

/// The loader, the kernel, this configuration and the guests' files that it names.
///
/// A configuration with mistakes is put on the volume as it is: finding them is Postern's task.
///
/// # Errors
/// When the configuration names a file that is neither the user's nor made here.
pub fn collect(parts: &Parts, configuration: &str, own: &Own) -> Result<Files> {
    let mut files = vec![
        ("EFI/BOOT/BOOTX64.EFI".to_owned(), Source::File(parts.images.loader.clone())),
        ("postern-kernel.elf".to_owned(), Source::File(parts.images.kernel.clone())),
        ("postern.toml".to_owned(), Source::Bytes(configuration.as_bytes().to_vec())),
    ];
    for path in configuration::read(configuration).files() {
        match find(parts, &path.value, own)? {
            Some(source) => files.push((path.value.clone(), source)),
            None if own.may_be_absent => {}
            None => {
                bail!("{}: the configuration names {}, which is not there{}", path.position, path.value, known(parts))
            }
        }
    }
    Ok(files)
}

fn find(parts: &Parts, path: &str, own: &Own) -> Result<Option<Source>> {
    let given = |file: &Option<PathBuf>| file.clone().map(Source::File);
    if let Some(file) = own.folder.as_deref().map(|folder| folder.join(path)).filter(|file| file.is_file()) {
        return Ok(Some(Source::File(file)));
    }
    Ok(match path {
        "guests/vmlinuz" => given(&own.kernel).or_else(|| Some(Source::File(parts.linux.kernel.clone()))),
        "guests/initrd" => match given(&own.initrd) {
            Some(source) => Some(source),
            None => Some(Source::Bytes(initramfs::build(&parts.linux, &parts.root.join("tests/guests/linux"))?)),
        },
        _ => built(parts, path).map(|file| Source::File(file.to_path_buf())),
    })
}

/// The test guest that is named `guests/NAME.elf` on the volume.
fn built<'a>(parts: &'a Parts, path: &str) -> Option<&'a Path> {
    let name = path.strip_prefix("guests/")?.strip_suffix(".elf")?;
    parts.images.guests.iter().find(|(known, _)| known == name).map(|(_, file)| file.as_path())
}

fn known(parts: &Parts) -> String {
    let guests: Vec<String> = parts.images.guests.iter().map(|(name, _)| format!("guests/{name}.elf")).collect();
    format!(" beside it and not one of guests/vmlinuz, guests/initrd, {}", guests.join(", "))
}
