//! What the guest has put into its message capabilities and its command register.

use super::{VirtualConfiguration, register};
use crate::door::Message;

/// The guest's MSI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiView {
    /// The guest switched it on.
    pub enabled: bool,
    /// So many messages are in use: 1, 2, 4, 8, 16 or 32.
    pub count: u8,
    /// The guest's message 0; message n has n in the low bits of the data.
    pub message: Message,
}

impl MsiView {
    /// The guest's message `index`; the function replaces as many low bits of the data as the count has.
    pub fn message(&self, index: u8) -> Message {
        let mask = u32::from(self.count.saturating_sub(1));
        Message { data: self.message.data & !mask | u32::from(index) & mask, ..self.message }
    }
}

/// The guest's MSI-X control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixView {
    /// The guest switched it on.
    pub enabled: bool,
    /// The guest masked every vector.
    pub all_masked: bool,
    /// Entries of the table, 1 to 2048.
    pub size: u16,
}

impl VirtualConfiguration {
    /// The guest's command register.
    pub fn command(&self) -> u16 {
        self.word(register::COMMAND)
    }

    /// The guest's MSI capability, if the function has one.
    pub fn msi(&self) -> Option<MsiView> {
        let at = self.layout.msi?;
        let control = self.word(at.saturating_add(register::msi::CONTROL));
        let low = self.copy(at.saturating_add(register::msi::ADDRESS), 4);
        let (high, data) =
            if control & register::msi::WIDE != 0 { (self.copy(at.saturating_add(8), 4), 12) } else { (0, 8) };
        Some(MsiView {
            enabled: control & register::msi::ENABLE != 0,
            count: 1 << (control >> 4 & 0b111).min(self.wanted_messages()),
            message: Message {
                address: u64::from(low) | u64::from(high) << 32,
                data: self.copy(at.saturating_add(data), 2),
            },
        })
    }

    /// log2 of the messages that the function wants, at most 5.
    pub(super) fn wanted_messages(&self) -> u16 {
        let Some(at) = self.layout.msi else { return 0 };
        (self.word(at.saturating_add(register::msi::CONTROL)) >> 1 & 0b111).min(5)
    }

    /// So many MSI messages the function can send; 0 without the capability.
    pub fn msi_capacity(&self) -> u32 {
        if self.layout.msi.is_some() { 1 << self.wanted_messages() } else { 0 }
    }

    /// The guest's MSI-X control register, if the function has the capability.
    pub fn msix(&self) -> Option<MsixView> {
        let control = self.word(self.layout.msix?.saturating_add(register::msix::CONTROL));
        Some(MsixView {
            enabled: control & register::msix::ENABLE != 0,
            all_masked: control & register::msix::MASK_ALL != 0,
            size: (control & register::msix::SIZE).saturating_add(1),
        })
    }

    fn word(&self, offset: u16) -> u16 {
        u16::try_from(self.copy(offset, 2)).unwrap_or(u16::MAX)
    }
}
