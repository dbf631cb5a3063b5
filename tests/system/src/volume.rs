//! The boot volume: a FAT file system that firmware reads.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

const MIB: u64 = 1 << 20;

/// Where a file of the volume comes from.
pub enum Source {
    /// A file of this machine.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// The files of a volume: the path on it, with `/` between folders, and the content.
pub type Files = Vec<(String, Source)>;

/// Writes a volume with these files to `image`.
///
/// # Errors
/// When a source cannot be read or the image cannot be written.
pub fn write(image: &Path, files: &Files) -> Result<()> {
    if let Some(folder) = image.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let content = content(files)?;
    // Room for the tables and the rounding up to clusters; never so small that firmware would take it for FAT12.
    let size = (content + content / 16).next_multiple_of(MIB) + 40 * MIB;
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).clone();
    let file = options.open(image).with_context(|| format!("cannot write {}", image.display()))?;
    file.set_len(size)?;
    fill(file, FormatVolumeOptions::new(), files)
}

/// The bytes of all files together.
pub(crate) fn content(files: &Files) -> Result<u64> {
    files.iter().try_fold(0, |sum, (_, source)| {
        Ok(sum
            + match source {
                Source::File(path) => {
                    fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len()
                }
                Source::Bytes(bytes) => bytes.len() as u64,
            })
    })
}

/// Makes `place` a volume with these files.
pub(crate) fn fill(mut place: impl Read + Write + Seek, options: FormatVolumeOptions, files: &Files) -> Result<()> {
    fatfs::format_volume(&mut place, options.volume_label(*b"POSTERN    "))?;
    place.seek(SeekFrom::Start(0))?;
    let volume = FileSystem::new(place, FsOptions::new())?;
    for (path, source) in files {
        add(&volume, path, source).with_context(|| format!("cannot put {path} on the boot volume"))?;
    }
    volume.unmount().context("cannot finish the boot volume")
}

fn add<T: Read + Write + Seek>(volume: &FileSystem<T>, path: &str, source: &Source) -> Result<()> {
    let root = volume.root_dir();
    for (at, _) in path.match_indices('/') {
        root.create_dir(&path[..at])?;
    }
    let mut target = root.create_file(path)?;
    target.truncate()?;
    match source {
        Source::Bytes(bytes) => target.write_all(bytes)?,
        Source::File(path) => {
            let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            let mut buffer = vec![0; MIB as usize];
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                target.write_all(buffer.get(..count).unwrap_or_default())?;
            }
        }
    }
    Ok(target.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_back_from_their_folders() {
        let image = std::env::temp_dir().join(format!("postern-volume-{}.img", std::process::id()));
        let files = vec![
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), Source::Bytes(b"loader".to_vec())),
            ("guests/big".to_owned(), Source::Bytes(vec![0x5a; 3 * MIB as usize + 17])),
            ("guests/long-name.other".to_owned(), Source::File("/proc/self/exe".into())),
        ];
        write(&image, &files).unwrap();
        let volume =
            FileSystem::new(OpenOptions::new().read(true).write(true).open(&image).unwrap(), FsOptions::new()).unwrap();
        for (path, source) in &files {
            let expected = match source {
                Source::Bytes(bytes) => bytes.clone(),
                Source::File(path) => fs::read(path).unwrap(),
            };
            let mut content = Vec::new();
            volume.root_dir().open_file(path).unwrap().read_to_end(&mut content).unwrap();
            assert!(content == expected, "{path} differs");
        }
        drop(volume);
        fs::remove_file(&image).unwrap();
    }

    #[test]
    fn an_absent_source_is_named() {
        let files = vec![("x".to_owned(), Source::File("/no/such/file".into()))];
        let error = write(&std::env::temp_dir().join("postern-never.img"), &files).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/file"));
    }
}
