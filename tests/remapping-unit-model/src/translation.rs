//! Requests of devices: root and context entries, and what they lead to (VT-d sections 3.4 and 3.9).

use crate::cache::{CachedContext, DevicePage};
use crate::command::TRANSLATION;
use crate::walk::Stage;
use crate::{Memory, Structure, Unit, Violation, reason};

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To write.
    Write,
}

/// What a request's address is (AT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressType {
    /// To be translated.
    Untranslated,
    /// To be translated and handed to the device's own TLB.
    TranslationRequest,
    /// Translated already.
    Translated,
}

/// A request of a device for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub source: u16,
    /// Where.
    pub address: u64,
    /// What for.
    pub access: Access,
    /// What the address is.
    pub address_type: AddressType,
}

/// Why a request did not go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A fault with this [`reason`]; recorded, unless FPD silences it.
    Fault(u8),
    /// The protected memory ranges; never recorded.
    ProtectedMemory,
    /// It goes to the interrupt range (0xfee0_0000 to 0xfeef_ffff), where no memory is: see [`Unit::interrupt`].
    InterruptRange,
    /// A translation request for what the device may not do; never recorded.
    NoTranslation,
}

impl<M: Memory> Unit<M> {
    /// A device asks: where it ends up, or why it does not.
    pub fn request(&mut self, request: Request) -> Result<u64, Refusal> {
        self.observe();
        self.route(request, None).map(|(output, _)| output)
    }

    /// The same with a PASID (20 bits).
    pub fn request_with_pasid(&mut self, request: Request, pasid: u32) -> Result<u64, Refusal> {
        self.observe();
        self.route(request, Some(pasid & 0xf_ffff)).map(|(output, _)| output)
    }

    /// An access of a device that uses its own TLB, and fills it by a translation request.
    pub fn request_through_device_tlb(&mut self, source: u16, address: u64, access: Access) -> Result<u64, Refusal> {
        self.through_device_tlb(source, None, address, access)
    }

    /// The same with a PASID (20 bits).
    pub fn request_through_device_tlb_with_pasid(
        &mut self,
        source: u16,
        pasid: u32,
        address: u64,
        access: Access,
    ) -> Result<u64, Refusal> {
        self.through_device_tlb(source, Some(pasid & 0xf_ffff), address, access)
    }

    fn through_device_tlb(
        &mut self,
        source: u16,
        pasid: Option<u32>,
        address: u64,
        access: Access,
    ) -> Result<u64, Refusal> {
        let need = need(access);
        let known = self.caches.device_pages.get(&source).and_then(|pages| {
            let is_ours = |page: &&DevicePage| page.pasid == pasid && page.first == address & !0xfff;
            pages.iter().find(|page| is_ours(page) && page.permissions & need == need).copied()
        });
        let output = match known {
            Some(page) => page.output + (address & 0xfff),
            None => {
                let asked = Request { source, address, access, address_type: AddressType::TranslationRequest };
                self.observe();
                let (output, permissions) = self.route(asked, pasid)?;
                let (first, output_page) = (address & !0xfff, output & !0xfff);
                let page = DevicePage { pasid, first, bits: 12, output: output_page, permissions };
                self.caches.device_pages.entry(source).or_default().push(page);
                output
            }
        };
        self.request(Request { source, address: output, access, address_type: AddressType::Translated })
    }

    fn route(&mut self, request: Request, pasid: Option<u32>) -> Result<(u64, u64), Refusal> {
        let Request { source, address, access, address_type } = request;
        if address_type == AddressType::Untranslated && address >> 20 == 0xfee {
            return Err(Refusal::InterruptRange);
        }
        if self.status & TRANSLATION == 0 {
            return self.unless_protected((address, 3));
        }
        let (silent, result) = self.translate(request, pasid);
        match result {
            Ok(output) => self.unless_protected(output),
            Err(
                reason::READ
                | reason::WRITE
                | reason::SECOND_STAGE_PERMISSION
                | reason::FIRST_STAGE_NOT_PRESENT
                | reason::FIRST_STAGE_WRITE,
            ) if address_type == AddressType::TranslationRequest => Err(Refusal::NoTranslation),
            Err(why) => {
                if !(silent && reason::is_qualified(why)) {
                    let kind = match address_type {
                        AddressType::Untranslated => 0,
                        AddressType::TranslationRequest => 1,
                        AddressType::Translated => 2,
                    };
                    self.record_fault_of(source, pasid, why, address & !0xfff, access == Access::Read, kind);
                }
                Err(Refusal::Fault(why))
            }
        }
    }

    fn unless_protected(&self, output: (u64, u64)) -> Result<(u64, u64), Refusal> {
        let half = |offset| u64::from(self.registers.get(&offset).copied().unwrap_or(0));
        if half(0x64) & 1 == 0 {
            return Ok(output);
        }
        let low = half(0x68)..=half(0x6c) | 0xfff;
        let high = self.plain(0x70)..=self.plain(0x78) | 0xfff;
        let hit = self.configuration.protected_low && low.contains(&output.0)
            || self.configuration.protected_high && high.contains(&output.0);
        if hit { Err(Refusal::ProtectedMemory) } else { Ok(output) }
    }

