//! What can be wrong with a DMAR table, as sentences.

use core::fmt;

use crate::address::HostPhysical;

/// Why the table as a whole cannot be used. Without it there is no DMA or interrupt remapping, and so no assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmarError {
    /// The slice ends inside the fixed part.
    Truncated {
        /// Bytes given.
        length: usize,
    },
    /// Not a DMAR table.
    Signature([u8; 4]),
    /// The header's length is impossible.
    Length {
        /// The header's length.
        declared: u32,
        /// Bytes given.
        given: usize,
    },
    /// The bytes do not sum to 0.
    Checksum {
        /// Their sum.
        sum: u8,
    },
    /// The address width is impossible.
    HostAddressWidth {
        /// In bits.
        bits: u16,
    },
    /// A structure's length is below its header's or runs past the table: where the next one starts is unknown.
    StructureLength {
        /// Where it stands.
        offset: usize,
        /// Its type.
        kind: u16,
        /// Its length.
        length: u16,
    },
    /// Bytes are left that cannot be a structure.
    TrailingBytes {
        /// Where they stand.
        offset: usize,
    },
    /// No remapping unit.
    NoUnits,
    /// A unit's structure is too short.
    UnitTruncated {
        /// Where it stands.
        offset: usize,
        /// Its length.
        length: u16,
    },
    /// What a unit covers is unknown, because its scopes cannot be walked.
    UnitScopes {
        /// Where it stands.
        offset: usize,
        /// What is wrong.
        problem: Problem,
    },
    /// A unit's registers are nowhere, or where they cannot be.
    RegisterBase {
        /// The base.
        base: HostPhysical,
    },
    /// A unit's register set is absurdly large.
    RegisterSize {
        /// The base.
        base: HostPhysical,
        /// In bytes.
        size: u64,
    },
    /// The registers of two units overlap.
    RegistersOverlap {
        /// One base.
        first: HostPhysical,
        /// The other.
        second: HostPhysical,
    },
    /// Two units claim all the rest of a segment.
    TwoIncludeAll {
        /// The segment.
        segment: u16,
    },
    /// Two units claim one I/O APIC.
    IoApicTwice {
        /// Its id.
        id: u8,
    },
    /// A unit's registers lie in RAM.
    RegistersInRam {
        /// The base.
        base: HostPhysical,
    },
    /// A reserved range covers a unit's registers: its device could switch its own isolation off.
    ReservedMemoryOverRegisters {
        /// The range's first byte.
        first: HostPhysical,
        /// The unit's base.
        base: HostPhysical,
    },
}

impl fmt::Display for DmarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DMAR table refused: ")?;
        match self {
            Self::Truncated { length } => write!(f, "{length} bytes are less than its fixed part of 48"),
            Self::Signature(signature) => write!(f, "its signature is \"{}\", not \"DMAR\"", signature.escape_ascii()),
            Self::Length { declared, given } => {
                write!(f, "its header says {declared} bytes, and there are {given} (at least 48 are needed)")
            }
            Self::Checksum { sum } => write!(f, "its bytes sum to {sum:#04x} instead of 0"),
            Self::HostAddressWidth { bits } => {
                write!(f, "a host address width of {bits} bits cannot be (12 to 64 can)")
            }
            Self::StructureLength { offset, kind, length } => write!(
                f,
                "the structure at {offset:#x} (type {kind}) has length {length}, so what follows cannot be found"
            ),
            Self::TrailingBytes { offset } => write!(f, "the bytes from {offset:#x} on are too few for a structure"),
            Self::NoUnits => f.write_str("it names no remapping unit (DRHD)"),
            Self::UnitTruncated { offset, length } => {
                write!(f, "the unit (DRHD) at {offset:#x} has {length} bytes and needs 16")
            }
            Self::UnitScopes { offset, problem } => {
                write!(f, "which devices the unit (DRHD) at {offset:#x} covers is unknown: {problem}")
            }
            Self::RegisterBase { base } if base.as_u64() == 0 => {
                f.write_str("a unit's register base is 0: firmware has VT-d half off; enable or disable it in setup")
            }
            Self::RegisterBase { base } => write!(
                f,
                "a unit's register base {base} cannot be: it must be 4 KiB aligned, below the end of memory, and not in \
                 the interrupt range at 0xfee00000"
            ),
            Self::RegisterSize { base, size } => {
                write!(f, "the unit at {base} claims {size:#x} bytes of registers; 1 MiB is the most that is believed")
            }
            Self::RegistersOverlap { first, second } => {
                write!(f, "the registers of the units at {first} and {second} overlap")
            }
            Self::TwoIncludeAll { segment } => {
                write!(f, "two units of segment {segment:04x} both claim all devices that no other unit names")
            }
            Self::IoApicTwice { id } => write!(f, "two units both claim the I/O APIC {id}"),
            Self::RegistersInRam { base } => write!(f, "the registers of the unit at {base} lie in RAM"),
            Self::ReservedMemoryOverRegisters { first, base } => write!(
                f,
                "the reserved memory (RMRR) at {first} covers the registers of the unit at {base}, so that its device \
                 could turn remapping off"
            ),
        }?;
        match self {
            Self::RegisterBase { base } if base.as_u64() == 0 => Ok(()),
            _ => f.write_str("; only a firmware update or the VT-d setting in firmware setup can help"),
        }
    }
}

