//! Watching software: changes of entries that are cached, and caches that it should have emptied.

use alloc::vec::Vec;

use crate::command::{INTERRUPTS, QUEUE, TRANSLATION};
use crate::{Memory, Structure, Unit, Violation};

/// Bits of an entry of a page table that software may use as it likes.
const IGNORED: u64 = 1 << 63 | 0x3ff << 52;

impl<M: Memory> Unit<M> {
    /// Looks at the entries that are cached: have they changed as they may? Every access to a register does this, and
    /// every request. A test's memory calls it wherever software makes a change visible (a flush, an exchange of 16
    /// bytes), so that nothing half done escapes it.
    pub fn observe(&mut self) {
        self.observe_contexts();
        self.observe_pasids();
        self.observe_interrupts();
    }

    fn observe_contexts(&mut self) {
        if self.status & TRANSLATION == 0 {
            return;
        }
        let mut changed = Vec::new();
        for (source, context) in &self.caches.contexts {
            let Some((low, high)) = context.words else { continue };
            if context.reported || low & 1 == 0 {
                continue;
            }
            // FPD alone may change.
            if let Some((now_low, now_high)) = self.load_pair(context.at)
                && now_low & 1 != 0
                && ((now_low ^ low) & !2 != 0 || now_high != high)
            {
                changed.push((*source, context.at));
            }
        }
        for (source, at) in changed {
            self.complain(Violation::PresentContextChanged { at });
            if let Some(context) = self.caches.contexts.get_mut(&source) {
                context.reported = true;
            }
        }
    }

    fn observe_interrupts(&mut self) {
        if self.status & INTERRUPTS == 0 {
            return;
        }
        let mut changed = Vec::new();
        for (index, cached) in &self.caches.interrupts {
            if let Some((low, high)) = self.load_pair(cached.at) {
                let now = u128::from(high) << 64 | u128::from(low);
                if now != cached.seen {
                    changed.push((*index, now));
                }
            }
        }
        for (index, now) in changed {
            let Some(cached) = self.caches.interrupts.get_mut(&index) else { continue };
            let difference = now ^ core::mem::replace(&mut cached.seen, now);
            if now & 1 == 0 || difference & 1 != 0 {
                cached.halves = 0;
                continue;
            }
            let step = u8::from(difference as u64 != 0) | u8::from(difference >> 64 != 0) << 1;
            let torn = step != 3 && cached.halves != 0 && cached.halves & step == 0;
            cached.halves |= if step == 3 { 0 } else { step };
            let at = cached.at;
            if torn {
                self.complain(Violation::TornInterruptEntry { at });
            }
        }
    }

    /// Software says that it has invalidated all that it changed. What is cached still and is not so in memory any
    /// more is a violation.
    pub fn audit(&mut self) {
        self.observe();
        let mut found = Vec::new();
        if self.status & TRANSLATION != 0 {
            if self.root_debt != 0 {
                found.push(Violation::RootNotInvalidated);
            }
            self.audit_translation(&mut found);
        }
        if self.status & INTERRUPTS != 0 {
            if self.interrupt_debt {
                found.push(Violation::InterruptTableNotInvalidated);
            }
            for cached in self.caches.interrupts.values() {
                let now = self.load_pair(cached.at).map(|(low, high)| u128::from(high) << 64 | u128::from(low));
                // An absent entry has no other content.
                let both_absent = now.is_some_and(|now| now & 1 == 0) && cached.entry & 1 == 0;
                if now != Some(cached.entry) && !both_absent {
                    found.push(Violation::Stale { structure: Structure::Interrupts, at: cached.at });
                }
            }
        }
        self.violations.append(&mut found);
    }

