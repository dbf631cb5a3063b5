//! DMA to where nothing of the guest's is.

use guest::edu::Direction;
use guest::memory::Registers;
use guest::println;

use crate::attack::{Attack, pattern};

/// Bytes of each try.
const LENGTH: usize = 256;

/// Where the neighbour's memory is searched. Its memory is larger than the step, so one of these is in it, wherever
/// the hypervisor has put it; `linux=` names better ones.
const NEIGHBOUR: &[u64] =
    &[0x1000_0000, 0x2000_0000, 0x3000_0000, 0x4000_0000, 0x5000_0000, 0x6000_0000, 0x7000_0000, 0x1_0000_0000];
/// Where the hypervisor is searched: firmware loads it near the end of memory below 4 GiB, and the machines of the
/// tests have 2 GiB; `hypervisor=` names better ones.
const HYPERVISOR: &[u64] = &[0x7DC0_0000, 0x7DD0_0000, 0x7DE0_0000, 0x7DE6_0000, 0x7E00_0000];
/// Registers and firmware of every such machine.
const MACHINE: &[(&str, u64)] = &[
    ("unit-registers", 0xFED9_0000),
    ("io-apic-registers", 0xFEC0_0000),
    ("configuration-space", 0xB000_0000),
    ("firmware", 0xFFFF_0000),
    ("unmapped-beyond-39-bits", 0x80_0000_0000),
    ("unmapped-beyond-the-bus", 0x4000_0000_0000),
];
/// Read-only memory of the guest's own: the ROM area below 1 MiB.
const OWN_ROM: u64 = 0xF_0000;

impl Attack<'_> {
    /// Reads and writes everywhere.
    pub(crate) fn attack_memory(&mut self) {
        let end = self.multiboot.memory().map_or(0, |(_, upper)| (u64::from(upper) << 10) + (1 << 20));
        // What lies in the guest's own memory is its own, so targets in there are left out.
        let foreign = |address: &u64| *address >= end;
        // The first 2 MiB behind the guest's memory may belong to it still: the loader reserves the end of some.
        let behind = end.next_multiple_of(0x20_0000) + 0x20_0000;
        self.both("unmapped", behind);
        if let Some(bar) = self.edu.function.bar(0) {
            self.both("unmapped-own-registers", bar.address());
        }
        for (name, address) in MACHINE {
            self.both(name, *address);
        }
        for (owner, known, usual) in [("hypervisor", "hypervisor-ram", HYPERVISOR), ("linux", "linux-ram", NEIGHBOUR)] {
            // Whose memory lies at the usual places is for the hypervisor's log to say.
            let name = if self.multiboot.option(owner).is_some() { known } else { "foreign-ram" };
            for address in self.aims(owner, usual).filter(foreign) {
                self.both(name, address);
            }
        }
        self.write_rom();
    }

    /// The hexadecimal addresses of the command line, separated by commas, or the usual ones.
    fn aims(&self, key: &str, usual: &'static [u64]) -> impl Iterator<Item = u64> + use<> {
        let given = self.multiboot.option(key);
        let usual = if given.is_some() { &[] } else { usual };
        let given = given.unwrap_or_default().split(',');
        let given = given.filter_map(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        given.chain(usual.iter().copied())
    }

    fn both(&mut self, name: &str, address: u64) {
        self.read(name, address);
        self.write(name, address);
    }

    /// Has the device read from `address`, and looks at what it got.
    fn read(&mut self, name: &str, address: u64) {
        self.begin(name, "read", format_args!("address={address:#x}"));
        self.counts.reads += 1;
        self.own.fill(pattern);
        let filled = self.edu.transfer(Direction::Read, self.own.address(), LENGTH as u64);
        let finished = self.edu.transfer(Direction::Read, address, LENGTH as u64);
        self.own.fill(|_| 0xEE);
        let emptied = self.edu.transfer(Direction::Write, self.own.address(), LENGTH as u64);
        let (outcome, data) = if self.own.is(LENGTH, pattern) {
            ("blocked", "unchanged")
        } else if self.own.is(LENGTH, |_| 0) {
            ("blocked", "zeroes")
        } else if self.own.is(LENGTH, |_| 0xFF) {
            ("blocked", "ones")
        } else if self.own.is(LENGTH, |_| 0xEE) {
            // Not even the transfer to the guest's own memory took place: the device has been switched off, or did not
            // come to it in time.
            ("blocked", if filled && emptied { "device-silent" } else { "device-late" })
        } else {
            self.counts.leaks += 1;
            ("passed", "foreign")
        };
        println!("result attack={name} outcome={outcome} data={data} finished={finished}");
    }

    /// Has the device write to `address`. What becomes of it there cannot be seen from here: its owner must see nothing.
    fn write(&mut self, name: &str, address: u64) {
        self.begin(name, "write", format_args!("address={address:#x}"));
        self.counts.writes += 1;
        let finished = self.edu.transfer(Direction::Write, address, LENGTH as u64);
        println!("result attack={name} outcome=blocked data=sent finished={finished}");
    }

    /// Has the device write to memory that the guest itself may only read.
    fn write_rom(&mut self) {
        self.begin("read-only", "write", format_args!("address={OWN_ROM:#x}"));
        self.counts.writes += 1;
        let rom = Registers::at(OWN_ROM);
        let content = || (0..LENGTH as u64).step_by(4).map(|offset| rom.read32(offset));
        let sum = |sum: u64, word: u32| sum.rotate_left(5) ^ u64::from(word);
        let before = content().fold(0, sum);
        self.own.fill(pattern);
        self.edu.transfer(Direction::Read, self.own.address(), LENGTH as u64);
        let finished = self.edu.transfer(Direction::Write, OWN_ROM, LENGTH as u64);
        let (outcome, data) = if content().fold(0, sum) == before {
            ("blocked", "unchanged")
        } else {
            self.counts.leaks += 1;
            ("passed", "changed")
        };
        println!("result attack=read-only outcome={outcome} data={data} finished={finished}");
    }
}
