//! Any sequence of calls, for every format: the table translates what the record says, hardware agrees at every
//! step that it could see, and every failure leaves things as they were.

use std::vec::Vec;

use proptest::prelude::*;

use super::arena::Arena;
use super::hardware::{BehindCaches, Found, Reader, Rules};
use super::record::{Piece, Record};
use super::*;
use crate::address::HostPhysical;
use crate::paging::{ChangeError, Gathered, MapError};

const PAGE: u64 = 1 << 12;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;

#[derive(Clone, Copy, Debug)]
enum Call {
    Map { start: u64, length: u64, output: u64, attributes: Attributes },
    Unmap { start: u64, length: u64 },
    Protect { start: u64, length: u64, permissions: Permissions },
}

/// Ranges that meet and miss each other at every size: few bases, small offsets, lengths around each page size.
fn range() -> impl Strategy<Value = (u64, u64)> {
    let base = prop_oneof![Just(0), Just(HUGE - 2 * LARGE), Just(HUGE), Just(5 * HUGE), Just((1 << 38) - HUGE)];
    let offset = prop_oneof![
        3 => (0..4u64).prop_map(|large| large * LARGE),
        1 => (0..2u64).prop_map(|huge| huge * HUGE),
        2 => (0..1030u64).prop_map(|pages| pages * PAGE),
    ];
    let length = prop_oneof![
        3 => (1..9u64).prop_map(|pages| pages * PAGE),
        2 => (500..1540u64).prop_map(|pages| pages * PAGE),
        3 => (1..4u64).prop_map(|large| large * LARGE),
        1 => Just(HUGE),
        1 => (0..3u64).prop_map(|large| HUGE + large * LARGE + PAGE),
    ];
    (base, offset, length).prop_map(|(base, offset, length)| (base + offset, length))
}

fn permissions() -> impl Strategy<Value = Permissions> {
    (0..8u8).prop_map(Permissions::from_bits_truncate)
}

fn call() -> impl Strategy<Value = Call> {
    let output = prop_oneof![
        4 => Just(8 * HUGE),
        2 => Just(3 * LARGE),
        1 => Just(7 * PAGE),
        1 => Just((1 << 46) - HUGE),
    ];
    let memory_type = prop_oneof![Just(MemoryType::WriteBack), Just(MemoryType::Uncached)];
    prop_oneof![
        4 => (range(), output, permissions(), memory_type).prop_map(
            |((start, length), output, permissions, memory_type)| Call::Map {
                start,
                length: if output % LARGE == 0 { length } else { length.min(4 * LARGE) },
                // The same offset below 1 GiB, as guest RAM has, or one that spoils the alignment.
                output: output + start % HUGE,
                attributes: Attributes { permissions, memory_type },
            }
        ),
        3 => range().prop_map(|(start, length)| Call::Unmap { start, length }),
        1 => (range(), permissions())
            .prop_map(|((start, length), permissions)| Call::Protect { start, length, permissions }),
    ]
}

/// One table with everything that watches it.
struct Watched<'a, F: Format> {
    arena: &'a Arena,
    table: Table<F, &'a Arena>,
    record: Record,
    reader: Reader,
    memory: BehindCaches,
}

impl<'a, F: Format> Watched<'a, F> {
    fn new(format: F, rules: Rules, shape: Shape, arena: &'a Arena) -> Self {
        let table = Table::new(format, arena, shape).unwrap();
        let shape = *table.shape();
        let mut watched = Self {
            arena,
            table,
            record: Record::default(),
            reader: reader(rules, &shape),
            memory: BehindCaches::default(),
        };
        watched.settle(&[]);
        watched
    }

    fn expected(&self, record: &Record, address: u64) -> Option<Found> {
        let (output, attributes) = record.at(address)?;
        Some(expected(self.reader.rules, output, attributes))
    }

    /// Lets the flushes reach memory one by one. After each, a reader that does not snoop must find every `stable`
    /// address as it was before and will be.
    fn settle(&mut self, stable: &[(u64, Option<Found>)]) {
        for flushed in self.arena.take_flushed() {
            self.memory.apply(&flushed);
            for (address, found) in stable {
                let seen = self.memory.walk(&self.reader, self.table.root(), *address);
                assert_eq!(seen, *found, "at {address:#x}, between two flushes");
            }
        }
    }

