use proptest::prelude::*;

use super::*;
use crate::memory::GuestPhysical;
use crate::vm::map::AddressMap;
use crate::vm::memory::GuestMemory;
use crate::vm::memory::tests::FakeMemory;

const MIB: u64 = 1 << 20;
const ROOT_POINTER: u64 = 0xe_0000;
const RUN: u64 = 0x100_0000;

/// A bzImage with two setup sectors and `kernel` as its protected-mode part.
fn image(kernel: &[u8]) -> Vec<u8> {
    let mut file = vec![0u8; 3 * 512];
    let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0x1ef, &[0xff, 0xff]);
    put(0x1f1, &[2]);
    put(0x1f4, &(kernel.len().div_ceil(16) as u32).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x236, &0x7fu16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x250, &0xdead_beefu64.to_le_bytes());
    put(0x258, &RUN.to_le_bytes());
    put(0x260, &(8 * MIB as u32).to_le_bytes());
    file.extend_from_slice(kernel);
    file
}

fn machine(memory: u64) -> (AddressMap, FakeMemory) {
    let map = AddressMap::new(memory, 0).unwrap();
    let memory = FakeMemory::new(&map);
    (map, memory)
}

fn load_into(map: &AddressMap, memory: &dyn GuestMemory, linux: Linux<'_>) -> Result<Start, LinuxError> {
    load(Target { map, memory, root_pointer: GuestPhysical::new(ROOT_POINTER) }, linux)
}

fn error_of(file: &[u8]) -> LinuxError {
    let (map, memory) = machine(64 * MIB);
    load_into(&map, &memory, Linux { kernel: file, initrd: None, command_line: "" }).unwrap_err()
}

#[test]
fn a_kernel_is_placed_with_everything_that_it_asks_for() {
    let (map, memory) = machine(64 * MIB);
    let kernel: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
    let initrd = [0x42u8; 5000];
    let file = image(&kernel);
    let entry = load_into(&map, &memory, Linux { kernel: &file, initrd: Some(&initrd), command_line: "console=ttyS0" })
        .unwrap();
    let Start::Long { entry: instruction, rsi: boot_parameters, page_table, gdt, gdt_limit } = entry else {
        panic!("not long mode: {entry:?}")
    };
    assert_eq!(instruction, RUN + 0x200);
    assert_eq!(memory.bytes(RUN, kernel.len()), kernel);

    let field = |offset| memory.u32(boot_parameters + offset);
    assert_eq!(memory.bytes(boot_parameters + 0x1ef, 3), [0, 0, 2], "the sentinel stays zero, the header follows");
    assert_eq!(memory.bytes(boot_parameters + 0x210, 1), [0xff]);
    assert_eq!(memory.u64(boot_parameters + 0x250), 0, "the file's list of setup data is not followed");
    assert_eq!(memory.u64(boot_parameters + 0x70), ROOT_POINTER);
    assert_eq!(memory.text(field(0x228).into()), "console=ttyS0");
    let (start, length) = (u64::from(field(0x218)), field(0x21c));
    assert_eq!(length as usize, initrd.len());
    assert_eq!(start % 4096, 0);
    assert!(start + 8192 >= 64 * MIB, "at the top: {start:#x}");
    assert_eq!(memory.bytes(start, initrd.len()), initrd);

    let rows = usize::from(memory.bytes(boot_parameters + 0x1e8, 1)[0]);
    let expected: Vec<_> = map.e820().collect();
    assert_eq!(rows, expected.len());
    for (row, entry) in expected.iter().enumerate() {
        let at = boot_parameters + 0x2d0 + 20 * row as u64;
        assert_eq!(
            (memory.u64(at), memory.u64(at + 8), memory.u32(at + 16)),
            (entry.range.start, entry.range.length, entry.kind)
        );
    }

    // The page tables map an address of each GiB to itself.
    for address in [0u64, 0x1234_5678, 0x7fff_ffff, 0xfee0_0000] {
        let directory = memory.u64((memory.u64(page_table) & !0xfff) + (address >> 30) * 8) & !0xfff;
        let entry = memory.u64(directory + (address >> 21 & 511) * 8);
        assert_eq!(entry, address & !0x1f_ffff | 0x83);
    }
    assert_eq!(memory.u64(gdt + 0x10), 0x00af_9b00_0000_ffff);
    assert_eq!(gdt_limit, 31);
}

