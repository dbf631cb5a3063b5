//! Changing the permissions of what is mapped.

use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use super::attributes::Permissions;
use super::entry::{child, entry_end, index, run, size};
use super::error::ChangeError;
use super::format::{Format, LARGE};
use super::gathered::Gathered;
use super::table::Table;
use crate::address::HostPhysical;
use crate::door::Frames;

impl<F: Format, M: Frames> Table<F, M> {
    /// Gives what is mapped in `length` bytes from `input` these permissions; what is not mapped stays so.
    ///
    /// Large pages that the range covers in part are split. Each leaf changes in one step between two valid states;
    /// readers may use the old permissions until the caller's invalidation. After an error (a split that finds no
    /// frame) the table is what it was.
    pub fn protect(&mut self, input: u64, length: u64, permissions: Permissions) -> Result<Gathered, ChangeError> {
        let end = self.check_range(input, length)?;
        if !self.format.can_say(permissions) {
            return Err(ChangeError::Permissions { permissions, format: F::NAME });
        }
        let mut gathered = Gathered::new();
        let place = self.place(input, end - 1);
        self.isolate(&place, input, end, &mut gathered)?;
        self.change(place.table, place.level, input, end, permissions, &mut gathered);
        Ok(gathered)
    }

    fn change(
        &self,
        table: HostPhysical,
        level: u8,
        start: u64,
        end: u64,
        permissions: Permissions,
        gathered: &mut Gathered,
    ) {
        let words = self.frames.words(table);
        let mut any = false;
        let mut at = start;
        while at < end {
            let stop = entry_end(at, level).min(end);
            let word = &words[index(at, level)];
            let entry = word.load(Relaxed);
            if level > 1 && entry != 0 && entry & LARGE == 0 {
                self.change(child(entry), level - 1, at, stop, permissions, gathered);
            } else if entry != 0 {
                let difference = entry ^ self.format.with_permissions(entry, permissions);
                if difference != 0 {
                    // One locked step that leaves alone what hardware may set meanwhile.
                    word.fetch_xor(difference, AcqRel);
                    gathered.touch(at, stop);
                    gathered.add_bytes(size(level));
                    any = true;
                }
            }
            at = stop;
        }
        if any && self.needs_flush() {
            self.frames.flush(run(words, level, start & !(size(level) - 1), entry_end(end - 1, level)));
        }
    }
}
