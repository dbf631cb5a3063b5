//! What is known of one PCI function.

use alloc::vec::Vec;
use core::fmt;

use iommu::address::{HostPhysical, PciAddress};

/// A PCI function as enumeration found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it answers.
    pub address: PciAddress,
    /// Who made it.
    pub vendor: u16,
    /// What they call it.
    pub device: u16,
    /// What it is for.
    pub class: Class,
    /// The layout of its header: 0 endpoint, 1 bridge, 2 CardBus bridge.
    pub header_type: u8,
    /// The device answers on more functions than 0 (header type bit 7 of its function 0).
    pub multifunction: bool,
    /// The subsystem's vendor and device, where the header has them.
    pub subsystem: Option<(u16, u16)>,
    /// The interrupt pin: 0 none, 1 to 4 INTA to INTD.
    pub interrupt_pin: u8,
    /// Base address registers by index; a 64-bit one takes its own index and leaves the next empty.
    pub bars: [Option<Bar>; 6],
    /// The expansion ROM, where the function has one.
    pub rom: Option<Bar>,
    /// Capabilities in the order of their list.
    pub capabilities: Vec<Capability>,
    /// Extended capabilities in the order of their list.
    pub extended_capabilities: Vec<ExtendedCapability>,
    /// The PCI Express capability's device or port type; `None` for a conventional function.
    pub express: Option<Express>,
    /// For a bridge: the buses behind it.
    pub bridge: Option<Buses>,
    /// The bridge that leads to it; `None` on a root bus.
    pub parent: Option<PciAddress>,
    /// The ACS capability's two registers, where it is there.
    pub acs: Option<Acs>,
    /// The SR-IOV capability: total VFs.
    pub virtual_functions: Option<u16>,
    /// Bus mastering was on when the hypervisor found it, and was switched off.
    pub was_bus_master: bool,
}

/// The class code (PCI Code and ID Assignment Specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Base class.
    pub base: u8,
    /// Sub-class.
    pub sub: u8,
    /// Programming interface.
    pub interface: u8,
    /// The revision, from the same register.
    pub revision: u8,
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Where it is: a port number for [`BarKind::Port`], else a physical address; 0 where firmware gave none.
    pub address: u64,
    /// Bytes, a power of two.
    pub size: u64,
}

impl Bar {
    /// Where its memory is; `None` for ports and for what firmware gave no place.
    pub fn memory(&self) -> Option<HostPhysical> {
        (self.kind != BarKind::Port && self.address != 0).then(|| HostPhysical::new(self.address))
    }
}

/// What a base address register decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Port,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effect.
        prefetchable: bool,
    },
    /// Memory anywhere; takes two registers.
    Memory64 {
        /// Reads have no side effect.
        prefetchable: bool,
    },
}

/// A capability's place in the first 256 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its id.
    pub id: u8,
    /// Where it begins.
    pub offset: u8,
}

/// An extended capability's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedCapability {
    /// Its id.
    pub id: u16,
    /// Its version.
    pub version: u8,
    /// Where it begins.
    pub offset: u16,
}

/// Ids of capabilities that this program looks at (PCI Code and ID Assignment Specification).
pub mod capability {
    /// Power management.
    pub const POWER_MANAGEMENT: u8 = 0x01;
    /// Message-signalled interrupts.
    pub const MSI: u8 = 0x05;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSI_X: u8 = 0x11;
    /// Advanced features: a function-level reset for conventional functions.
    pub const ADVANCED_FEATURES: u8 = 0x13;
    /// Extended: access control services.
    pub const ACCESS_CONTROL: u16 = 0x000d;
    /// Extended: address translation services.
    pub const ADDRESS_TRANSLATION: u16 = 0x000f;
    /// Extended: single-root I/O virtualization.
    pub const SINGLE_ROOT_IO_VIRTUALIZATION: u16 = 0x0010;
}

/// From the PCI Express capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Express {
    /// Device or port type: PCI Express capabilities register, bits 7:4.
    pub kind: ExpressKind,
    /// The function can be reset on its own: device capabilities, bit 28.
    pub function_level_reset: bool,
}

/// Device or port type (PCI Express Base Specification, section 7.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpressKind {
    /// An endpoint.
    Endpoint,
    /// An endpoint with legacy needs.
    LegacyEndpoint,
    /// A port of the root complex that leads to a link.
    RootPort,
    /// The upper end of a switch.
    SwitchUpstreamPort,
    /// A lower end of a switch.
    SwitchDownstreamPort,
    /// From PCI Express to conventional PCI.
    ExpressToPciBridge,
    /// From conventional PCI to PCI Express.
    PciToExpressBridge,
    /// An endpoint inside of the root complex.
    RootComplexEndpoint,
    /// Collects events of such endpoints.
    RootComplexEventCollector,
    /// A number that the specification does not name.
    Unknown(u8),
}

impl ExpressKind {
    /// From its four bits.
    pub const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Endpoint,
            1 => Self::LegacyEndpoint,
            4 => Self::RootPort,
            5 => Self::SwitchUpstreamPort,
            6 => Self::SwitchDownstreamPort,
            7 => Self::ExpressToPciBridge,
            8 => Self::PciToExpressBridge,
            9 => Self::RootComplexEndpoint,
            10 => Self::RootComplexEventCollector,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for ExpressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Endpoint => "endpoint",
            Self::LegacyEndpoint => "legacy endpoint",
            Self::RootPort => "root port",
            Self::SwitchUpstreamPort => "switch upstream port",
            Self::SwitchDownstreamPort => "switch downstream port",
            Self::ExpressToPciBridge => "PCIe-to-PCI bridge",
            Self::PciToExpressBridge => "PCI-to-PCIe bridge",
            Self::RootComplexEndpoint => "root complex endpoint",
            Self::RootComplexEventCollector => "root complex event collector",
            Self::Unknown(number) => return write!(f, "PCIe device of unknown type {number}"),
        })
    }
}

/// The bus numbers of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buses {
    /// The bus on which it sits, as it believes.
    pub primary: u8,
    /// The bus right behind it.
    pub secondary: u8,
    /// The highest bus behind it.
    pub subordinate: u8,
}

/// Access control services (PCI Express Base Specification, section 7.7.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acs {
    /// Where the extended capability begins.
    pub offset: u16,
    /// What the function can do.
    pub capability: u16,
    /// What is switched on.
    pub control: u16,
}

#[cfg(test)]
impl Function {
    /// A function with nothing, for tests.
    pub(crate) fn bare(address: PciAddress) -> Self {
        Self {
            address,
            vendor: 0,
            device: 0,
            class: Class { base: 0, sub: 0, interface: 0, revision: 0 },
            header_type: 0,
            multifunction: false,
            subsystem: None,
            interrupt_pin: 0,
            bars: [None; 6],
            rom: None,
            capabilities: Vec::new(),
            extended_capabilities: Vec::new(),
            express: None,
            bridge: None,
            parent: None,
            acs: None,
            virtual_functions: None,
            was_bus_master: false,
        }
    }
}

impl Function {
    /// The first capability with this id.
    pub fn capability(&self, id: u8) -> Option<Capability> {
        self.capabilities.iter().find(|capability| capability.id == id).copied()
    }

    /// The first extended capability with this id.
    pub fn extended_capability(&self, id: u16) -> Option<ExtendedCapability> {
        self.extended_capabilities.iter().find(|capability| capability.id == id).copied()
    }

    /// Whether it is a bridge of any kind: something whose bus mastering serves others.
    pub fn is_bridge(&self) -> bool {
        self.header_type != 0 || self.class.base == 6
    }
}
