//! The tables of scalable mode by themselves: bits, order, frames.

use super::*;
use crate::fixture::Memory;

const SOURCE: SourceId = SourceId::new(3, 0x12, 5);
const ROOT: HostPhysical = HostPhysical::new(0x12_3000);

fn target(walk: Walk) -> Target {
    Target { walk, domain: 0xbeef, device_tlb: false, snoop: false }
}

fn second() -> Target {
    target(Walk::Second { root: ROOT, levels: 4, accessed_dirty: false })
}

fn filled(target: &Target, walk_coherent: bool) -> (Memory, ScalableTables<Memory>) {
    let memory = Memory::new(16);
    let mut tables = ScalableTables::new(memory.clone(), false, walk_coherent).unwrap();
    tables.prepare(&[SOURCE]).unwrap();
    tables.fill(SOURCE, target).unwrap();
    memory.assert_all_flushed();
    (memory, tables)
}

fn process(tables: &ScalableTables<Memory>) -> [u64; 8] {
    tables.process(SOURCE).unwrap().each_ref().map(|word| word.load(Ordering::Relaxed))
}

#[test]
fn entries_are_what_hardware_expects() {
    let (_, tables) = filled(&second(), false);
    assert!(tables.context_table((3, true)).is_some() && tables.context_table((3, false)).is_none());
    let directory = tables.directory(SOURCE).unwrap().as_u64();
    let context = tables.context(SOURCE).unwrap().each_ref().map(|word| word.load(Ordering::Relaxed));
    assert_eq!(context, [directory | 1, 0, 0, 0], "128 entries, requests without a process id use 0");
    assert_eq!(process(&tables), [0x12_3000 | 2 << 6 | 2 << 2 | 1, 0xbeef, 0, 0, 0, 0, 0, 0]);
    let wide = target(Walk::Second { root: ROOT, levels: 5, accessed_dirty: true });
    let wide = Target { snoop: true, device_tlb: true, ..wide };
    let (_, tables) = filled(&wide, true);
    assert_eq!(process(&tables)[..2], [0x12_3000 | 1 << 9 | 2 << 6 | 3 << 2 | 1, 0xbeef | 1 << 23 | 1 << 24]);
    assert!(low(tables.context(SOURCE).unwrap()).device_tlb());
    for (levels, mode) in [(4, 0), (5, 1 << 2)] {
        let (_, tables) = filled(&target(Walk::First { root: ROOT, levels, widest: 4 }), false);
        assert_eq!(process(&tables)[..4], [1 << 6 | 2 << 2 | 1, 0xbeef, 0x12_3000 | mode, 0]);
    }
    let (_, tables) = filled(&target(Walk::PassThrough { widest: 5 }), false);
    assert_eq!(process(&tables)[..4], [4 << 6 | 3 << 2 | 1, 0xbeef, 0, 0]);
}

#[test]
fn blocking_clears_only_the_present_bits_and_frames_go_back_last() {
    let (memory, mut tables) = filled(&second(), false);
    assert_eq!(tables.fill(SOURCE, &second()), Err(Occupied { source: SOURCE, domain: 0xbeef }));
    tables.block(SOURCE);
    memory.assert_all_flushed();
    assert_eq!(process(&tables)[..2], [0x12_3000 | 2 << 6 | 2 << 2, 0xbeef]);
    assert!(!low(tables.context(SOURCE).unwrap()).present());
    tables.erase(SOURCE);
    memory.assert_all_flushed();
    assert_eq!((process(&tables), memory.in_use()), ([0; 8], 4));
    tables.retire(SOURCE);
    assert_eq!(memory.in_use(), 2, "root and context table");
    tables.prepare(&[SOURCE]).unwrap();
    tables.fill(SOURCE, &second()).unwrap();
    tables.release();
    assert_eq!(memory.in_use(), 0);
}

#[test]
fn a_present_function_keeps_its_frames() {
    let (memory, mut tables) = filled(&second(), false);
    tables.retire(SOURCE);
    assert_eq!((memory.in_use(), tables.domain_of(SOURCE)), (4, 0xbeef));
}

#[test]
fn too_little_memory_for_all_changes_nothing() {
    let others = [SOURCE, SourceId::new(3, 1, 0), SourceId::new(4, 0, 0)];
    for budget in 0..9 {
        let memory = Memory::new(16);
        let mut tables = ScalableTables::new(memory.clone(), true, false).unwrap();
        memory.set_budget(budget);
        assert_eq!(tables.prepare(&others), Err(OutOfFrames));
        assert_eq!(memory.in_use(), 1);
    }
}

#[test]
fn a_silenced_function_stays_silent_when_it_leaves() {
    let (_, mut tables) = filled(&second(), false);
    assert!(!tables.silence(SourceId::new(9, 0, 0), true), "no table, no bit");
    assert!(tables.silence(SOURCE, true));
    assert_eq!(process(&tables)[0] & 3, 3);
    tables.block(SOURCE);
    tables.erase(SOURCE);
    tables.retire(SOURCE);
    assert!(low(tables.context(SOURCE).unwrap()).fault_processing_disabled());
    tables.prepare(&[SOURCE]).unwrap();
    assert!(low(tables.context(SOURCE).unwrap()).fault_processing_disabled());
    assert!(tables.silence(SOURCE, false));
    assert!(!low(tables.context(SOURCE).unwrap()).fault_processing_disabled());
}
