//! From the fixed ACPI description table (ACPI specification section 5.2.9): the timer and the reset register.

use super::bytes::{u8_at, u32_at, u64_at};

/// A register anywhere (ACPI specification section 5.2.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenericAddress {
    /// In which address space.
    pub space: AddressSpace,
    /// Where.
    pub address: u64,
}

/// The address spaces that registers of this program lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSpace {
    /// Memory.
    Memory,
    /// I/O ports.
    Port,
    /// Configuration space of a function on bus 0: device 47:32, function 31:16, offset 15:0.
    Configuration,
}

impl GenericAddress {
    fn parse(table: &[u8], offset: usize) -> Option<Self> {
        let space = match u8_at(table, offset)? {
            0 => AddressSpace::Memory,
            1 => AddressSpace::Port,
            2 => AddressSpace::Configuration,
            _ => return None,
        };
        let address = u64_at(table, offset + 4)?;
        (address != 0).then_some(Self { space, address })
    }
}

/// What the table says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fadt {
    /// The timer's port.
    pub pm_timer: Option<u16>,
    /// The timer has 32 bits; else 24.
    pub pm_timer_is_wide: bool,
    /// The register that resets the machine, and the value that does it.
    pub reset: Option<(GenericAddress, u8)>,
}

impl Fadt {
    /// Reads a table, whose header and checksum are good. What an old, short table does not have is absent.
    pub fn parse(table: &[u8]) -> Self {
        const TIMER_IS_WIDE: u32 = 1 << 8;
        const HAS_RESET_REGISTER: u32 = 1 << 10;
        let flags = u32_at(table, 112).unwrap_or(0);
        let extended = GenericAddress::parse(table, 208)
            .filter(|register| register.space == AddressSpace::Port)
            .map(|register| register.address);
        let legacy = u32_at(table, 76).filter(|_| u8_at(table, 91) == Some(4)).map(u64::from);
        let port = extended.or(legacy).filter(|port| *port != 0);
        let reset = GenericAddress::parse(table, 116).zip(u8_at(table, 128));
        Self {
            pm_timer: port.and_then(|port| u16::try_from(port).ok()),
            pm_timer_is_wide: flags & TIMER_IS_WIDE != 0,
            reset: reset.filter(|_| flags & HAS_RESET_REGISTER != 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<u8> {
        let mut table = vec![0; 244];
        table[76..80].copy_from_slice(&0x608u32.to_le_bytes());
        table[91] = 4;
        table[112..116].copy_from_slice(&(1u32 << 10 | 1 << 8).to_le_bytes());
        table[116] = 1;
        table[120..128].copy_from_slice(&0xcf9u64.to_le_bytes());
        table[128] = 0xf;
        table
    }

    #[test]
    fn the_timer_and_the_reset_register_are_found() {
        let mut table = table();
        let reset = Some((GenericAddress { space: AddressSpace::Port, address: 0xcf9 }, 0xf));
        assert_eq!(Fadt::parse(&table), Fadt { pm_timer: Some(0x608), pm_timer_is_wide: true, reset });
        table[208] = 1;
        table[212..220].copy_from_slice(&0x408u64.to_le_bytes());
        assert_eq!(Fadt::parse(&table).pm_timer, Some(0x408), "the extended address wins");
        table[208] = 0;
        assert_eq!(Fadt::parse(&table).pm_timer, Some(0x608), "but not in memory");
    }

    #[test]
    fn what_is_not_there_is_absent() {
        let mut table = table();
        assert_eq!(Fadt::parse(&table[..116]).reset, None);
        assert_eq!(Fadt::parse(&table[..36]), Fadt::default());
        table[112..116].fill(0);
        assert_eq!(Fadt::parse(&table).reset, None, "the flag says so");
        table[91] = 0;
        assert_eq!(Fadt::parse(&table).pm_timer, None);
        table[91] = 4;
        table[76..80].copy_from_slice(&0x1_0608u32.to_le_bytes());
        assert_eq!(Fadt::parse(&table).pm_timer, None, "no port has 17 bits");
    }
}