    /// Makes the call with every number of allocations that is too small, then with enough.
    fn call(&mut self, call: Call) {
        let before = self.arena.snapshot();
        let mut after = self.record.clone();
        let outcome = (0..).find_map(|allocations| {
            self.arena.allow(allocations);
            let outcome = self.attempt(call);
            if matches!(outcome, Outcome::OutOfFrames) {
                assert_eq!(self.arena.snapshot(), before, "{call:?} failed and left a trace");
                assert!(self.arena.take_flushed().is_empty(), "{call:?} failed and flushed");
                None
            } else {
                Some(outcome)
            }
        });
        self.arena.allow(u64::MAX);
        match (outcome.unwrap(), call) {
            (Outcome::Mapped, Call::Map { start, length, output, attributes }) => {
                assert!(!self.record.overlaps(start, start + length), "{call:?} overlaps and was done");
                let attributes = self.normal(attributes);
                after.map(Piece { start, end: start + length, output, attributes });
                self.check_between(&after);
            }
            (Outcome::Overlap { start: first, length: mapped }, Call::Map { start, length, .. }) => {
                let run = self.record.runs().into_iter().find(|run| run.end > start).unwrap();
                assert_eq!(first, run.start.max(start), "{call:?} names the wrong range");
                assert!(mapped > 0 && first + mapped <= run.end.min(start + length));
                assert_eq!(self.arena.snapshot(), before);
            }
            (Outcome::Refused, Call::Map { .. } | Call::Protect { .. }) => assert_eq!(self.arena.snapshot(), before),
            (Outcome::Changed(gathered), Call::Unmap { start, length }) => {
                assert_eq!(gathered.bytes(), after.unmap(start, start + length), "{call:?} miscounts");
                self.finish(gathered, after.clone());
            }
            (Outcome::Changed(gathered), Call::Protect { start, length, permissions }) => {
                let permissions = self.normal(permissions.into()).permissions;
                after.protect(start, start + length, permissions);
                self.finish(gathered, after.clone());
            }
            (outcome, call) => panic!("{call:?} gave {outcome:?}"),
        }
        self.record = after;
        self.check();
    }

    fn attempt(&mut self, call: Call) -> Outcome {
        match call {
            Call::Map { start, length, output, attributes } => {
                match self.table.map(start, HostPhysical::new(output), length, attributes) {
                    Ok(()) => Outcome::Mapped,
                    Err(MapError::Overlap { start, length }) => Outcome::Overlap { start, length },
                    Err(MapError::OutOfFrames) => Outcome::OutOfFrames,
                    Err(_) => Outcome::Refused,
                }
            }
            Call::Unmap { start, length } => self.table.unmap(start, length).into(),
            Call::Protect { start, length, permissions } => self.table.protect(start, length, permissions).into(),
        }
    }

    /// What of these attributes the format keeps.
    fn normal(&self, attributes: Attributes) -> Attributes {
        let format = self.table.format();
        format.attributes(1, format.leaf(1, HostPhysical::new(0), attributes))
    }

    /// Addresses at and beside every boundary.
    fn probes(&self, after: &Record) -> Vec<u64> {
        let runs = self.record.runs().into_iter().chain(after.runs());
        let boundaries = runs.flat_map(|run| [run.start, run.end]);
        let around = |at: u64| [at.wrapping_sub(LARGE), at.wrapping_sub(1), at, at + PAGE, at + LARGE];
        let limit = 1u64 << self.table.shape().input_bits;
        boundaries.flat_map(around).filter(|address| *address < limit).collect()
    }

    /// A reader beside the call, snooping or not, found unchanged what the call did not change.
    fn check_between(&mut self, after: &Record) {
        let stable: Vec<_> = self
            .probes(after)
            .into_iter()
            .map(|address| (address, self.expected(&self.record, address), self.expected(after, address)))
            .filter(|(_, before, after)| before == after)
            .map(|(address, before, _)| (address, before))
            .collect();
        self.settle(&stable);
    }

    /// After an unmap or a change of permissions: what is not in the range to invalidate did not change.
    fn finish(&mut self, gathered: Gathered, after: Record) {
        self.check_between(&after);
        for address in self.probes(&after) {
            if self.record.at(address) != after.at(address) {
                assert!(gathered.range().contains(&address), "{address:#x} changed and is not to be invalidated");
            }
        }
        assert_eq!(gathered.is_empty(), gathered.range().is_empty());
        if gathered.tables() > 0 {
            assert!(gathered.links_changed());
        }
        self.table.release(gathered);
    }

