//! Address types. A number that names a place says which space it is in.

use core::fmt;

/// The bytes of the smallest page, and of every frame that holds a table.
pub const PAGE_SIZE: u64 = 4096;

/// Makes a type of addresses in a space of its own: a number of 64 bits that cannot be taken for one of another space.
#[macro_export]
macro_rules! address_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The address with this number.
            pub const fn new(address: u64) -> Self {
                Self(address)
            }

            /// The number.
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The address `bytes` further on, or `None` past the end of the space.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(address) => Some(Self(address)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `size`, a power of two.
            pub const fn is_aligned(self, size: u64) -> bool {
                self.0 & (size - 1) == 0
            }
        }

        impl ::core::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address_type! {
    /// An address on the machine's memory bus.
    HostPhysical
}
address_type! {
    /// An address as a device sends it, before translation (IOVA, in VT-d's words a DMA address).
    Iova
}

/// The number with which a function signs its requests: bus 15:8, device 7:3, function 2:0 (PCI Express requester
/// id; VT-d's "source-id").
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(u16);

impl SourceId {
    /// From its 16 bits.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// From bus (0 to 255), device (0 to 31) and function (0 to 7); higher bits of the last two are dropped.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | ((device & 31) as u16) << 3 | (function & 7) as u16)
    }

    /// The 16 bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The bus.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device and function: the index into a context table.
    pub const fn devfn(self) -> u8 {
        self.0 as u8
    }

    /// The device, 0 to 31.
    pub const fn device(self) -> u8 {
        (self.0 as u8) >> 3
    }

    /// The function, 0 to 7.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceId({self})")
    }
}

/// A PCI function of the machine: its segment (PCI domain) and the id it signs with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// The PCI segment group.
    pub segment: u16,
    /// Bus, device and function.
    pub source: SourceId,
}

impl PciAddress {
    /// From its four parts; see [`SourceId::new`].
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Self {
        Self { segment, source: SourceId::new(bus, device, function) }
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment, self.source)
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PciAddress({self})")
    }
}
