use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const R: u32 = 4;
const W: u32 = 2;
const X: u32 = 1;

/// A program header: type, flags, offset, address, bytes in the file, bytes in memory.
type Header = (u32, u32, u64, u64, u64, u64);

const CODE: Header = (PT_LOAD, R | X, 0x1000, WINDOW_START + 0x1000, 0x800, 0x800);
const DATA: Header = (PT_LOAD, R | W, 0x1810, WINDOW_START + 0x2010, 0x100, 0x3000);

/// An ELF file of 8 KiB whose bytes behind the headers count upwards.
fn file(kind: u16, machine: u16, entry: u64, headers: &[Header]) -> Vec<u8> {
    let mut file = vec![0x7F, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(kind.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(entry.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64, 56, headers.len() as u16, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for &(kind, flags, offset, address, in_file, in_memory) in headers {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for word in [offset, address, 0, in_file, in_memory, 4096] {
            file.extend(word.to_le_bytes());
        }
    }
    while file.len() < 0x2000 {
        file.push(file.len() as u8);
    }
    file
}

fn kernel(headers: &[Header]) -> Result<(), KernelFileError> {
    KernelImage::parse(&file(ET_EXEC, EM_X86_64, CODE.3, headers)).map(drop)
}

#[test]
fn a_kernel_is_taken_apart() {
    let file = file(ET_EXEC, EM_X86_64, CODE.3 + 4, &[DATA, (6, R, 64, 0, 1, 1), CODE]);
    let image = KernelImage::parse(&file).unwrap();
    assert_eq!((image.entry, image.start, image.length), (CODE.3 + 4, CODE.3, 0x5000));
    let [code, data] = image.segments.as_slice() else { panic!("two segments") };
    assert_eq!((code.start, code.length, code.offset), (CODE.3, 0x1000, 0));
    assert_eq!(code.data, &file[0x1000..0x1800]);
    assert_eq!(code.permissions, Permissions::ReadExecute);
    assert_eq!((data.start, data.length, data.offset), (WINDOW_START + 0x2000, 0x4000, 0x10));
    assert_eq!(data.data, &file[0x1810..0x1910]);
    assert_eq!(data.permissions, Permissions::ReadWrite);
}

#[test]
fn what_is_no_kernel_is_refused() {
    let of = |kind, machine| KernelImage::parse(&file(kind, machine, CODE.3, &[CODE])).map(drop);
    assert_eq!(of(ET_EXEC, EM_X86_64), Ok(()));
    assert_eq!(of(3, EM_X86_64), Err(KernelFileError::NotStaticX86));
    assert_eq!(of(ET_EXEC, 183), Err(KernelFileError::NotStaticX86));
    assert_eq!(KernelImage::parse(b"").map(drop), Err(KernelFileError::NotElf));
    assert_eq!(KernelImage::parse(b"MZ").map(drop), Err(KernelFileError::NotElf));
    assert_eq!(kernel(&[]), Err(KernelFileError::Empty));
    assert_eq!(kernel(&[(6, R, 0, WINDOW_START, 1, 1)]), Err(KernelFileError::Empty));
    assert_eq!(kernel(&[CODE; 17]), Err(KernelFileError::TooManySegments));
}

#[test]
fn segments_stay_inside_the_file_and_the_window() {
    let with = |offset, address, in_file, in_memory| kernel(&[(PT_LOAD, R, offset, address, in_file, in_memory), CODE]);
    let far = WINDOW_START + 0x10_0000;
    assert_eq!(with(0x1FFF, far, 1, 1), Ok(()));
    assert_eq!(with(0x1FFF, far, 2, 2), Err(KernelFileError::Truncated(far)));
    assert_eq!(with(u64::MAX, far, 2, 2), Err(KernelFileError::Truncated(far)));
    assert_eq!(with(0, far, 2, 1), Err(KernelFileError::OutsideWindow(far)));
    assert_eq!(with(0, WINDOW_START - 1, 1, 4096), Err(KernelFileError::OutsideWindow(WINDOW_START - 1)));
    assert_eq!(with(0, 0x10_0000, 1, 1), Err(KernelFileError::OutsideWindow(0x10_0000)));
    assert_eq!(with(0, far, 1, u64::MAX), Err(KernelFileError::OutsideWindow(far)));
    assert_eq!(with(0, u64::MAX - 1, 1, 1), Err(KernelFileError::OutsideWindow(u64::MAX - 1)));
    let edge = WINDOW_START + 0x1000 + SPAN_LIMIT;
    assert_eq!(with(0, edge - 4096, 1, 4096), Ok(()));
    assert_eq!(with(0, edge, 1, 1), Err(KernelFileError::OutsideWindow(edge)));
}

#[test]
fn no_page_is_written_and_executed() {
    let address = WINDOW_START + 0x8000;
    assert_eq!(kernel(&[CODE, (PT_LOAD, R | W | X, 0, address, 1, 1)]), Err(KernelFileError::WritableCode(address)));
    let shared = CODE.3 + 0x900;
    assert_eq!(kernel(&[CODE, (PT_LOAD, R | W, 0, shared, 1, 1)]), Err(KernelFileError::SharedPage(CODE.3)));
}

#[test]
fn the_entry_is_in_code() {
    let entry = |entry| KernelImage::parse(&file(ET_EXEC, EM_X86_64, entry, &[CODE, DATA])).map(drop);
    assert_eq!(entry(DATA.3), Err(KernelFileError::NoEntry(DATA.3)));
    assert_eq!(entry(0), Err(KernelFileError::NoEntry(0)));
}

proptest! {
    #[test]
    fn damaged_files_never_panic(changes in proptest::collection::vec((0usize..0xC0, any::<u8>()), 0..24), cut in 0usize..0x2001) {
        let mut file = file(ET_EXEC, EM_X86_64, CODE.3, &[CODE, DATA]);
        for (place, value) in changes {
            file[place] = value;
        }
        file.truncate(cut);
        if let Ok(image) = KernelImage::parse(&file) {
            prop_assert!(image.length <= SPAN_LIMIT && image.start >= WINDOW_START);
            for segment in &image.segments {
                prop_assert!(segment.offset + segment.data.len() as u64 <= segment.length);
            }
        }
    }
}
