//! Finding tables.

use core::fmt;
use core::ptr::NonNull;

use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiError, AcpiHandler, AcpiTable, AcpiTables, PhysicalMapping};
use iommu::address::HostPhysical;

use super::soft_off::{NoSoftOff, SoftOff};
use crate::memory::space::firmware_bytes;

/// The longest table that is looked at, in bytes.
const LONGEST: u32 = 16 << 20;

/// What is wrong with firmware's tables.
#[derive(Debug)]
pub enum AcpiFault {
    /// The loader found no root pointer.
    NoRoot,
    /// The root pointer, or the table that it points to, is bad.
    BadRoot(AcpiError),
    /// There is no good table with this signature.
    Missing(&'static str),
}

impl fmt::Display for AcpiFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoot => f.write_str("firmware gave no ACPI root pointer (RSDP): the machine cannot be explored"),
            Self::BadRoot(error) => write!(
                f,
                "firmware's ACPI root pointer or root table is damaged ({error:?}): the machine cannot be explored"
            ),
            Self::Missing(signature) => write!(f, "firmware has no good ACPI table {signature}"),
        }
    }
}

impl core::error::Error for AcpiFault {}

/// Gives the crate what firmware left in memory, and zeros where a table is not whole in such memory: zeros are a
/// table that the crate refuses.
#[derive(Clone, Copy, Debug)]
struct Handler;

/// As large as what is asked for first: a header or a root pointer, both 36 bytes.
#[repr(align(8))]
struct Zeros([u8; 64]);
static ZEROS: Zeros = Zeros([0; 64]);

impl Handler {
    /// The bytes at `address`, if what lies there is good enough to be looked at as what is asked for.
    fn bytes(&self, address: usize, size: usize) -> Option<&'static [u8]> {
        let place = HostPhysical::new(address as u64);
        let bytes = firmware_bytes(place, size)?;
        // The crate goes on to read as many bytes as the length in a header or a root pointer says, unchecked.
        if let Some(length) = announced_length(bytes) {
            firmware_bytes(place, length?)?;
        }
        Some(bytes)
    }
}

/// If these bytes are a header or a root pointer: how long it says that the whole is, `Some(None)` where no good table
/// has that length.
fn announced_length(bytes: &[u8]) -> Option<Option<usize>> {
    const HEADER: usize = size_of::<SdtHeader>();
    if bytes.len() != HEADER {
        return None;
    }
    let number = |offset: usize| bytes.get(offset..)?.first_chunk().copied().map(u32::from_le_bytes);
    // A root pointer of revision 0 has no length, but always 20 bytes.
    let (length, longest) = match (bytes.starts_with(b"RSD PTR "), bytes.get(15)) {
        (true, Some(0)) => return Some(Some(HEADER)),
        (true, _) => (number(20), 4096),
        (false, _) => (number(4), LONGEST),
    };
    Some(length.filter(|length| (HEADER as u32..=longest).contains(length)).map(|length| length as usize))
}

