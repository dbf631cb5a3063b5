use proptest::prelude::*;

use super::*;
use crate::memory::GuestPhysical;
use crate::vm::map::AddressMap;
use crate::vm::memory::tests::FakeMemory;

const MIB: u64 = 1 << 20;
const LOAD: u32 = 0x10_0000;

/// An image with a header at 0x20 that has address fields: 0x100 bytes loaded, 0x1000 more zeroed.
fn with_addresses() -> Vec<u8> {
    let mut file: Vec<u8> = (0..0x100u32).map(|i| i as u8).collect();
    let fields =
        [header_word(0), header_word(1), header_word(2), LOAD + 0x20, LOAD, LOAD + 0x100, LOAD + 0x1100, LOAD + 0x50];
    for (index, field) in fields.into_iter().enumerate() {
        file[0x20 + 4 * index..][..4].copy_from_slice(&field.to_le_bytes());
    }
    file
}

fn header_word(index: usize) -> u32 {
    let flags = 0x1_0003;
    [0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)][index]
}

/// A 32-bit ELF file with a header and one segment: 16 bytes at physical `physical`, linked at `linked`.
fn elf(physical: u32, linked: u32, entry: u32) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, 3] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    for word in [1u32, entry, 52, 0, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for half in [52u16, 32, 1, 40, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    for word in [1, 96, linked, physical, 16, 0x2000, 7, 4096] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for word in [0x1bad_b002u32, 3, 0u32.wrapping_sub(0x1bad_b002 + 3)] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&[0xc5; 16]);
    file
}

fn machine() -> (AddressMap, FakeMemory) {
    let map = AddressMap::new(16 * MIB, 0).unwrap();
    let memory = FakeMemory::new(&map);
    (map, memory)
}

