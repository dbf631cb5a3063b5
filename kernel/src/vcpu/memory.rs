//! The guest's memory by linear address, as its instructions see it.

use super::body::{Body, Trouble};
use super::engine::VcpuEngine;
use super::platform::Platform;
use super::walk::{Access, Paging};
use crate::memory::GuestPhysical;

const PAGE: u64 = 4096;

impl<E: VcpuEngine> Body<E> {
    /// Copies guest RAM at a linear address. Where no RAM is, reads as nothing does: all ones.
    pub(super) fn read_linear(&self, linear: u64, into: &mut [u8], platform: &dyn Platform) -> Result<(), Trouble> {
        let paging = Paging::of(&self.engine);
        let mut linear = linear;
        let mut rest = into;
        while !rest.is_empty() {
            let here = PAGE - linear % PAGE;
            let length = usize::try_from(here).unwrap_or(usize::MAX).min(rest.len());
            let (part, behind) = rest.split_at_mut(length);
            let address = paging.translate(linear, Access::Read, platform)?;
            if platform.read_memory(address, part).is_err() {
                part.fill(0xff);
            }
            linear = linear.wrapping_add(here);
            rest = behind;
        }
        Ok(())
    }

    /// Reads `size` (1, 2, 4 or 8) bytes at a linear address, from RAM or a device.
    pub(super) fn load(&mut self, linear: u64, size: u8, platform: &dyn Platform) -> Result<u64, Trouble> {
        let paging = Paging::of(&self.engine);
        let (first, second) = pieces(linear, size, &paging, Access::Read, platform)?;
        let low = self.load_piece(first, platform);
        let Some(second) = second else { return Ok(low) };
        let high = self.load_piece(second, platform);
        Ok(low | high << (8 * u32::from(first.size)))
    }

    /// Writes `size` (1, 2, 4 or 8) bytes at a linear address, to RAM or a device.
    pub(super) fn store(&mut self, linear: u64, size: u8, value: u64, platform: &dyn Platform) -> Result<(), Trouble> {
        let paging = Paging::of(&self.engine);
        // Both pages are checked before either is written.
        let (first, second) = pieces(linear, size, &paging, Access::Write, platform)?;
        self.store_piece(first, value, platform);
        if let Some(second) = second {
            self.store_piece(second, value >> (8 * u32::from(first.size)), platform);
        }
        Ok(())
    }

    /// Checks that `size` bytes could be written, for instructions that read first.
    pub(super) fn probe_store(&self, linear: u64, size: u8, platform: &dyn Platform) -> Result<(), Trouble> {
        pieces(linear, size, &Paging::of(&self.engine), Access::Write, platform).map(|_| ())
    }

    /// Reads `size` (1, 2, 4 or 8) bytes at a guest-physical address, all in one page, from RAM or a device.
    pub(super) fn load_at(&mut self, address: GuestPhysical, size: u8, platform: &dyn Platform) -> u64 {
        self.load_piece(Piece { address, size }, platform)
    }

    /// Writes `size` (1, 2, 4 or 8) bytes at a guest-physical address, all in one page, to RAM or a device.
    pub(super) fn store_at(&mut self, address: GuestPhysical, size: u8, value: u64, platform: &dyn Platform) {
        self.store_piece(Piece { address, size }, value, platform);
    }

    fn load_piece(&mut self, piece: Piece, platform: &dyn Platform) -> u64 {
        if self.is_local_apic(piece.address) {
            return self.read_local_apic(piece.address, piece.size);
        }
        let mut bytes = [0; 8];
        let Some(part) = bytes.get_mut(..usize::from(piece.size)) else { return 0 };
        if platform.read_memory(piece.address, part).is_ok() {
            return u64::from_le_bytes(bytes);
        }
        let mut value = 0;
        for (shift, address, size) in piece.accesses() {
            value |= (platform.mmio_read(self.index, address, size) & ones(size)) << shift;
        }
        value
    }

    fn store_piece(&mut self, piece: Piece, value: u64, platform: &dyn Platform) {
        if self.is_local_apic(piece.address) {
            return self.write_local_apic(piece.address, piece.size, value, platform);
        }
        let bytes = value.to_le_bytes();
        let Some(part) = bytes.get(..usize::from(piece.size)) else { return };
        if platform.write_memory(piece.address, part).is_ok() {
            return;
        }
        for (shift, address, size) in piece.accesses() {
            platform.mmio_write(self.index, address, size, value >> shift & ones(size));
        }
    }
}

/// The lowest `size` bytes, all ones.
pub(super) const fn ones(size: u8) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size as u32)) - 1 }
}

/// The part of an access that lies in one page.
#[derive(Clone, Copy)]
struct Piece {
    address: GuestPhysical,
    /// 1 to 8.
    size: u8,
}

impl Piece {
    /// As accesses of 1, 2, 4 or 8 bytes: how far the value is shifted, where, and how many bytes. An access that
    /// crosses a page leaves odd sizes.
    fn accesses(self) -> impl Iterator<Item = (u32, GuestPhysical, u8)> {
        let mut done = 0u8;
        core::iter::from_fn(move || {
            let left = self.size.checked_sub(done).filter(|left| *left != 0)?;
            let size = 1 << left.ilog2();
            let address = self.address.checked_add(u64::from(done))?;
            let shift = 8 * u32::from(done);
            done = done.saturating_add(size);
            Some((shift, address, size))
        })
    }
}

fn pieces(
    linear: u64,
    size: u8,
    paging: &Paging,
    access: Access,
    platform: &dyn Platform,
) -> Result<(Piece, Option<Piece>), Trouble> {
    let address = paging.translate(linear, access, platform)?;
    let here = PAGE - linear % PAGE;
    if u64::from(size) <= here {
        return Ok((Piece { address, size }, None));
    }
    // Less than a size, so it fits a byte.
    let first = here as u8;
    let next = paging.translate(linear.wrapping_add(here), access, platform)?;
    Ok((Piece { address, size: first }, Some(Piece { address: next, size: size.saturating_sub(first) })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_accesses_that_devices_know() {
        let piece = Piece { address: GuestPhysical::new(0x1ffd), size: 7 };
        let accesses: Vec<_> = piece.accesses().map(|(shift, address, size)| (shift, address.as_u64(), size)).collect();
        assert_eq!(accesses, [(0, 0x1ffd, 4), (32, 0x2001, 2), (48, 0x2003, 1)]);
    }
}
