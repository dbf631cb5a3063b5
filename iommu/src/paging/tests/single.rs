//! Single cases: refusals by name, exact leaves, exact counts.

use std::string::ToString;

use super::arena::Arena;
use super::*;
use crate::address::HostPhysical;
use crate::paging::{BuildError, MapError, RangeError};

const GIB: u64 = 1 << 30;
const RW: Permissions = Permissions::READ_WRITE;

fn device_shape() -> Shape {
    Shape {
        levels: Levels::Three,
        page_sizes: PageSizes::all(),
        input_bits: 39,
        output_bits: 39,
        coherence: Coherence::Coherent,
        interrupt_window: InterruptWindow::Refused,
    }
}

#[test]
fn ranges_that_no_table_holds_are_refused_by_name() {
    let arena = Arena::new(16);
    let mut table = Table::new(SecondStage::PLAIN, &arena, device_shape()).unwrap();
    let host = HostPhysical::new(0x10_0000);
    assert_eq!(table.map(0x1000, host, 0, RW), Err(MapError::Range(RangeError::Empty { start: 0x1000 })));
    let misaligned = Err(MapError::Range(RangeError::Misaligned { start: 0x1000, length: 0x1800 }));
    assert_eq!(table.map(0x1000, host, 0x1800, RW), misaligned);
    let last = (1 << 39) - 0x1000;
    let error = table.map(last, host, 0x2000, RW).unwrap_err();
    assert_eq!(error, MapError::Range(RangeError::TooFar { start: last, length: 0x2000, bits: 39 }));
    assert_eq!(
        error.to_string(),
        "the range at 0x7ffffff000 of 0x2000 bytes does not fit below 2^39, the width of this table; use lower addresses"
    );
    assert!(table.map(u64::MAX - 0xfff, host, 0x1000, RW).is_err(), "the sum wraps");
    assert!(table.map(0, HostPhysical::new(0x800), 0x1000, RW).is_err());
    assert_eq!(
        table.map(0, HostPhysical::new(last), 0x2000, RW),
        Err(MapError::OutputTooFar { output: HostPhysical::new(last), length: 0x2000, bits: 39 })
    );
    assert!(table.unmap(last, 0x2000).is_err());
    assert!(table.protect(0x1001, 0x1000, RW).is_err());
    assert!(table.is_empty());
    table.map(last, host, 0x1000, RW).unwrap();
    assert_eq!(table.translate(1 << 39), None, "beyond the width nothing wraps to the start");
}

#[test]
fn the_interrupt_window_is_never_mapped_for_a_device() {
    let arena = Arena::new(16);
    let mut table = Table::new(SecondStage::PLAIN, &arena, device_shape()).unwrap();
    let window = |start, length| Err(MapError::InterruptWindow { start, length });
    let host = HostPhysical::new(0);
    assert_eq!(table.map(0xfee0_0000, host, 0x1000, RW), window(0xfee0_0000, 0x1000));
    assert_eq!(table.map(0xfeef_f000, host, 0x1000, RW), window(0xfeef_f000, 0x1000));
    assert_eq!(table.map(0xc000_0000, host, GIB, RW), window(0xc000_0000, GIB), "a large page over the window");
    assert_eq!(table.map(0, HostPhysical::new(0xfee0_0000), 0x1000, RW), window(0xfee0_0000, 0x1000));
    table.map(0xfedf_f000, host, 0x1000, RW).unwrap();
    table.map(0xfef0_0000, host, 0x1000, RW).unwrap();
    let ordinary = Shape { interrupt_window: InterruptWindow::Ordinary, levels: Levels::Four, ..device_shape() };
    let mut processors = Table::new(Npt, &arena, ordinary).unwrap();
    processors.map(0xfee0_0000, host, 0x1000, RW).unwrap();
}

#[test]
fn an_overlap_names_what_is_mapped() {
    let arena = Arena::new(16);
    let mut table = Table::new(SecondStage::PLAIN, &arena, device_shape()).unwrap();
    table.map(0x20_0000, HostPhysical::new(0x40_0000), 0x20_0000, RW).unwrap();
    let error = table.map(0x1f_f000, HostPhysical::new(0), 0x3000, RW).unwrap_err();
    assert_eq!(error, MapError::Overlap { start: 0x20_0000, length: 0x2000 });
    assert_eq!(error.to_string(), "0x2000 bytes at 0x200000 are mapped already; unmap them first");
}

#[test]
fn permissions_that_a_format_cannot_say_are_refused() {
    let arena = Arena::new(16);
    let four = Shape { levels: Levels::Four, ..device_shape() };
    let host = HostPhysical::new(0x1000);
    let mut ept = Table::new(Ept::GUEST_PAT, &arena, four).unwrap();
    let mut npt = Table::new(Npt, &arena, four).unwrap();
    let mut second = Table::new(SecondStage::PLAIN, &arena, four).unwrap();
    for permissions in [Permissions::empty(), Permissions::WRITE, Permissions::EXECUTE] {
        assert!(ept.map(0, host, 0x1000, permissions).is_err(), "{permissions}");
        assert!(npt.map(0, host, 0x1000, permissions).is_err(), "{permissions}");
    }
    assert!(second.map(0, host, 0x1000, Permissions::empty()).is_err());
    assert!(second.map(0, host, 0x1000, Permissions::EXECUTE).is_err());
    second.map(0, host, 0x1000, Permissions::WRITE).unwrap();
    second.protect(0, 0x1000, Permissions::empty()).unwrap_err();
}