    /// With whether an entry on the way silences faults.
    fn translate(&mut self, request: Request, pasid: Option<u32>) -> (bool, Result<(u64, u64), u8>) {
        match self.root.unwrap_or(0) >> 10 & 3 {
            0 if pasid.is_some() => return (false, Err(reason::PASID_IN_LEGACY_MODE)),
            0 => {}
            1 => return self.translate_scalable(request, pasid),
            _ => return (false, Err(reason::ROOT_MODE)),
        }
        let (low, high) = match self.context(request.source) {
            Ok(words) => words,
            Err(why) => return (false, Err(why)),
        };
        (low & 2 != 0, self.translate_by(request, low, high))
    }

    fn translate_by(&mut self, request: Request, low: u64, high: u64) -> Result<(u64, u64), u8> {
        if low & 1 == 0 {
            return Err(reason::CONTEXT_NOT_PRESENT);
        }
        let at = self.caches.contexts.get(&request.source).map_or(0, |context| context.at);
        let domain = (high >> 8) as u16;
        let reserved = low & (0xff0 | 0xffff_ffff_ffff_f000 & !self.pointer_mask()) != 0
            || high & 0xffff_ffff_ff00_0080 != 0
            || u32::from(domain) >= self.configuration.domain_limit();
        if u32::from(domain) >= self.configuration.domain_limit() {
            self.complain(Violation::DomainBeyondLimit { domain });
        } else if reserved {
            self.complain(Violation::ReservedInEntry { structure: Structure::Context, at });
        }
        if reserved {
            self.caches.contexts.remove(&request.source);
            return Err(reason::CONTEXT_RESERVED);
        }
        if domain == 0 && self.configuration.caching_mode {
            self.complain(Violation::DomainZero { source: request.source });
        }
        let (kind, width) = (low >> 2 & 3, (high & 7) as u8);
        let supported = self.configuration.levels >> width & 1 != 0 && (1..=3).contains(&width);
        let supported = supported
            && match kind {
                0 => true,
                1 => self.configuration.device_tlb,
                2 => self.configuration.pass_through,
                _ => false,
            };
        if !supported {
            self.complain(Violation::ReservedInEntry { structure: Structure::Context, at });
            self.caches.contexts.remove(&request.source);
            return Err(reason::CONTEXT_INVALID);
        }
        match request.address_type {
            AddressType::Translated if kind == 1 => return Ok((request.address, 3)),
            AddressType::Translated | AddressType::TranslationRequest if kind != 1 => {
                return Err(reason::TRANSLATION_TYPE);
            }
            _ => {}
        }
        let bits = (30 + 9 * u32::from(width)).min(u32::from(self.configuration.width));
        if bits < 64 && request.address >> bits != 0 {
            return Err(reason::BEYOND_WIDTH);
        }
        if kind == 2 {
            return Ok((request.address, 3));
        }
        let root = low & self.pointer_mask();
        let snoops = self.configuration.coherent;
        let stage = Stage { domain, root, levels: width + 2, scalable: false, snoops };
        self.walk(stage, request.address, need(request.access))
    }

    /// The context entry of `source`, from the cache or into it.
    fn context(&mut self, source: u16) -> Result<(u64, u64), u8> {
        if let Some(cached) = self.caches.contexts.get(&source) {
            return cached.words.ok_or(reason::ROOT_NOT_PRESENT);
        }
        let root_at = self.root_entry(source);
        let (root_low, root_high) = self.load_pair(root_at).ok_or(reason::ROOT_ACCESS)?;
        let absent_is_cached = self.configuration.caching_mode;
        let mut cached = CachedContext { tag: 0, words: None, root: (root_at, root_low), at: 0, reported: false };
        if root_low & 1 == 0 {
            if absent_is_cached {
                self.caches.contexts.insert(source, cached);
            }
            return Err(reason::ROOT_NOT_PRESENT);
        }
        if root_low & (0xffe | 0xffff_ffff_ffff_f000 & !self.pointer_mask()) != 0 || root_high != 0 {
            self.complain(Violation::ReservedInEntry { structure: Structure::Root, at: root_at });
            return Err(reason::ROOT_RESERVED);
        }
        cached.at = (root_low & self.pointer_mask()) + u64::from(source & 0xff) * 16;
        let words = self.load_pair(cached.at).ok_or(reason::CONTEXT_ACCESS)?;
        cached.words = Some(words);
        if words.0 & 1 != 0 {
            cached.tag = (words.1 >> 8) as u16;
        }
        if words.0 & 1 != 0 || absent_is_cached {
            self.caches.contexts.insert(source, cached);
        }
        Ok(words)
    }

    pub(crate) fn root_entry(&self, source: u16) -> u64 {
        (self.root.unwrap_or(0) & self.pointer_mask()) + u64::from(source >> 8) * 16
    }
}

/// The permission bits that an access needs.
pub(crate) const fn need(access: Access) -> u64 {
    match access {
        Access::Read => 1,
        Access::Write => 2,
    }
}
