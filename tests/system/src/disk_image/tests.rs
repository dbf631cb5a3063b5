use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use fatfs::{FileSystem, FsOptions};

use super::*;
use crate::volume::Source;

fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("postern-image-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    folder
}

fn files() -> Files {
    vec![
        ("EFI/BOOT/BOOTX64.EFI".to_owned(), Source::Bytes(b"loader".to_vec())),
        ("postern.toml".to_owned(), Source::Bytes(Vec::new())),
        ("guests/big".to_owned(), Source::Bytes((0..3 * MIB + 17).map(|byte| (byte % 251) as u8).collect())),
        ("guests/long-name.other".to_owned(), Source::File("/proc/self/exe".into())),
    ]
}

/// CRC-32 as GPT has it, one bit at a time: an oracle that shares nothing with the crate that wrote the table.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// A header and its entries, with both checksums verified (UEFI Specification, tables 5.5 and 5.6).
fn header(disk: &[u8], sector: u64) -> (Vec<u8>, Vec<u8>) {
    let mut header = disk[(sector * SECTOR) as usize..][..92].to_vec();
    assert_eq!(&header[..8], b"EFI PART");
    assert_eq!(u64_at(&header, 24), sector, "the header's own place");
    let entries = &disk[(u64_at(&header, 72) * SECTOR) as usize..];
    let entries = &entries[..(u32_at(&header, 80) * u32_at(&header, 84)) as usize];
    assert_eq!(u32_at(&header, 88), crc32(entries), "the checksum of the entries");
    let checksum = u32_at(&header, 16);
    header[16..20].fill(0);
    assert_eq!(checksum, crc32(&header), "the checksum of the header");
    (header, entries.to_vec())
}

#[test]
fn both_tables_are_good_and_name_one_system_partition() {
    let folder = scratch("tables");
    let image = folder.join("disk.img");
    write(&image, &files()).unwrap();
    let disk = fs::read(&image).unwrap();
    let sectors = disk.len() as u64 / SECTOR;
    assert_eq!(disk.len() as u64, size(&files()).unwrap());

    // The protective MBR: one entry of type 0xee over everything behind it.
    assert_eq!(disk[510..512], [0x55, 0xaa]);
    assert_eq!(disk[446 + 4], 0xee);
    assert_eq!((u32_at(&disk, 446 + 8), u32_at(&disk, 446 + 12)), (1, (sectors - 1) as u32));
    assert!(disk[462..510].iter().all(|byte| *byte == 0), "no other entry");

    let (first, entries) = header(&disk, 1);
    let (second, copy) = header(&disk, sectors - 1);
    assert_eq!(u64_at(&first, 32), sectors - 1, "the second header's place");
    assert_eq!(u64_at(&second, 32), 1, "the first header's place");
    assert_eq!(entries, copy);
    // C12A7328-F81F-11D2-BA4B-00A0C93EC93B, its first three parts little endian.
    assert_eq!(entries[..4], [0x28, 0x73, 0x2a, 0xc1]);
    assert_eq!(entries[4..16], [0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);
    assert_eq!((u64_at(&entries, 32), u64_at(&entries, 40)), (MIB / SECTOR, sectors - MIB / SECTOR - 1));
    assert!(entries[128..].iter().all(|byte| *byte == 0), "no other partition");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_system_partition_is_fat32_and_holds_every_file() {
    let folder = scratch("files");
    let image = folder.join("disk.img");
    write(&image, &files()).unwrap();
    assert!(!partial(&image).exists());
    let file = OpenOptions::new().read(true).write(true).open(&image).unwrap();
    let end = file.metadata().unwrap().len() - MARGIN;
    let mut partition = StreamSlice::new(file, MARGIN, end).unwrap();
    let mut sector = [0; 512];
    partition.read_exact(&mut sector).unwrap();
    assert_eq!(&sector[82..90], b"FAT32   ");
    partition.seek(SeekFrom::Start(0)).unwrap();
    let volume = FileSystem::new(partition, FsOptions::new()).unwrap();
    for (path, source) in files() {
        let expected = match source {
            Source::Bytes(bytes) => bytes,
            Source::File(path) => fs::read(path).unwrap(),
        };
        let mut content = Vec::new();
        volume.root_dir().open_file(&path).unwrap().read_to_end(&mut content).unwrap();
        assert!(content == expected, "{path} differs");
    }
    drop(volume);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let folder = scratch("failures");
    let image = folder.join("disk.img");
    let lacking = vec![("a".to_owned(), Source::Bytes(vec![1])), ("b".to_owned(), Source::File("/no/file".into()))];
    assert!(format!("{:#}", write(&image, &lacking).unwrap_err()).contains("/no/file"));
    let error = format!("{:#}", check_room(&image, u64::MAX).unwrap_err());
    assert!(error.contains("MiB free"), "{error}");
    let nowhere = folder.join("no/such/folder/disk.img");
    assert!(format!("{:#}", write(&nowhere, &files()).unwrap_err()).contains("no/such/folder"));
    // A folder with the image's name is in the way at the very end.
    fs::create_dir_all(image.join("something")).unwrap();
    assert!(write(&image, &files()).is_err());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn large_content_fits() {
    let folder = scratch("large");
    let (image, large) = (folder.join("disk.img"), folder.join("large"));
    let mut file = File::create(&large).unwrap();
    for _ in 0..96 {
        file.write_all(&vec![0x5a; MIB as usize]).unwrap();
    }
    write(&image, &vec![("large".to_owned(), Source::File(large))]).unwrap();
    fs::remove_dir_all(folder).unwrap();
}
