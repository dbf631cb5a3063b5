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

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::fake::bench::Bench;

    const TABLE: u64 = 0x2200;

    #[test]
    fn a_page_shared_by_table_and_registers_is_told_apart_by_byte() {
        let bench = Bench::new();
        let mut device = bench.open_decoding();
        let accesses = || core::mem::take(&mut *bench.windows.accesses.lock().unwrap());
        // A register right before the table, one right behind it, at every width.
        let end = TABLE + 65 * 16;
        for (at, width) in
            [(TABLE - 8, Width::Quad), (TABLE - 1, Width::Byte), (end, Width::Double), (end + 6, Width::Word)]
        {
            device.region_write(0, at, width, 0x1122_3344_5566_7788);
            let mask = if width == Width::Quad { u64::MAX } else { (1 << (width.bytes() * 8)) - 1 };
            assert_eq!(device.region_read(0, at, width), 0x1122_3344_5566_7788 & mask);
            assert_eq!(accesses(), vec![(0, at, width.bytes(), true), (0, at, width.bytes(), false)]);
        }
        // The table itself never reaches the function by itself.
        for at in TABLE..end {
            assert_eq!(device.region_write(0, at, Width::Byte, at & 0xff), Some(((at - TABLE) / 16) as u16));
            assert_eq!(device.region_read(0, at, Width::Byte), at & 0xff);
        }
        assert_eq!(accesses(), vec![]);
        assert_eq!(device.msix_message(1).unwrap().address, 0x1716_1514_1312_1110);
        assert_eq!(device.msix_message(1).unwrap().data, 0x1b1a_1918);
        // Across the border: half register, half table.
        device.region_write(0, TABLE - 2, Width::Double, 0xaabb_ccdd);
        assert_eq!(accesses(), vec![(0, TABLE - 2, 2, true)]);
        assert_eq!(device.region_read(0, TABLE, Width::Word), 0xaabb);
        assert_eq!(device.region_read(0, TABLE - 2, Width::Double), 0xaabb_ccdd);
        // Pending bits can be read and not written.
        accesses();
        device.region_write(0, 0x3000, Width::Quad, u64::MAX);
        assert_eq!(accesses(), vec![]);
        assert_eq!(device.region_read(0, 0x3000, Width::Quad), 0);
    }

    #[test]
    fn nothing_answers_past_the_end_or_with_decoding_off() {
        let bench = Bench::new();
        let mut device = bench.open_decoding();
        assert_eq!(device.region_read(0, 0x4000, Width::Double), 0xffff_ffff);
        assert_eq!(device.region_read(0, 0x3ffe, Width::Double), 0xffff_ffff);
        assert_eq!(device.region_read(0, u64::MAX, Width::Quad), u64::MAX);
        assert_eq!(device.region_read(2, 0, Width::Word), 0xffff, "ports are off");
        assert_eq!(device.region_read(5, 0, Width::Byte), 0xff);
        assert_eq!(device.region_write(0, u64::MAX, Width::Quad, 0), None);
        device.config_write(0x04, Width::Word, 0);
        assert_eq!(device.region_read(0, 0, Width::Word), 0xffff);
        assert_eq!(bench.windows.accesses.lock().unwrap().len(), 0);
    }
}
