//! How large a table is and what its reader is able to do: facts of the machine, fixed when the table is made.

/// The depth of a table. Each level resolves nine bits above the twelve of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Levels {
    /// 39-bit input addresses. Only VT-d's second stage has it.
    Three = 3,
    /// 48-bit input addresses.
    Four = 4,
    /// 57-bit input addresses.
    Five = 5,
}

impl Levels {
    /// The number of levels.
    pub const fn count(self) -> u8 {
        self as u8
    }

    /// The bits of an input address that the levels resolve: 39, 48 or 57.
    pub const fn bits(self) -> u8 {
        12 + 9 * self as u8
    }
}

bitflags::bitflags! {
    /// The page sizes beyond 4 KiB that the reader understands (VT-d CAP.SSLPS, EPT_VPID_CAP 16 and 17, CPUID for
    /// nested paging).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct PageSizes: u8 {
        /// 2 MiB leaves, at level 2.
        const TWO_MEBIBYTES = 1 << 2;
        /// 1 GiB leaves, at level 3.
        const ONE_GIBIBYTE = 1 << 3;
    }
}

impl PageSizes {
    /// Whether leaves may stand at `level` (level 1 holds 4 KiB pages and is always allowed).
    pub(super) const fn allow(self, level: u8) -> bool {
        (self.bits() | 1 << 1) >> level & 1 != 0
    }
}

/// Whether the reader's walk sees the processor's caches (VT-d ECAP.C or SMPWCS; a processor's walk always does).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coherence {
    /// It does.
    Coherent,
    /// It reads memory alone: every change is flushed, each run of changed words once.
    NeedsFlush,
}

/// What to do with the addresses 0xFEE0_0000 to 0xFEEF_FFFF, where a device's write is an interrupt and never
/// memory (VT-d section 3.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InterruptWindow {
    /// Refuse it as input and as output: the table serves devices.
    Refused,
    /// Nothing special: the table serves processors alone.
    Ordinary,
}

/// First and last address of the interrupt window.
pub(super) const INTERRUPT_WINDOW: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);

/// The fixed facts of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The depth.
    pub levels: Levels,
    /// The large pages that may be used.
    pub page_sizes: PageSizes,
    /// Input addresses have at most this many bits (VT-d: MGAW + 1). What the levels resolve bounds it as well.
    pub input_bits: u8,
    /// Output addresses have at most this many bits (the machine's physical width, at most 52).
    pub output_bits: u8,
    /// Whether changed words need flushing.
    pub coherence: Coherence,
    /// Whether the interrupt window is refused.
    pub interrupt_window: InterruptWindow,
}
