//! Scalable mode: from a source id and a PASID to the tables that translate (VT-d sections 3.4.3 and 9.2 to 9.6).

use crate::cache::{CachedContext, CachedPasid};
use crate::first_stage::FirstStage;
use crate::translation::need;
use crate::walk::Stage;
use crate::{AddressType, Memory, Request, Structure, Unit, Violation, reason};

impl<M: Memory> Unit<M> {
    /// Whether the root table is one of scalable mode.
    pub(crate) fn is_scalable(&self) -> bool {
        self.root.unwrap_or(0) >> 10 & 3 == 1
    }

    /// With whether an entry on the way silences faults.
    pub(crate) fn translate_scalable(
        &mut self,
        request: Request,
        pasid: Option<u32>,
    ) -> (bool, Result<(u64, u64), u8>) {
        let (low, high) = match self.scalable_context(request.source) {
            Ok(words) => words,
            Err(why) => return (false, Err(why)),
        };
        let silent = low & 2 != 0;
        let checked = self.check_context(&request, pasid, low, high);
        let pasid = match checked {
            Ok(Some(pasid)) => pasid,
            // Translated already.
            Ok(None) => return (silent, Ok((request.address, 3))),
            Err(why) => return (silent, Err(why)),
        };
        let (silent_directory, entry) = self.pasid_entry(request.source, pasid, low);
        let silent = silent || silent_directory;
        match entry {
            Ok(words) => (silent || words[0] & 2 != 0, self.translate_by_pasid(request, pasid, words)),
            Err(why) => (silent, Err(why)),
        }
    }

    /// The scalable-mode context entry of `source`, from the cache or into it: its first two words.
    fn scalable_context(&mut self, source: u16) -> Result<(u64, u64), u8> {
        if let Some(cached) = self.caches.contexts.get(&source) {
            return cached.words.ok_or(reason::SCALABLE_ROOT_NOT_PRESENT);
        }
        let root_at = self.root_entry(source) + u64::from(source >> 7 & 1) * 8;
        let root = self.load(root_at).ok_or(reason::SCALABLE_ROOT_ACCESS)?;
        let absent_is_cached = self.configuration.caching_mode;
        let mut cached = CachedContext { tag: 0, words: None, root: (root_at, root), at: 0, reported: false };
        if root & 1 == 0 {
            if absent_is_cached {
                self.caches.contexts.insert(source, cached);
            }
            return Err(reason::SCALABLE_ROOT_NOT_PRESENT);
        }
        if root & (0xffe | 0xffff_ffff_ffff_f000 & !self.pointer_mask()) != 0 {
            self.complain(Violation::ReservedInEntry { structure: Structure::Root, at: root_at });
            return Err(reason::SCALABLE_ROOT_RESERVED);
        }
        cached.at = (root & self.pointer_mask()) + u64::from(source & 0x7f) * 32;
        let words = self.load_pair(cached.at).ok_or(reason::SCALABLE_CONTEXT_ACCESS)?;
        let rest = self.load_pair(cached.at + 16).ok_or(reason::SCALABLE_CONTEXT_ACCESS)?;
        cached.words = Some(words);
        if words.0 & 1 == 0 {
            if absent_is_cached {
                self.caches.contexts.insert(source, cached);
            }
            return Ok(words);
        }
        let low_reserved = 0x1e0 | 0xffff_ffff_ffff_f000 & !self.pointer_mask();
        if words.0 & low_reserved != 0 || words.1 >> 21 != 0 || rest != (0, 0) {
            self.complain(Violation::ReservedInEntry { structure: Structure::Context, at: cached.at });
            return Err(reason::SCALABLE_CONTEXT_RESERVED);
        }
        self.caches.contexts.insert(source, cached);
        Ok(words)
    }

    /// The PASID that the request goes by; `None`: it needs no translation.
    fn check_context(&mut self, request: &Request, pasid: Option<u32>, low: u64, high: u64) -> Result<Option<u32>, u8> {
        if low & 1 == 0 {
            return Err(reason::SCALABLE_CONTEXT_NOT_PRESENT);
        }
        let unit = self.configuration;
        let Some(scalable) = unit.scalable else { return Err(reason::ROOT_MODE) };
        let unsupported = low & 4 != 0 && !unit.device_tlb
            || low & 8 != 0 && scalable.pasid_bits.is_none()
            // Page requests are not modelled.
            || low & 16 != 0
            || high & 0xf_ffff != 0 && !scalable.rid_pasid
            || high & 1 << 20 != 0 && !scalable.supervisor;
        if unsupported {
            let at = self.caches.contexts.remove(&request.source).map_or(0, |context| context.at);
            self.complain(Violation::ReservedInEntry { structure: Structure::Context, at });
            return Err(reason::SCALABLE_CONTEXT_INVALID);
        }
        if request.address_type != AddressType::Untranslated && low & 4 == 0 {
            return Err(reason::DEVICE_TLB_DISABLED);
        }
        if request.address_type == AddressType::Translated {
            return Ok(None);
        }
        let limit = 1u64 << (13 + (low >> 9 & 7));
        match pasid {
            Some(_) if low & 8 == 0 => Err(reason::PASID_DISABLED),
            Some(pasid) if u64::from(pasid) >= limit => Err(reason::PASID_BEYOND_DIRECTORY),
            Some(pasid) => Ok(Some(pasid)),
            None if high & 0xf_ffff >= limit => Err(reason::RID_PASID_INVALID),
            None => Ok(Some((high & 0xf_ffff) as u32)),
        }
    }

