//! What an invalidation takes out of the caches, and the registers that ask for one (VT-d sections 6.5.1 and 11.4.6).

use crate::command::QUEUE;
use crate::configuration::INVALIDATION_REGISTERS;
use crate::{Memory, Unit, Violation};

/// An invalidation that the unit does not take.
pub(crate) struct Refused;

impl<M: Memory> Unit<M> {
    /// `granularity` 1 global, 2 domain, 3 device.
    pub(crate) fn invalidate_contexts(
        &mut self,
        granularity: u64,
        domain: u16,
        source: u16,
        mask: u64,
    ) -> Result<(), Refused> {
        match granularity {
            1 => {
                self.caches.forget_contexts();
                self.root_debt &= !1;
            }
            // Context entries of scalable mode have no domain.
            2 if self.is_scalable() => self.caches.forget_contexts(),
            2 => self.caches.forget_contexts_of(domain),
            3 => {
                let ignored = [0, 4, 6, 7][(mask & 3) as usize];
                self.caches.forget_context(if self.is_scalable() { 0 } else { domain }, source, ignored);
            }
            _ => return Err(Refused),
        }
        self.buffer_flushed = true;
        if granularity != 1 { self.check_domain(domain) } else { Ok(()) }
    }

    /// `granularity` 1 global, 2 domain, 3 page; `what` is AM 5:0, IH 6 and the address.
    pub(crate) fn invalidate_pages(&mut self, granularity: u64, domain: u16, what: u64) -> Result<(), Refused> {
        match granularity {
            1 => {
                self.caches.forget_pages();
                // Contexts and PASID entries come first, or they bring the old translations back.
                if self.root_debt & 5 == 0 {
                    self.root_debt = 0;
                }
            }
            2 => self.caches.forget_pages_of(domain),
            3 => {
                let (mask, first) = ((what & 63) as u8, what & !0xfff);
                if self.configuration.page_selective.is_none_or(|largest| mask > largest) {
                    self.complain(Violation::InvalidationTooLarge { mask });
                    return Err(Refused);
                }
                let bits = 12 + u32::from(mask);
                if bits < 64 && first & ((1 << bits) - 1) != 0 {
                    self.complain(Violation::MisalignedInvalidation { first, mask });
                }
                self.caches.forget_page(domain, first, bits, what & 1 << 6 != 0);
            }
            _ => return Err(Refused),
        }
        self.buffer_flushed = true;
        if granularity != 1 { self.check_domain(domain) } else { Ok(()) }
    }

    fn check_domain(&mut self, domain: u16) -> Result<(), Refused> {
        if u32::from(domain) >= self.configuration.domain_limit() {
            self.complain(Violation::DomainBeyondLimit { domain });
            return Err(Refused);
        }
        Ok(())
    }

    fn takes_register_invalidation(&mut self) -> bool {
        if self.configuration.version >= 6 {
            self.complain(Violation::RegisterInvalidationGone);
            return false;
        }
        if self.status & QUEUE != 0 {
            // The busy bit never clears.
            self.complain(Violation::RegisterInvalidationBesideQueue);
            return false;
        }
        true
    }

    pub(crate) fn invalidate_contexts_by_register(&mut self) {
        if self.takes_register_invalidation() {
            self.pending_contexts = Some(self.configuration.delay);
            if self.configuration.delay == 0 {
                self.finish_contexts();
            }
        }
    }

    pub(crate) fn invalidate_pages_by_register(&mut self) {
        if self.takes_register_invalidation() {
            self.pending_pages = Some(self.configuration.delay);
            if self.configuration.delay == 0 {
                self.finish_pages();
            }
        }
    }

    pub(crate) fn tick_register_invalidation(&mut self) {
        if let Some(left) = &mut self.pending_contexts {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.finish_contexts();
            }
        }
        if let Some(left) = &mut self.pending_pages {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.finish_pages();
            }
        }
    }

    fn finish_contexts(&mut self) {
        self.pending_contexts = None;
        let word = self.plain(0x28);
        let granularity = word >> 61 & 3;
        let done = self.invalidate_contexts(granularity, word as u16, (word >> 16) as u16, word >> 32 & 3).is_ok();
        let actual = if done { granularity } else { 0 };
        self.store(0x2c, (word >> 32) as u32 & 0x67ff_ffff | (actual as u32) << 27);
    }

    fn finish_pages(&mut self) {
        self.pending_pages = None;
        let word = self.plain(INVALIDATION_REGISTERS + 8);
        let granularity = word >> 60 & 3;
        let what = self.plain(INVALIDATION_REGISTERS);
        let done = self.invalidate_pages(granularity, (word >> 32) as u16, what).is_ok();
        let actual = if done { granularity } else { 0 };
        self.store(INVALIDATION_REGISTERS + 12, (word >> 32) as u32 & 0x79ff_ffff | (actual as u32) << 25);
    }
}
