//! Little-endian fields of a file that is not trusted.

/// `N` bytes from `offset` on; `None` behind the end.
pub(super) fn array<const N: usize>(file: &[u8], offset: usize) -> Option<[u8; N]> {
    file.get(offset..)?.first_chunk().copied()
}

/// Two bytes.
pub(super) fn u16(file: &[u8], offset: usize) -> Option<u16> {
    array(file, offset).map(u16::from_le_bytes)
}

/// Four bytes.
pub(super) fn u32(file: &[u8], offset: usize) -> Option<u32> {
    array(file, offset).map(u32::from_le_bytes)
}

/// Eight bytes.
pub(super) fn u64(file: &[u8], offset: usize) -> Option<u64> {
    array(file, offset).map(u64::from_le_bytes)
}
