//! Invalidation descriptors (VT-d section 6.5.2). Every bit that a descriptor does not name is reserved and 0: a set one
//! stops the queue. In a queue of 256-bit descriptors, bits 255:128 of all kinds here are 0.

use crate::address::{HostPhysical, Iova, PAGE_SIZE, SourceId};
use crate::layout::layout;
use crate::registers::capability::{Capability, ExtendedCapability};

layout! {
    /// The words of any descriptor.
    pub struct Words(u128) {
        /// The kind; the low four bits of seven, of which the high three are 0 for all kinds here.
        kind, with_kind: [3:0];
    }
}

layout! {
    /// Kind 1: context entries.
    pub struct ContextWords(u128) {
        /// 1.
        kind, with_kind: [3:0];
        /// 1 all, 2 one domain, 3 one function.
        granularity, with_granularity: [5:4];
        /// The domain.
        domain, with_domain: [31:16];
        /// The function.
        source, with_source: [47:32];
        /// The function bits of the source to ignore.
        function_mask, with_function_mask: [49:48];
    }
}

layout! {
    /// Kind 2: second-stage translations.
    pub struct IotlbWords(u128) {
        /// 2.
        kind, with_kind: [3:0];
        /// 1 all, 2 one domain, 3 pages.
        granularity, with_granularity: [5:4];
        /// Wait for writes under way.
        drain_writes, with_drain_writes: [6];
        /// Wait for reads under way.
        drain_reads, with_drain_reads: [7];
        /// The domain.
        domain, with_domain: [31:16];
        /// The base-2 logarithm of the number of pages.
        address_mask, with_address_mask: [69:64];
        /// Entries that are not leaves did not change.
        leaves_only, with_leaves_only: [70];
        /// The page number.
        page, with_page: [127:76];
    }
}

layout! {
    /// Kind 3: what a device has in a TLB of its own.
    pub struct DeviceTlbWords(u128) {
        /// 3.
        kind, with_kind: [3:0];
        /// The physical function's id, low part (only with ECAP.DIT).
        physical_function_low, with_physical_function_low: [15:12];
        /// Invalidations that the device takes at a time.
        pending, with_pending: [20:16];
        /// The device.
        source, with_source: [47:32];
        /// The physical function's id, high part.
        physical_function_high, with_physical_function_high: [63:52];
        /// The address is a range: the lowest 0 bit from 12 on tells its size.
        range, with_range: [64];
        /// The page number.
        page, with_page: [127:76];
    }
}

layout! {
    /// Kind 4: interrupt-remapping entries.
    pub struct InterruptEntryWords(u128) {
        /// 4.
        kind, with_kind: [3:0];
        /// Only the entries of `index` and `mask`.
        by_index, with_by_index: [4];
        /// The base-2 logarithm of the number of entries.
        mask, with_mask: [31:27];
        /// The first entry.
        index, with_index: [47:32];
    }
}

layout! {
    /// Kind 5: wait for what came before.
    pub struct WaitWords(u128) {
        /// 5.
        kind, with_kind: [3:0];
        /// Send the completion message. Never with `write_status`.
        interrupt, with_interrupt: [4];
        /// Write the status.
        write_status, with_write_status: [5];
        /// Take nothing that follows before this is done.
        fence, with_fence: [6];
        /// Drain page requests.
        drain_page_requests, with_drain_page_requests: [7];
        /// What to write.
        status, with_status: [63:32];
        /// Where to write it, in 4 bytes.
        status_address, with_status_address: [127:66];
    }
}

layout! {
    /// Kind 6: translations of a process, in the first stage or passed through.
    pub struct ProcessTranslationWords(u128) {
        /// 6.
        kind, with_kind: [3:0];
        /// 2 the whole process, 3 pages.
        granularity, with_granularity: [5:4];
        /// The domain.
        domain, with_domain: [31:16];
        /// The process id.
        process, with_process: [51:32];
        /// The base-2 logarithm of the number of pages.
        address_mask, with_address_mask: [69:64];
        /// Entries that are not leaves did not change.
        leaves_only, with_leaves_only: [70];
        /// The page number.
        page, with_page: [127:76];
    }
}

