//! The chains of capabilities (PCI 3.0 section 6.7, PCI Express Base section 7.6.3), walked with no trust in them.

use crate::door::ConfigurationSpace;

/// Capability ids (PCI Code and ID Assignment specification, section 2).
pub mod id {
    /// Power management.
    pub const POWER_MANAGEMENT: u16 = 0x01;
    /// Accelerated graphics port.
    pub const AGP: u16 = 0x02;
    /// Vital product data.
    pub const VITAL_PRODUCT_DATA: u16 = 0x03;
    /// Message-signalled interrupts.
    pub const MSI: u16 = 0x05;
    /// PCI-X.
    pub const PCI_X: u16 = 0x07;
    /// HyperTransport.
    pub const HYPER_TRANSPORT: u16 = 0x08;
    /// Vendor specific.
    pub const VENDOR: u16 = 0x09;
    /// PCI Express.
    pub const PCI_EXPRESS: u16 = 0x10;
    /// MSI-X.
    pub const MSI_X: u16 = 0x11;
    /// Serial ATA.
    pub const SERIAL_ATA: u16 = 0x12;
    /// Advanced features.
    pub const ADVANCED_FEATURES: u16 = 0x13;
}

/// Extended capability ids (the same specification, section 3).
pub mod extended_id {
    /// Advanced error reporting.
    pub const ERROR_REPORTING: u16 = 0x01;
    /// Virtual channel.
    pub const VIRTUAL_CHANNEL: u16 = 0x02;
    /// Device serial number.
    pub const SERIAL_NUMBER: u16 = 0x03;
    /// Power budgeting.
    pub const POWER_BUDGET: u16 = 0x04;
    /// Multifunction virtual channel.
    pub const MULTIFUNCTION_VIRTUAL_CHANNEL: u16 = 0x08;
    /// Virtual channel, with the multifunction one present.
    pub const VIRTUAL_CHANNEL_9: u16 = 0x09;
    /// Vendor specific.
    pub const VENDOR: u16 = 0x0b;
    /// Access control services.
    pub const ACS: u16 = 0x0d;
    /// Alternative routing id interpretation.
    pub const ARI: u16 = 0x0e;
    /// Address translation services.
    pub const ATS: u16 = 0x0f;
    /// Single-root I/O virtualization.
    pub const SR_IOV: u16 = 0x10;
    /// Multicast.
    pub const MULTICAST: u16 = 0x12;
    /// Page requests.
    pub const PAGE_REQUEST: u16 = 0x13;
    /// Resizable BARs.
    pub const RESIZABLE_BAR: u16 = 0x15;
    /// Dynamic power allocation.
    pub const DYNAMIC_POWER: u16 = 0x16;
    /// Processing hints.
    pub const PROCESSING_HINTS: u16 = 0x17;
    /// Latency tolerance reporting.
    pub const LATENCY_TOLERANCE: u16 = 0x18;
    /// Process address space ids.
    pub const PASID: u16 = 0x1b;
    /// Designated vendor specific.
    pub const DESIGNATED_VENDOR: u16 = 0x23;
}

/// The first byte of the extended space.
pub const EXTENDED_START: u16 = 0x100;

/// A capability that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: u16,
    /// Where its header starts, a multiple of 4.
    pub offset: u16,
    /// The version of an extended capability; 0 for the others.
    pub version: u8,
}

/// The capabilities of the first 256 bytes, in the order of the chain.
#[derive(Debug)]
pub struct Capabilities<'a, C> {
    space: &'a C,
    next: u8,
    /// The chain has at most as many links as there is room for headers; a longer one is a loop.
    left: u8,
}

impl<'a, C: ConfigurationSpace> Capabilities<'a, C> {
    /// The chain of this space; empty where the status register denies that there is one.
    pub fn new(space: &'a C) -> Self {
        let has_chain = space.read_u16(0x06) & 1 << 4 != 0;
        Self { space, next: if has_chain { space.read_u8(0x34) } else { 0 }, left: 48 }
    }
}

impl<C: ConfigurationSpace> core::iter::Iterator for Capabilities<'_, C> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let offset = u16::from(self.next & !3);
        if offset < 0x40 || self.left == 0 {
            return None;
        }
        let header = self.space.read_u16(offset);
        if header & 0xff == 0xff {
            return None;
        }
        self.left = self.left.saturating_sub(1);
        self.next = header.to_le_bytes()[1];
        Some(Found { id: header & 0xff, offset, version: 0 })
    }
}

/// The extended capabilities, in the order of the chain.
#[derive(Debug)]
pub struct ExtendedCapabilities<'a, C> {
    space: &'a C,
    next: u16,
    left: u16,
}

impl<'a, C: ConfigurationSpace> ExtendedCapabilities<'a, C> {
    /// The chain of this space; empty where the extended space cannot be reached.
    pub fn new(space: &'a C) -> Self {
        let next = if space.size() > EXTENDED_START { EXTENDED_START } else { 0 };
        Self { space, next, left: (4096 - EXTENDED_START) / 8 }
    }
}

impl<C: ConfigurationSpace> core::iter::Iterator for ExtendedCapabilities<'_, C> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let offset = self.next & !3;
        if offset < EXTENDED_START || offset >= self.space.size() || self.left == 0 {
            return None;
        }
        let header = self.space.read_u32(offset);
        if header == 0 || header == u32::MAX {
            return None;
        }
        self.left = self.left.saturating_sub(1);
        let [id_low, id_high, version_and_next, next_high] = header.to_le_bytes();
        self.next = u16::from(version_and_next >> 4) | u16::from(next_high) << 4;
        Some(Found { id: u16::from_le_bytes([id_low, id_high]), offset, version: version_and_next & 0xf })
    }
}
