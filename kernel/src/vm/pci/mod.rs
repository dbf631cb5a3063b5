//! The virtual PCI bus of a VM: a host bridge at 00:00.0 and, behind it on the same bus, the functions that the VM owns.
//! Nothing else appears, whatever a guest asks for (PCI Local Bus Specification 3.0, section 6; PCI Express Base
//! Specification, section 7.2.2 for the memory-mapped configuration space).

mod bus;
mod host_bridge;
mod placement;
mod registers;

use core::fmt;

pub use self::bus::VirtualPciBus;

/// The port that holds the address of a configuration access; the data port follows it.
pub const ADDRESS_PORT: u16 = 0xcf8;
/// The port through which the addressed register is read and written.
pub const DATA_PORT: u16 = 0xcfc;
/// Devices on a bus.
pub const SLOTS: u8 = 32;
/// BARs of a function with an ordinary header.
pub const BARS: usize = 6;

/// The I/O APIC's pin on which interrupt pin `pin` (0: INTA# to 3: INTD#) of slot `slot` hangs: 16 to 23.
pub const fn interrupt_pin(slot: u8, pin: u8) -> u8 {
    16 + (slot.wrapping_add(pin) & 7)
}

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Ports,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two registers.
    Memory64,
}

/// A base address register of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Bytes: a power of two, for ports at least 4, for memory at least 16.
    pub size: u64,
    /// Reads have no side effects.
    pub prefetchable: bool,
}

/// A function that a VM owns, as its virtual bus sees it. All methods may be called by several virtual CPUs at once;
/// none may call back into the bus.
pub trait VirtualFunction: Send + Sync {
    /// Its name for messages: the address of the real function.
    fn name(&self) -> &dyn fmt::Display;

    /// Its BARs. A 64-bit one stands at the index of its lower register, and the next index is `None`. Constant.
    fn bars(&self) -> [Option<Bar>; BARS];

    /// A read of `size` (1, 2 or 4) bytes at `offset` (0 to 4095) that lie in one double word. The bus answers for BARs
    /// and ROM itself.
    fn config_read(&self, offset: u16, size: u8) -> u32;

    /// A write, as [`config_read`](Self::config_read). The bus looks at the command register afterwards and places
    /// BARs by its decode bits.
    fn config_write(&self, offset: u16, size: u8, value: u32);

    /// BAR `bar` now answers at this guest-physical address (or port), or nowhere. Ranges given lie in the VM's PCI
    /// windows, are aligned to their size, and belong to nobody else until taken back with `None`.
    fn place(&self, bar: usize, at: Option<u64>);

    /// A read of `size` (1, 2, 4 or 8; ports: not 8) bytes at `offset` in BAR `bar` that was not answered by memory
    /// mapped into the guest.
    fn bar_read(&self, bar: usize, offset: u64, size: u8) -> u64;

    /// A write, as [`bar_read`](Self::bar_read).
    fn bar_write(&self, bar: usize, offset: u64, size: u8, value: u64);
}

/// Why a virtual bus cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PciError {
    /// More functions than slots.
    TooManyFunctions {
        /// How many there are.
        count: usize,
    },
    /// A BAR whose size is no power of two, or too small.
    Size {
        /// The function.
        function: alloc::string::String,
        /// The BAR.
        bar: usize,
        /// Its bytes.
        size: u64,
    },
    /// A BAR that fits no window.
    NoRoom {
        /// The function.
        function: alloc::string::String,
        /// The BAR.
        bar: usize,
        /// Its bytes.
        size: u64,
        /// What it decodes.
        kind: BarKind,
    },
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyFunctions { count } => write!(
                f,
                "the VM has {count} functions, and its PCI bus has room for {}; assign fewer",
                SLOTS.saturating_sub(1)
            ),
            Self::Size { function, bar, size } => write!(
                f,
                "BAR {bar} of {function} has {size:#x} bytes, which no BAR can have; the function is broken and \
                 cannot be assigned"
            ),
            Self::NoRoom { function, bar, size, kind } => write!(
                f,
                "BAR {bar} of {function} ({size:#x} bytes) does not fit into the VM's {}; assign fewer functions to \
                 this VM",
                match kind {
                    BarKind::Ports => "I/O port window",
                    BarKind::Memory32 => "32-bit PCI window",
                    BarKind::Memory64 => "64-bit PCI window",
                }
            ),
        }
    }
}

impl core::error::Error for PciError {}
