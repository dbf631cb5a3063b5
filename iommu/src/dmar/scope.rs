//! Device scopes: how a structure names the devices that it is about (VT-d section 8.3.1).

use alloc::vec::Vec;

use crate::dmar::error::Problem;

/// The most hops that a path may have. A path of more bridges than a machine has levels of buses is nonsense.
const MAXIMUM_HOPS: usize = 32;

/// What a scope names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeKind {
    /// One function.
    Endpoint,
    /// A bridge and everything below.
    Bridge,
    /// An I/O APIC; the path gives the id that it signs with.
    IoApic,
    /// An HPET that sends MSIs; likewise.
    Hpet,
    /// A device of the ACPI namespace; likewise.
    AcpiDevice,
}

/// One step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// 0 to 31.
    pub device: u8,
    /// 0 to 7.
    pub function: u8,
}

/// One device scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// What it names.
    pub kind: ScopeKind,
    /// Flags (in SATC and SIDP).
    pub flags: u8,
    /// The I/O APIC's id as in the MADT, the HPET's number, or the ACPI device's number; else 0.
    pub enumeration_id: u8,
    /// The bus of the first hop.
    pub start_bus: u8,
    /// From the start bus down to the device; never empty.
    pub path: Vec<Hop>,
}

/// The walk over the scopes of one structure.
pub(super) struct Scopes<'a> {
    rest: &'a [u8],
}

/// One step of that walk.
pub(super) enum Step {
    /// A scope.
    Scope(Scope),
    /// A scope that names nothing usable; the walk goes on behind it.
    Skip(Problem),
}

impl<'a> Scopes<'a> {
    /// Over the bytes of a structure behind its fixed part.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

/// An error ends the walk: where the next scope starts is unknown.
impl Iterator for Scopes<'_> {
    type Item = Result<Step, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = core::mem::take(&mut self.rest);
        let [_, length, ..] = *rest else {
            return Some(Err(Problem::ScopeTruncated));
        };
        // Six bytes of fixed part; anything less cannot be stepped over for sure.
        if length < 6 {
            return Some(Err(Problem::ScopeLength { length }));
        }
        let Some((scope, after)) = rest.split_at_checked(usize::from(length)) else {
            return Some(Err(Problem::ScopePastStructure { length }));
        };
        self.rest = after;
        Some(Ok(match decode(scope) {
            Ok(scope) => Step::Scope(scope),
            Err(problem) => Step::Skip(problem),
        }))
    }
}

fn decode(bytes: &[u8]) -> Result<Scope, Problem> {
    let &[kind, length, flags, _, enumeration_id, start_bus, ref path @ ..] = bytes else {
        return Err(Problem::ScopeTruncated);
    };
    let kind = match kind {
        1 => ScopeKind::Endpoint,
        2 => ScopeKind::Bridge,
        3 => ScopeKind::IoApic,
        4 => ScopeKind::Hpet,
        5 => ScopeKind::AcpiDevice,
        _ => return Err(Problem::ScopeKind { kind }),
    };
    let (hops, odd) = path.as_chunks::<2>();
    if hops.is_empty() || !odd.is_empty() {
        return Err(Problem::ScopePath { length });
    }
    if hops.len() > MAXIMUM_HOPS {
        return Err(Problem::ScopeTooDeep { hops: hops.len() });
    }
    if let Some(&[device, function]) = hops.iter().find(|[device, function]| *device > 31 || *function > 7) {
        return Err(Problem::ScopeHop { device, function });
    }
    let path = hops.iter().map(|&[device, function]| Hop { device, function }).collect();
    Ok(Scope { kind, flags, enumeration_id, start_bus, path })
}
