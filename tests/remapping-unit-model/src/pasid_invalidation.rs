//! Invalidations of scalable mode, and watching PASID entries (VT-d sections 6.5.2.4, 6.5.2.6 and 6.5.2.9).

use alloc::vec::Vec;

use crate::cache::CachedPasid;
use crate::command::TRANSLATION;
use crate::queue::{BAD_TYPE, RESERVED, WIDTH};
use crate::{Memory, Structure, Unit, Violation};

/// What may change in a present PASID entry: FPD and SSADE in the first word, PGSNP in the second.
const CHANGEABLE: [u64; 3] = [1 << 1 | 1 << 9, 1 << 24, 0];

impl<M: Memory> Unit<M> {
    /// Descriptors 6 (PASID-based IOTLB), 7 (PASID cache) and 8 (PASID-based device TLB).
    pub(crate) fn invalidate_pasids(&mut self, kind: u64, low: u64, high: u64) -> Result<(), u64> {
        if self.configuration.scalable.is_none() {
            self.complain(Violation::ScalableInvalidation { low });
            return Err(BAD_TYPE);
        }
        if kind != 7 && !self.is_wide() {
            self.complain(Violation::ScalableInvalidation { low });
            return Err(WIDTH);
        }
        let (granularity, domain, pasid) = (low >> 4 & 3, (low >> 16) as u16, (low >> 32 & 0xf_ffff) as u32);
        match (kind, granularity) {
            (6, 2) => self.caches.forget_pasid_pages(domain, pasid, None, false),
            (6, 3) => {
                let (mask, first) = ((high & 63) as u8, high & !0xfff);
                if self.configuration.page_selective.is_none_or(|largest| mask > largest) {
                    self.complain(Violation::InvalidationTooLarge { mask });
                    return Err(RESERVED);
                }
                let bits = 12 + u32::from(mask);
                if bits < 64 && first & ((1 << bits) - 1) != 0 {
                    self.complain(Violation::MisalignedInvalidation { first, mask });
                }
                self.caches.forget_pasid_pages(domain, pasid, Some((first, bits)), high & 1 << 6 != 0);
            }
            (7, 0) => self.caches.pasids.retain(|_, entry| entry.tag != domain),
            // What is absent has no domain yet.
            (7, 1) => self.caches.pasids.retain(|(_, cached), entry| {
                *cached != pasid || entry.tag != domain && entry.words.is_some_and(|words| words[0] & 1 != 0)
            }),
            (7, 3) => {
                self.caches.pasids.clear();
                if self.root_debt & 1 == 0 {
                    self.root_debt &= !4;
                }
            }
            (8, _) => {
                let source = (low >> 16) as u16;
                let sized = high & 1 << 11 != 0;
                return self.invalidate_device_pages(source, Some(pasid), high & 1 != 0, sized, high & !0xfff);
            }
            _ => {
                self.complain(Violation::UnknownDescriptor { low });
                return Err(RESERVED);
            }
        }
        self.buffer_flushed = true;
        Ok(())
    }

    pub(crate) fn observe_pasids(&mut self) {
        if self.status & TRANSLATION == 0 {
            return;
        }
        let changed: Vec<_> = self
            .caches
            .pasids
            .iter()
            .filter(|(_, entry)| !entry.reported && self.is_changed_in_place(entry))
            .map(|(key, entry)| (*key, entry.at))
            .collect();
        for (key, at) in changed {
            self.complain(Violation::PresentPasidChanged { at });
            if let Some(entry) = self.caches.pasids.get_mut(&key) {
                entry.reported = true;
            }
        }
    }

    fn is_changed_in_place(&self, entry: &CachedPasid) -> bool {
        let Some(words) = entry.words.filter(|words| words[0] & 1 != 0) else { return false };
        let Some(now) = self.load_three(entry.at).filter(|now| now[0] & 1 != 0) else { return false };
        words.iter().zip(now).zip(CHANGEABLE).any(|((was, is), may)| (was ^ is) & !may != 0)
    }

    fn load_three(&self, at: u64) -> Option<[u64; 3]> {
        Some([self.load(at)?, self.load(at.checked_add(8)?)?, self.load(at.checked_add(16)?)?])
    }

    pub(crate) fn audit_pasids(&self, found: &mut Vec<Violation>) {
        for ((source, pasid), entry) in &self.caches.pasids {
            let is_present = entry.words.is_some_and(|words| words[0] & 1 != 0);
            if !is_present {
                let context = self.context_in_memory(*source);
                if context.and_then(|(low, _)| self.pasid_in_memory(low, *pasid)).is_some() {
                    found.push(Violation::Stale { structure: Structure::PasidTable, at: entry.at });
                }
            } else if self.load(entry.directory.0) != Some(entry.directory.1) {
                found.push(Violation::Stale { structure: Structure::PasidDirectory, at: entry.directory.0 });
            } else if self.load_three(entry.at) != entry.words {
                found.push(Violation::Stale { structure: Structure::PasidTable, at: entry.at });
            }
        }
    }

    /// The first words of the PASID entry in memory as it is now, if it is present. `context` is the low word of the
    /// context entry.
    pub(crate) fn pasid_in_memory(&self, context: u64, pasid: u32) -> Option<[u64; 3]> {
        let directory = self.load((context & self.pointer_mask()) + u64::from(pasid >> 6) * 8)?;
        let at = (directory & self.pointer_mask()) + u64::from(pasid & 63) * 64;
        self.load_three(at).filter(|words| directory & words[0] & 1 != 0)
    }

    /// Where an address leads by such an entry, past all caches.
    pub(crate) fn look_by_pasid(&self, words: [u64; 3], address: u64) -> Option<(u64, u64)> {
        let [first, second_word, third] = words;
        let snoops =
            second_word & 1 << 23 != 0 && self.configuration.scalable.is_some_and(|scalable| scalable.coherent);
        let (second, levels) = (first & self.pointer_mask(), (first >> 2 & 7) as u8 + 2);
        let first_levels = if third >> 2 & 3 == 1 { 5 } else { 4 };
        let table = third & self.pointer_mask();
        match first >> 6 & 7 {
            1 => self.look_first(snoops, table, first_levels, address, None),
            2 => self.look(snoops, second, levels, address),
            3 => self.look_first(snoops, table, first_levels, address, Some((second, levels))),
            _ => Some((address, 3)),
        }
    }
}
