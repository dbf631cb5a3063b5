//! A reader of tables written from the manuals, sharing nothing with the code under test: it walks as a remapping
//! unit or a processor does and refuses reserved bits.

use std::collections::HashMap;
use std::vec::Vec;

use super::arena::{Arena, Flushed, GARBAGE};
use crate::address::HostPhysical;
use crate::door::Frames;
use core::sync::atomic::Ordering::Relaxed;

/// Whose rules the reader follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// VT-d section 9.8, legacy mode; with or without ECAP.SC.
    SecondStage { snoop_control: bool },
    /// SDM table 30-1 onwards.
    Ept,
    /// APM volume 2 section 15.25, with NXE.
    Npt,
    /// VT-d section 9.7, without NXE.
    FirstStage,
}

/// What the reader knows beside the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) rules: Rules,
    pub(crate) levels: u32,
    pub(crate) two_mebibytes: bool,
    pub(crate) one_gibibyte: bool,
    pub(crate) output_bits: u32,
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) output: u64,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) execute: bool,
    pub(crate) uncached: bool,
    pub(crate) snoop: bool,
}

fn bit(entry: u64, bit: u32) -> bool {
    entry >> bit & 1 == 1
}

impl Reader {
    /// Walks; `None` is "not present". A reserved bit, or anything else that hardware would report as a defect of
    /// software, panics.
    pub(crate) fn walk(&self, read: &dyn Fn(u64, usize) -> u64, root: u64, input: u64) -> Option<Found> {
        let (mut may_read, mut may_write, mut may_execute) = (true, true, true);
        let mut table = root;
        for level in (1..=self.levels).rev() {
            let entry = read(table, (input >> (12 + 9 * (level - 1))) as usize & 511);
            let present = match self.rules {
                Rules::SecondStage { .. } => entry & 3 != 0,
                Rules::Ept => entry & 7 != 0,
                Rules::Npt | Rules::FirstStage => entry & 1 != 0,
            };
            if !present {
                return None;
            }
            let leaf = level == 1 || bit(entry, 7);
            assert!(level <= 3 || !bit(entry, 7), "a large page at level {level}: {entry:#x}");
            if leaf && level == 2 {
                assert!(self.two_mebibytes, "2 MiB pages are not allowed: {entry:#x}");
            }
            if leaf && level == 3 {
                assert!(self.one_gibibyte, "1 GiB pages are not allowed: {entry:#x}");
            }
            let address = entry & 0x000f_ffff_ffff_f000;
            assert_eq!(address >> self.output_bits, 0, "address bits beyond the width: {entry:#x}");
            let size = 1u64 << (12 + 9 * (level - 1));
            if leaf {
                assert_eq!(address & (size - 1), 0, "low address bits of a large page: {entry:#x}");
            }
            self.check(level, leaf, entry);
            let (r, w, x) = match self.rules {
                Rules::SecondStage { .. } => (bit(entry, 0), bit(entry, 1), false),
                Rules::Ept => (bit(entry, 0), bit(entry, 1), bit(entry, 2)),
                Rules::Npt => (true, bit(entry, 1), !bit(entry, 63)),
                Rules::FirstStage => (true, bit(entry, 1), false),
            };
            may_read &= r;
            may_write &= w;
            may_execute &= x;
            if leaf {
                return Some(Found {
                    output: address | input & (size - 1),
                    read: may_read,
                    write: may_write,
                    execute: may_execute,
                    uncached: match self.rules {
                        Rules::SecondStage { .. } => false,
                        Rules::Ept => entry >> 3 & 7 == 0,
                        Rules::Npt | Rules::FirstStage => bit(entry, 3) && bit(entry, 4),
                    },
                    snoop: matches!(self.rules, Rules::SecondStage { .. }) && bit(entry, 11),
                });
            }
            table = address;
        }
        unreachable!("level 1 is always a leaf")
    }

    fn check(&self, level: u32, leaf: bool, entry: u64) {
        match self.rules {
            Rules::SecondStage { snoop_control } => {
                assert_eq!(entry >> 2 & 0x1f, 0, "bits 6:2 have no meaning in legacy mode: {entry:#x}");
                assert_eq!(entry >> 8 & 7, 0, "accessed and dirty: {entry:#x}");
                assert!(!bit(entry, 62), "bit 62 is reserved: {entry:#x}");
                assert!(!bit(entry, 11) || leaf && snoop_control, "SNP where it is reserved: {entry:#x}");
            }
            Rules::Ept => {
                assert!(bit(entry, 0), "EPT misconfiguration, no read: {entry:#x}");
                if leaf {
                    assert!(matches!(entry >> 3 & 7, 0 | 6), "EPT memory type: {entry:#x}");
                    assert_eq!(entry >> 52, 0, "no leaf needs a bit here: {entry:#x}");
                } else {
                    assert_eq!(entry >> 3 & 0xf, 0, "bits 6:3 of a link are reserved: {entry:#x}");
                }
                assert!(!bit(entry, 62) && !bit(entry, 63), "{entry:#x}");
            }
            Rules::Npt | Rules::FirstStage => {
                assert!(bit(entry, 2), "every entry is a user page: {entry:#x}");
                if self.rules == Rules::FirstStage {
                    assert!(!bit(entry, 63), "XD without NXE is reserved: {entry:#x}");
                    assert!(bit(entry, 5), "accessed is set from the start: {entry:#x}");
                    assert!(!leaf || !bit(entry, 1) || bit(entry, 6), "dirty is set where writable: {entry:#x}");
                } else if !leaf {
                    assert!(!bit(entry, 63), "a link grants everything: {entry:#x}");
                }
                assert!(!leaf || level == 1 || !bit(entry, 12), "the PAT bit: {entry:#x}");
            }
        }
    }

    /// A walk that snoops: it sees the arena as software does.
    pub(crate) fn walk_arena(&self, arena: &Arena, root: HostPhysical, input: u64) -> Option<Found> {
        self.walk(&|table, place| arena.words(HostPhysical::new(table))[place].load(Relaxed), root.as_u64(), input)
    }
}

/// Memory as a reader sees it that does not snoop: only flushes reach it, and what was never flushed is garbage.
#[derive(Default)]
pub(crate) struct BehindCaches {
    frames: HashMap<u64, Vec<u64>>,
}

impl BehindCaches {
    pub(crate) fn apply(&mut self, flushed: &Flushed) {
        let frame = self.frames.entry(flushed.frame.as_u64()).or_insert_with(|| std::vec![GARBAGE; 512]);
        frame[flushed.first..][..flushed.values.len()].copy_from_slice(&flushed.values);
    }

    pub(crate) fn walk(&self, reader: &Reader, root: HostPhysical, input: u64) -> Option<Found> {
        reader.walk(&|table, place| self.frames.get(&table).map_or(GARBAGE, |frame| frame[place]), root.as_u64(), input)
    }
}