#[test]
fn depths_and_widths_that_cannot_be_are_refused() {
    let arena = Arena::new(16);
    let three = device_shape();
    assert_eq!(
        Table::new(Ept::GUEST_PAT, &arena, three).err(),
        Some(BuildError::Levels { levels: Levels::Three, format: "EPT" })
    );
    assert!(Table::new(SecondStage::PLAIN, &arena, Shape { output_bits: 53, ..three }).is_err());
    assert!(Table::new(SecondStage::PLAIN, &arena, Shape { input_bits: 12, ..three }).is_err());
    let four = Shape { levels: Levels::Four, input_bits: 64, ..three };
    assert_eq!(Table::new(FirstStage, &arena, four).unwrap().shape().input_bits, 47, "canonical, lower half");
    assert_eq!(Table::new(SecondStage::PLAIN, &arena, four).unwrap().shape().input_bits, 48);
    arena.allow(0);
    assert_eq!(Table::new(SecondStage::PLAIN, &arena, four).err(), Some(BuildError::OutOfFrames));
    assert_eq!(arena.in_use(), 0);
}

#[test]
fn the_largest_leaves_are_used_and_no_more_tables_than_needed() {
    let arena = Arena::new(64);
    let mut table = Table::new(SecondStage::PLAIN, &arena, device_shape()).unwrap();
    table.map(GIB, HostPhysical::new(5 * GIB), GIB, RW).unwrap();
    assert_eq!(table.frame_count(), 1, "1 GiB is one leaf in the root of three levels");
    // 2 MiB leaves where the offset between both sides spoils 1 GiB.
    table.map(2 * GIB, HostPhysical::new(0x20_0000), GIB, RW).unwrap();
    assert_eq!(table.frame_count(), 2);
    // A page, 2 MiB, a page: two tables of pages around one large leaf.
    table.map(4 * GIB + 0x1f_f000, HostPhysical::new(0x3f_f000), 0x20_2000, RW).unwrap();
    assert_eq!(table.frame_count(), 5);
    assert_eq!(table.lookup(4 * GIB + 0x2a_b000).unwrap().length, 0x20_0000);
    assert_eq!(table.lookup(4 * GIB + 0x40_0fff).unwrap().length, 0x1000);
    assert_eq!(
        table.to_string(),
        "second-stage table of 3 levels at 0x1234000000\n  \
         0x40000000..0x7fffffff -> 0x140000000 rw-\n  \
         0x80000000..0xbfffffff -> 0x200000 rw-\n  \
         0x1001ff000..0x100400fff -> 0x3ff000 rw-\n"
    );
}

#[test]
fn a_page_taken_out_of_a_gibibyte_leaves_the_rest_and_is_invalidated_as_a_whole() {
    let arena = Arena::new(64);
    let mut table = Table::new(SecondStage::PLAIN, &arena, device_shape()).unwrap();
    table.map(GIB, HostPhysical::new(5 * GIB), GIB, RW).unwrap();
    let gathered = table.unmap(GIB + 0x5000, 0x1000).unwrap();
    assert_eq!((gathered.bytes(), gathered.tables()), (0x1000, 0));
    assert_eq!(gathered.range(), GIB..2 * GIB, "readers may have cached the large page");
    assert!(gathered.links_changed());
    table.release(gathered);
    assert_eq!(table.frame_count(), 3);
    assert_eq!(table.translate(GIB + 0x5000), None);
    assert_eq!(table.translate(GIB + 0x4fff), Some(HostPhysical::new(5 * GIB + 0x4fff)));
    assert_eq!(table.translate(GIB + 0x6000), Some(HostPhysical::new(5 * GIB + 0x6000)));
    let gathered = table.unmap(0, 1 << 39).unwrap();
    assert_eq!((gathered.bytes(), gathered.tables()), (GIB - 0x1000, 2));
    assert_eq!(arena.in_use(), 3, "unlinked tables wait for the invalidation");
    table.release(gathered);
    assert_eq!(arena.in_use(), 1);
}

#[test]
fn a_root_that_empties_translates_nothing_and_stays() {
    let arena = Arena::new(64);
    let mut table = Table::new(SecondStage::PLAIN, &arena, device_shape()).unwrap();
    table.map(GIB, HostPhysical::new(5 * GIB), 2 * GIB, RW).unwrap();
    let gathered = table.unmap(GIB, 2 * GIB).unwrap();
    assert_eq!((gathered.bytes(), gathered.range(), gathered.tables()), (2 * GIB, GIB..3 * GIB, 0));
    assert!(!gathered.links_changed(), "leaves alone went");
    table.release(gathered);
    assert_eq!(table.translate(GIB), None);
    assert_eq!(table.runs().next(), None);
    table.assert_sound();
    table.map(GIB, HostPhysical::new(7 * GIB), 2 * GIB, RW).unwrap();
    assert_eq!(table.translate(GIB), Some(HostPhysical::new(7 * GIB)));
}