layout! {
    /// Kind 7: entries of process directories and tables.
    pub struct ProcessCacheWords(u128) {
        /// 7.
        kind, with_kind: [3:0];
        /// 0 one domain, 1 one process, 3 all.
        granularity, with_granularity: [5:4];
        /// The domain.
        domain, with_domain: [31:16];
        /// The process id.
        process, with_process: [51:32];
    }
}

/// One invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// Every context entry.
    AllContexts,
    /// The context entry of one function. `domain` is the one that it held, or 0 for an entry that was not present.
    Context {
        /// The domain that the entry held.
        domain: u16,
        /// The function.
        source: SourceId,
    },
    /// Every second-stage translation.
    AllTranslations,
    /// Every translation of a domain.
    Domain {
        /// The domain.
        domain: u16,
    },
    /// The translations of `2^mask` pages of a domain.
    Pages {
        /// The domain.
        domain: u16,
        /// The first page, aligned to the whole size.
        first: Iova,
        /// The base-2 logarithm of the number of pages, at most CAP.MAMV.
        mask: u8,
        /// Tables stay: only leaves changed.
        leaves_only: bool,
    },
    /// What a device holds of `2^mask` pages in its own TLB; all of it where the mask is 52 or more.
    DeviceTlb {
        /// The device.
        source: SourceId,
        /// Invalidations that the device takes at a time, 1 to 32.
        depth: u8,
        /// The first page, aligned to the whole size.
        first: Iova,
        /// The base-2 logarithm of the number of pages.
        mask: u8,
    },
    /// Every process entry. Scalable mode only, as the next three.
    AllProcesses,
    /// The process entry of one process of a domain.
    Process {
        /// The domain.
        domain: u16,
        /// The process id.
        process: u32,
    },
    /// Every translation of a process in the first stage, or passed through.
    ProcessTranslations {
        /// The domain.
        domain: u16,
        /// The process id.
        process: u32,
    },
    /// The translations of `2^mask` pages of a process in the first stage.
    ProcessPages {
        /// The domain.
        domain: u16,
        /// The process id.
        process: u32,
        /// The first page, aligned to the whole size.
        first: Iova,
        /// The base-2 logarithm of the number of pages, at most CAP.MAMV.
        mask: u8,
        /// Tables stay: only leaves changed.
        leaves_only: bool,
    },
    /// Every interrupt-remapping entry.
    AllInterrupts,
    /// `2^mask` interrupt-remapping entries from `first` on, aligned to their number.
    Interrupts {
        /// The first entry.
        first: u16,
        /// The base-2 logarithm of their number, at most ECAP.MHMV.
        mask: u8,
    },
}

/// What of a unit's capabilities shapes its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// CAP.DRD: invalidations wait for reads under way.
    pub read_drain: bool,
    /// CAP.DWD: invalidations wait for writes under way.
    pub write_drain: bool,
    /// CAP.MAMV with CAP.PSI: the largest page mask; `None` without page-selective invalidation.
    pub page_mask: Option<u8>,
    /// ECAP.MHMV: the largest mask of interrupt entries.
    pub handle_mask: u8,
    /// From so many invalidations of pages on, one of their whole domain is cheaper.
    pub domain_from: usize,
}

/// [`Abilities::domain_from`] with a queue. A unit looks each block of pages up by itself, but keeps the rest of a domain
/// that would otherwise have to be walked again; a submission of so many fits the queue with device TLBs beside it.
const DOMAIN_FROM: usize = 65;
/// Without one: each command is awaited by itself.
const DOMAIN_FROM_BY_REGISTER: usize = 5;

impl Abilities {
    /// Those of a unit with these capabilities.
    pub const fn of(capability: Capability, extended: ExtendedCapability) -> Self {
        Self {
            read_drain: capability.read_drain(),
            write_drain: capability.write_drain(),
            page_mask: if capability.page_selective_invalidation() {
                Some(capability.maximum_address_mask() as u8)
            } else {
                None
            },
            handle_mask: extended.maximum_handle_mask() as u8,
            domain_from: if extended.queued_invalidation() { DOMAIN_FROM } else { DOMAIN_FROM_BY_REGISTER },
        }
    }

