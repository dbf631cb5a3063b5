//! What names an interrupt-remapping entry: the message of an MSI, and the redirection entry of an I/O APIC (VT-d
//! section 5.1.2).

use crate::layout::layout;

layout! {
    /// The address of a remappable MSI.
    pub struct MessageAddress(u64) {
        /// Bit 15 of the handle.
        handle_high, with_handle_high: [2];
        /// SHV: the data's subhandle is added to the handle.
        subhandle_valid, with_subhandle_valid: [3];
        /// 1: the remappable format.
        remappable, with_remappable: [4];
        /// Bits 14:0 of the handle.
        handle_low, with_handle_low: [19:5];
        /// 0xfee: the interrupt address range.
        window, with_window: [31:20];
    }
}

layout! {
    /// An I/O APIC's redirection entry in the remappable format.
    pub struct RedirectionEntry(u64) {
        /// The vector that an end of interrupt names: that of the remapping entry.
        vector, with_vector: [7:0];
        /// Bit 15 of the index.
        index_high, with_index_high: [11];
        /// The line is low when active.
        active_low, with_active_low: [13];
        /// The line is level-triggered.
        level, with_level: [15];
        /// The line is masked.
        masked, with_masked: [16];
        /// 1: the remappable format.
        remappable, with_remappable: [48];
        /// Bits 14:0 of the index.
        index_low, with_index_low: [63:49];
    }
}

/// A message as a device's MSI or MSI-X registers hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The address; its high half is 0.
    pub address: u64,
    /// The data.
    pub data: u32,
}

impl Message {
    /// The message number `index` of the block of entries that starts at `first`.
    ///
    /// The handle is the block's first entry and the data the index in it. So the same form serves MSI-X, where every
    /// message stands in its own register, and multi-message MSI, where a device puts the number into the low bits of
    /// the data itself.
    pub const fn of(first: u16, index: u16) -> Self {
        let address = MessageAddress::from_bits(0)
            .with_window(0xfee)
            .with_remappable(true)
            .with_subhandle_valid(true)
            .with_handle_low((first & 0x7fff) as u64)
            .with_handle_high(first >> 15 != 0);
        Self { address: address.bits(), data: index as u32 }
    }
}

impl RedirectionEntry {
    /// The entry of a pin that goes through the remapping entry `index`, masked. `vector` must be the remapping
    /// entry's, and the trigger too, or the pin's end of interrupt is lost.
    pub const fn remapped(index: u16, vector: u8, level: bool, active_low: bool) -> Self {
        Self::from_bits(0)
            .with_vector(vector as u64)
            .with_index_high(index >> 15 != 0)
            .with_active_low(active_low)
            .with_level(level)
            .with_masked(true)
            .with_remappable(true)
            .with_index_low((index & 0x7fff) as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layouts_round_trip() {
        MessageAddress::check_round_trip();
        RedirectionEntry::check_round_trip();
    }

    #[test]
    fn messages_are_what_hardware_expects() {
        assert_eq!(Message::of(0, 0), Message { address: 0xfee0_0018, data: 0 });
        assert_eq!(Message::of(0x1234, 5), Message { address: 0xfee2_4698, data: 5 });
        assert_eq!(Message::of(0x8001, 0).address, 0xfee0_003c);
        assert_eq!(RedirectionEntry::remapped(0x8003, 0x31, true, true).bits(), 0x0007_0000_0001_a831);
    }

    proptest! {
        /// The unit's own rule: index = handle + subhandle.
        #[test]
        fn hardware_finds_the_entry_again(first in 0u16..0xff00, index in 0u16..0x100) {
            let message = Message::of(first, index);
            let address = MessageAddress::from_bits(message.address);
            let handle = address.handle_low() | u64::from(address.handle_high()) << 15;
            prop_assert_eq!(handle + u64::from(message.data), u64::from(first) + u64::from(index));
            prop_assert_eq!(message.address & !MessageAddress::DEFINED, 0);
            prop_assert_eq!(message.address >> 20, 0xfee);
        }
    }
}