    /// The PASID entry's first three words, from the cache or into it, and whether the directory silences faults.
    fn pasid_entry(&mut self, source: u16, pasid: u32, context: u64) -> (bool, Result<[u64; 3], u8>) {
        if let Some(cached) = self.caches.pasids.get(&(source, pasid)) {
            return (cached.directory.1 & 2 != 0, cached.words.ok_or(reason::DIRECTORY_NOT_PRESENT));
        }
        let directory_at = (context & self.pointer_mask()) + u64::from(pasid >> 6) * 8;
        let Some(directory) = self.load(directory_at) else { return (false, Err(reason::DIRECTORY_ACCESS)) };
        let silent = directory & 2 != 0;
        let mut cached =
            CachedPasid { tag: 0, words: None, directory: (directory_at, directory), at: 0, reported: false };
        let entry = self.load_pasid_entry(pasid, &mut cached);
        let is_absent =
            matches!(entry, Err(reason::DIRECTORY_NOT_PRESENT)) || entry.is_ok_and(|words| words[0] & 1 == 0);
        if entry.is_ok() && !is_absent || is_absent && self.configuration.caching_mode {
            self.caches.pasids.insert((source, pasid), cached);
        }
        (silent, entry)
    }

    fn load_pasid_entry(&mut self, pasid: u32, cached: &mut CachedPasid) -> Result<[u64; 3], u8> {
        let (directory_at, directory) = cached.directory;
        if directory & 1 == 0 {
            return Err(reason::DIRECTORY_NOT_PRESENT);
        }
        if directory & (0xffc | 0xffff_ffff_ffff_f000 & !self.pointer_mask()) != 0 {
            self.complain(Violation::ReservedInEntry { structure: Structure::PasidDirectory, at: directory_at });
            return Err(reason::DIRECTORY_RESERVED);
        }
        let at = (directory & self.pointer_mask()) + u64::from(pasid & 63) * 64;
        let mut words = [0; 8];
        for (place, word) in (at..).step_by(8).zip(&mut words) {
            *word = self.load(place).ok_or(reason::PASID_ACCESS)?;
        }
        cached.at = at;
        let [first, second, third, ..] = words;
        cached.words = Some([first, second, third]);
        if first & 1 == 0 {
            return Ok([first, second, third]);
        }
        cached.tag = second as u16;
        let pointers = 0xffff_ffff_ffff_f000 & !self.pointer_mask();
        let reserved = first & (0xc00 | pointers) != 0
            || second & 0x007f_0000 != 0
            || third & (0xf00 | pointers) != 0
            || words.iter().skip(3).any(|word| *word != 0);
        if reserved {
            self.complain(Violation::ReservedInEntry { structure: Structure::PasidTable, at });
            return Err(reason::PASID_RESERVED);
        }
        Ok([first, second, third])
    }

    fn translate_by_pasid(&mut self, request: Request, pasid: u32, words: [u64; 3]) -> Result<(u64, u64), u8> {
        let [first, second, third] = words;
        if first & 1 == 0 {
            return Err(reason::PASID_NOT_PRESENT);
        }
        let unit = self.configuration;
        let Some(scalable) = unit.scalable else { return Err(reason::ROOT_MODE) };
        let (kind, width, domain) = (first >> 6 & 7, (first >> 2 & 7) as u8, second as u16);
        let width_is_known = (1..=3).contains(&width) && unit.levels >> width & 1 != 0;
        let five_levels = third >> 2 & 3 == 1;
        let first_is_known = matches!(third >> 2 & 3, 0) || five_levels && scalable.five_levels;
        let supported = match kind {
            1 => scalable.first_stage && first_is_known,
            2 => scalable.second_stage && width_is_known,
            3 => scalable.nested && first_is_known && width_is_known,
            4 => unit.pass_through,
            _ => false,
        };
        // Executable second stages, accessed bits of second stages, and memory types are not modelled.
        let beyond = u32::from(domain) >= unit.domain_limit();
        if !supported || beyond || first & (1 << 5 | 1 << 9) != 0 || third & 1 != 0 && !scalable.supervisor {
            let at = self.caches.pasids.remove(&(request.source, pasid)).map_or(0, |entry| entry.at);
            self.complain(Violation::ReservedInEntry { structure: Structure::PasidTable, at });
            return Err(reason::PASID_INVALID);
        }
        if domain == 0 && unit.caching_mode {
            self.complain(Violation::DomainZero { source: request.source });
        }
        let snoops = scalable.coherent && second & 1 << 23 != 0;
        let stage = Stage { domain, root: first & self.pointer_mask(), levels: width + 2, scalable: true, snoops };
        let tables = FirstStage {
            domain,
            pasid,
            root: third & self.pointer_mask(),
            levels: if five_levels { 5 } else { 4 },
            second: (kind == 3).then_some(stage),
            snoops,
            execute_disable: third & 1 << 5 != 0,
        };
        match kind {
            1 | 3 => self.walk_first(&tables, request.address, need(request.access)),
            2 => {
                let bits = (30 + 9 * u32::from(width)).min(u32::from(unit.width));
                if bits < 64 && request.address >> bits != 0 {
                    return Err(reason::BEYOND_SECOND_STAGE);
                }
                self.walk(stage, request.address, need(request.access))
            }
            _ => {
                if unit.host_width < 64 && request.address >> unit.host_width != 0 {
                    return Err(reason::BEYOND_SECOND_STAGE);
                }
                Ok((request.address, 3))
            }
        }
    }
}