    /// The one invalidation that covers `length` bytes from `first` of what `whole` invalidates
    /// ([`Domain`](Descriptor::Domain) or [`ProcessTranslations`](Descriptor::ProcessTranslations)): the smallest
    /// aligned block of pages, or `whole` where the block is larger than the unit takes.
    pub fn cover(self, whole: Descriptor, first: Iova, length: u64, leaves_only: bool) -> Descriptor {
        let block =
            Block::covering(first, length).filter(|block| self.page_mask.is_some_and(|most| block.mask <= most));
        match (whole, block) {
            (Descriptor::Domain { domain }, Some(Block { first, mask })) => {
                Descriptor::Pages { domain, first, mask, leaves_only }
            }
            (Descriptor::ProcessTranslations { domain, process }, Some(Block { first, mask })) => {
                Descriptor::ProcessPages { domain, process, first, mask, leaves_only }
            }
            _ => whole,
        }
    }
}

impl Abilities {
    /// The invalidations that cover `count` interrupt entries from `first` on, which is aligned to the power of two
    /// above `count`: one block, or as many as the unit needs, or everything where those are too many. They may cover
    /// other entries too.
    pub fn cover_interrupts(self, first: u16, count: u16) -> impl Iterator<Item = Descriptor> + Clone {
        let wanted = count.max(1).next_power_of_two().trailing_zeros() as u8;
        let mask = wanted.min(self.handle_mask);
        let blocks = count.max(1).div_ceil(1 << mask);
        let all = usize::from(blocks) >= self.domain_from;
        (0..if all { 0 } else { blocks })
            .map(move |block| Descriptor::Interrupts { first: first.wrapping_add(block << mask), mask })
            .chain(all.then_some(Descriptor::AllInterrupts))
    }
}

/// An aligned power of two of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first page.
    pub first: Iova,
    /// The base-2 logarithm of the number of pages, 0 to 52.
    pub mask: u8,
}

impl Block {
    /// The smallest block that holds `length` bytes from `first`; `None` where the range is empty or ends past the last
    /// address.
    pub fn covering(first: Iova, length: u64) -> Option<Self> {
        let last = first.as_u64().checked_add(length.checked_sub(1)?)?;
        let (low, high) = (first.as_u64() / PAGE_SIZE, last / PAGE_SIZE);
        // The pages differ below this bit, so a block of that size holds both.
        let mask = u64::BITS - (low ^ high).leading_zeros();
        let start = low.checked_shr(mask).and_then(|block| block.checked_shl(mask)).unwrap_or(0);
        Some(Self { first: Iova::new(start * PAGE_SIZE), mask: mask as u8 })
    }
}

impl Descriptor {
    /// The 16 bytes.
    pub const fn words(self, abilities: Abilities) -> Words {
        let context = ContextWords::from_bits(1);
        let iotlb =
            IotlbWords::from_bits(2).with_drain_reads(abilities.read_drain).with_drain_writes(abilities.write_drain);
        Words::from_bits(match self {
            Self::AllContexts => context.with_granularity(1).bits(),
            Self::Context { domain, source } => {
                context.with_granularity(3).with_domain(domain as u128).with_source(source.bits() as u128).bits()
            }
            Self::AllTranslations => iotlb.with_granularity(1).bits(),
            Self::Domain { domain } => iotlb.with_granularity(2).with_domain(domain as u128).bits(),
            Self::Pages { domain, first, mask, leaves_only } => iotlb
                .with_granularity(3)
                .with_domain(domain as u128)
                .with_address_mask(mask as u128)
                .with_leaves_only(leaves_only)
                .with_page((first.as_u64() / PAGE_SIZE) as u128)
                .bits(),
            Self::DeviceTlb { source, depth, first, mask } => DeviceTlbWords::from_bits(3)
                .with_pending((depth & 31) as u128)
                .with_source(source.bits() as u128)
                .with_range(mask != 0)
                .with_page(device_tlb_page(first, mask) as u128)
                .bits(),
            Self::AllProcesses => ProcessCacheWords::from_bits(7).with_granularity(3).bits(),
            Self::Process { domain, process } => ProcessCacheWords::from_bits(7)
                .with_granularity(1)
                .with_domain(domain as u128)
                .with_process(process as u128)
                .bits(),
            Self::ProcessTranslations { domain, process } => ProcessTranslationWords::from_bits(6)
                .with_granularity(2)
                .with_domain(domain as u128)
                .with_process(process as u128)
                .bits(),
            Self::ProcessPages { domain, process, first, mask, leaves_only } => ProcessTranslationWords::from_bits(6)
                .with_granularity(3)
                .with_domain(domain as u128)
                .with_process(process as u128)
                .with_address_mask(mask as u128)
                .with_leaves_only(leaves_only)
                .with_page((first.as_u64() / PAGE_SIZE) as u128)
                .bits(),
            Self::AllInterrupts => InterruptEntryWords::from_bits(4).bits(),
            Self::Interrupts { first, mask } => InterruptEntryWords::from_bits(4)
                .with_by_index(true)
                .with_mask(mask as u128)
                .with_index(first as u128)
                .bits(),
        })
    }

