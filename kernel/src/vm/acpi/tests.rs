use super::*;
use crate::vm::memory::tests::FakeMemory;

fn written(cpus: u8) -> (AddressMap, FakeMemory, u64) {
    let map = AddressMap::new(64 << 20, 0).unwrap();
    let memory = FakeMemory::new(&map);
    let root_pointer = write(&map, cpus, &memory).unwrap().as_u64();
    (map, memory, root_pointer)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A table's bytes, its checksum checked.
fn table(memory: &FakeMemory, at: u64) -> Vec<u8> {
    let bytes = memory.bytes(at, memory.u32(at + 4) as usize);
    assert_eq!(sum(&bytes), 0, "checksum of {}", String::from_utf8_lossy(&bytes[..4]));
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The table with this signature, by way of root pointer and XSDT.
fn find(memory: &FakeMemory, root_pointer: u64, signature: &[u8; 4]) -> Vec<u8> {
    let xsdt = table(memory, memory.u64(root_pointer + 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    xsdt[36..]
        .chunks_exact(8)
        .map(|entry| table(memory, u64_at(entry, 0)))
        .find(|table| &table[..4] == signature)
        .unwrap_or_else(|| panic!("no {}", String::from_utf8_lossy(signature)))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_guest_that_searches_finds_the_root_pointer() {
    let (_, memory, root_pointer) = written(1);
    let found = (0xe_0000..0x10_0000).step_by(16).find(|at| memory.bytes(*at, 8) == b"RSD PTR ").unwrap();
    assert_eq!(found, root_pointer);
    let bytes = memory.bytes(root_pointer, 36);
    assert_eq!((sum(&bytes[..20]), sum(&bytes)), (0, 0));
    assert_eq!(bytes[15], 2);
}

#[test]
fn the_madt_lists_every_cpu_and_the_interrupt_wiring() {
    let (_, memory, root_pointer) = written(3);
    let madt = find(&memory, root_pointer, b"APIC");
    assert_eq!((u32_at(&madt, 36), u32_at(&madt, 40)), (0xfee0_0000, 1));
    let mut rest = &madt[44..];
    let (mut cpus, mut overrides, mut others) = (Vec::new(), Vec::new(), Vec::new());
    while let [kind, length, ..] = *rest {
        let (entry, behind) = rest.split_at(length.into());
        match kind {
            0 => cpus.push((entry[2], entry[3], u32_at(entry, 4))),
            2 => overrides.push((entry[3], u32_at(entry, 4), u16_at(entry, 8))),
            kind => others.push((kind, entry[2..].to_vec())),
        }
        rest = behind;
    }
    assert_eq!(cpus, [(0, 0, 1), (1, 1, 1), (2, 2, 1)]);
    assert_eq!(overrides, [(0, 2, 0), (9, 9, 0xd)]);
    assert_eq!(others[0], (1, vec![3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]));
    assert_eq!(others[1], (4, vec![0xff, 0, 0, 1]));
}

#[test]
fn the_fadt_names_the_fixed_hardware() {
    let (_, memory, root_pointer) = written(1);
    let fadt = find(&memory, root_pointer, b"FACP");
    assert_eq!(fadt.len(), 276);
    assert_eq!(u16_at(&fadt, 46), 9, "system control interrupt");
    assert_eq!(u32_at(&fadt, 48), 0, "no SMI command port: ACPI is always on");
    assert_eq!((u32_at(&fadt, 56), u32_at(&fadt, 64), u32_at(&fadt, 76)), (0x600, 0x604, 0x608));
    assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 4));
    assert_eq!(u16_at(&fadt, 109), 0x5, "legacy devices, no VGA, no keyboard controller");
    let flags = u32_at(&fadt, 112);
    assert_eq!(flags & (1 << 8 | 1 << 10 | 1 << 20), 1 << 8 | 1 << 10, "32-bit timer, reset register, not reduced");
    assert_eq!((fadt[116], u64_at(&fadt, 120), fadt[128]), (1, 0xcf9, 6));
    assert_eq!((u64_at(&fadt, 148 + 4), u64_at(&fadt, 172 + 4), u64_at(&fadt, 208 + 4)), (0x600, 0x604, 0x608));
    let facs = u64::from(u32_at(&fadt, 36));
    assert_eq!((memory.bytes(facs, 4), facs % 64), (b"FACS".to_vec(), 0));
    assert_eq!(u64_at(&fadt, 140), u64::from(u32_at(&fadt, 40)));
    assert_eq!(&table(&memory, u64_at(&fadt, 140))[..4], b"DSDT");
}

#[test]
fn the_mcfg_is_the_maps_configuration_space() {
    let (map, memory, root_pointer) = written(1);
    let mcfg = find(&memory, root_pointer, b"MCFG");
    assert_eq!(u64_at(&mcfg, 44), map.configuration().start);
    assert_eq!((mcfg[54], mcfg[55]), (0, 15));
}

#[test]
fn the_dsdt_says_what_the_map_says() {
    let (map, memory, root_pointer) = written(1);
    let fadt = find(&memory, root_pointer, b"FACP");
    let dsdt = table(&memory, u64_at(&fadt, 140));
    // A QWordMemory and a DWordMemory producer with fixed ends, and the reserved Memory32Fixed.
    let window = map.window_64();
    let mut qword = vec![0x8a, 0x2b, 0, 0, 0x0c, 1];
    for field in [0, window.start, window.end() - 1, 0, window.length] {
        qword.extend_from_slice(&field.to_le_bytes());
    }
    assert!(contains(&dsdt, &qword));
    let window = map.window_32();
    let mut dword = vec![0x87, 0x17, 0, 0, 0x0c, 1];
    for field in [0, window.start, window.end() - 1, 0, window.length] {
        dword.extend_from_slice(&(field as u32).to_le_bytes());
    }
    assert!(contains(&dsdt, &dword));
    let configuration = map.configuration();
    let mut fixed = vec![0x86, 9, 0, 1];
    fixed.extend_from_slice(&(configuration.start as u32).to_le_bytes());
    fixed.extend_from_slice(&(configuration.length as u32).to_le_bytes());
    assert!(contains(&dsdt, &fixed));
    assert!(contains(&dsdt, b"\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00"), "soft off is type 5");
    assert!(contains(&dsdt, b"\x08_HID\x0c\x41\xd0\x0a\x08"), "PNP0A08");
    // Slot 31, INTD#: pin 16 + (31 + 3) % 8.
    assert!(contains(&dsdt, &[0x12, 0x0c, 0x04, 0x0c, 0xff, 0xff, 0x1f, 0x00, 0x0a, 3, 0, 0x0a, 18]));
}

#[test]
fn many_cpus_still_fit() {
    let (_, memory, root_pointer) = written(254);
    assert_eq!(find(&memory, root_pointer, b"APIC").len(), 44 + 254 * 8 + 12 + 2 * 10 + 6);
}
