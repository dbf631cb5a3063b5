//! Fault reasons (VT-d section 7.1.3).

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

/// The root-table address has a mode that the unit does not know.
pub const ROOT_MODE: u8 = 0x30;
/// A request with a PASID meets tables of legacy mode.
pub const PASID_IN_LEGACY_MODE: u8 = 0x31;
/// Scalable mode: the root table cannot be read.
pub const SCALABLE_ROOT_ACCESS: u8 = 0x38;
/// Scalable mode: the half of the root entry is not present.
pub const SCALABLE_ROOT_NOT_PRESENT: u8 = 0x39;
/// Scalable mode: reserved bits in a root entry.
pub const SCALABLE_ROOT_RESERVED: u8 = 0x3a;
/// Scalable mode: the context table cannot be read.
pub const SCALABLE_CONTEXT_ACCESS: u8 = 0x40;
/// Scalable mode: the context entry is not present.
pub const SCALABLE_CONTEXT_NOT_PRESENT: u8 = 0x41;
/// Scalable mode: reserved bits in a context entry.
pub const SCALABLE_CONTEXT_RESERVED: u8 = 0x42;
/// Scalable mode: the context entry asks for what the unit does not do.
pub const SCALABLE_CONTEXT_INVALID: u8 = 0x43;
/// A translation request or a translated one where DTE is 0.
pub const DEVICE_TLB_DISABLED: u8 = 0x44;
/// A request with a PASID where PASIDE is 0.
pub const PASID_DISABLED: u8 = 0x45;
/// The PASID is beyond the directory.
pub const PASID_BEYOND_DIRECTORY: u8 = 0x46;
/// RID_PASID is beyond the directory.
pub const RID_PASID_INVALID: u8 = 0x48;
/// The PASID directory cannot be read.
pub const DIRECTORY_ACCESS: u8 = 0x50;
/// The PASID directory's entry is not present.
pub const DIRECTORY_NOT_PRESENT: u8 = 0x51;
/// Reserved bits in the PASID directory's entry.
pub const DIRECTORY_RESERVED: u8 = 0x52;
/// The PASID table cannot be read.
pub const PASID_ACCESS: u8 = 0x58;
/// The PASID entry is not present.
pub const PASID_NOT_PRESENT: u8 = 0x59;
/// Reserved bits in the PASID entry.
pub const PASID_RESERVED: u8 = 0x5a;
/// The PASID entry asks for what the unit does not do.
pub const PASID_INVALID: u8 = 0x5b;
/// A first-stage entry cannot be read.
pub const FIRST_STAGE_ACCESS: u8 = 0x70;
/// A first-stage entry is not present.
pub const FIRST_STAGE_NOT_PRESENT: u8 = 0x71;
/// Reserved bits in a first-stage entry.
pub const FIRST_STAGE_RESERVED: u8 = 0x72;
/// Scalable mode: a second-stage entry cannot be read.
pub const SECOND_STAGE_ACCESS: u8 = 0x78;
/// Scalable mode: a second-stage entry does not permit it.
pub const SECOND_STAGE_PERMISSION: u8 = 0x79;
/// Scalable mode: reserved bits in a second-stage entry.
pub const SECOND_STAGE_RESERVED: u8 = 0x7a;
/// A first-stage address is not canonical.
pub const NOT_CANONICAL: u8 = 0x80;
/// A first-stage entry is for supervisors alone.
pub const SUPERVISOR_ONLY: u8 = 0x81;
/// Scalable mode: the address is beyond the second stage's width.
pub const BEYOND_SECOND_STAGE: u8 = 0x84;
/// A first-stage entry does not permit writing.
pub const FIRST_STAGE_WRITE: u8 = 0x85;
/// Scalable mode: the output lies in the interrupt range.
pub const SCALABLE_OUTPUT_IN_INTERRUPT_RANGE: u8 = 0x87;
/// Accessed or dirty bits would have to be set in a walk that does not snoop.
pub const ACCESSED_WITHOUT_SNOOP: u8 = 0x90;

/// Whether FPD of the context, directory or PASID entry silences the reason.
pub(crate) const fn is_qualified(reason: u8) -> bool {
    matches!(reason, 0x02..=0x07 | 0x0c..=0x0e | 0x41 | 0x43..=0x48 | 0x51 | 0x59 | 0x5b..=0x5d | 0x70..=0x91)
}
