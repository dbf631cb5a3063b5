//! The few things that the guests read in ACPI tables (ACPI 6.5, chapter 5).

/// Where a PC's firmware leaves the root pointer.
const SEARCHED: core::ops::Range<usize> = 0xE_0000..0x10_0000;

/// The tables that were found.
#[derive(Clone, Copy, Debug)]
pub struct Acpi {
    /// The root table.
    root: Table,
    /// The size of its pointers: 4 (RSDT) or 8 (XSDT).
    pointer: usize,
}

/// A table in memory whose length and checksum are right.
#[derive(Clone, Copy, Debug)]
pub struct Table(&'static [u8]);

impl Acpi {
    /// Searches the root pointer in the ROM area.
    pub fn find() -> Option<Self> {
        SEARCHED.step_by(16).find_map(|address| {
            // SAFETY: the ROM area is mapped and read-only.
            let pointer = unsafe { core::slice::from_raw_parts(address as *const u8, 36) };
            if !pointer.starts_with(b"RSD PTR ") || sum(pointer.get(..20)?) != 0 {
                return None;
            }
            let extended = *pointer.get(15)? >= 2 && sum(pointer) == 0;
            let (address, pointer) = if extended { (read(pointer, 24, 8)?, 8) } else { (read(pointer, 16, 4)?, 4) };
            Some(Self { root: Table::at(address)?, pointer })
        })
    }

    /// The revision that the root pointer offers: whether there is an XSDT.
    pub fn is_extended(&self) -> bool {
        self.pointer == 8
    }

    /// All tables that the root table names.
    pub fn tables(&self) -> impl Iterator<Item = Table> + '_ {
        let list = self.root.0.get(36..).unwrap_or_default();
        list.chunks_exact(self.pointer).filter_map(|entry| Table::at(read(entry, 0, self.pointer)?))
    }

    /// The table with this signature.
    pub fn table(&self, signature: &[u8; 4]) -> Option<Table> {
        self.tables().find(|table| table.signature() == signature)
    }

    /// The PM timer's port.
    pub fn pm_timer(&self) -> Option<u16> {
        self.fadt_port(76)
    }

    /// The PM1a control register's port.
    pub fn pm1a_control(&self) -> Option<u16> {
        self.fadt_port(64)
    }

    /// The reset register, if it is a port, and the value that resets.
    pub fn reset_register(&self) -> Option<(u16, u8)> {
        let fadt = self.table(b"FACP")?;
        // Flag 10: the register is there; address space 1: ports.
        if fadt.read(112, 4)? & 1 << 10 == 0 || fadt.read(116, 1)? != 1 {
            return None;
        }
        Some((fadt.read(120, 8)?.try_into().ok()?, fadt.read(128, 1)?.try_into().ok()?))
    }

    /// The sleep type of \_S5, found in the DSDT by the bytes of `Name (_S5, Package (...) { type, ...`.
    pub fn soft_off(&self) -> Option<u16> {
        let fadt = self.table(b"FACP")?;
        let long = fadt.read(140, 8).filter(|address| *address != 0);
        let dsdt = Table::at(long.or_else(|| fadt.read(40, 4))?)?;
        let at = dsdt.0.windows(5).position(|bytes| bytes == b"_S5_\x12")?;
        // Behind the package operator: length (1 byte when short), number of elements, the first element.
        let element = dsdt.0.get(at + 7..)?;
        match element {
            [0x0A, value, ..] => Some(u16::from(*value)),
            [value @ (0 | 1), ..] => Some(u16::from(*value)),
            _ => None,
        }
    }

    /// The local APIC ids of the processors that are enabled, as the MADT lists them.
    pub fn processors(&self) -> impl Iterator<Item = u32> + use<> {
        let madt = self.table(b"APIC");
        let mut rest = madt.and_then(|madt| madt.0.get(44..)).unwrap_or_default();
        core::iter::from_fn(move || {
            loop {
                let (kind, length) = (*rest.first()?, usize::from(*rest.get(1)?));
                let entry = rest.get(..length).filter(|_| length >= 2)?;
                rest = rest.get(length..)?;
                let (id, flags) = match kind {
                    0 => (read(entry, 3, 1), read(entry, 4, 4)),
                    9 => (read(entry, 4, 4), read(entry, 8, 4)),
                    _ => continue,
                };
                if let (Some(id), Some(flags)) = (id, flags)
                    && flags & 1 != 0
                {
                    return Some(id as u32);
                }
            }
        })
    }

    fn fadt_port(&self, offset: usize) -> Option<u16> {
        self.table(b"FACP")?.read(offset, 4)?.try_into().ok().filter(|port| *port != 0)
    }
}

impl Table {
    fn at(address: u64) -> Option<Self> {
        let address = usize::try_from(address).ok().filter(|address| *address != 0 && *address < 1 << 32)?;
        // SAFETY: the first 4 GiB are mapped; a header has 36 bytes.
        let header = unsafe { core::slice::from_raw_parts(address as *const u8, 36) };
        let length = read(header, 4, 4)? as usize;
        if !(36..1 << 20).contains(&length) {
            return None;
        }
        // SAFETY: likewise, and the length is bounded.
        let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, length) };
        (sum(bytes) == 0).then_some(Self(bytes))
    }

    /// Four letters.
    pub fn signature(&self) -> &[u8] {
        self.0.get(..4).unwrap_or_default()
    }

    /// A number of `size` bytes at `offset`.
    pub fn read(&self, offset: usize, size: usize) -> Option<u64> {
        read(self.0, offset, size)
    }
}

fn read(bytes: &[u8], offset: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
