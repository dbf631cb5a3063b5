//! Why the processor refused a VMCS: the rules that it checks at an entry (SDM volume 3 chapter 27), in words, for every
//! field that this engine uses. The processor says only which of the three groups of rules was broken.

mod control;
mod guest;
mod host;

use core::fmt;

use super::capability::Capabilities;
use super::field::Field;
use super::vmcs::Accesses;

/// Where the fields' values come from: the current VMCS, or a test's.
pub(super) trait Fields {
    /// The field's value.
    fn get<F: Field>(&self, field: F) -> F::Value;
}

impl Fields for Accesses {
    fn get<F: Field>(&self, field: F) -> F::Value {
        self.read(field)
    }
}

/// What the rules need to know besides the fields.
pub(super) struct Surroundings<'a> {
    pub(super) capabilities: &'a Capabilities,
    /// The processor's physical width.
    pub(super) physical_bits: u32,
}

/// A rule that a field breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// The field, or the group of fields.
    pub(super) field: &'static str,
    /// What it should be.
    pub(super) rule: &'static str,
    /// What it is.
    pub(super) value: u64,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:#x}: {}", self.field, self.value, self.rule)
    }
}

/// Takes the rules that are broken.
pub(super) struct Report<'a> {
    to: &'a mut dyn FnMut(Broken),
}

impl Report<'_> {
    /// The rule has to hold.
    fn rule(&mut self, holds: bool, field: &'static str, value: impl Into<u64>, rule: &'static str) {
        if !holds {
            (self.to)(Broken { field, rule, value: value.into() });
        }
    }
}

/// Gives every rule that the fields break to `to`.
pub(super) fn broken(fields: &impl Fields, surroundings: &Surroundings<'_>, to: &mut dyn FnMut(Broken)) {
    let mut report = Report { to };
    control::check(fields, surroundings, &mut report);
    host::check(fields, surroundings, &mut report);
    guest::check(fields, surroundings, &mut report);
}

/// The processor's physical width, for the check of addresses.
pub(super) fn physical_bits() -> u32 {
    (core::arch::x86_64::__cpuid_count(0x8000_0008, 0).eax & 0xff).clamp(32, 52)
}

/// A VM-instruction error in words (SDM volume 3 section 31.4).
pub(super) const fn instruction_error(error: u32) -> &'static str {
    match error {
        1 => "VMCALL in VMX root operation",
        2 => "VMCLEAR with an invalid address",
        3 => "VMCLEAR with the VMXON region",
        4 => "VMLAUNCH of a VMCS that was launched",
        5 => "VMRESUME of a VMCS that was not launched",
        6 => "VMRESUME after VMXOFF",
        7 => "invalid control fields",
        8 => "invalid host state",
        9 => "VMPTRLD with an invalid address",
        10 => "VMPTRLD with the VMXON region",
        11 => "VMPTRLD with another revision",
        12 => "VMREAD or VMWRITE of a field that does not exist",
        13 => "VMWRITE to a read-only field",
        15 => "VMXON in VMX root operation",
        20 => "VMCALL with an invalid VM-exit control",
        26 => "entry with events blocked by MOV SS",
        28 => "invalid operand of INVEPT or INVVPID",
        _ => "an error that is not known here",
    }
}

/// Whether a linear address is canonical with 48 bits.
const fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

/// Whether each byte is a memory type of a page-attribute table.
fn is_page_attributes(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4 | 5 | 6 | 7))
}

#[cfg(test)]
mod tests;
