//! The multiple APIC description table (ACPI specification section 5.2.12): CPUs and I/O APICs.

use alloc::vec::Vec;
use core::fmt;

use iommu::address::HostPhysical;

use super::bytes::{u8_at, u16_at, u32_at};

/// Where the entries begin.
const HEADER: usize = 44;

/// What the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Madt {
    /// The local APIC ids of the CPUs that can be used, each once, in the order of the table.
    pub processors: Vec<u32>,
    /// I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// The machine has 8259s (flag PCAT_COMPAT).
    pub has_8259s: bool,
    /// What is wrong with it.
    pub problems: Vec<MadtProblem>,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its id, as DMAR scopes name it.
    pub id: u8,
    /// Where its registers are.
    pub address: HostPhysical,
    /// The number of its first input among the global system interrupts.
    pub first_interrupt: u32,
}

/// What is wrong with the table. What is left is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadtProblem {
    /// The entries end in the middle of one.
    Truncated {
        /// Where in the table.
        offset: usize,
    },
    /// An entry is shorter than its own header: nothing behind it can be read.
    NoLength {
        /// Where in the table.
        offset: usize,
    },
    /// An entry is shorter than its type asks for.
    Short {
        /// Where in the table.
        offset: usize,
        /// Its type.
        kind: u8,
    },
}

impl fmt::Display for MadtProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("firmware's list of CPUs (ACPI table APIC) ")?;
        match self {
            Self::Truncated { offset } => write!(f, "ends in the middle of the entry at byte {offset}"),
            Self::NoLength { offset } => {
                write!(f, "has an entry without a length at byte {offset}; what follows it is not used")
            }
            Self::Short { offset, kind } => {
                write!(f, "has an entry of type {kind} at byte {offset} that is too short; it is not used")
            }
        }
    }
}

impl Madt {
    /// Reads a table, whose header and checksum are good.
    pub fn parse(table: &[u8]) -> Self {
        let mut madt = Self { has_8259s: u32_at(table, 40).is_some_and(|flags| flags & 1 != 0), ..Self::default() };
        let mut offset = HEADER;
        while let Some(rest) = table.get(offset..).filter(|rest| !rest.is_empty()) {
            let (Some(kind), Some(length)) = (u8_at(rest, 0), u8_at(rest, 1)) else {
                madt.problems.push(MadtProblem::Truncated { offset });
                break;
            };
            if length < 2 {
                madt.problems.push(MadtProblem::NoLength { offset });
                break;
            }
            let Some(entry) = rest.get(..usize::from(length)) else {
                madt.problems.push(MadtProblem::Truncated { offset });
                break;
            };
            if madt.entry(kind, entry).is_none() {
                madt.problems.push(MadtProblem::Short { offset, kind });
            }
            offset += usize::from(length);
        }
        madt
    }

    /// Takes one entry; `None` where it is too short. Unknown types are skipped, as the specification asks.
    fn entry(&mut self, kind: u8, entry: &[u8]) -> Option<()> {
        match kind {
            // Processor local APIC: 0xff is no id.
            0 => {
                let (id, flags) = (u8_at(entry, 3)?, u32_at(entry, 4)?);
                self.processor(u32::from(id), flags, id != 0xff);
            }
            1 => {
                let io_apic = IoApic {
                    id: u8_at(entry, 2)?,
                    address: HostPhysical::new(u64::from(u32_at(entry, 4)?)),
                    first_interrupt: u32_at(entry, 8)?,
                };
                self.io_apics.push(io_apic);
            }
            // Processor local x2APIC.
            9 => {
                u16_at(entry, 2)?;
                let (id, flags) = (u32_at(entry, 4)?, u32_at(entry, 8)?);
                self.processor(id, flags, id != u32::MAX);
            }
            _ => {}
        }
        Some(())
    }

    fn processor(&mut self, id: u32, flags: u32, valid: bool) {
        // Bit 0: it can be used now. Some firmware lists a CPU as both types.
        if valid && flags & 1 != 0 && !self.processors.contains(&id) {
            self.processors.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(entries: &[&[u8]]) -> Vec<u8> {
        let mut table = vec![0; HEADER];
        table[40] = 1;
        entries.iter().for_each(|entry| table.extend_from_slice(entry));
        table
    }

    #[test]
    fn both_kinds_of_cpus_are_found_once() {
        let madt = Madt::parse(&table(&[
            &[0, 8, 0, 2, 1, 0, 0, 0],
            &[0, 8, 1, 0, 1, 0, 0, 0],
            &[0, 8, 2, 3, 0, 0, 0, 0],                             // not there
            &[0, 8, 2, 4, 2, 0, 0, 0],                             // could be plugged in
            &[0, 8, 3, 0xff, 1, 0, 0, 0],                          // no id
            &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],                      // an override
            &[9, 16, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],    // listed already
            &[9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0], // 300
            &[0x7f, 3, 1],                                         // unknown
            &[1, 12, 5, 0, 0, 0, 0xc0, 0xfe, 24, 0, 0, 0],
        ]));
        assert_eq!(madt.processors, [2, 0, 300]);
        let address = HostPhysical::new(0xfec0_0000);
        assert_eq!(madt.io_apics, [IoApic { id: 5, address, first_interrupt: 24 }]);
        assert!(madt.has_8259s);
        assert_eq!(madt.problems, []);
    }

    #[test]
    fn bad_entries_are_named() {
        let good: &[u8] = &[0, 8, 0, 2, 1, 0, 0, 0];
        for (bad, problem) in [
            (&[0u8][..], MadtProblem::Truncated { offset: 52 }),
            (&[0, 0, 0, 0], MadtProblem::NoLength { offset: 52 }),
            (&[0, 1, 0, 0], MadtProblem::NoLength { offset: 52 }),
            (&[0, 8, 0, 1], MadtProblem::Truncated { offset: 52 }),
            (&[1, 4, 0, 1], MadtProblem::Short { offset: 52, kind: 1 }),
            (&[9, 8, 0, 0, 1, 0, 0, 0], MadtProblem::Short { offset: 52, kind: 9 }),
        ] {
            let madt = Madt::parse(&table(&[good, bad]));
            assert_eq!((madt.processors, madt.problems), (vec![2], vec![problem]));
        }
        assert_eq!(Madt::parse(&[]), Madt::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let madt = Madt::parse(&bytes);
            prop_assert!(madt.processors.len() <= bytes.len());
        }
    }
}
