//! The unit's caches: nothing leaves them but by an invalidation (VT-d section 6.2).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A cached context entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachedContext {
    /// The domain; 0 for an absent entry.
    pub(crate) tag: u16,
    /// The entry, low and high; `None` where the root entry was absent.
    pub(crate) words: Option<(u64, u64)>,
    /// The root entry's address and low word.
    pub(crate) root: (u64, u64),
    /// The entry's address; 0 where the root entry was absent.
    pub(crate) at: u64,
    /// It was seen changed already.
    pub(crate) reported: bool,
}

/// A cached PASID entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachedPasid {
    /// The domain; 0 for an absent entry.
    pub(crate) tag: u16,
    /// The first three words, or `None` where the directory's entry was absent.
    pub(crate) words: Option<[u64; 3]>,
    /// The directory's entry: where and what.
    pub(crate) directory: Step,
    /// The entry's address; 0 where the directory's entry was absent.
    pub(crate) at: u64,
    /// It was seen changed already.
    pub(crate) reported: bool,
}

/// One entry of a page table on the way to a page, as it was read.
pub(crate) type Step = (u64, u64);

/// A cached translation.
#[derive(Clone, Debug)]
pub(crate) struct CachedPage {
    pub(crate) tag: u16,
    /// The PASID that a first-stage or nested translation is tagged with too.
    pub(crate) pasid: Option<u32>,
    /// It went through both stages.
    pub(crate) nested: bool,
    /// The walk snooped.
    pub(crate) snoops: bool,
    /// The table that it came from.
    pub(crate) root: u64,
    pub(crate) levels: u8,
    pub(crate) first: u64,
    pub(crate) bits: u32,
    /// Where it leads, with what permissions (bit 0 read, bit 1 write); `None`: absent.
    pub(crate) output: Option<(u64, u64)>,
    /// The last entry read.
    pub(crate) leaf: Step,
}

/// A cached entry that leads to another table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachedLink {
    pub(crate) tag: u16,
    pub(crate) pasid: Option<u32>,
    pub(crate) snoops: bool,
    pub(crate) root: u64,
    /// The level of the table that it leads to.
    pub(crate) level: u8,
    pub(crate) first: u64,
    pub(crate) bits: u32,
    pub(crate) step: Step,
    /// Permissions of it and all above it.
    pub(crate) permissions: u64,
}

/// A page in a device's own TLB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DevicePage {
    /// The PASID of the requests that it is for.
    pub(crate) pasid: Option<u32>,
    pub(crate) first: u64,
    pub(crate) bits: u32,
    pub(crate) output: u64,
    pub(crate) permissions: u64,
}

/// A cached interrupt entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachedInterrupt {
    pub(crate) at: u64,
    pub(crate) entry: u128,
    /// The entry as it was last seen in memory.
    pub(crate) seen: u128,
    /// Which halves changed since it was cached, each in a step of its own: bit 0 low, bit 1 high.
    pub(crate) halves: u8,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    pub(crate) contexts: BTreeMap<u16, CachedContext>,
    /// By source and PASID.
    pub(crate) pasids: BTreeMap<(u16, u32), CachedPasid>,
    pub(crate) pages: Vec<CachedPage>,
    pub(crate) links: Vec<CachedLink>,
    pub(crate) device_pages: BTreeMap<u16, Vec<DevicePage>>,
    pub(crate) interrupts: BTreeMap<u16, CachedInterrupt>,
}

/// Whether blocks of `2^bits` bytes overlap.
pub(crate) fn overlap(first: u64, bits: u32, other: u64, other_bits: u32) -> bool {
    let bits = bits.max(other_bits);
    bits >= 64 || first >> bits == other >> bits
}

impl Caches {
    pub(crate) fn forget_contexts(&mut self) {
        self.contexts.clear();
    }

    pub(crate) fn forget_contexts_of(&mut self, domain: u16) {
        self.contexts.retain(|_, context| context.tag != domain);
    }

    /// `ignored` are the bits of the source that do not matter.
    pub(crate) fn forget_context(&mut self, domain: u16, source: u16, ignored: u16) {
        self.contexts.retain(|cached, context| context.tag != domain || (cached ^ source) & !ignored != 0);
    }

    pub(crate) fn forget_pages(&mut self) {
        self.pages.clear();
        self.links.clear();
    }

    pub(crate) fn forget_pages_of(&mut self, domain: u16) {
        self.pages.retain(|page| page.tag != domain);
        self.links.retain(|link| link.tag != domain);
    }

    /// Of the second stage, and all that went through it on the way from a first one.
    pub(crate) fn forget_page(&mut self, domain: u16, first: u64, bits: u32, leaves_only: bool) {
        let is_hit = |tag, pasid: Option<u32>, start, size| {
            tag == domain && pasid.is_none() && overlap(start, size, first, bits)
        };
        self.pages
            .retain(|page| !(is_hit(page.tag, page.pasid, page.first, page.bits) || page.tag == domain && page.nested));
        if !leaves_only {
            self.links.retain(|link| !is_hit(link.tag, link.pasid, link.first, link.bits));
        }
    }

    /// Of one PASID: all, or the block of `2^bits` bytes at `first`.
    pub(crate) fn forget_pasid_pages(&mut self, domain: u16, pasid: u32, block: Option<(u64, u32)>, leaves_only: bool) {
        let is_hit = |tag, of: Option<u32>, start, size| {
            tag == domain && of == Some(pasid) && block.is_none_or(|(first, bits)| overlap(start, size, first, bits))
        };
        self.pages.retain(|page| !is_hit(page.tag, page.pasid, page.first, page.bits));
        if !leaves_only {
            self.links.retain(|link| !is_hit(link.tag, link.pasid, link.first, link.bits));
        }
    }

    pub(crate) fn forget_device_page(
        &mut self,
        source: u16,
        pasid: Option<u32>,
        every_pasid: bool,
        first: u64,
        bits: u32,
    ) {
        if let Some(pages) = self.device_pages.get_mut(&source) {
            pages.retain(|page| {
                let is_named = page.pasid == pasid || every_pasid && page.pasid.is_some();
                !is_named || !overlap(page.first, page.bits, first, bits)
            });
        }
    }

    /// Whether something of `domain` came from another table than the one at `root`.
    pub(crate) fn is_elsewhere(&self, domain: u16, root: u64) -> bool {
        self.pages.iter().any(|page| page.tag == domain && page.pasid.is_none() && page.root != root)
            || self.links.iter().any(|link| link.tag == domain && link.pasid.is_none() && link.root != root)
    }
}
