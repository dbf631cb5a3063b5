//! Root and context entries of legacy mode (VT-d sections 9.1 and 9.3): 16 bytes each, 256 to a table.

use crate::address::HostPhysical;
use crate::layout::layout;

/// Entries in a root or context table.
pub const ENTRIES: usize = 256;

layout! {
    /// A root entry: the context table of one bus.
    pub struct RootEntry(u128) {
        /// P: there is a context table.
        present, with_present: [0];
        /// CTP: the context table's frame number.
        context_table, with_context_table: [63:12];
    }
}

layout! {
    /// A context entry: what one function may do.
    pub struct ContextEntry(u128) {
        /// P: requests of this function are let in.
        present, with_present: [0];
        /// FPD: faults of this function are not recorded.
        fault_processing_disabled, with_fault_processing_disabled: [1];
        /// TT: see [`Translation`].
        translation_type, with_translation_type: [3:2];
        /// SSPTPTR: the frame number of the second-stage table's root.
        second_stage, with_second_stage: [63:12];
        /// AW: the table's levels minus 2.
        width_code, with_width_code: [66:64];
        /// Bits that hardware ignores.
        software, with_software: [70:67];
        /// DID: the domain, which tags what is cached.
        domain, with_domain: [87:72];
    }
}

const _: () = assert!(ENTRIES * size_of::<RootEntry>() == 4096 && ENTRIES * size_of::<ContextEntry>() == 4096);

/// TT: which requests a context entry translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Untranslated requests go through the second-stage table; translated and translation requests are blocked.
    Untranslated,
    /// As above, and a device with a TLB of its own may ask for translations and use them (needs ECAP.DT).
    WithDeviceTlb,
}

impl Translation {
    const fn code(self) -> u128 {
        match self {
            Self::Untranslated => 0,
            Self::WithDeviceTlb => 1,
        }
    }
}

impl RootEntry {
    /// The entry that leads to `table`, a context table.
    pub const fn to(table: HostPhysical) -> Self {
        Self::from_bits(0).with_present(true).with_context_table((table.as_u64() >> 12) as u128)
    }

    /// The context table, if there is one.
    pub const fn table(self) -> Option<HostPhysical> {
        if self.present() { Some(HostPhysical::new((self.context_table() as u64) << 12)) } else { None }
    }
}

impl ContextEntry {
    /// The entry that sends requests through the second-stage table at `root` with so many `levels` (3 to 5), tagged
    /// with `domain`.
    pub const fn translating(root: HostPhysical, levels: u8, domain: u16, translation: Translation) -> Self {
        Self::from_bits(0)
            .with_present(true)
            .with_translation_type(translation.code())
            .with_second_stage((root.as_u64() >> 12) as u128)
            .with_width_code(levels.saturating_sub(2) as u128)
            .with_domain(domain as u128)
    }

    /// The entry that lets requests through untranslated (needs ECAP.PT). The width must be the widest that the unit
    /// has, `levels` its most.
    pub const fn passing_through(levels: u8, domain: u16) -> Self {
        Self::from_bits(0)
            .with_present(true)
            .with_translation_type(2)
            .with_width_code(levels.saturating_sub(2) as u128)
            .with_domain(domain as u128)
    }

    /// The domain's id.
    pub const fn domain_id(self) -> u16 {
        self.domain() as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_round_trip() {
        RootEntry::check_round_trip();
        ContextEntry::check_round_trip();
        assert_eq!(RootEntry::DEFINED, 0xffff_ffff_ffff_f001);
        assert_eq!(ContextEntry::DEFINED, 0x00ff_ff7f_ffff_ffff_ffff_f00f, "11:4, 71 and 127:88 are reserved");
    }

    #[test]
    fn entries_are_what_hardware_expects() {
        let entry = ContextEntry::translating(HostPhysical::new(0x1234_5000), 4, 0xbeef, Translation::WithDeviceTlb);
        assert_eq!(entry.bits(), 0x00be_ef02_0000_0000_1234_5005);
        let entry = ContextEntry::translating(HostPhysical::new(0x1234_5000), 3, 1, Translation::Untranslated);
        assert_eq!(entry.bits(), 0x0000_0101_0000_0000_1234_5001);
        assert_eq!(ContextEntry::passing_through(5, 7).bits(), 0x0000_0703_0000_0000_0000_0009);
        assert_eq!(RootEntry::to(HostPhysical::new(0x7000)).bits(), 0x7001);
        assert_eq!(RootEntry::from_bits(0x7001).table(), Some(HostPhysical::new(0x7000)));
        assert_eq!(RootEntry::from_bits(0x7000).table(), None);
    }
}