    fn check(&self) {
        self.table.assert_sound();
        assert_eq!(self.arena.in_use(), self.table.frame_count());
        let runs: Vec<_> = self
            .table
            .runs()
            .map(|run| Piece {
                start: run.input,
                end: run.end(),
                output: run.output.as_u64(),
                attributes: run.attributes,
            })
            .collect();
        assert_eq!(runs, self.record.runs());
        for address in self.probes(&self.record) {
            let expected = self.expected(&self.record, address);
            let output = expected.map(|found| HostPhysical::new(found.output));
            assert_eq!(self.table.translate(address), output, "at {address:#x}");
            assert_eq!(self.reader.walk_arena(self.arena, self.table.root(), address), expected, "at {address:#x}");
            if self.table.shape().coherence == Coherence::NeedsFlush {
                let seen = self.memory.walk(&self.reader, self.table.root(), address);
                assert_eq!(seen, expected, "at {address:#x}, not snooping");
            }
            let nearest = self.table.nearest(address);
            let runs = self.record.runs();
            assert_eq!(nearest.at.is_some(), expected.is_some());
            let start = nearest.at.map_or(address, |leaf| leaf.input);
            let end = nearest.at.map_or(address, |leaf| leaf.end());
            let below = runs.iter().filter(|run| run.start < start).map(|run| run.end.min(start)).max();
            assert_eq!(nearest.below.map(|leaf| leaf.end()), below, "below {address:#x}");
            let above = runs.iter().filter(|run| run.end > end).map(|run| run.start.max(end)).min();
            assert_eq!(nearest.above.map(|leaf| leaf.input), above, "above {address:#x}");
        }
    }
}

#[derive(Debug)]
enum Outcome {
    Mapped,
    Changed(Gathered),
    Overlap { start: u64, length: u64 },
    Refused,
    OutOfFrames,
}

impl From<Result<Gathered, ChangeError>> for Outcome {
    fn from(result: Result<Gathered, ChangeError>) -> Self {
        match result {
            Ok(gathered) => Self::Changed(gathered),
            Err(ChangeError::OutOfFrames) => Self::OutOfFrames,
            Err(_) => Self::Refused,
        }
    }
}

fn run<F: Format>(format: F, rules: Rules, shape: Shape, calls: &[Call]) {
    let arena = Arena::new(4096);
    let mut watched = Watched::new(format, rules, shape, &arena);
    for call in calls {
        watched.call(match *call {
            // A gibibyte of small pages is as good as a few megabytes, and every failing allocation is tried.
            Call::Map { start, length, output, attributes }
                if !watched.table.shape().page_sizes.contains(PageSizes::TWO_MEBIBYTES) =>
            {
                Call::Map { start, length: length.min(5 * LARGE), output, attributes }
            }
            call => call,
        });
    }
    drop(watched);
    assert_eq!(arena.in_use(), 0, "frames are lost");
}

fn sizes() -> impl Strategy<Value = PageSizes> {
    prop_oneof![
        3 => Just(PageSizes::all()),
        1 => Just(PageSizes::TWO_MEBIBYTES),
        1 => Just(PageSizes::empty()),
        // Refused as a whole: its pages could not be split.
        1 => Just(PageSizes::ONE_GIBIBYTE),
    ]
}

fn coherence() -> impl Strategy<Value = Coherence> {
    prop_oneof![Just(Coherence::Coherent), Just(Coherence::NeedsFlush)]
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    prop::collection::vec(call(), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn second_stage(
        calls in calls(), sizes in sizes(), coherence in coherence(), snoop_control: bool,
        levels in prop_oneof![Just(Levels::Three), Just(Levels::Four), Just(Levels::Five)],
    ) {
        let shape = Shape { page_sizes: sizes, coherence, ..shape(levels) };
        run(SecondStage::with_snoop_control(snoop_control), Rules::SecondStage { snoop_control }, shape, &calls);
    }

    #[test]
    fn first_stage(
        calls in calls(), sizes in sizes(), coherence in coherence(),
        levels in prop_oneof![Just(Levels::Four), Just(Levels::Five)],
    ) {
        run(FirstStage, Rules::FirstStage, Shape { page_sizes: sizes, coherence, ..shape(levels) }, &calls);
    }

    #[test]
    fn ept(
        calls in calls(), sizes in sizes(), coherence in coherence(), guest_pat: bool,
        levels in prop_oneof![Just(Levels::Four), Just(Levels::Five)],
    ) {
        let format = if guest_pat { Ept::GUEST_PAT } else { Ept::WRITE_BACK_ALWAYS };
        run(format, Rules::Ept, Shape { page_sizes: sizes, coherence, ..shape(levels) }, &calls);
    }

    #[test]
    fn npt(
        calls in calls(), sizes in sizes(),
        levels in prop_oneof![Just(Levels::Four), Just(Levels::Five)],
    ) {
        run(Npt, Rules::Npt, Shape { page_sizes: sizes, ..shape(levels) }, &calls);
    }
}
