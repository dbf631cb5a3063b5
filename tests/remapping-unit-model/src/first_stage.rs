//! First-stage tables, in the format of the processor's own, alone or nested in a second stage (VT-d sections 3.6,
//! 3.8 and 9.7).

use crate::cache::{CachedLink, CachedPage, overlap};
use crate::walk::{Stage, shift};
use crate::{Memory, Structure, Unit, Violation, reason};

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const EXECUTE_DISABLE: u64 = 1 << 63;

/// The first-stage tables of a PASID.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstStage {
    pub(crate) domain: u16,
    pub(crate) pasid: u32,
    pub(crate) root: u64,
    pub(crate) levels: u8,
    /// Through which every address of these tables goes.
    pub(crate) second: Option<Stage>,
    /// The walk snoops, and so may set accessed and dirty bits.
    pub(crate) snoops: bool,
    /// NXE.
    pub(crate) execute_disable: bool,
}

impl<M: Memory> Unit<M> {
    /// As [`walk`](Self::walk), for a request without supervisor privilege.
    pub(crate) fn walk_first(&mut self, tables: &FirstStage, address: u64, need: u64) -> Result<(u64, u64), u8> {
        let FirstStage { domain, pasid, .. } = *tables;
        let sign = 64 - (12 + 9 * u32::from(tables.levels));
        if ((address << sign) as i64 >> sign) as u64 != address {
            return Err(reason::NOT_CANONICAL);
        }
        let is_ours =
            |tag, of: Option<u32>, first, bits| tag == domain && of == Some(pasid) && overlap(first, bits, address, 0);
        let cached = self.caches.pages.iter().position(|page| is_ours(page.tag, page.pasid, page.first, page.bits));
        if let Some(page) = cached.and_then(|index| self.caches.pages.get(index))
            && let Some((output, permissions)) = page.output
            && permissions & need == need
            // A first write sets the dirty bit.
            && (need & 2 == 0 || page.leaf.1 & DIRTY != 0)
        {
            return Ok((output + (address - page.first), permissions));
        }
        if let Some(index) = cached {
            self.caches.pages.swap_remove(index);
        }
        let links = self.caches.links.iter().filter(|link| is_ours(link.tag, link.pasid, link.first, link.bits));
        let start = links.min_by_key(|link| link.level).copied();
        let (mut level, mut table, mut permissions) = match start {
            Some(link) => (link.level, link.step.1 & self.pointer_mask(), link.permissions),
            None => (tables.levels, tables.root, 3),
        };
        loop {
            let at = table + (address >> shift(level) & 511) * 8;
            let at = match tables.second {
                Some(stage) => self.walk(stage, at, 1)?.0,
                None => at,
            };
            let value = self.load_of_walk(tables.snoops, at).ok_or(reason::FIRST_STAGE_ACCESS)?;
            let leaf = self.check_first(tables, level, at, value, need)?;
            permissions &= if value & WRITE != 0 { 3 } else { 1 };
            let marks = ACCESSED | if leaf && need & 2 != 0 { DIRTY } else { 0 };
            let value = self.mark(tables, at, value, marks)?;
            let bits = shift(level);
            let pointer = value & self.pointer_mask() & !((1 << bits) - 1);
            let first = address >> bits << bits;
            if !leaf {
                let step = (at, value);
                level -= 1;
                let root = tables.root;
                let (tag, snoops) = (domain, tables.snoops);
                let pasid = Some(pasid);
                self.caches.links.push(CachedLink { tag, pasid, snoops, root, level, first, bits, step, permissions });
                table = value & self.pointer_mask();
                continue;
            }
            let mut page = CachedPage {
                tag: domain,
                pasid: Some(pasid),
                nested: false,
                snoops: tables.snoops,
                root: tables.root,
                levels: tables.levels,
                first,
                bits,
                output: Some((pointer, permissions)),
                leaf: (at, value),
            };
            let mut output = pointer + (address - first);
            if let Some(stage) = tables.second {
                let (reached, allowed) = self.walk(stage, output, need)?;
                // What both stages lead to is known for 4 KiB only.
                page.nested = true;
                (page.first, page.bits) = (address & !0xfff, 12);
                page.output = Some((reached & !0xfff, permissions & allowed));
                (output, permissions) = (reached, permissions & allowed);
            }
            if output >> 20 == 0xfee {
                return Err(reason::SCALABLE_OUTPUT_IN_INTERRUPT_RANGE);
            }
            self.caches.pages.push(page);
            return Ok((output, permissions));
        }
    }

    /// Whether the entry is a page.
    fn check_first(&mut self, tables: &FirstStage, level: u8, at: u64, value: u64, need: u64) -> Result<bool, u8> {
        if value & PRESENT == 0 {
            return Err(reason::FIRST_STAGE_NOT_PRESENT);
        }
        let huge_pages = self.configuration.scalable.is_some_and(|scalable| scalable.huge_pages);
        let large = value & LARGE != 0 && level > 1;
        let mut reserved = 0x000f_ffff_ffff_f000 & !self.pointer_mask();
        if large && (level > 3 || level == 3 && !huge_pages) {
            reserved |= LARGE;
        }
        if large {
            // Bit 12 is the page attribute table's.
            reserved |= ((1 << shift(level)) - 1) & !0x1fff;
        }
        if !tables.execute_disable {
            reserved |= EXECUTE_DISABLE;
        }
        if value & reserved != 0 {
            self.complain(Violation::ReservedInEntry { structure: Structure::PageTable, at });
            return Err(reason::FIRST_STAGE_RESERVED);
        }
        if value & USER == 0 {
            return Err(reason::SUPERVISOR_ONLY);
        }
        if need & 2 != 0 && value & WRITE == 0 {
            return Err(reason::FIRST_STAGE_WRITE);
        }
        Ok(large || level == 1)
    }

    /// Sets accessed and dirty bits, in one step.
    fn mark(&mut self, tables: &FirstStage, at: u64, value: u64, marks: u64) -> Result<u64, u8> {
        let mut value = value;
        while value & marks != marks {
            if !tables.snoops {
                return Err(reason::ACCESSED_WITHOUT_SNOOP);
            }
            match self.memory.exchange(at, value, value | marks) {
                Some(Ok(())) => value |= marks,
                Some(Err(other)) if other & PRESENT != 0 => value = other,
                _ => return Err(reason::FIRST_STAGE_NOT_PRESENT),
            }
        }
        Ok(value)
    }
}

impl<M: Memory> Unit<M> {
    /// Where `address` leads in memory as it is now, past all caches; `second` is the second stage's table and levels.
    pub(crate) fn look_first(
        &self,
        snoops: bool,
        root: u64,
        levels: u8,
        address: u64,
        second: Option<(u64, u8)>,
    ) -> Option<(u64, u64)> {
        let through = |address| match second {
            Some((root, levels)) => self.look(snoops, root, levels, address),
            None => Some((address, 3)),
        };
        let (mut level, mut table, mut permissions) = (levels, root, 3);
        loop {
            let value = self.load_of_walk(snoops, through(table + (address >> shift(level) & 511) * 8)?.0)?;
            if value & PRESENT == 0 {
                return None;
            }
            permissions &= if value & WRITE != 0 { 3 } else { 1 };
            if level == 1 || value & LARGE != 0 {
                let inside = (1 << shift(level)) - 1;
                let (output, allowed) = through((value & self.pointer_mask() & !inside) + (address & inside))?;
                return Some((output, permissions & allowed));
            }
            (level, table) = (level - 1, value & self.pointer_mask());
        }
    }
}