    /// The device whose own TLB is invalidated.
    pub const fn device(self) -> Option<SourceId> {
        match self {
            Self::DeviceTlb { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The address field of a device-TLB invalidation: the size stands in it as ones below the lowest 0.
const fn device_tlb_page(first: Iova, mask: u8) -> u64 {
    let page = first.as_u64() / PAGE_SIZE;
    match mask {
        0 => page,
        // 2^52 pages are everything: 62:12 all ones, 63 clear.
        52.. => (1 << 51) - 1,
        _ => page & !((1 << mask) - 1) | ((1 << (mask - 1)) - 1),
    }
}

/// The wait that ends every submission: when all before it is done, hardware writes `status` to `address` (4-byte
/// aligned).
pub const fn wait(status: u32, address: HostPhysical) -> Words {
    let words = WaitWords::from_bits(5)
        .with_write_status(true)
        .with_status(status as u128)
        .with_status_address((address.as_u64() >> 2) as u128);
    Words::from_bits(words.bits())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const PLAIN: Abilities =
        Abilities { read_drain: false, write_drain: false, page_mask: Some(18), handle_mask: 15, domain_from: 65 };
    const DRAINING: Abilities = Abilities { read_drain: true, write_drain: true, ..PLAIN };

    #[test]
    fn layouts_round_trip() {
        Words::check_round_trip();
        ContextWords::check_round_trip();
        IotlbWords::check_round_trip();
        DeviceTlbWords::check_round_trip();
        InterruptEntryWords::check_round_trip();
        ProcessTranslationWords::check_round_trip();
        ProcessCacheWords::check_round_trip();
        WaitWords::check_round_trip();
    }

    #[test]
    fn descriptors_have_the_manuals_bits() {
        let source = SourceId::new(0x12, 3, 4);
        let cases: &[(Descriptor, u64, u64)] = &[
            (Descriptor::AllContexts, 0x11, 0),
            (Descriptor::Context { domain: 0xabcd, source }, 0x0000_121c_abcd_0031, 0),
            (Descriptor::AllTranslations, 0x12, 0),
            (Descriptor::Domain { domain: 7 }, 0x0007_0022, 0),
            (
                Descriptor::Pages { domain: 7, first: Iova::new(0x20_0000), mask: 9, leaves_only: true },
                0x0007_0032,
                0x20_0049,
            ),
            (
                Descriptor::DeviceTlb { source, depth: 8, first: Iova::new(0x5000), mask: 0 },
                0x0000_121c_0008_0003,
                0x5000,
            ),
            (
                Descriptor::DeviceTlb { source, depth: 32, first: Iova::new(0x6000), mask: 1 },
                0x0000_121c_0000_0003,
                0x6001,
            ),
            (
                Descriptor::DeviceTlb { source, depth: 1, first: Iova::new(0x20_0000), mask: 9 },
                0x0000_121c_0001_0003,
                0x2f_f001,
            ),
            (
                Descriptor::DeviceTlb { source, depth: 1, first: Iova::new(0), mask: 52 },
                0x0000_121c_0001_0003,
                0x7fff_ffff_ffff_f001,
            ),
            (Descriptor::AllInterrupts, 0x04, 0),
            (Descriptor::AllProcesses, 0x37, 0),
            (Descriptor::Process { domain: 7, process: 0x12345 }, 0x0001_2345_0007_0017, 0),
            (Descriptor::ProcessTranslations { domain: 7, process: 0x12345 }, 0x0001_2345_0007_0026, 0),
            (
                Descriptor::ProcessPages {
                    domain: 7,
                    process: 3,
                    first: Iova::new(0x20_0000),
                    mask: 9,
                    leaves_only: true,
                },
                0x0003_0007_0036,
                0x20_0049,
            ),
            (Descriptor::Interrupts { first: 0x1230, mask: 4 }, 0x0000_1230_2000_0014, 0),
        ];
        for (descriptor, low, high) in cases {
            let words = descriptor.words(PLAIN).bits();
            assert_eq!((words as u64, (words >> 64) as u64), (*low, *high), "{descriptor:?}");
        }
        assert_eq!(Descriptor::AllTranslations.words(DRAINING).bits(), 0xd2);
        let words = wait(0xdead_beef, HostPhysical::new(0x1_2345_6784)).bits();
        assert_eq!((words as u64, (words >> 64) as u64), (0xdead_beef_0000_0025, 0x1_2345_6784));
        assert!(!WaitWords::from_bits(words).interrupt(), "a wait with both kinds of answer is undefined");
    }

    #[test]
    fn what_a_unit_cannot_take_page_by_page_goes_by_domain() {
        let first = Iova::new(0x4000_0000);
        let pages = Descriptor::Pages { domain: 3, first, mask: 18, leaves_only: false };
        let whole = Descriptor::Domain { domain: 3 };
        assert_eq!(PLAIN.cover(whole, first, 1 << 30, false), pages);
        assert_eq!(PLAIN.cover(whole, first, (1 << 30) + 1, false), whole);
        let without = Abilities { page_mask: None, ..PLAIN };
        assert_eq!(without.cover(whole, first, 0x1000, false), whole);
        assert_eq!(PLAIN.cover(whole, Iova::new(0), u64::MAX, false), whole);
        let process = Descriptor::ProcessTranslations { domain: 3, process: 0 };
        let pages = Descriptor::ProcessPages { domain: 3, process: 0, first, mask: 1, leaves_only: true };
        assert_eq!(PLAIN.cover(process, first, 0x2000, true), pages);
        assert_eq!(without.cover(process, first, 0x2000, true), process);
    }

    #[test]
    fn a_block_of_interrupts_is_one_invalidation_where_the_unit_takes_it() {
        let cover =
            |abilities: Abilities, first, count| -> Vec<_> { abilities.cover_interrupts(first, count).collect() };
        let block = |first, mask| Descriptor::Interrupts { first, mask };
        assert_eq!(cover(PLAIN, 8, 1), [block(8, 0)]);
        assert_eq!(cover(PLAIN, 8, 5), [block(8, 3)]);
        let narrow = Abilities { handle_mask: 1, ..PLAIN };
        assert_eq!(cover(narrow, 8, 5), [block(8, 1), block(10, 1), block(12, 1)]);
        let none = Abilities { handle_mask: 0, ..PLAIN };
        assert_eq!(cover(none, 0, 64).len(), 64);
        assert_eq!(cover(none, 0, 65), [Descriptor::AllInterrupts]);
    }

    proptest! {
        #[test]
        fn a_block_holds_its_range_and_none_half_its_size_does(first: u64, length in 1u64..) {
            match Block::covering(Iova::new(first), length) {
                None => prop_assert!(first.checked_add(length - 1).is_none()),
                Some(block) => {
                    let (first, last) = (u128::from(first), u128::from(first) + u128::from(length) - 1);
                    let start = u128::from(block.first.as_u64());
                    let size = 0x1000u128 << block.mask;
                    prop_assert_eq!(start % size, 0);
                    prop_assert!(start <= first && last < start + size);
                    if block.mask > 0 {
                        let half = size / 2;
                        prop_assert_ne!(first / half, last / half);
                    }
                }
            }
        }
    }
}
