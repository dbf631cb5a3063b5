//! The soft-off state S5: which registers switch the machine off, and what to write there (ACPI specification sections
//! 4.8.3.2.1, 5.2.9 and 7.4.2).
//!
//! The values are in the package `\_S5_` of a definition block. It is looked for as the bytes that every AML compiler
//! makes of a name with a package of integers; an interpreter of AML would be needed for anything else.

use core::fmt;

use super::bytes::{u8_at, u16_at, u32_at, u64_at};

/// How the machine is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftOff {
    /// The port of the first control register, and the sleep type for it.
    pub first: (u16, u8),
    /// The same of the second register, where there is one.
    pub second: Option<(u16, u8)>,
    /// The port of the SMI command register, and the value that makes firmware hand the registers over, where that is
    /// needed.
    pub enable: Option<(u16, u8)>,
}

/// Why it is not known how to switch the machine off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSoftOff {
    /// There is no fixed description table.
    NoTable,
    /// The table names no control register, or one that is no port.
    NoRegister,
    /// No definition block has the package as it is looked for.
    NoPackage,
}

impl fmt::Display for NoSoftOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoTable => "firmware has no good ACPI table FACP",
            Self::NoRegister => "the ACPI table FACP names no control register among the ports",
            Self::NoPackage => "no ACPI definition block names the values of the soft-off state (\\_S5_)",
        })
    }
}

impl core::error::Error for NoSoftOff {}

impl SoftOff {
    /// Reads the fixed description table, whose header and checksum are good, and definition blocks.
    ///
    /// # Errors
    ///
    /// [`NoSoftOff::NoRegister`], [`NoSoftOff::NoPackage`].
    pub fn read<'t>(fadt: &[u8], blocks: impl IntoIterator<Item = &'t [u8]>) -> Result<Self, NoSoftOff> {
        let first = control(fadt, 64, 172).ok_or(NoSoftOff::NoRegister)?;
        let (type_first, type_second) = blocks.into_iter().find_map(package).ok_or(NoSoftOff::NoPackage)?;
        let command = u32_at(fadt, 48).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        let enable = u8_at(fadt, 52).filter(|value| *value != 0);
        Ok(Self {
            first: (first, type_first),
            second: control(fadt, 68, 184).map(|port| (port, type_second)),
            enable: command.zip(enable),
        })
    }
}

impl SoftOff {
    /// The address of the differentiated definition block that the fixed description table names.
    pub(super) fn block(fadt: &[u8]) -> Option<u64> {
        let extended = u64_at(fadt, 140).filter(|address| *address != 0);
        extended.or_else(|| u32_at(fadt, 40).map(u64::from)).filter(|address| *address != 0)
    }
}

/// A control register's port: from the extended field, if it has one, else from the old one.
fn control(fadt: &[u8], old: usize, extended: usize) -> Option<u16> {
    const PORT: u8 = 1;
    let extended = match u64_at(fadt, extended + 4)? {
        0 => None,
        _ if u8_at(fadt, extended) != Some(PORT) => return None,
        address => Some(address),
    };
    let address = extended.or_else(|| u32_at(fadt, old).map(u64::from))?;
    u16::try_from(address).ok().filter(|port| *port != 0)
}

/// The first two numbers of the package `_S5_`: the sleep types for the two registers, of 3 bits.
fn package(block: &[u8]) -> Option<(u8, u8)> {
    // NameOp, the name, PackageOp; a root prefix may stand before the name.
    const FORMS: [&[u8]; 2] = [b"\x08_S5_\x12", b"\x08\\_S5_\x12"];
    let behind = FORMS.iter().find_map(|form| {
        let at = block.windows(form.len()).position(|window| window == *form)?;
        block.get(at + form.len()..)
    })?;
    // The length of the package takes as many more bytes as its first one's two highest bits say; then comes the count.
    let count = 1 + usize::from(u8_at(behind, 0)? >> 6);
    if u8_at(behind, count)? < 2 {
        return None;
    }
    let (first, size) = integer(behind.get(count + 1..)?)?;
    let (second, _) = integer(behind.get(count + 1 + size..)?)?;
    Some((first, second))
}

/// An integer constant below 8, and how many bytes it takes (section 20.2.3).
fn integer(bytes: &[u8]) -> Option<(u8, usize)> {
    let (value, size) = match u8_at(bytes, 0)? {
        value @ (0 | 1) => (u64::from(value), 1),
        0x0a => (u64::from(u8_at(bytes, 1)?), 2),
        0x0b => (u64::from(u16_at(bytes, 1)?), 3),
        0x0c => (u64::from(u32_at(bytes, 1)?), 5),
        0x0e => (u64_at(bytes, 1)?, 9),
        _ => return None,
    };
    u8::try_from(value).ok().filter(|value| *value < 8).map(|value| (value, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fadt() -> Vec<u8> {
        let mut table = vec![0; 244];
        table[48..52].copy_from_slice(&0xb2u32.to_le_bytes());
        table[52] = 0xf1;
        table[64..68].copy_from_slice(&0x604u32.to_le_bytes());
        table
    }

    #[test]
    fn registers_and_values_are_found() {
        // What compilers make of `Name (_S5, Package (4) { 5, 1, 0, 0 })`, in the middle of other things.
        let block = b"\x10\x49_S4_\x08_S5_\x12\x0a\x04\x0a\x05\x01\x00\x00\x08_S3_";
        let off = SoftOff::read(&fadt(), [&b"nothing"[..], block]).unwrap();
        assert_eq!(off, SoftOff { first: (0x604, 5), second: None, enable: Some((0xb2, 0xf1)) });
        let mut table = fadt();
        table[52] = 0;
        table[68..72].copy_from_slice(&0x704u32.to_le_bytes());
        table[172] = 1;
        table[176..184].copy_from_slice(&0x804u64.to_le_bytes());
        let off = SoftOff::read(&table, [&block[..]]).unwrap();
        assert_eq!(off, SoftOff { first: (0x804, 5), second: Some((0x704, 1)), enable: None });
    }

    #[test]
    fn every_spelling_of_the_package_is_read() {
        for block in [
            &b"\x08\\_S5_\x12\x0a\x04\x0a\x07\x0a\x02\x00\x00"[..],
            b"\x08_S5_\x12\x4a\x00\x02\x0b\x07\x00\x0c\x02\x00\x00\x00",
            b"\x08_S5_\x12\x16\x02\x0e\x07\0\0\0\0\0\0\0\x0a\x02",
        ] {
            assert_eq!(package(block), Some((7, 2)), "{block:02x?}");
        }
    }

    #[test]
    fn what_is_not_there_or_makes_no_sense_is_refused() {
        let block = &b"\x08_S5_\x12\x0a\x04\x0a\x05\x01\x00\x00"[..];
        for length in 0..=9 {
            assert_eq!(SoftOff::read(&fadt(), [&block[..length]]), Err(NoSoftOff::NoPackage), "{length}");
        }
        for broken in [
            &b"\x08_S5_\x12\x0a\x01\x0a\x05\x01"[..],
            b"\x08_S5_\x12\x0a\x04\x0a\x08\x01",
            b"\x08_S5_\x12\x0a\x04\x70\x01",
        ] {
            assert_eq!(package(broken), None);
        }
        assert_eq!(SoftOff::read(&fadt()[..64], [block]), Err(NoSoftOff::NoRegister));
        let mut table = fadt();
        table[176] = 4; // An extended register in memory.
        assert_eq!(SoftOff::read(&table, [block]), Err(NoSoftOff::NoRegister));
    }
}
