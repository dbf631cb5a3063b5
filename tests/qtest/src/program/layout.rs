//! Where everything of a program lies in the machine's memory, and what is there before it starts.

use crate::emulator::DEVICES;

/// The part of memory that programs reach; nothing else is compared.
pub(crate) const IMAGE: u64 = 4 << 20;

pub(crate) const ROOTS: [u64; 2] = [0x10_0000, 0x10_1000];
pub(crate) const CONTEXTS: [u64; 3] = [0x10_2000, 0x10_3000, 0x10_4000];
/// The page tables of levels 1 to 4.
pub(crate) const TABLES: [&[u64]; 4] =
    [&[0x10_5000, 0x10_6000, 0x10_7000], &[0x10_8000, 0x10_9000], &[0x10_a000, 0x10_b000], &[0x10_c000, 0x10_d000]];
/// 256 entries.
pub(crate) const INTERRUPTS: u64 = 0x10_e000;
pub(crate) const QUEUE: u64 = 0x10_f000;
/// What wait descriptors write.
pub(crate) const STATUS: u64 = 0x11_0000;
/// Pages that entries of level 1 lead to.
const DATA: u64 = 0x12_0000;
/// Where buffers are filled from and emptied to.
pub(crate) const BUFFERS: u64 = 0x13_0000;
/// The page of 2 MiB that entries of level 2 lead to.
const LARGE: u64 = 0x20_0000;

/// The slots of each table that programs use.
pub(crate) const SLOTS: [u64; 4] = [0, 1, 2, 511];

/// Where an entry of `level` may lead when it is a page.
pub(crate) fn page(level: usize, choice: u8) -> u64 {
    match (level, choice) {
        (1, 0..8) => DATA + u64::from(choice) * 4096,
        (2, 0..8) => LARGE,
        (3, 0..8) => 0,
        // Where no memory is.
        (_, 8) => 0x4000_0000,
        (_, 9) => 0xfee0_0000,
        // Beyond the host address width of 48 bits.
        _ => 1 << 48,
    }
}

/// The domain whose table this is: 3 levels start at level 3, 4 at level 4.
pub(crate) const fn domain(levels: u64, table: usize) -> u64 {
    1 + (levels - 3) * 2 + table as u64
}

/// The domain of devices that pass through.
pub(crate) const PASSING: u64 = 6;

/// The address that a second-stage walk by these slots, from level 4 down, reaches.
pub(crate) fn address(slots: [u8; 4], offset: u64) -> u64 {
    slots.into_iter().fold(0, |address, slot| address << 9 | SLOTS[usize::from(slot) % SLOTS.len()]) << 12 | offset
}

/// A context entry, low and high.
pub(crate) fn context(levels: u64, table: usize, kind: u64) -> (u64, u64) {
    let domain = if kind == 2 { PASSING } else { domain(levels, table) };
    (TABLES[levels as usize - 1][table % 2] | kind << 2 | 1, domain << 8 | (levels - 2))
}

/// Memory as a program finds it: every device has tables that lead somewhere, and every other word tells its address.
pub(crate) fn image(levels: u64) -> Vec<u64> {
    let mut words: Vec<u64> = (0..IMAGE / 8).map(|word| (0xda7a << 48) + word * 8).collect();
    let mut put = |address: u64, value: u64| words[(address / 8) as usize] = value;
    for address in (ROOTS[0]..DATA).step_by(8) {
        put(address, 0);
    }
    for root in ROOTS {
        put(root, CONTEXTS[0] | 1);
        put(root + 16, CONTEXTS[1] | 1);
    }
    for (device, source) in DEVICES.into_iter().enumerate() {
        let at = CONTEXTS[usize::from(source >> 8)] + u64::from(source & 0xff) * 16;
        let (low, high) = context(levels, device % 2, 0);
        put(at, low);
        put(at + 8, high);
    }
    for (lower, tables) in (1..).zip(&TABLES[1..]) {
        for (index, table) in tables.iter().enumerate() {
            for (turn, slot) in SLOTS.into_iter().enumerate().take(2) {
                let next = TABLES[lower - 1];
                put(table + slot * 8, next[(index + turn) % next.len()] | 3);
            }
        }
    }
    for (index, table) in TABLES[0].iter().enumerate() {
        for (turn, slot) in SLOTS.into_iter().enumerate().take(3) {
            let permissions = if turn == 2 { 1 } else { 3 };
            put(table + slot * 8, page(1, ((index * 3 + turn) % 8) as u8) | permissions);
        }
    }
    words
}