    fn audit_translation(&self, found: &mut Vec<Violation>) {
        for (source, context) in &self.caches.contexts {
            let root = self.load(context.root.0);
            let is_present = context.words.is_some_and(|(low, _)| low & 1 != 0);
            // Absent is absent, whichever entry says so now.
            if !is_present {
                if self.context_in_memory(*source).is_some() {
                    found.push(Violation::Stale { structure: Structure::Context, at: context.at });
                }
            } else if root != Some(context.root.1) {
                found.push(Violation::Stale { structure: Structure::Root, at: context.root.0 });
            } else if self.load_pair(context.at) != context.words {
                found.push(Violation::Stale { structure: Structure::Context, at: context.at });
            }
        }
        self.audit_pasids(found);
        for page in self.caches.pages.iter().filter(|page| page.output.is_none()) {
            if self.look(page.snoops, page.root, page.levels, page.first).is_some() {
                found.push(Violation::Stale { structure: Structure::PageTable, at: page.leaf.0 });
            }
        }
        let leaves = self
            .caches
            .pages
            .iter()
            .filter(|page| page.output.is_some())
            .map(|page| (page.pasid, page.snoops, page.leaf));
        let links = self.caches.links.iter().map(|link| (link.pasid, link.snoops, link.step));
        for (pasid, snoops, (at, value)) in leaves.chain(links) {
            // The unit itself may set accessed and dirty bits of a first stage.
            let ignored = if pasid.is_some() { IGNORED & !(1 << 63) | 0x60 } else { IGNORED };
            if self.load_of_walk(snoops, at).is_none_or(|now| (now ^ value) & !ignored != 0) {
                found.push(Violation::Stale { structure: Structure::PageTable, at });
            }
        }
        for (&source, pages) in &self.caches.device_pages {
            for page in pages {
                let now = self.look_by_source(source, page.pasid, page.first);
                let may = now.is_some_and(|(output, permissions)| {
                    output == page.output && permissions & page.permissions == page.permissions
                });
                if !may {
                    found.push(Violation::StaleDeviceTlb { source, address: page.first });
                }
            }
        }
    }

    /// The context entry of `source` in memory as it is now, if it is present: its first two words.
    pub(crate) fn context_in_memory(&self, source: u16) -> Option<(u64, u64)> {
        if self.is_scalable() {
            let root = self.load(self.root_entry(source) + u64::from(source >> 7 & 1) * 8)?;
            let at = (root & self.pointer_mask()) + u64::from(source & 0x7f) * 32;
            return self.load_pair(at).filter(|(low, _)| root & low & 1 != 0);
        }
        let root = self.load(self.root_entry(source)).filter(|root| root & 1 != 0)?;
        let at = (root & self.pointer_mask()) + u64::from(source & 0xff) * 16;
        self.load_pair(at).filter(|(low, _)| low & 1 != 0)
    }

    /// Where an address of `source` leads in memory as it is now.
    fn look_by_source(&self, source: u16, pasid: Option<u32>, address: u64) -> Option<(u64, u64)> {
        let (low, high) = self.context_in_memory(source)?;
        if self.is_scalable() {
            let words = self.pasid_in_memory(low, pasid.unwrap_or((high & 0xf_ffff) as u32))?;
            return self.look_by_pasid(words, address);
        }
        self.look(self.configuration.coherent, low & self.pointer_mask(), (high & 7) as u8 + 2, address)
    }

    /// Software gives `count` frames at `first` back to be used for something else.
    pub fn frame_freed(&mut self, first: u64, count: u64) {
        let frames = first..first + count * 4096;
        let mask = self.pointer_mask();
        let mut found = Vec::new();
        let mut check = |structure, address: u64| {
            if frames.contains(&address) {
                found.push(Violation::FrameFreed { structure, frame: address & !0xfff });
            }
        };
        if self.status & TRANSLATION != 0 {
            self.root.iter().for_each(|root| check(Structure::Root, root & mask));
            for context in self.caches.contexts.values().filter(|context| context.words.is_some()) {
                check(Structure::Context, context.at);
            }
            for entry in self.caches.pasids.values().filter(|entry| entry.words.is_some()) {
                check(Structure::PasidDirectory, entry.directory.0);
                check(Structure::PasidTable, entry.at);
            }
            // That an address leads nowhere stays true without the table that said so.
            for page in self.caches.pages.iter().filter(|page| page.output.is_some()) {
                check(Structure::PageTable, page.leaf.0);
            }
            for link in &self.caches.links {
                check(Structure::PageTable, link.step.0);
                check(Structure::PageTable, link.step.1 & mask);
            }
        }
        if self.status & INTERRUPTS != 0 {
            self.interrupt_table.iter().for_each(|table| check(Structure::Interrupts, table & mask));
        }
        if self.status & QUEUE != 0 {
            check(Structure::Queue, self.plain(0x90) & mask);
        }
        self.violations.append(&mut found);
    }
}
