//! Guest memory on the host's own frames.

use super::*;

const LARGE: u64 = 1 << 21;
const ROM: Range<u64> = 0xe_0000..0x10_0000;

fn paging() -> NestedPaging {
    NestedPaging {
        format: NestedFormat::Npt,
        page_sizes: iommu::paging::PageSizes::all(),
        output_bits: 46,
        apic_access: false,
    }
}

fn guest(vm: u16) -> GuestMemory {
    GuestMemory::new(vm, [0..4 * LARGE, 1 << 32..(1 << 32) + 2 * LARGE], &[ROM], paging()).unwrap()
}

#[test]
fn ram_is_zero_mapped_as_listed_and_wholly_given_back() {
    let owner = Owner::Vm(40);
    let guest = guest(40);
    assert_eq!(guest.size(), 6 * LARGE);
    let ram = (6 * LARGE / PAGE_SIZE) as usize;
    assert!(frames().in_use(owner) > ram, "tables are charged to the VM too");
    let mut at = 0;
    for block in guest.blocks() {
        assert!(block.guest.as_u64() >= at, "sorted, without overlap");
        at = block.end();
        let table = guest.table.lock();
        for offset in [0, block.length - 1] {
            let expected = block.host.checked_add(offset);
            assert_eq!(table.translate(block.guest.as_u64() + offset), expected);
        }
        let permissions = table.lookup(block.guest.as_u64()).unwrap().attributes.permissions;
        assert_eq!(permissions.contains(Permissions::WRITE), block.access == Access::ReadWrite);
        assert!(permissions.contains(Permissions::EXECUTE));
    }
    let mut page = [1u8; 4096];
    for start in [0, 4 * LARGE - 4096, 1 << 32] {
        guest.read(GuestPhysical::new(start), &mut page).unwrap();
        assert!(page.iter().all(|byte| *byte == 0));
    }
    let aligned = guest.table.lock().lookup(1 << 32).unwrap();
    assert!(aligned.length >= LARGE, "large memory is mapped by large pages");
    drop(guest);
    assert_eq!(frames().in_use(owner), 0);
}

#[test]
fn copies_cross_blocks_and_stop_at_the_edge_of_memory() {
    let guest = guest(41);
    let bytes: Vec<u8> = (0..=255).cycle().take(3 * 4096).collect();
    let mut back = vec![0; bytes.len()];
    let across_rom = GuestPhysical::new(ROM.start - 4096);
    guest.load(across_rom, &bytes).unwrap();
    guest.read(across_rom, &mut back).unwrap();
    assert_eq!(back, bytes);
    let last = GuestPhysical::new(4 * LARGE - 5);
    guest.write(last, &bytes[..5]).unwrap();
    assert!(guest.read(last, &mut back[..6]).is_err(), "one byte too far");
    let refused = guest.write(last, &[0; 6]).unwrap_err();
    assert_eq!(refused, NotRam { address: last, length: 6 });
    guest.read(last, &mut back[..5]).unwrap();
    assert_eq!(back[..5], bytes[..5], "a refused write wrote nothing");
    assert!(guest.read(GuestPhysical::new(u64::MAX), &mut back[..2]).is_err());
    assert!(guest.read(GuestPhysical::new(4 * LARGE), &mut back[..1]).is_err());
    guest.read(GuestPhysical::new(4 * LARGE), &mut []).unwrap();
}

#[test]
fn rom_is_loaded_but_never_written() {
    let guest = guest(42);
    let rom = GuestPhysical::new(ROM.start);
    guest.load(rom, b"RSD PTR ").unwrap();
    assert!(guest.write(rom, b"x").is_err());
    assert!(guest.write(GuestPhysical::new(ROM.start - 1), b"xx").is_err(), "part of it is ROM");
    let mut read = [0; 8];
    guest.read(rom, &mut read).unwrap();
    assert_eq!(&read, b"RSD PTR ");
    let host = guest.host_of(rom).unwrap();
    let device = guest.blocks().iter().find(|block| block.access == Access::ReadOnly).unwrap();
    assert_eq!((device.host, device.length), (host, ROM.end - ROM.start), "a device gets the same list");
}

#[test]
fn registers_come_and_go_and_ram_cannot_be_taken_with_them() {
    let owner = Owner::Vm(43);
    let guest = guest(43);
    let before = frames().in_use(owner);
    let (at, host) = (GuestPhysical::new(0xc000_0000), HostPhysical::new(0x38_0000_0000));
    guest.map_registers(at, host, 0x4000).unwrap();
    assert!(guest.map_registers(at, host, 0x1000).is_err(), "something is there");
    assert!(guest.map_registers(GuestPhysical::new(0), host, 0x1000).is_err(), "RAM is there");
    let leaf = guest.table.lock().lookup(0xc000_3000).unwrap();
    assert_eq!(leaf.attributes, Attributes::registers(Permissions::READ_WRITE));
    assert!(guest.unmap_registers(GuestPhysical::new(0), 0xc000_4000, |_| panic!("nothing to flush")).is_err());
    let mut flushed = 0..0;
    guest
        .unmap_registers(at, 0x4000, |range| {
            flushed = range;
            assert!(frames().in_use(owner) > before, "tables are freed after the flush");
        })
        .unwrap();
    assert_eq!(flushed, 0xc000_0000..0xc000_4000);
    assert_eq!(frames().in_use(owner), before);
}

#[test]
fn memory_that_is_not_there_is_refused_and_nothing_is_kept() {
    let owner = Owner::Vm(44);
    let error = GuestMemory::new(44, core::iter::once(0..1 << 40), &[], paging()).unwrap_err();
    assert!(matches!(error, GuestMemoryError::Memory(OutOfMemory { frames: 0x1000_0000, .. })), "{error}");
    assert_eq!(frames().in_use(owner), 0);
    // The second range overlaps the first: found when the table is filled, with all memory taken.
    let error = GuestMemory::new(44, [0..LARGE, 0..LARGE], &[], paging()).unwrap_err();
    assert!(matches!(error, GuestMemoryError::Map(MapError::Overlap { .. })), "{error}");
    assert_eq!(frames().in_use(owner), 0);
    let error = GuestMemory::new(44, core::iter::once(0..4097), &[], paging()).unwrap_err();
    assert_eq!(error, GuestMemoryError::Range { start: 0, end: 4097 });
    assert_eq!(frames().in_use(owner), 0);
}
