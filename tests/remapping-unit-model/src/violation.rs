//! The rules that software can break, by name.

/// What a frame of memory holds for the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// The root table.
    Root,
    /// A context table.
    Context,
    /// A PASID directory.
    PasidDirectory,
    /// A PASID table.
    PasidTable,
    /// A first- or second-stage table.
    PageTable,
    /// The interrupt-remapping table.
    Interrupts,
    /// The invalidation queue.
    Queue,
}

/// A rule that software broke. Addresses are those of the entry concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A write to GCMD did not change exactly one bit.
    NotOneCommand {
        /// What was written.
        written: u32,
        /// GSTS without the one-shot states.
        status: u32,
    },
    /// A register was written while a command that uses it was under way.
    CommandPending {
        /// The register.
        offset: u64,
    },
    /// A register that is only read was written.
    ReadOnly {
        /// The register.
        offset: u64,
    },
    /// A register that is only written was read.
    WriteOnly {
        /// The register.
        offset: u64,
    },
    /// An access of a width or alignment that the register does not take.
    AccessWidth {
        /// Where.
        offset: u64,
    },
    /// An access outside the window.
    OutsideWindow {
        /// Where.
        offset: u64,
    },
    /// A reserved bit of a register was set, or one that this unit's capabilities leave reserved.
    ReservedInRegister {
        /// The register.
        offset: u64,
        /// The bits.
        bits: u64,
    },
    /// A register was written while what it describes was on.
    WrittenWhileOn {
        /// The register.
        offset: u64,
    },
    /// The capability behind a command is missing.
    CommandUnsupported {
        /// The bits of GCMD.
        bits: u32,
    },
    /// Translation was turned on without a root table.
    NoRootTable,
    /// Interrupt remapping was turned on without a table.
    NoInterruptTable,
    /// Translation was turned on with caches of an earlier root table.
    RootNotInvalidated,
    /// Interrupt remapping was turned on with a cache of an earlier table.
    InterruptTableNotInvalidated,
    /// A table was announced to a unit with a write buffer without flushing that.
    WriteBufferNotFlushed,
    /// The queue was turned off while it was not empty.
    QueueNotEmpty,
    /// Register-based invalidation while the queue is on.
    RegisterInvalidationBesideQueue,
    /// Register-based invalidation on a unit that has none any more.
    RegisterInvalidationGone,
    /// The tail points outside the queue or between descriptors.
    TailOutsideQueue {
        /// What was written to IQT.
        tail: u64,
    },
    /// A descriptor has a reserved bit set.
    ReservedInDescriptor {
        /// Its low half.
        low: u64,
        /// Its high half.
        high: u64,
    },
    /// A descriptor of unknown type or granularity.
    UnknownDescriptor {
        /// Its low half.
        low: u64,
    },
    /// A wait both writes a status and interrupts, or neither.
    WaitKind {
        /// Its low half.
        low: u64,
    },
    /// An invalidation of a block that is not aligned to its size.
    MisalignedInvalidation {
        /// The block.
        first: u64,
        /// The logarithm of its size in pages or entries.
        mask: u8,
    },
    /// An invalidation of a block larger than the unit takes, or of pages on a unit that has no such invalidation.
    InvalidationTooLarge {
        /// The logarithm of its size.
        mask: u8,
    },
    /// A device-TLB invalidation on a unit that serves none, or while translation is off.
    DeviceTlbInvalidation {
        /// The device.
        source: u16,
    },
    /// A domain id beyond the unit's limit.
    DomainBeyondLimit {
        /// The id.
        domain: u16,
    },
    /// Domain 0 in a context entry of a unit with caching mode.
    DomainZero {
        /// The device.
        source: u16,
    },
    /// A domain id leads to another table while something of the old one is cached.
    DomainReused {
        /// The id.
        domain: u16,
    },
    /// A present entry has a reserved bit set, or asks for what the unit cannot do.
    ReservedInEntry {
        /// Which table.
        structure: Structure,
        /// The entry.
        at: u64,
    },
    /// A present context entry became another present one while it was cached.
    PresentContextChanged {
        /// The entry.
        at: u64,
    },
    /// A present PASID entry became another present one while it was cached.
    PresentPasidChanged {
        /// The entry.
        at: u64,
    },
    /// An invalidation of scalable mode on a unit that does not have it, or of PASIDs in a queue of 128-bit
    /// descriptors.
    ScalableInvalidation {
        /// The descriptor's low half.
        low: u64,
    },
    /// A present interrupt entry was changed in two steps.
    TornInterruptEntry {
        /// The entry.
        at: u64,
    },
    /// Software says that it invalidated everything, and this is cached still.
    Stale {
        /// Which table.
        structure: Structure,
        /// The entry.
        at: u64,
    },
    /// Software says that it invalidated everything, and this device's own TLB still leads elsewhere.
    StaleDeviceTlb {
        /// The device.
        source: u16,
        /// The address.
        address: u64,
    },
    /// A frame was given back while the unit used or cached it.
    FrameFreed {
        /// What it held.
        structure: Structure,
        /// The frame.
        frame: u64,
    },
}
