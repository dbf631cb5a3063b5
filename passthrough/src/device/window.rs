//! Accesses of the guest to BARs and ROM that are not mapped straight.

use super::Device;
use crate::door::{Machine, Width, Windows};
use crate::region::aligned_parts;

impl<M: Machine> Device<M> {
    /// Reads up to 8 bytes at `offset` of BAR `bar` (6: ROM). Bytes of the MSI-X table are the guest's own, the others
    /// the function's. Past the end, and while the function does not answer, it is all ones.
    pub fn region_read(&self, bar: u8, offset: u64, width: Width) -> u64 {
        let missing = ones(width);
        if !self.is_inside(bar, offset, width) {
            return missing;
        }
        let mut value = 0;
        for (at, distance, part) in aligned_parts(offset, width.bytes()) {
            let table = self.msix.as_ref().filter(|(geometry, _)| geometry.table_bar == bar);
            let read = match table {
                Some((geometry, table)) if geometry.table().contains(&at) => {
                    table.read(at.saturating_sub(geometry.table_offset), part)
                }
                _ => self.windows.read(bar, at, part) & ones(part),
            };
            value |= read << distance.saturating_mul(8);
        }
        value
    }

    /// Writes up to 8 bytes at `offset` of BAR `bar`. Returns the vector whose table entry was written, if one was:
    /// [`follow_vector`](Self::follow_vector) is to be called with it.
    pub fn region_write(&mut self, bar: u8, offset: u64, width: Width, value: u64) -> Option<u16> {
        if !self.is_inside(bar, offset, width) || bar == 6 {
            return None;
        }
        let mut written = None;
        for (at, distance, part) in aligned_parts(offset, width.bytes()) {
            let value = value >> distance.saturating_mul(8);
            let table = self.msix.as_mut().filter(|(geometry, _)| geometry.table_bar == bar);
            match table {
                Some((geometry, table)) if geometry.table().contains(&at) => {
                    let vector = table.write(at.saturating_sub(geometry.table_offset), part, value);
                    written = written.or(vector);
                    if let Some(vector) = vector {
                        self.follow_vector_mask(vector);
                    }
                }
                // The pending bits are the function's to set.
                Some((geometry, _)) if geometry.pending_bar == bar && geometry.pending().contains(&at) => {}
                _ => self.windows.write(bar, at, part, value & ones(part)),
            }
        }
        written
    }

    /// Whether the access is inside a window where the function answers now.
    fn is_inside(&self, bar: u8, offset: u64, width: Width) -> bool {
        let Some(placement) = self.placement(bar) else { return false };
        let end = offset.checked_add(width.bytes());
        placement.enabled && end.is_some_and(|end| end <= placement.size)
    }
}

/// All ones in so many bytes.
const fn ones(width: Width) -> u64 {
    match width {
        Width::Byte => 0xff,
        Width::Word => 0xffff,
        Width::Double => 0xffff_ffff,
        Width::Quad => u64::MAX,
    }
}
