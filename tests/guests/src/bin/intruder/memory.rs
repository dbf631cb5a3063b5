//! DMA to where nothing of the guest's is.

use guest::edu::Direction;
use guest::memory::Registers;
use guest::println;

use crate::attack::{Attack, pattern};

/// Bytes of each try.
const LENGTH: usize = 256;

/// Where machines have something worth having, whatever a guest's own map says.
const TARGETS: &[(&str, u64)] = &[
    ("host-memory", 0x0800_0000),
    ("host-memory", 0x1000_0000),
    ("host-memory", 0x2000_0000),
    ("host-memory", 0x4000_0000),
    ("host-memory", 0x6000_0000),
    ("host-memory", 0x7C00_0000),
    ("host-memory", 0x1_0000_0000),
    ("host-memory", 0x1_4000_0000),
    ("host-configuration-space", 0xB000_0000),
    ("io-apic", 0xFEC0_0000),
    ("remapping-unit", 0xFED9_0000),
    ("firmware", 0xFFFF_0000),
    ("beyond-39-bits", 0x80_0000_0000),
    ("beyond-the-bus", 0x4000_0000_0000),
];

/// Read-only memory of the guest's own: the ROM area below 1 MiB.
const OWN_ROM: u64 = 0xF_0000;

impl Attack<'_> {
    /// Reads and writes everywhere.
    pub(crate) fn attack_memory(&mut self) {
        let end = self.multiboot.memory().map_or(0, |(_, upper)| (u64::from(upper) << 10) + (1 << 20));
        // What lies in the guest's own memory is its own, so targets in there are left out.
        let own = |address: u64| address < end;
        let aims = self.multiboot.option("aim").unwrap_or_default();
        let aims = aims.split(',').filter_map(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        // The first 2 MiB behind the guest's memory may belong to it still: the loader reserves the end of some.
        let behind = end.next_multiple_of(0x20_0000) + 0x20_0000;
        self.read_and_write("behind-own-memory", behind);
        if let Some(bar) = self.edu.function.bar(0) {
            self.read_and_write("own-registers", bar.address());
        }
        for (name, address) in TARGETS.iter().filter(|(_, address)| !own(*address)) {
            self.read_and_write(name, *address);
        }
        for address in aims.filter(|address| !own(*address)) {
            self.read_and_write("aim", address);
        }
        self.write_rom();
    }

    fn read_and_write(&mut self, name: &str, address: u64) {
        self.read(name, address);
        self.write(name, address);
    }

    /// Has the device read from `address`, and looks at what it got.
    fn read(&mut self, name: &str, address: u64) {
        self.pause();
        self.counts.reads += 1;
        self.own.fill(pattern);
        self.edu.transfer(Direction::Read, self.own.address(), LENGTH as u64);
        let finished = self.edu.transfer(Direction::Read, address, LENGTH as u64);
        self.own.fill(|_| 0xEE);
        self.edu.transfer(Direction::Write, self.own.address(), LENGTH as u64);
        let data = if self.own.is(LENGTH, pattern) {
            "unchanged"
        } else if self.own.is(LENGTH, |_| 0) {
            "zeroes"
        } else if self.own.is(LENGTH, |_| 0xFF) {
            "ones"
        } else if self.own.is(LENGTH, |_| 0xEE) {
            // Not even the transfer to the guest's own memory took place.
            "device-silent"
        } else {
            self.counts.leaks += 1;
            "LEAKED"
        };
        println!("result intruder read target={name} address={address:#x} finished={finished} data={data}");
    }

    /// Has the device write to `address`. Whoever owns the place must see nothing of it.
    fn write(&mut self, name: &str, address: u64) {
        self.pause();
        self.counts.writes += 1;
        let finished = self.edu.transfer(Direction::Write, address, LENGTH as u64);
        println!("result intruder write target={name} address={address:#x} finished={finished} data=sent");
    }

    /// Has the device write to memory that the guest itself may only read.
    fn write_rom(&mut self) {
        self.pause();
        self.counts.writes += 1;
        let rom = Registers::at(OWN_ROM);
        let content = || (0..LENGTH as u64).step_by(4).map(|offset| rom.read32(offset));
        let sum = |sum: u64, word: u32| sum.rotate_left(5) ^ u64::from(word);
        let before = content().fold(0, sum);
        self.own.fill(pattern);
        self.edu.transfer(Direction::Read, self.own.address(), LENGTH as u64);
        let finished = self.edu.transfer(Direction::Write, OWN_ROM, LENGTH as u64);
        let data = if content().fold(0, sum) == before {
            "unchanged"
        } else {
            self.counts.leaks += 1;
            "CHANGED"
        };
        println!("result intruder write target=own-read-only address={OWN_ROM:#x} finished={finished} data={data}");
    }
}
