//! The Linux guest's initramfs: busybox, the kernel modules that it needs, and the files of `tests/guests/linux`.
//!
//! An initramfs is a cpio archive in the "newc" format (the kernel's driver-api/early-userspace/buffer-format), here
//! not compressed: it is made in an instant, and the guest unpacks it as fast.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::tools::LinuxFiles;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

/// Makes the initramfs; `parts` is the folder `tests/guests/linux`.
///
/// Its file `modules` names the kernel modules, one a line; what they depend on comes along, and `/modules/order`
/// lists all of them in the order in which they are to be inserted. Every other file of the folder is put at the root.
pub fn build(linux: &LinuxFiles, parts: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "etc", "modules", "mnt", "proc", "sys", "tmp"] {
        archive.add(folder, DIRECTORY, &[]);
    }
    archive.add("bin/busybox", PROGRAM, &read(&linux.busybox)?);
    archive.add("bin/sh", LINK, b"busybox");
    let wanted = fs::read_to_string(parts.join("modules")).context("cannot read the list of the guest's modules")?;
    let library = Library::scan(&linux.modules)?;
    let mut order = String::new();
    for name in library.with_dependencies(wanted.split_whitespace())? {
        let file = format!("modules/{name}.ko");
        archive.add(&file, FILE, &read(library.file(&name)?)?);
        order.push_str(&format!("/{file}\n"));
    }
    archive.add("modules/order", FILE, order.as_bytes());
    let entries = fs::read_dir(parts).with_context(|| format!("cannot read {}", parts.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != "modules" {
            archive.add(&name, PROGRAM, &read(&file)?);
        }
    }
    Ok(archive.finish())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The modules of a kernel, by name.
struct Library(BTreeMap<String, PathBuf>);

impl Library {
    fn scan(folder: &Path) -> Result<Self> {
        let mut modules = BTreeMap::new();
        let mut folders = vec![folder.join("kernel")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "ko") {
                    let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
                    modules.insert(name, path);
                }
            }
        }
        Ok(Self(modules))
    }

    fn file(&self, name: &str) -> Result<&Path> {
        self.0.get(name).map(PathBuf::as_path).with_context(|| format!("Debian's kernel has no module {name}"))
    }

    /// The modules and all that they depend on, each after what it depends on.
    fn with_dependencies<'a>(&self, wanted: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
        let mut order = Vec::new();
        for name in wanted {
            self.visit(&name.replace('-', "_"), &mut order, 0)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<String>, depth: u32) -> Result<()> {
        if order.iter().any(|known| known == name) {
            return Ok(());
        }
        if depth > 20 {
            bail!("module {name} depends on itself");
        }
        for dependency in dependencies(&read(self.file(name)?)?) {
            self.visit(&dependency, order, depth + 1)?;
        }
        order.push(name.to_owned());
        Ok(())
    }
}

/// The names after `depends=` in a module's information section, whose entries are separated by NUL.
fn dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(start) = module.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let value = module.get(start + key.len()..).unwrap_or_default();
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// A cpio archive that is being written.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check.
        let fields = [self.entries, mode, 0, 0, links, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_names_and_contents_at_aligned_places() {
        let mut archive = Archive::default();
        archive.add("etc", DIRECTORY, &[]);
        archive.add("etc/x", FILE, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 3);
        let at = text.find("etc/x\0").unwrap() - 110;
        assert_eq!(&text[at..at + 22], "07070100000002000081a4");
        assert_eq!(&text[at + 54..at + 62], "00000005");
        // Header and name take 116 bytes.
        assert_eq!(&text[at + 116..at + 121], "hello");
    }

    #[test]
    fn modules_come_after_what_they_depend_on() {
        let folder = std::env::temp_dir().join(format!("postern-modules-{}", std::process::id()));
        fs::create_dir_all(folder.join("kernel/a")).unwrap();
        for (name, depends) in [("top", "mid-dle,low"), ("mid-dle", "low"), ("low", "")] {
            fs::write(folder.join(format!("kernel/a/{name}.ko")), format!("ELF\0depends={depends}\0x=y\0")).unwrap();
        }
        let library = Library::scan(&folder).unwrap();
        assert_eq!(library.with_dependencies(["top"].into_iter()).unwrap(), ["low", "mid_dle", "top"]);
        let error = library.with_dependencies(["absent"].into_iter()).unwrap_err();
        assert!(error.to_string().contains("no module absent"));
        fs::remove_dir_all(folder).unwrap();
    }
}
