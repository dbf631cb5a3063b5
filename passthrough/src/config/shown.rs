//! Which capabilities a guest sees, how long they are, and who answers for their bits.

use super::capability::{Found, extended_id, id};
use super::permission::{self, Field};
use super::register::{express, msi};
use crate::door::ConfigurationSpace;

/// A capability that the guest sees.
pub(super) struct Shown {
    /// Its bytes, header included.
    pub(super) length: u16,
    /// Its tables.
    pub(super) fields: [&'static [Field]; 2],
    /// Whether all its bytes are the guest's (what a vendor put there nobody else knows).
    pub(super) raw: bool,
}

impl Shown {
    const fn new(length: u16, fields: &'static [Field]) -> Option<Self> {
        Some(Self { length, fields: [fields, &[]], raw: false })
    }

    const fn raw(length: u16) -> Option<Self> {
        Some(Self { length, fields: [&[], &[]], raw: true })
    }
}

/// How a capability of the first 256 bytes is shown; `None` when it is skipped.
pub(super) fn shown(space: &impl ConfigurationSpace, found: Found) -> Option<Shown> {
    let at = |offset: u16| found.offset.saturating_add(offset);
    match found.id {
        id::POWER_MANAGEMENT => Shown::new(8, permission::POWER),
        id::AGP => Shown::new(8, permission::READ_ONLY),
        id::VITAL_PRODUCT_DATA => Shown::new(8, permission::VITAL_PRODUCT_DATA),
        id::MSI => {
            let control = space.read_u16(at(msi::CONTROL));
            let maskable = control & msi::MASKABLE != 0;
            let (length, fields, masks) = match (control & msi::WIDE != 0, maskable) {
                (false, false) => (10, permission::MSI_NARROW, permission::READ_ONLY),
                (false, true) => (20, permission::MSI_NARROW, permission::MSI_NARROW_MASK),
                (true, false) => (14, permission::MSI_WIDE, permission::READ_ONLY),
                (true, true) => (24, permission::MSI_WIDE, permission::MSI_WIDE_MASK),
            };
            Some(Shown { length, fields: [fields, masks], raw: false })
        }
        id::PCI_X => {
            // Version 1 and 2 have registers for error correction.
            let version = space.read_u16(at(2)) >> 12 & 0b11;
            Shown::new(if version == 0 { 8 } else { 24 }, if version == 0 { &[] } else { permission::PCI_X })
        }
        id::HYPER_TRANSPORT => {
            let is_short = space.read_u8(at(3)) & 0xe0 == 0;
            Shown::new(if is_short { 4 } else { 28 }, permission::READ_ONLY)
        }
        id::VENDOR => Shown::raw(u16::from(space.read_u8(at(2)))),
        id::PCI_EXPRESS => {
            let flags = space.read_u16(at(2));
            let is_integrated = flags >> 4 & 0xf == 9;
            match (flags & 0xf, is_integrated) {
                (0 | 1, true) => Shown::new(12, permission::EXPRESS),
                (0 | 1, false) => Shown::new(20, permission::EXPRESS),
                _ => Some(Shown {
                    length: express::LINK_CONTROL_2.saturating_add(12),
                    fields: [permission::EXPRESS, permission::EXPRESS_2],
                    raw: false,
                }),
            }
        }
        id::MSI_X => Shown::new(12, permission::MSI_X),
        id::SERIAL_ATA => {
            // The index and data registers stand either behind the capability or in a BAR.
            let is_inline = space.read_u8(at(4)) & 0xf == 0xf;
            Shown::new(if is_inline { 16 } else { 8 }, permission::READ_ONLY)
        }
        id::ADVANCED_FEATURES => Shown::new(6, permission::ADVANCED_FEATURES),
        _ => None,
    }
}

/// How an extended capability is shown; `None` when it is skipped.
pub(super) fn shown_extended(space: &impl ConfigurationSpace, found: Found) -> Option<Shown> {
    let read = |offset: u16| space.read_u32(found.offset.saturating_add(offset));
    let low = |value: u32| u16::try_from(value & 0xffff).unwrap_or(u16::MAX);
    let read_only = |length: u16| Shown::new(length, permission::READ_ONLY);
    match found.id {
        extended_id::ERROR_REPORTING => Shown::new(0x2c, permission::ERROR_REPORTING),
        extended_id::VIRTUAL_CHANNEL | extended_id::VIRTUAL_CHANNEL_9 | extended_id::MULTIFUNCTION_VIRTUAL_CHANNEL => {
            let channels = low(read(4) & 0b111).saturating_add(1);
            read_only(channels.saturating_mul(12).saturating_add(0x10))
        }
        extended_id::SERIAL_NUMBER => read_only(12),
        extended_id::POWER_BUDGET => Shown::new(16, permission::POWER_BUDGET),
        extended_id::VENDOR | extended_id::DESIGNATED_VENDOR => Shown::raw(low(read(4) >> 20)),
        extended_id::ACS => {
            let capability = low(read(4));
            let egress = if capability & 1 << 5 == 0 {
                0
            } else {
                match capability >> 8 {
                    0 => 256,
                    bits => bits,
                }
            };
            read_only(egress.div_ceil(32).saturating_mul(4).saturating_add(8))
        }
        extended_id::ARI | extended_id::ATS | extended_id::LATENCY_TOLERANCE => read_only(8),
        extended_id::SR_IOV => read_only(0x40),
        extended_id::MULTICAST => read_only(0x30),
        extended_id::PAGE_REQUEST => read_only(16),
        extended_id::RESIZABLE_BAR => {
            let bars = low(read(8) >> 5 & 0b111);
            read_only(bars.saturating_mul(8).saturating_add(4))
        }
        extended_id::DYNAMIC_POWER => read_only(low(read(4) & 0x1f).saturating_add(17)),
        extended_id::PROCESSING_HINTS => {
            let capability = read(4);
            let entries = if capability >> 9 & 0b11 == 1 { low(capability >> 16 & 0x7ff).saturating_add(1) } else { 0 };
            read_only(entries.saturating_mul(2).saturating_add(12))
        }
        _ => None,
    }
}
