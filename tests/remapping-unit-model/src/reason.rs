//! Fault reasons of legacy mode (VT-d section 7.1.3).

/// The root entry is not present.
pub const ROOT_NOT_PRESENT: u8 = 0x01;
/// The context entry is not present.
pub const CONTEXT_NOT_PRESENT: u8 = 0x02;
/// The context entry asks for what the unit does not do.
pub const CONTEXT_INVALID: u8 = 0x03;
/// The address is beyond the width.
pub const BEYOND_WIDTH: u8 = 0x04;
/// Writing is not permitted.
pub const WRITE: u8 = 0x05;
/// Reading is not permitted.
pub const READ: u8 = 0x06;
/// A second-stage entry cannot be read.
pub const PAGE_TABLE_ACCESS: u8 = 0x07;
/// The root table cannot be read.
pub const ROOT_ACCESS: u8 = 0x08;
/// The context table cannot be read.
pub const CONTEXT_ACCESS: u8 = 0x09;
/// Reserved bits in a root entry.
pub const ROOT_RESERVED: u8 = 0x0a;
/// Reserved bits in a context entry.
pub const CONTEXT_RESERVED: u8 = 0x0b;
/// Reserved bits in a second-stage entry.
pub const PAGE_TABLE_RESERVED: u8 = 0x0c;
/// The context entry does not let this type of request in.
pub const TRANSLATION_TYPE: u8 = 0x0d;
/// The output lies in the interrupt range.
pub const OUTPUT_IN_INTERRUPT_RANGE: u8 = 0x0e;
/// A reserved field of an interrupt request is set.
pub const INTERRUPT_REQUEST: u8 = 0x20;
/// The index is beyond the interrupt table.
pub const INTERRUPT_INDEX: u8 = 0x21;
/// The interrupt entry is not present.
pub const INTERRUPT_NOT_PRESENT: u8 = 0x22;
/// The interrupt table cannot be read.
pub const INTERRUPT_ACCESS: u8 = 0x23;
/// Reserved bits in an interrupt entry.
pub const INTERRUPT_RESERVED: u8 = 0x24;
/// An interrupt of compatibility format is blocked.
pub const COMPATIBILITY: u8 = 0x25;
/// The interrupt entry is not for this source.
pub const INTERRUPT_SOURCE: u8 = 0x26;
/// The posted-interrupt descriptor cannot be reached.
pub const DESCRIPTOR_ACCESS: u8 = 0x27;
/// Reserved bits in the posted-interrupt descriptor.
pub const DESCRIPTOR_RESERVED: u8 = 0x28;

/// Whether FPD of the context entry silences the reason.
pub(crate) const fn is_qualified(reason: u8) -> bool {
    matches!(reason, 0x02..=0x07 | 0x0c..=0x0e)
}