impl core::error::Error for DmarError {}

/// What is wrong with one structure or scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A type that this crate does not know.
    UnknownStructure {
        /// The type.
        kind: u16,
    },
    /// The structure is shorter than its fixed part.
    StructureTruncated {
        /// Its length.
        length: u16,
        /// What it needs.
        needed: usize,
    },
    /// The scope's header is cut off.
    ScopeTruncated,
    /// The scope is shorter than its own header.
    ScopeLength {
        /// Its length.
        length: u8,
    },
    /// The scope runs past its structure.
    ScopePastStructure {
        /// Its length.
        length: u8,
    },
    /// A type that this crate does not know.
    ScopeKind {
        /// The type.
        kind: u8,
    },
    /// The scope has no path, or half a hop.
    ScopePath {
        /// Its length.
        length: u8,
    },
    /// The path is longer than any machine's tree.
    ScopeTooDeep {
        /// How many hops.
        hops: usize,
    },
    /// A hop that no function can have.
    ScopeHop {
        /// 0 to 255, should be below 32.
        device: u8,
        /// 0 to 255, should be below 8.
        function: u8,
    },
    /// The structure names no device.
    NoScopes,
    /// Only bridges make sense here.
    NotABridge,
    /// The range's end is not behind its start, or not at the end of the address space.
    ReservedMemoryRange {
        /// The first byte.
        first: HostPhysical,
        /// The last.
        last: HostPhysical,
    },
    /// The range does not consist of whole pages.
    ReservedMemoryUnaligned {
        /// The first byte.
        first: HostPhysical,
        /// The last.
        last: HostPhysical,
    },
    /// The range is in RAM that programs use.
    ReservedMemoryInRam {
        /// The first byte.
        first: HostPhysical,
        /// The last.
        last: HostPhysical,
    },
    /// The range covers the interrupt addresses.
    ReservedMemoryOverInterrupts,
    /// No unit has this segment.
    SegmentWithoutUnit {
        /// The segment.
        segment: u16,
    },
    /// No unit has these registers.
    UnitUnknown {
        /// The base.
        base: HostPhysical,
    },
    /// The proximity domain is the reserved number.
    NoProximityDomain,
    /// The name does not end with NUL, is empty or not printable.
    Name,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownStructure { kind } => write!(f, "structures of type {kind} are not known"),
            Self::StructureTruncated { length, needed } => write!(f, "it has {length} bytes and needs {needed}"),
            Self::ScopeTruncated => f.write_str("a device scope is cut off"),
            Self::ScopeLength { length } => write!(f, "a device scope of length {length} cannot be stepped over"),
            Self::ScopePastStructure { length } => {
                write!(f, "a device scope of length {length} runs past its structure")
            }
            Self::ScopeKind { kind } => write!(f, "device scopes of type {kind} are not known"),
            Self::ScopePath { length } => write!(f, "a device scope of length {length} has no whole path"),
            Self::ScopeTooDeep { hops } => write!(f, "a path of {hops} hops is longer than any machine's"),
            Self::ScopeHop { device, function } => write!(f, "no function has the number {device:02x}.{function}"),
            Self::NoScopes => f.write_str("it names no device"),
            Self::NotABridge => f.write_str("a device scope names something else than a bridge"),
            Self::ReservedMemoryRange { first, last } => {
                write!(f, "its range from {first} to {last} is no range; its devices cannot be given away")
            }
            Self::ReservedMemoryUnaligned { first, last } => {
                write!(f, "its range from {first} to {last} is not of whole pages; its devices cannot be given away")
            }
            Self::ReservedMemoryInRam { first, last } => {
                write!(f, "its range from {first} to {last} lies in RAM; its devices cannot be given away")
            }
            Self::ReservedMemoryOverInterrupts => {
                f.write_str("its range covers the interrupt addresses at 0xfee00000; its devices cannot be given away")
            }
            Self::SegmentWithoutUnit { segment } => write!(f, "no unit has its segment {segment:04x}"),
            Self::UnitUnknown { base } => write!(f, "no unit has its register base {base}"),
            Self::NoProximityDomain => f.write_str("it names no proximity domain"),
            Self::Name => f.write_str("its name is not a NUL-ended printable string"),
        }
    }
}

/// Something that was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where in the table; `None` for what was found by comparing with the memory map.
    pub offset: Option<usize>,
    /// The structure's name.
    pub structure: &'static str,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.structure)?;
        if let Some(offset) = self.offset {
            write!(f, " at {offset:#x}")?;
        }
        write!(f, " left out: {}", self.problem)
    }
}