impl AcpiHandler for Handler {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let bytes = match self.bytes(address, size) {
            Some(bytes) => bytes,
            None => ZEROS.0.get(..size).unwrap_or(&[]),
        };
        // A table's header was looked at before the table is asked for whole, so that always succeeds.
        assert!(bytes.len() == size && size >= size_of::<T>(), "ACPI table at {address:#x} is not whole");
        let place = NonNull::from(bytes).cast();
        // SAFETY: `size` bytes are mapped there for good, and nobody writes them.
        unsafe { PhysicalMapping::new(address, place, size, size, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

macro_rules! table {
    ($name:ident, $signature:ident) => {
        #[repr(transparent)]
        struct $name(SdtHeader);

        // SAFETY: a table is looked at as its header only.
        unsafe impl AcpiTable for $name {
            const SIGNATURE: Signature = Signature::$signature;

            fn header(&self) -> &SdtHeader {
                &self.0
            }
        }
    };
}

table!(MadtTable, MADT);
table!(McfgTable, MCFG);
table!(FadtTable, FADT);
table!(DmarTable, DMAR);

/// The tables that firmware left.
#[derive(Debug)]
pub struct Tables(AcpiTables<Handler>);

impl Tables {
    /// Begins at the root pointer, whose address the loader handed over.
    ///
    /// # Errors
    ///
    /// [`AcpiFault::NoRoot`], [`AcpiFault::BadRoot`].
    pub fn new(root: u64) -> Result<Self, AcpiFault> {
        if root == 0 {
            return Err(AcpiFault::NoRoot);
        }
        let root = root as usize;
        // SAFETY: whatever the address is, the handler gives bytes that may be read.
        unsafe { AcpiTables::from_rsdp(Handler, root) }.map(Self).map_err(AcpiFault::BadRoot)
    }

    fn find<T: AcpiTable>(&self, signature: &'static str) -> Result<&'static [u8], AcpiFault> {
        let table = self.0.find_table::<T>().map_err(|_| AcpiFault::Missing(signature))?;
        let place = HostPhysical::new(table.physical_start() as u64);
        firmware_bytes(place, table.region_length()).ok_or(AcpiFault::Missing(signature))
    }

    /// The table of CPUs and I/O APICs, whole.
    ///
    /// # Errors
    ///
    /// [`AcpiFault::Missing`].
    pub fn madt(&self) -> Result<&'static [u8], AcpiFault> {
        self.find::<MadtTable>("APIC")
    }

    /// The table of configuration spaces, whole.
    ///
    /// # Errors
    ///
    /// [`AcpiFault::Missing`].
    pub fn mcfg(&self) -> Result<&'static [u8], AcpiFault> {
        self.find::<McfgTable>("MCFG")
    }

    /// The fixed description table, whole.
    ///
    /// # Errors
    ///
    /// [`AcpiFault::Missing`].
    pub fn fadt(&self) -> Result<&'static [u8], AcpiFault> {
        self.find::<FadtTable>("FACP")
    }

    /// How the machine is switched off.
    ///
    /// # Errors
    ///
    /// [`NoSoftOff`].
    pub fn soft_off(&self) -> Result<SoftOff, NoSoftOff> {
        let fadt = self.fadt().map_err(|_| NoSoftOff::NoTable)?;
        SoftOff::read(fadt, SoftOff::block(fadt).and_then(|address| definition_block(HostPhysical::new(address))))
    }

    /// The table of DMA-remapping units, whole.
    ///
    /// # Errors
    ///
    /// [`AcpiFault::Missing`]: the machine has no VT-d, or its firmware has it switched off.
    pub fn dmar(&self) -> Result<&'static [u8], AcpiFault> {
        self.find::<DmarTable>("DMAR")
    }
}

/// The definition block at this address, whole. The crate would read the table that names it as one of the longest kind.
fn definition_block(place: HostPhysical) -> Option<&'static [u8]> {
    let header = firmware_bytes(place, size_of::<SdtHeader>()).filter(|header| header.starts_with(b"DSDT"))?;
    firmware_bytes(place, announced_length(header)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(signature: &[u8], at: usize, length: u32, revision: u8) -> Vec<u8> {
        let mut bytes = vec![0; 36];
        bytes[..signature.len()].copy_from_slice(signature);
        bytes[15] = revision;
        bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    #[test]
    fn lengths_are_believed_only_where_a_table_can_have_them() {
        assert_eq!(announced_length(&header(b"DMAR", 4, 80, 0)), Some(Some(80)));
        for length in [0, 35, LONGEST + 1, u32::MAX] {
            assert_eq!(announced_length(&header(b"XSDT", 4, length, 0)), Some(None));
        }
        assert_eq!(announced_length(&header(b"RSD PTR ", 20, 36, 2)), Some(Some(36)));
        assert_eq!(announced_length(&header(b"RSD PTR ", 20, 1 << 20, 2)), Some(None));
        assert_eq!(announced_length(&header(b"RSD PTR ", 20, 1 << 20, 0)), Some(Some(36)));
        assert_eq!(announced_length(&[0; 80]), None);
    }
}
