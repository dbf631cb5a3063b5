//! The disk that a guest reads and writes: seeded pseudo-random data whose sum is known beforehand.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Bytes of pseudo-random data at the beginning of the disk.
pub const DATA_SIZE: u64 = 64 << 20;

/// Bytes of a block that the guest writes, right behind the data.
pub const BLOCK_SIZE: usize = 4096;

/// Bytes of the whole disk: data, and room to write.
const DISK_SIZE: u64 = DATA_SIZE + (1 << 20);

/// Makes a disk with the data of this seed; the result is the data's SHA-256 in hexadecimal.
pub fn create(image: &Path, seed: u64) -> Result<String> {
    let file = File::create(image).with_context(|| format!("cannot write {}", image.display()))?;
    file.set_len(DISK_SIZE)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let mut sum = Sha256::new();
    let mut state = seed;
    let mut chunk = vec![0; 1 << 16];
    for _ in 0..DATA_SIZE / chunk.len() as u64 {
        for word in chunk.chunks_exact_mut(8) {
            word.copy_from_slice(&next(&mut state).to_le_bytes());
        }
        sum.update(&chunk);
        writer.write_all(&chunk)?;
    }
    writer.flush()?;
    Ok(hexadecimal(&sum.finalize()))
}

/// The block behind the data, as it is on the disk now.
pub fn read_block(image: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(image).with_context(|| format!("cannot read {}", image.display()))?;
    file.seek(SeekFrom::Start(DATA_SIZE))?;
    let mut block = vec![0; BLOCK_SIZE];
    file.read_exact(&mut block)?;
    Ok(block)
}

/// The SHA-256 of the disk's data, as it is on the disk now.
pub fn data_sum(image: &Path) -> Result<String> {
    let file = File::open(image).with_context(|| format!("cannot read {}", image.display()))?;
    let mut sum = Sha256::new();
    let mut data = file.take(DATA_SIZE);
    let mut chunk = vec![0; 1 << 16];
    loop {
        let count = data.read(&mut chunk)?;
        if count == 0 {
            return Ok(hexadecimal(&sum.finalize()));
        }
        sum.update(chunk.get(..count).unwrap_or_default());
    }
}

/// The next number of SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_of_what_lies_on_the_disk() {
        let image = std::env::temp_dir().join(format!("postern-disk-{}.img", std::process::id()));
        let sum = create(&image, 1).unwrap();
        assert_eq!(data_sum(&image).unwrap(), sum);
        assert_eq!(read_block(&image).unwrap(), [0; BLOCK_SIZE]);
        let mut file = File::options().write(true).open(&image).unwrap();
        file.seek(SeekFrom::Start(DATA_SIZE - 1)).unwrap();
        file.write_all(b"x\x01").unwrap();
        assert_ne!(data_sum(&image).unwrap(), sum);
        assert_eq!(read_block(&image).unwrap()[0], 1);
        assert_ne!(create(&image, 2).unwrap(), sum);
        std::fs::remove_file(image).unwrap();
    }

    #[test]
    fn splitmix_gives_its_published_numbers() {
        let mut state = 1_234_567;
        assert_eq!(next(&mut state), 6_457_827_717_110_365_317);
        assert_eq!(next(&mut state), 3_203_168_211_198_807_973);
    }
}
