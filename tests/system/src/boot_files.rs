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
        if let Some(source) = find(parts, &path.value, own)? {
            files.push((path.value.clone(), source));
        }
    }
    match absent(parts, configuration, own)? {
        Some(absent) if !own.may_be_absent => bail!("{absent}"),
        _ => Ok(files),
    }
}

/// The files that the configuration names and that are nowhere, in a sentence.
///
/// # Errors
/// When a file that is made here cannot be made.
pub fn absent(parts: &Parts, configuration: &str, own: &Own) -> Result<Option<String>> {
    let mut absent = Vec::new();
    for path in configuration::read(configuration).files() {
        if find(parts, &path.value, own)?.is_none() {
            absent.push(format!("{} ({})", path.value, path.position));
        }
    }
    if absent.is_empty() {
        return Ok(None);
    }
    let made: Vec<String> = parts.images.guests.iter().map(|(name, _)| format!("guests/{name}.elf")).collect();
    Ok(Some(format!(
        "the configuration names files that are neither in its own folder nor made here: {}; made here are \
         guests/vmlinuz, guests/initrd, {}",
        absent.join(", "),
        made.join(", ")
    )))
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
