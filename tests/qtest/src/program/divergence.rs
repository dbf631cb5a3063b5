//! Where QEMU's unit and the model are known to differ, and why. What is not listed here fails.

/// A known difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Divergence {
    /// What the model remembers, QEMU looks up again.
    LooksUpAgain,
    /// What QEMU remembers, the model looks up again.
    RemembersBySource,
    /// A refusal that QEMU remembers leaves no fault record.
    SilentRefusal,
    /// A device that passes through is not held to the address width.
    PassesAnywhere,
    /// Whether a device passes through is settled before it asks.
    RemembersPassThrough,
    /// What an entry permits counts before what is wrong with it.
    PermissionsFirst,
    /// A large page that holds the interrupt range is refused as a whole.
    WholePage,
    /// Interrupts of compatibility format pass.
    CompatibilityPasses,
    /// A posted entry is taken for a remapped one.
    PostedAsRemapped,
    /// Both ends of a range of buses are the same.
    BusRange,
    /// Destinations of 8 bits may have more.
    AnyDestination,
    /// An interrupt-entry invalidation of more entries than MHMV allows is taken.
    AnyHandleMask,
}

/// All of them, each with its explanation.
pub(crate) const TABLE: &[(Divergence, &str)] = &[
    (
        Divergence::LooksUpAgain,
        "QEMU caches leaves for one device each, and neither entries that lead to tables, nor interrupt entries, nor \
         absence; the model caches all that hardware may, for the whole domain. Only where software invalidated too \
         little.",
    ),
    (
        Divergence::RemembersBySource,
        "QEMU looks a translation up by the device before it looks at the context entry, so one that was not \
         invalidated outlives its context entry. Only where software invalidated too little.",
    ),
    (
        Divergence::SilentRefusal,
        "QEMU keeps a page that a device has used with its permissions, and an access beyond those is refused from \
         the cache without a fault record; the model looks the page up again and records what it finds.",
    ),
    (
        Divergence::PassesAnywhere,
        "QEMU takes a device whose context entry says pass-through out of the unit's way; the model holds it to the \
         entry's width and MGAW.",
    ),
    (
        Divergence::RemembersPassThrough,
        "QEMU reads from a context entry whether its device passes through when it is told of a change (an \
         invalidation, a root table, translation going on), not when the device asks. Only where software invalidated \
         too little.",
    ),
    (
        Divergence::PermissionsFirst,
        "QEMU looks at an entry's permissions before its reserved bits and its address, the model after; the \
         specification leaves the order of faults in one entry open.",
    ),
    (
        Divergence::WholePage,
        "QEMU refuses every access by a page of 2 MiB or 1 GiB that holds the interrupt range; the model only those \
         that end up there.",
    ),
    (Divergence::CompatibilityPasses, "QEMU delivers interrupts of compatibility format whatever CFI and EIME say."),
    (
        Divergence::PostedAsRemapped,
        "QEMU knows no posted interrupts: it takes IM=1 for a remapped entry, and the model, told that CAP.PI is 0, \
         for a reserved bit.",
    ),
    (
        Divergence::BusRange,
        "QEMU takes the high byte of the source id for the last bus of a range, and the specification's first one.",
    ),
    (
        Divergence::AnyDestination,
        "QEMU ignores what is beside the APIC id of 8 bits where EIME is 0; the model takes it for reserved bits.",
    ),
    (
        Divergence::AnyHandleMask,
        "QEMU caches no interrupt entries and does not look at the mask of their invalidation; the model holds it to \
         ECAP.MHMV.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_listed_once() {
        assert!(TABLE.is_sorted_by(|one, other| one.0 < other.0));
    }
}