#[test]
fn a_split_needs_one_table_for_each_level_even_with_both_ends_inside() {
    let arena = Arena::new(64);
    let mut table = Table::new(SecondStage::PLAIN, &arena, device_shape()).unwrap();
    table.map(GIB, HostPhysical::new(5 * GIB), GIB, RW).unwrap();
    arena.allow(1);
    table.unmap(GIB + 0x5000, 0x3000).unwrap_err();
    arena.allow(2);
    let gathered = table.unmap(GIB + 0x5000, 0x3000).unwrap();
    table.release(gathered);
    arena.allow(2);
    // Two ends in two large pages.
    let gathered = table.unmap(GIB + 0x3f_f000, 0x20_2000).unwrap();
    assert_eq!(gathered.range(), GIB + 0x20_0000..GIB + 0x80_0000);
    table.release(gathered);
}

#[test]
fn runs_are_joined_only_where_both_sides_go_on() {
    let arena = Arena::new(64);
    let mut table = Table::new(SecondStage::PLAIN, &arena, device_shape()).unwrap();
    let mut map = |input, output| table.map(input, HostPhysical::new(output), 0x1000, RW).unwrap();
    map(0x1000, 0x9000);
    map(0x2000, 0xa000);
    map(0x4000, 0xb000);
    map(0x5000, 0xd000);
    let runs: std::vec::Vec<_> = table.runs().map(|run| (run.input, run.length)).collect();
    assert_eq!(runs, [(0x1000, 0x2000), (0x4000, 0x1000), (0x5000, 0x1000)]);
}

#[test]
fn a_translation_forgets_the_tables_that_were_unlinked() {
    let arena = Arena::new(64);
    let mut table = Table::new(SecondStage::PLAIN, &arena, device_shape()).unwrap();
    // The last page of a table; then a part of a subtree; both after a translation that ended there.
    for (mapped, unmapped) in [(0x1000, 0x1000), (0x20_0000 - 0x1000, 1 << 30)] {
        table.map(0x1000, HostPhysical::new(0x7000), mapped, RW).unwrap();
        assert_eq!(table.translate(0x1234), Some(HostPhysical::new(0x7234)));
        let start = if mapped == unmapped { 0x1000 } else { 0 };
        let gathered = table.unmap(start, unmapped).unwrap();
        assert!(gathered.tables() > 0);
        table.release(gathered);
        assert_eq!(table.translate(0x1234), None, "a freed table was read");
    }
}

#[test]
fn no_address_finds_anything_in_an_empty_table() {
    let arena = Arena::new(4);
    for levels in [Levels::Three, Levels::Four, Levels::Five] {
        let table = Table::new(SecondStage::PLAIN, &arena, shape(levels)).unwrap();
        for bits in 12..=63 {
            let address = 1 << bits;
            for input in [0, address - 1, address, address | (address - 1)] {
                assert_eq!(table.translate(input), None, "{input:#x}");
                let nearest = table.nearest(input);
                assert_eq!((nearest.at, nearest.below, nearest.above), (None, None, None));
            }
        }
    }
}

#[test]
fn one_invalidation_serves_several_unmaps() {
    let arena = Arena::new(64);
    let mut table = Table::new(SecondStage::PLAIN, &arena, device_shape()).unwrap();
    for place in 0..4 {
        table.map(place * GIB, HostPhysical::new(0x1000), 0x3000, RW).unwrap();
    }
    let mut all = table.unmap(0, 0x3000).unwrap();
    for place in 1..4 {
        let more = table.unmap(place * GIB, 0x3000).unwrap();
        all.merge(more, &&arena);
    }
    let nothing = table.unmap(0, 0x3000).unwrap();
    assert!(nothing.is_empty());
    all.merge(nothing, &&arena);
    assert_eq!((all.bytes(), all.tables(), all.range()), (0xc000, 8, 0..3 * GIB + 0x3000));
    table.release(all);
    assert_eq!(arena.in_use(), 1);
}

#[test]
fn each_changed_run_is_flushed_once() {
    let arena = Arena::new(64);
    let shape = Shape { coherence: Coherence::NeedsFlush, ..device_shape() };
    let mut table = Table::new(SecondStage::PLAIN, &arena, shape).unwrap();
    assert_eq!(arena.take_flushed().len(), 1, "the root's absent entries");
    table.map(0, HostPhysical::new(0), 0x1000, RW).unwrap();
    assert_eq!(arena.take_flushed().len(), 3, "two new tables and the link in the root");
    table.map(0x1000, HostPhysical::new(0x1000), 0x10_0000, RW).unwrap();
    let flushed = arena.take_flushed();
    assert_eq!(flushed.len(), 1);
    assert_eq!((flushed[0].first, flushed[0].values.len()), (1, 256));
    let gathered = table.unmap(0x2000, 0x8_0000).unwrap();
    assert_eq!(arena.take_flushed().len(), 1);
    table.release(gathered);
}
