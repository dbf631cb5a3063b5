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

/// One entry of a page table on the way to a page, as it was read.
pub(crate) type Step = (u64, u64);

/// A cached translation.
#[derive(Clone, Debug)]
pub(crate) struct CachedPage {
    pub(crate) tag: u16,
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

    pub(crate) fn forget_page(&mut self, domain: u16, first: u64, bits: u32, leaves_only: bool) {
        self.pages.retain(|page| page.tag != domain || !overlap(page.first, page.bits, first, bits));
        if !leaves_only {
            self.links.retain(|link| link.tag != domain || !overlap(link.first, link.bits, first, bits));
        }
    }

    pub(crate) fn forget_device_page(&mut self, source: u16, first: u64, bits: u32) {
        if let Some(pages) = self.device_pages.get_mut(&source) {
            pages.retain(|page| !overlap(page.first, page.bits, first, bits));
        }
    }

    /// Whether something of `domain` came from another table than the one at `root`.
    pub(crate) fn is_elsewhere(&self, domain: u16, root: u64) -> bool {
        self.pages.iter().any(|page| page.tag == domain && page.root != root)
            || self.links.iter().any(|link| link.tag == domain && link.root != root)
    }
}
