use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const MEMORY: usize = 8;

/// A book over memory of the process: frames `BASE * 512 ..`, `MEMORY` blocks long, so that block 0 to `BASE` - 1 are
/// absent.
struct Machine {
    book: Book,
    blocks: *mut [Block],
    memory: (*mut u8, std::alloc::Layout),
}

const BASE: usize = 3;

impl Machine {
    fn new(ranges: &[(usize, usize)]) -> Self {
        let layout = std::alloc::Layout::from_size_align(MEMORY << 21, 1 << 21).unwrap();
        // SAFETY: the size is not 0.
        let memory = unsafe { std::alloc::alloc(layout) };
        let blocks = Box::into_raw(vec![Block::EMPTY; BASE + MEMORY].into_boxed_slice());
        // SAFETY: both live until `drop`, after which the book is not used.
        let mut book = unsafe { Book::new(&mut *blocks, memory.expose_provenance().wrapping_sub(BASE << 21)) };
        for (first, count) in ranges {
            book.add(BASE * FRAMES + first, *count);
        }
        Self { book, blocks, memory: (memory, layout) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with these.
        unsafe {
            drop(Box::from_raw(self.blocks));
            std::alloc::dealloc(self.memory.0, self.memory.1);
        }
    }
}

#[test]
fn the_books_are_small() {
    assert!(size_of::<Block>() <= 4, "2 KiB a GiB");
}

#[test]
fn large_memory_is_aligned_and_comes_back_whole() {
    let mut machine = Machine::new(&[(0, MEMORY * FRAMES)]);
    let book = &mut machine.book;
    let small = book.allocate(Owner::Hypervisor, 1, 1, 0).unwrap();
    let large = book.allocate(Owner::Vm(0), 2 * FRAMES, 2 * FRAMES, 0).unwrap();
    assert_eq!(large % (2 * FRAMES), 0);
    let odd = book.allocate(Owner::Vm(1), FRAMES + 3, 1, 0).unwrap();
    assert_eq!((book.in_use(Owner::Vm(0)), book.in_use(Owner::Vm(1))), (2 * FRAMES, FRAMES + 3));
    book.free(Owner::Vm(0), large + 5, 7).unwrap();
    assert_eq!(book.in_use(Owner::Vm(0)), 2 * FRAMES - 7);
    assert!(matches!(book.free(Owner::Vm(0), large, 2 * FRAMES), Err(FreeError::DoubleFree { .. })));
    book.free(Owner::Vm(0), large, 5).unwrap();
    book.free(Owner::Vm(0), large + 12, 2 * FRAMES - 12).unwrap();
    book.free(Owner::Vm(1), odd, FRAMES + 3).unwrap();
    book.free(Owner::Hypervisor, small, 1).unwrap();
    assert_eq!(book.free_frames(), MEMORY * FRAMES);
    book.allocate(Owner::Vm(0), MEMORY * FRAMES, 1, 0).unwrap();
}

#[test]
fn frees_that_are_wrong_are_named_and_change_nothing() {
    let mut machine = Machine::new(&[(0, MEMORY * FRAMES)]);
    let book = &mut machine.book;
    let mine = book.allocate(Owner::RemappingUnits, 4, 1, 0).unwrap();
    let frame = |number: usize| HostPhysical::new((number as u64).saturating_mul(PAGE_SIZE));
    let by = Owner::Vm(2);
    assert_eq!(
        book.free(by, mine + 1, 2),
        Err(FreeError::WrongOwner { frame: frame(mine + 1), owner: Owner::RemappingUnits, by })
    );
    let by = Owner::RemappingUnits;
    assert_eq!(book.free(by, mine + 2, 3), Err(FreeError::DoubleFree { frame: frame(mine + 4), by }));
    assert_eq!(book.free(by, 0, 1), Err(FreeError::NotManaged { frame: frame(0), by }));
    assert_eq!(book.free(by, usize::MAX - 1, 1), Err(FreeError::NotManaged { frame: frame(usize::MAX), by }));
    assert_eq!(book.in_use(by), 4);
    assert!(!book.claim(Owner::Hypervisor, mine + 3, 2));
    assert!(book.claim(Owner::Hypervisor, mine + 4, 2));
    let left = book.free_frames();
    assert!(book.allocate(Owner::Hypervisor, 2, 1, left - 1).is_err(), "the reserve stays");
    let last = book.allocate(Owner::Hypervisor, 1, 1, left - 1).unwrap();
    book.free(Owner::Hypervisor, last, 1).unwrap();
    assert!(book.allocate(Owner::Vm(Owner::VMS), 1, 1, 0).is_err());
    assert!(book.allocate(Owner::Hypervisor, 0, 1, 0).is_err());
    assert!(book.allocate(Owner::Hypervisor, usize::MAX, 1, 0).is_err());
    assert!(book.allocate(Owner::Hypervisor, 1, 1 << 62, 0).is_err());
}

#[derive(Debug, Clone)]
enum Act {
    Allocate { owner: u16, count: usize, align: u32 },
    Free { which: usize, skip: usize, count: usize, owner: Option<u16> },
    Claim { owner: u16, first: usize, count: usize },
}

fn act() -> impl Strategy<Value = Act> {
    let count = prop_oneof![Just(1usize), 1..20usize, 500..530usize, 1000..1600usize];
    prop_oneof![
        (0..3u16, count.clone(), 0..11u32).prop_map(|(owner, count, align)| Act::Allocate { owner, count, align }),
        (any::<usize>(), 0..3usize, count.clone(), prop::option::weighted(0.1, 0..3u16))
            .prop_map(|(which, skip, count, owner)| Act::Free { which, skip, count, owner }),
        (0..3u16, 0..MEMORY * FRAMES, count).prop_map(|(owner, first, count)| Act::Claim { owner, first, count }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Against a map from each frame to its owner: nothing is given twice, nothing is refused that a whole free
    /// block could serve, every count is right, and in the end everything is one piece again.
    #[test]
    fn agrees_with_a_map_of_every_frame(
        holes in prop::collection::vec((0..MEMORY * FRAMES, 1..700usize), 0..4),
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut present = vec![true; MEMORY * FRAMES];
        for (first, count) in &holes {
            present.iter_mut().skip(*first).take(*count).for_each(|frame| *frame = false);
        }
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for (frame, _) in present.iter().enumerate().filter(|(_, present)| **present) {
            match ranges.last_mut() {
                Some((first, count)) if *first + *count == frame => *count += 1,
                _ => ranges.push((frame, 1)),
            }
        }
        let mut machine = Machine::new(&ranges);
        let book = &mut machine.book;
        let base = BASE * FRAMES;
        let mut model: HashMap<usize, u16> = HashMap::new();
        let mut given: Vec<(usize, usize, u16)> = Vec::new();
        for act in acts {
            match act {
                Act::Allocate { owner, count, align } => match book.allocate(Owner::Vm(owner), count, 1 << align, 0) {
                    Ok(first) => {
                        prop_assert_eq!(first % (1 << align), 0);
                        for frame in first..first + count {
                            prop_assert!(present[frame - base], "not RAM");
                            prop_assert_eq!(model.insert(frame, owner), None, "given twice");
                        }
                        given.push((first, count, owner));
                    }
                    Err(_) => {
                        let blocks = count.div_ceil(FRAMES);
                        let whole = |block: usize| (0..FRAMES).all(|frame| {
                            let frame = block * FRAMES + frame;
                            present[frame] && !model.contains_key(&(base + frame))
                        });
                        let could = (0..MEMORY).filter(|start| ((BASE + start) * FRAMES).is_multiple_of(1 << align))
                            .any(|start| start + blocks <= MEMORY && (start..start + blocks).all(whole));
                        prop_assert!(!could, "refused though whole blocks are free");
                    }
                },
                Act::Free { which, skip, count, owner } => {
                    let Some((first, length, real)) = given.get(which % given.len().max(1)).copied() else { continue };
                    let (first, owner) = (first + skip, owner.unwrap_or(real));
                    let count = count.min(length + 1);
                    let right = (first..first + count).all(|frame| model.get(&frame) == Some(&owner));
                    prop_assert_eq!(book.free(Owner::Vm(owner), first, count).is_ok(), right);
                    if right {
                        (first..first + count).for_each(|frame| { model.remove(&frame); });
                    }
                }
                Act::Claim { owner, first, count } => {
                    let range = base + first..base + first + count;
                    if book.claim(Owner::Vm(owner), range.start, count) {
                        for frame in range.clone() {
                            prop_assert!(present[frame - base]);
                            prop_assert_eq!(model.insert(frame, owner), None);
                        }
                        given.push((range.start, count, owner));
                    }
                }
            }
            for owner in 0..3 {
                let held = model.values().filter(|other| **other == owner).count();
                prop_assert_eq!(book.in_use(Owner::Vm(owner)), held);
            }
            prop_assert_eq!(book.free + model.len(), book.managed);
        }
        let held: Vec<_> = model.drain().collect();
        for (frame, owner) in held {
            book.free(Owner::Vm(owner), frame, 1).unwrap();
        }
        let split = (0..MEMORY).filter(|block| {
            (0..FRAMES).any(|frame| !present[block * FRAMES + frame])
                && (0..FRAMES).filter(|frame| present[block * FRAMES + frame]).count() > 1
        }).count();
        prop_assert!(book.details <= split, "free blocks are whole again");
        for block in (0..MEMORY).filter(|block| (0..FRAMES).all(|frame| present[block * FRAMES + frame])) {
            prop_assert_eq!(book.blocks[BASE + block], Block::Whole(State::FREE));
        }
    }
}