fn run(image: &[u8], modules: &[Module<'_>]) -> (FakeMemory, Result<Start, MultibootError>) {
    let (map, memory) = machine();
    let multiboot = Multiboot { name: "guest.elf", image, command_line: "one two", modules };
    let target = Target { map: &map, memory: &memory, root_pointer: GuestPhysical::new(0) };
    let entry = load(target, multiboot);
    (memory, entry)
}

fn error_of(image: &[u8]) -> MultibootError {
    run(image, &[]).1.unwrap_err()
}

#[test]
fn address_fields_place_the_file_and_the_guest_finds_its_information() {
    let file = with_addresses();
    let modules = [
        Module { name: "a", data: &[1; 5000], command_line: "first" },
        Module { name: "b", data: &[2; 10], command_line: "" },
    ];
    let (memory, entry) = run(&file, &modules);
    let Start::Protected { entry: instruction, eax: magic, ebx: information } = entry.unwrap() else {
        panic!("not protected mode")
    };
    assert_eq!((instruction, magic), (LOAD + 0x50, 0x2bad_b002));
    assert_eq!(memory.bytes(LOAD.into(), 0x100), file);

    let field = |offset| memory.u32(u64::from(information) + offset);
    assert_eq!(field(0), 0x24d);
    assert_eq!((field(4), field(8)), (639, 15 * 1024));
    assert_eq!(memory.text(field(16).into()), "guest.elf one two");
    assert_eq!(memory.text(field(64).into()), "Postern");
    assert_eq!(field(20), 2);
    let module = |index: u64, at: u64| memory.u32(u64::from(field(24)) + 16 * index + at);
    assert_eq!(module(0, 0), LOAD + 0x2000, "page aligned behind the zeroed part");
    assert_eq!(module(0, 4) - module(0, 0), 5000);
    assert_eq!(memory.bytes(module(0, 0).into(), 5000), [1; 5000]);
    assert_eq!(memory.text(module(0, 8).into()), "a first");
    assert_eq!(module(1, 0), LOAD + 0x4000);
    assert_eq!(memory.text(module(1, 8).into()), "b");

    let (length, mut at) = (u64::from(field(44)), u64::from(field(48)));
    let end = at + length;
    let mut usable = 0;
    while at < end {
        assert_eq!(memory.u32(at), 20);
        if memory.u32(at + 20) == 1 {
            usable += memory.u64(at + 12);
        }
        at += 24;
    }
    assert_eq!(usable, 0x9_fc00 + 15 * MIB);
}

#[test]
fn an_elf_file_goes_to_its_physical_addresses() {
    let (memory, entry) = run(&elf(0x20_0000, 0x20_0000, 0x20_0004), &[]);
    assert!(matches!(entry, Ok(Start::Protected { entry: 0x20_0004, .. })));
    assert_eq!(memory.bytes(0x20_0000, 17), [&[0xc5; 16][..], &[0]].concat());
    let (_, entry) = run(&elf(0x20_0000, 0xc020_0000, 0xc020_0008), &[]);
    assert!(matches!(entry, Ok(Start::Protected { entry: 0x20_0008, .. })), "{entry:?}");
}

#[test]
fn what_is_wrong_with_a_file_is_named() {
    let good = with_addresses();
    let with = |offset: usize, value: u32| {
        let mut file = good.clone();
        file[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        error_of(&file)
    };
    assert_eq!(error_of(&[]), MultibootError::NoHeader);
    assert_eq!(with(0x28, 1), MultibootError::NoHeader, "a wrong checksum");
    assert_eq!(error_of(&good[..0x30]), MultibootError::ShortHeader);
    assert_eq!(with(0x2c, LOAD - 1), MultibootError::HeaderBeforeLoad { header: LOAD - 1, load: LOAD });
    assert_eq!(with(0x30, LOAD - 4), MultibootError::LoadBeforeFile { header_offset: 0x20, before: 0x24 });
    assert_eq!(with(0x34, LOAD - 1), MultibootError::EndBeforeLoad { load: LOAD, end: LOAD - 1 });
    assert_eq!(with(0x34, LOAD + 0x101), MultibootError::Truncated { needed: 0x101, length: 0x100 });
    assert_eq!(
        with(0x38, LOAD + 1),
        MultibootError::BssBeforeDataEnd { bss_end: LOAD + 1, data_end: u64::from(LOAD) + 0x100 }
    );
    assert!(matches!(with(0x38, 0x2000_0000), MultibootError::DoesNotFit { .. }));
    assert_eq!(with(0x3c, 5), MultibootError::EntryOutside { entry: 5 });

    let elf_good = elf(0x20_0000, 0x20_0000, 0x20_0004);
    assert!(matches!(error_of(&elf(0x1_0000, 0x1_0000, 0x1_0000)), MultibootError::OverLoader { .. }));
    assert!(matches!(error_of(&elf(0xffff_f000, 0, 0)), MultibootError::DoesNotFit { .. }));
    let mut elf64 = elf_good.clone();
    elf64[4] = 2;
    assert_eq!(error_of(&elf64), MultibootError::NotElf32);
    let mut other_machine = elf_good.clone();
    other_machine[18] = 62;
    assert_eq!(error_of(&other_machine), MultibootError::NotElf32);
    assert!(matches!(error_of(&elf_good[..elf_good.len() - 1]), MultibootError::Truncated { .. }));
}

#[test]
fn unknown_requirements_are_refused_and_unknown_hints_are_not() {
    let flagged = |flags: u32| {
        let mut file = with_addresses();
        let fields = [0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)];
        for (index, field) in fields.into_iter().enumerate() {
            file[0x20 + 4 * index..][..4].copy_from_slice(&field.to_le_bytes());
        }
        run(&file, &[]).1
    };
    assert_eq!(flagged(0x1_0008).unwrap_err(), MultibootError::UnknownFlags { flags: 8 });
    assert!(flagged(0x8001_0003).is_ok());
}

#[test]
fn a_module_that_does_not_fit_is_named() {
    let big = vec![0; 16 << 20];
    let modules =
        [Module { name: "a", data: &[1], command_line: "" }, Module { name: "b", data: &big, command_line: "" }];
    let error = run(&with_addresses(), &modules).1.unwrap_err();
    assert!(matches!(error, MultibootError::ModuleDoesNotFit { index: 1, .. }));
    assert!(error.to_string().starts_with("module 2 "));
}

proptest! {
    /// Any damage: an error or a load inside RAM, never a panic.
    #[test]
    fn damaged_images_do_no_harm(
        is_elf: bool,
        damage in prop::collection::vec((0usize..124, any::<u8>()), 0..8),
        length in 0usize..300,
    ) {
        let mut file = if is_elf { elf(0x20_0000, 0x20_0000, 0x20_0004) } else { with_addresses() };
        for (offset, byte) in damage {
            if let Some(at) = file.get_mut(offset) {
                *at = byte;
            }
        }
        file.truncate(length);
        let _ = run(&file, &[Module { name: "m", data: &[1; 100], command_line: "" }]);
    }
}