#[test]
fn what_is_wrong_with_a_file_is_named() {
    let good = image(&[1; 64]);
    assert_eq!(error_of(&[]), LinuxError::Short { length: 0 });
    assert_eq!(error_of(&good[..0x230]), LinuxError::Short { length: 0x230 });
    let with = |offset: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        error_of(&file)
    };
    assert_eq!(with(0x202, b"XdrS"), LinuxError::NotLinux);
    assert_eq!(with(0x206, &[0x0b, 0x02]), LinuxError::Old { version: 0x20b });
    assert_eq!(with(0x236, &[0, 0]), LinuxError::No64BitEntry);
    assert_eq!(with(0x211, &[0]), LinuxError::No64BitEntry);
    assert_eq!(with(0x1f1, &[200]), LinuxError::Truncated { needed: 201 * 512 + 64, length: good.len() });
    assert!(matches!(with(0x1f4, &[0xff; 4]), LinuxError::Truncated { .. }));
    assert_eq!(with(0x230, &[3, 0, 0, 0]), LinuxError::Misaligned { address: RUN, alignment: 3 });
    assert!(matches!(with(0x230, &[0; 4]), LinuxError::Misaligned { .. }));
    assert!(matches!(with(0x258, &[0xff; 8]), LinuxError::Misaligned { .. }));
    assert!(matches!(with(0x258, &0x10_0000_0000u64.to_le_bytes()), LinuxError::KernelDoesNotFit { .. }));
    assert!(matches!(with(0x258, &[0; 8]), LinuxError::KernelDoesNotFit { .. }), "over the loader's own area");
}

#[test]
fn a_small_vm_is_told_to_grow() {
    let (map, memory) = machine(16 * MIB);
    let file = image(&[1; 64]);
    let linux = Linux { kernel: &file, initrd: None, command_line: "" };
    let error = load_into(&map, &memory, linux).unwrap_err();
    assert!(matches!(error, LinuxError::KernelDoesNotFit { .. }));
    let (map, memory) = machine(24 * MIB);
    assert!(load_into(&map, &memory, linux).is_ok());
    let initrd = [1u8; 4096];
    let error = load_into(&map, &memory, Linux { initrd: Some(&initrd), ..linux }).unwrap_err();
    assert_eq!(error, LinuxError::InitrdDoesNotFit { length: 4096, free: 0 });
}

#[test]
fn a_command_line_that_is_too_long_is_refused() {
    let (map, memory) = machine(64 * MIB);
    let file = image(&[1; 64]);
    let load = |line: &str| load_into(&map, &memory, Linux { kernel: &file, initrd: None, command_line: line });
    assert!(load(&"a".repeat(2047)).is_ok());
    assert_eq!(load(&"a".repeat(2048)), Err(LinuxError::CommandLine { length: 2048, limit: 2047 }));
    assert!(load("a\0b").is_err());
}

proptest! {
    /// Any damage to the header: an error or a load inside RAM, never a panic.
    #[test]
    fn damaged_headers_do_no_harm(
        damage in prop::collection::vec((0x1e0usize..0x270, any::<u8>()), 1..12),
        length in 0usize..2000,
    ) {
        let (map, memory) = machine(64 * MIB);
        let mut file = image(&[7; 400]);
        for (offset, byte) in damage {
            file[offset] = byte;
        }
        file.truncate(length);
        let _ = load_into(&map, &memory, Linux { kernel: &file, initrd: Some(&[1; 100]), command_line: "x" });
    }
}
