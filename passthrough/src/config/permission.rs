//! Who answers for each bit of configuration space: one table per capability.
//!
//! A bit is *virtual* when its value is kept in a copy instead of in the function, and *writable* when the guest may
//! change it. A write changes the copy (virtual and writable), the function (writable alone) or nothing.

/// One register, 1, 2 or 4 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) offset: u16,
    pub(super) width: u16,
    pub(super) virtual_bits: u32,
    pub(super) writable_bits: u32,
}

const ALL: u32 = u32::MAX;

const fn byte(offset: u16, virtual_bits: u8, writable_bits: u8) -> Field {
    Field { offset, width: 1, virtual_bits: virtual_bits as u32, writable_bits: writable_bits as u32 }
}

const fn word(offset: u16, virtual_bits: u16, writable_bits: u16) -> Field {
    Field { offset, width: 2, virtual_bits: virtual_bits as u32, writable_bits: writable_bits as u32 }
}

const fn double(offset: u16, virtual_bits: u32, writable_bits: u32) -> Field {
    Field { offset, width: 4, virtual_bits, writable_bits }
}

/// The header of a function. What is not here is read from the function and cannot be written.
pub(super) const HEADER: &[Field] = &[
    double(0x00, ALL, 0), // vendor and device id: a virtual function has none of its own
    // The copy alone: what reaches the function is composed of it and of what the function's owner may do now.
    word(0x04, 0xffff, super::register::command::DEFINED),
    word(0x06, super::register::status::CAPABILITIES, 0),
    byte(0x0c, 0, 0xff),    // cache line size
    byte(0x0d, 0, 0xff),    // latency timer
    byte(0x0e, 0x80, 0),    // multifunction is the virtual bus's matter
    byte(0x0f, 0, 0xff),    // self test
    double(0x10, ALL, ALL), // BARs
    double(0x14, ALL, ALL),
    double(0x18, ALL, ALL),
    double(0x1c, ALL, ALL),
    double(0x20, ALL, ALL),
    double(0x24, ALL, ALL),
    double(0x30, ALL, ALL), // expansion ROM
    byte(0x34, 0xff, 0),    // capability pointer
    byte(0x3c, 0xff, 0xff), // interrupt line
    byte(0x3d, 0xff, 0),    // interrupt pin
];

/// Power management. The state is changed by this crate; wake-up is no business of a guest.
pub(super) const POWER: &[Field] = &[word(2, 0xf800, 0), double(4, 0x8100, !(0x8100 | 0b11))];

/// Vital product data: reading is done by this crate, writing would outlive the guest.
pub(super) const VITAL_PRODUCT_DATA: &[Field] = &[];

/// MSI. Address and data are the guest's; the function holds the remapped ones.
pub(super) const MSI_NARROW: &[Field] = &[word(2, 0xffff, 0x0071), double(4, ALL, !0b11), word(8, 0xffff, 0xffff)];

/// MSI with a 64-bit address.
pub(super) const MSI_WIDE: &[Field] =
    &[word(2, 0xffff, 0x0071), double(4, ALL, !0b11), double(8, ALL, ALL), word(12, 0xffff, 0xffff)];

/// The mask bits behind [`MSI_NARROW`].
pub(super) const MSI_NARROW_MASK: &[Field] = &[double(12, 0, ALL)];

/// The mask bits behind [`MSI_WIDE`].
pub(super) const MSI_WIDE_MASK: &[Field] = &[double(16, 0, ALL)];

/// MSI-X. Enable and mask-all are the guest's; the function's are composed by this crate.
pub(super) const MSI_X: &[Field] = &[word(2, super::register::msix::ENABLE | super::register::msix::MASK_ALL, 0xc000)];

/// PCI-X.
pub(super) const PCI_X: &[Field] = &[word(2, 0, 0xffff), double(8, 0, ALL)];

/// PCI Express, version 1. Reset, payload and read request are handled by this crate; phantom functions would give
/// the function requester ids that nobody knows of.
pub(super) const EXPRESS: &[Field] = &[word(8, 0x8000 | 0x70e0, !super::register::express::PHANTOM)];

/// PCI Express, version 2, behind [`EXPRESS`].
pub(super) const EXPRESS_2: &[Field] = &[word(40, 0, !super::register::express::ARI_FORWARDING)];

/// Advanced features: the reset bit.
pub(super) const ADVANCED_FEATURES: &[Field] = &[byte(4, 1, 1)];

/// Capabilities that a guest may only read.
pub(super) const READ_ONLY: &[Field] = &[];

/// Advanced error reporting: statuses, masks and severities of the errors that are defined, and the ECRC switches.
pub(super) const ERROR_REPORTING: &[Field] = &[
    double(0x04, 0, UNCORRECTABLE),
    double(0x08, 0, UNCORRECTABLE),
    double(0x0c, 0, UNCORRECTABLE),
    double(0x10, 0, CORRECTABLE),
    double(0x14, 0, CORRECTABLE),
    double(0x18, 0, 1 << 6 | 1 << 8),
];

/// Bits 0, 4, 5 and 12 to 25 (PCI Express Base section 7.8.4.2).
const UNCORRECTABLE: u32 = 0x03ff_f031;
/// Bits 0, 6, 7, 8 and 12 to 15 (section 7.8.4.5).
const CORRECTABLE: u32 = 0x0000_f1c1;

/// Power budgeting: the selector.
pub(super) const POWER_BUDGET: &[Field] = &[byte(4, 0, 0xff)];
