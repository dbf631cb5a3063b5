//! The disk for a lab machine: a GUID partition table with one EFI system partition, which holds everything that boots.
//!
//! `cargo xtask image` writes it for a USB stick; Bochs boots from it too, so that every test there tests the image.
//! UEFI Specification, sections 5.2.3 (protective MBR), 5.3 (GPT) and 13.3 (the system partition is FAT32).

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fatfs::{FatType, FormatVolumeOptions};
use fscommon::{BufStream, StreamSlice};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types;

use crate::volume::{self, Files};

const MIB: u64 = 1 << 20;
/// Bytes of a sector: USB sticks, and disks that firmware boots from, have them.
const SECTOR: u64 = 512;
/// Where the system partition begins, and what is left behind it for the table's second copy.
const MARGIN: u64 = MIB;
/// The smallest system partition: FAT32 begins at 65,525 clusters, which is 34 MiB with clusters of a sector.
const SMALLEST: u64 = 64 * MIB;

/// Bytes of the disk that holds these files.
///
/// # Errors
/// When a source cannot be read.
pub fn size(files: &Files) -> Result<u64> {
    let content = volume::content(files)?;
    // Two file allocation tables take 8 bytes for each cluster of 512; an eighth has room for them, for the folders,
    // and for what firmware may want to write.
    let partition = (content + content / 8).next_multiple_of(MIB) + 4 * MIB;
    Ok(partition.max(SMALLEST) + 2 * MARGIN)
}

/// Writes a disk with these files to `image`, which appears under its name only when it is whole.
///
/// # Errors
/// When a source cannot be read, or the folder of `image` has no room or cannot be written.
pub fn write(image: &Path, files: &Files) -> Result<()> {
    let size = size(files)?;
    let partial = partial(image);
    let written = check_room(&partial, size).and_then(|()| write_to(&partial, size, files));
    let named = written.and_then(|()| fs::rename(&partial, image).context("cannot give it its name"));
    named.map_err(|error| {
        // What is left of it is of no use; that it cannot be removed is no news after the error.
        let _ = fs::remove_file(&partial);
        error.context(format!("cannot write the disk image {}", image.display()))
    })
}

/// The name under which an image grows.
fn partial(image: &Path) -> PathBuf {
    let mut name = image.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    image.with_file_name(name)
}

/// That the folder of `image` has room for so many bytes.
fn check_room(image: &Path, bytes: u64) -> Result<()> {
    let folder = match image.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let room = rustix::fs::statvfs(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < bytes {
        bail!(
            "it needs {} MiB, and {} has {} MiB free: make room or choose another place",
            bytes.div_ceil(MIB),
            folder.display(),
            free / MIB
        );
    }
    Ok(())
}

fn write_to(path: &Path, size: u64, files: &Files) -> Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len(size)?;
    // The protective entry covers the disk behind this sector, or as much of it as 32 bits can say.
    let behind = u32::try_from(size / SECTOR - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(behind).overwrite_lba0(&mut file).context("cannot write the protective MBR")?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut disk = config.create_from_device(&mut file, None).context("cannot make a partition table")?;
    let (first, length) = (MARGIN / SECTOR, (size - 2 * MARGIN) / SECTOR);
    disk.add_partition_at("POSTERN", 1, first, length, partition_types::EFI, 0)
        .context("cannot make the system partition")?;
    disk.write().context("cannot write the partition table")?;
    let partition = StreamSlice::new(&mut file, MARGIN, size - MARGIN)?;
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat32);
    volume::fill(BufStream::new(partition), options, files)
}

#[cfg(test)]
mod tests;
