//! One PCI function as far as isolation is concerned, and how to read it from its configuration space.

use bitflags::bitflags;
use iommu::address::PciAddress;

use super::quirks;
use crate::config::capability::{self, Capabilities, ExtendedCapabilities};
use crate::door::ConfigurationSpace;

bitflags! {
    /// The services of an ACS capability (PCI Express Base section 7.7.11); the same bits in capability and control.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AcsFlags: u16 {
        /// Source validation.
        const SOURCE_VALIDATION = 1 << 0;
        /// Translation blocking.
        const TRANSLATION_BLOCKING = 1 << 1;
        /// Peer-to-peer request redirect.
        const REQUEST_REDIRECT = 1 << 2;
        /// Peer-to-peer completion redirect.
        const COMPLETION_REDIRECT = 1 << 3;
        /// Upstream forwarding.
        const UPSTREAM_FORWARDING = 1 << 4;
        /// Peer-to-peer egress control.
        const EGRESS_CONTROL = 1 << 5;
        /// Direct translated peer-to-peer.
        const DIRECT_TRANSLATED = 1 << 6;
    }
}

impl AcsFlags {
    /// What isolation needs: SV, RR, CR and UF.
    pub const ISOLATION: Self = Self::SOURCE_VALIDATION
        .union(Self::REQUEST_REDIRECT)
        .union(Self::COMPLETION_REDIRECT)
        .union(Self::UPSTREAM_FORWARDING);
}

/// An ACS capability: what the function can do, and what is switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acs {
    /// What it can do.
    pub capability: AcsFlags,
    /// What is on.
    pub control: AcsFlags,
}

/// The type of a PCI Express function (section 7.5.3.2, device/port type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortType {
    /// 0.
    Endpoint,
    /// 1.
    LegacyEndpoint,
    /// 4.
    RootPort,
    /// 5: a switch's port towards the root.
    UpstreamPort,
    /// 6: a switch's port away from the root.
    DownstreamPort,
    /// 7: PCI Express above, PCI or PCI-X below.
    ExpressToPciBridge,
    /// 8: PCI or PCI-X above, PCI Express below.
    PciToExpressBridge,
    /// 9.
    RootComplexIntegratedEndpoint,
    /// 10.
    RootComplexEventCollector,
    /// A value that the specification reserves.
    Unknown(u8),
}

impl PortType {
    /// From the four bits of the PCI Express capabilities register.
    pub const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Endpoint,
            1 => Self::LegacyEndpoint,
            4 => Self::RootPort,
            5 => Self::UpstreamPort,
            6 => Self::DownstreamPort,
            7 => Self::ExpressToPciBridge,
            8 => Self::PciToExpressBridge,
            9 => Self::RootComplexIntegratedEndpoint,
            10 => Self::RootComplexEventCollector,
            other => Self::Unknown(other),
        }
    }
}

/// Conventional PCI, or PCI Express with its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No PCI Express capability.
    Conventional,
    /// With one.
    Express(PortType),
}

/// The buses below a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buses {
    /// Right below.
    pub secondary: u8,
    /// The last one below.
    pub subordinate: u8,
}

/// One PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class code: base class 23:16, subclass 15:8, interface 7:0.
    pub class: u32,
    /// Conventional or PCI Express.
    pub kind: Kind,
    /// Header type bit 7: the device may have more functions.
    pub multifunction: bool,
    /// The buses below, for a bridge (header type 1).
    pub bridge: Option<Buses>,
    /// Its Access Control Services.
    pub acs: Option<Acs>,
    /// For the root ports of Intel's older chipsets, which have no ACS but a switch of their own: somebody has
    /// switched peer-to-peer traffic off there. Does nothing for other functions. See [`quirks`].
    pub chipset_isolation: bool,
    /// The function in another segment under whose id this one's requests go out (functions below an Intel VMD).
    pub subordinate_to: Option<PciAddress>,
}

impl Function {
    /// Reads what is needed from a function's configuration space. `None` where no function answers.
    pub fn read(address: PciAddress, space: &impl ConfigurationSpace) -> Option<Self> {
        let vendor = space.read_u16(0x00);
        if vendor == 0xffff {
            return None;
        }
        let device = space.read_u16(0x02);
        let header_type = space.read_u8(0x0e);
        let bridge = (header_type & 0x7f == 1)
            .then(|| Buses { secondary: space.read_u8(0x19), subordinate: space.read_u8(0x1a) });
        let kind = match Capabilities::new(space).find(|found| found.id == capability::id::PCI_EXPRESS) {
            Some(found) => {
                let flags = space.read_u8(found.offset.saturating_add(2));
                Kind::Express(PortType::from_bits(flags >> 4))
            }
            None => Kind::Conventional,
        };
        let acs =
            ExtendedCapabilities::new(space).find(|found| found.id == capability::extended_id::ACS).map(|found| {
                // A few chipsets made the two registers four bytes wide, so control stands two bytes further on.
                let control = if quirks::has_wide_acs(vendor, device, kind) { 8 } else { 6 };
                Acs {
                    capability: AcsFlags::from_bits_truncate(space.read_u16(found.offset.saturating_add(4))),
                    control: AcsFlags::from_bits_truncate(space.read_u16(found.offset.saturating_add(control))),
                }
            });
        Some(Self {
            address,
            vendor,
            device,
            class: space.read_u32(0x08) >> 8,
            kind,
            // A function other than 0 proves by being there what function 0 should have said.
            multifunction: header_type & 0x80 != 0 || address.source.function() != 0,
            bridge,
            acs,
            chipset_isolation: false,
            subordinate_to: None,
        })
    }

    /// Whether other functions stand below it.
    pub fn is_bridge(&self) -> bool {
        self.bridge.is_some()
    }

    pub(super) fn port_type(&self) -> Option<PortType> {
        match self.kind {
            Kind::Conventional => None,
            Kind::Express(port) => Some(port),
        }
    }
}
