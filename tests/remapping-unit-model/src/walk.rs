//! Second-stage tables: the walk through the caches, and the same without them (VT-d sections 3.7 and 9.8).

use crate::cache::{CachedLink, CachedPage, overlap};
use crate::{Memory, Structure, Unit, Violation, reason};

const IGNORED_PERMISSIONS: u64 = 3;

/// A second-stage table, and the reasons of its faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage {
    pub(crate) domain: u16,
    pub(crate) root: u64,
    pub(crate) levels: u8,
    pub(crate) scalable: bool,
    /// The walk snoops: ECAP.C in legacy mode; ECAP.SMPWCS and the PASID entry's PWSNP in scalable mode.
    pub(crate) snoops: bool,
}

/// An entry of a second-stage table as the unit understands it.
enum Entry {
    Absent,
    Reserved,
    Table(u64),
    /// A page: its address, and the logarithm of its size.
    Page(u64, u32),
}

/// The bit of a device's address at which the index into a table of `level` starts.
pub(crate) const fn shift(level: u8) -> u32 {
    12 + 9 * (level as u32 - 1)
}

impl<M: Memory> Unit<M> {
    fn understand(&self, level: u8, value: u64) -> Entry {
        if value & 3 == 0 {
            return Entry::Absent;
        }
        let pointer = self.pointer_mask();
        let large = value & 1 << 7 != 0 && level > 1;
        let leaf = level == 1 || large && level <= 3;
        // Bit 62, and the address bits that the machine does not have.
        let mut reserved = 1 << 62 | 0x000f_ffff_ffff_f000 & !pointer;
        if !leaf || !self.configuration.snoop_control {
            reserved |= 1 << 11;
        }
        if large && (level > 3 || self.configuration.large_pages >> (level - 2) & 1 == 0) {
            reserved |= 1 << 7;
        }
        if leaf {
            reserved |= ((1 << shift(level)) - 1) & !0xfff;
        }
        if value & reserved != 0 {
            Entry::Reserved
        } else if leaf {
            Entry::Page(value & pointer, shift(level))
        } else {
            Entry::Table(value & pointer)
        }
    }

    /// Where `address` leads in the table of `stage`, with what permissions, if it may be used as `need` (bit 0 read,
    /// bit 1 write) says; otherwise the fault's reason.
    pub(crate) fn walk(&mut self, stage: Stage, address: u64, need: u64) -> Result<(u64, u64), u8> {
        self.walk_second(stage, address, need).map_err(|why| match why {
            reason::PAGE_TABLE_ACCESS if stage.scalable => reason::SECOND_STAGE_ACCESS,
            reason::WRITE | reason::READ if stage.scalable => reason::SECOND_STAGE_PERMISSION,
            reason::PAGE_TABLE_RESERVED if stage.scalable => reason::SECOND_STAGE_RESERVED,
            reason::OUTPUT_IN_INTERRUPT_RANGE if stage.scalable => reason::SCALABLE_OUTPUT_IN_INTERRUPT_RANGE,
            _ => why,
        })
    }

    fn walk_second(&mut self, stage: Stage, address: u64, need: u64) -> Result<(u64, u64), u8> {
        let Stage { domain, root, levels, snoops, .. } = stage;
        let refused = if need & 2 != 0 { reason::WRITE } else { reason::READ };
        let covers = |first, bits| overlap(first, bits, address, 0);
        let cached = self
            .caches
            .pages
            .iter()
            .position(|page| page.tag == domain && page.pasid.is_none() && covers(page.first, page.bits));
        if let Some(page) = cached.and_then(|index| self.caches.pages.get(index)) {
            match page.output {
                Some((output, permissions)) if permissions & need == need => {
                    return Ok((output + (address - page.first), permissions));
                }
                _ if self.configuration.caching_mode => return Err(refused),
                _ => {}
            }
        }
        // Without caching mode a refusal is looked up once more.
        if let Some(index) = cached {
            self.caches.pages.swap_remove(index);
        }
        if self.caches.is_elsewhere(domain, root) {
            self.complain(Violation::DomainReused { domain });
        }
        let links = self
            .caches
            .links
            .iter()
            .filter(|link| link.tag == domain && link.pasid.is_none() && covers(link.first, link.bits));
        let start = links.min_by_key(|link| link.level).copied();
        let (mut level, mut table, mut permissions) = match start {
            Some(link) => (link.level, link.step.1 & self.pointer_mask(), link.permissions),
            None => (levels, root, IGNORED_PERMISSIONS),
        };
        loop {
            let at = table + (address >> shift(level) & 511) * 8;
            let value = self.load_of_walk(snoops, at).ok_or(reason::PAGE_TABLE_ACCESS)?;
            let keep = |bits: u32, output| CachedPage {
                tag: domain,
                pasid: None,
                nested: false,
                snoops,
                root,
                levels,
                first: address >> bits << bits,
                bits,
                output,
                leaf: (at, value),
            };
            match self.understand(level, value) {
                Entry::Absent => {
                    if self.configuration.caching_mode {
                        self.caches.pages.push(keep(12, None));
                    }
                    return Err(refused);
                }
                Entry::Reserved => {
                    self.complain(Violation::ReservedInEntry { structure: Structure::PageTable, at });
                    return Err(reason::PAGE_TABLE_RESERVED);
                }
                Entry::Page(output, bits) => {
                    permissions &= value & 3;
                    let reached = output + (address & ((1 << bits) - 1));
                    if reached >> 20 == 0xfee {
                        return Err(reason::OUTPUT_IN_INTERRUPT_RANGE);
                    }
                    self.caches.pages.push(keep(bits, Some((output, permissions))));
                    return if permissions & need == need { Ok((reached, permissions)) } else { Err(refused) };
                }
                Entry::Table(next) => {
                    permissions &= value & 3;
                    if permissions & need != need {
                        return Err(refused);
                    }
                    let bits = shift(level);
                    level -= 1;
                    self.caches.links.push(CachedLink {
                        tag: domain,
                        pasid: None,
                        snoops,
                        root,
                        level,
                        first: address >> bits << bits,
                        bits,
                        step: (at, value),
                        permissions,
                    });
                    table = next;
                }
            }
        }
    }

    /// Where `address` leads in memory as it is now, past all caches.
    pub(crate) fn look(&self, snoops: bool, root: u64, levels: u8, address: u64) -> Option<(u64, u64)> {
        let (mut level, mut table, mut permissions) = (levels, root, IGNORED_PERMISSIONS);
        loop {
            let value = self.load_of_walk(snoops, table + (address >> shift(level) & 511) * 8)?;
            permissions &= value & 3;
            match self.understand(level, value) {
                Entry::Absent | Entry::Reserved => return None,
                Entry::Page(output, bits) => return Some((output + (address & ((1 << bits) - 1)), permissions)),
                Entry::Table(next) => (level, table) = (level - 1, next),
            }
        }
    }
}
