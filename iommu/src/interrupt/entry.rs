//! Interrupt-remapping entries (VT-d sections 9.9 and 9.10): 16 bytes, in the remapped and the posted form.
//!
//! Every entry that this crate makes checks who uses it (SVT is never 0), so a device cannot name another's entry.

use crate::address::{HostPhysical, SourceId};
use crate::layout::layout;

layout! {
    /// An entry of the remapped form: the interrupt goes to a processor.
    pub struct RemappedEntry(u128) {
        /// P.
        present, with_present: [0];
        /// FPD: faults of this entry are not recorded.
        fault_processing_disabled, with_fault_processing_disabled: [1];
        /// DM: the destination is logical.
        logical, with_logical: [2];
        /// RH: redirection hint.
        redirection_hint, with_redirection_hint: [3];
        /// TM: level-triggered.
        level, with_level: [4];
        /// DLM: 0 is fixed delivery.
        delivery_mode, with_delivery_mode: [7:5];
        /// Bits that hardware ignores.
        software, with_software: [11:8];
        /// IM: 0 in this form.
        posted, with_posted: [15];
        /// The vector.
        vector, with_vector: [23:16];
        /// DST: the x2APIC id, or the xAPIC id shifted left by 8.
        destination, with_destination: [63:32];
        /// SID.
        source, with_source: [79:64];
        /// SQ: which function bits of the source are ignored.
        source_qualifier, with_source_qualifier: [81:80];
        /// SVT: how the source is checked.
        source_validation, with_source_validation: [83:82];
    }
}

layout! {
    /// An entry of the posted form: the interrupt lands in a posted-interrupt descriptor.
    pub struct PostedEntry(u128) {
        /// P.
        present, with_present: [0];
        /// FPD.
        fault_processing_disabled, with_fault_processing_disabled: [1];
        /// Bits that hardware ignores.
        software, with_software: [11:8];
        /// URG: notify even a descriptor whose notifications are suppressed.
        urgent, with_urgent: [14];
        /// IM: 1 in this form.
        posted, with_posted: [15];
        /// The guest's vector.
        vector, with_vector: [23:16];
        /// Bits 31:6 of the descriptor's address.
        descriptor_low, with_descriptor_low: [63:38];
        /// SID.
        source, with_source: [79:64];
        /// SQ.
        source_qualifier, with_source_qualifier: [81:80];
        /// SVT.
        source_validation, with_source_validation: [83:82];
        /// Bits 63:32 of the descriptor's address.
        descriptor_high, with_descriptor_high: [127:96];
    }
}

/// Whose requests an entry takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Exactly this function.
    Exact(SourceId),
    /// This function, where some of the function number's bits do not matter: 1 ignores bit 2, 2 bits 2:1, 3 all
    /// three. For devices that sign with several functions.
    Functions {
        /// One of the ids.
        source: SourceId,
        /// 1 to 3.
        ignored: u8,
    },
    /// Any function on the buses `first..=last`: for devices behind a bridge that signs for them.
    Buses {
        /// The first bus.
        first: u8,
        /// The last bus.
        last: u8,
    },
}

impl Source {
    /// SID, SQ and SVT.
    const fn fields(self) -> (u128, u128, u128) {
        match self {
            Self::Exact(source) => (source.bits() as u128, 0, 1),
            Self::Functions { source, ignored } => (source.bits() as u128, (ignored & 3) as u128, 1),
            Self::Buses { first, last } => ((first as u128) << 8 | last as u128, 0, 2),
        }
    }
}

/// How a processor's number is written into an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationFormat {
    /// xAPIC ids of 8 bits (EIME = 0).
    XApic,
    /// x2APIC ids of 32 bits (EIME = 1).
    X2Apic,
}

impl DestinationFormat {
    /// The field for this processor; `None` where the id does not fit.
    pub const fn destination(self, apic_id: u32) -> Option<u32> {
        match self {
            // 0xff is the broadcast.
            Self::XApic if apic_id < 0xff => Some(apic_id << 8),
            Self::XApic => None,
            Self::X2Apic if apic_id < u32::MAX => Some(apic_id),
            Self::X2Apic => None,
        }
    }
}

/// How an interrupt is signalled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// Each message is one interrupt: MSI, MSI-X, ISA lines.
    #[default]
    Edge,
    /// The line stays until it is served: PCI lines at an I/O APIC.
    Level,
}

/// An entry of either form, as its 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry(u128);

const _: () = assert!(size_of::<Entry>() == 16);

impl Entry {
    /// The entry that delivers `vector` to one processor, fixed and physical. `destination` comes from
    /// [`DestinationFormat::destination`].
    pub const fn remapped(source: Source, destination: u32, vector: u8, trigger: Trigger) -> Self {
        let (id, qualifier, validation) = source.fields();
        Self(
            RemappedEntry::from_bits(0)
                .with_present(true)
                .with_level(matches!(trigger, Trigger::Level))
                .with_vector(vector as u128)
                .with_destination(destination as u128)
                .with_source(id)
                .with_source_qualifier(qualifier)
                .with_source_validation(validation)
                .bits(),
        )
    }

    /// The entry that posts `vector` into the descriptor at `descriptor` (64-byte aligned).
    pub const fn posted(source: Source, descriptor: HostPhysical, vector: u8, urgent: bool) -> Self {
        let (id, qualifier, validation) = source.fields();
        Self(
            PostedEntry::from_bits(0)
                .with_present(true)
                .with_urgent(urgent)
                .with_posted(true)
                .with_vector(vector as u128)
                .with_descriptor_low((descriptor.as_u64() as u32 >> 6) as u128)
                .with_descriptor_high((descriptor.as_u64() >> 32) as u128)
                .with_source(id)
                .with_source_qualifier(qualifier)
                .with_source_validation(validation)
                .bits(),
        )
    }

    /// From the 16 bytes.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The 16 bytes.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// Whether interrupts that name this entry are taken.
    pub const fn present(self) -> bool {
        self.0 & 1 != 0
    }

    /// The same entry with P cleared: nothing else changes, so that one store of the low word does it.
    pub const fn absent(self) -> Self {
        Self(self.0 & !1)
    }

    /// Bits 63:0.
    pub const fn low(self) -> u64 {
        self.0 as u64
    }

    /// Bits 127:64.
    pub const fn high(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layouts_round_trip() {
        RemappedEntry::check_round_trip();
        PostedEntry::check_round_trip();
        let reserved = !RemappedEntry::DEFINED;
        assert_eq!(reserved, 0xffff_ffff_fff0_0000_0000_0000_ff00_7000, "127:84, 31:24 and 14:12");
        assert_eq!(PostedEntry::DEFINED & !RemappedEntry::DEFINED & u128::from(u32::MAX), 1 << 14);
    }

    #[test]
    fn forms_are_what_hardware_expects() {
        let source = Source::Exact(SourceId::new(1, 2, 3));
        let entry = Entry::remapped(source, 0x0000_0500, 0x41, Trigger::Edge);
        assert_eq!(entry.bits(), 0x0004_0113_0000_0500_0041_0001);
        let entry = Entry::remapped(source, 7, 0x41, Trigger::Level);
        assert_eq!(entry.bits(), 0x0004_0113_0000_0007_0041_0011);
        let entry = Entry::posted(source, HostPhysical::new(0x12_3456_7fc0), 0x41, true);
        assert_eq!(entry.bits(), 0x0000_0012_0004_0113_3456_7fc0_0041_c001);
        let buses = Entry::remapped(Source::Buses { first: 2, last: 5 }, 0, 0x20, Trigger::Edge);
        assert_eq!(buses.high(), 0x8_0205);
        let functions = Source::Functions { source: SourceId::new(1, 2, 0), ignored: 3 };
        assert_eq!(Entry::remapped(functions, 0, 0x20, Trigger::Edge).high(), 0x7_0110);
    }

    #[test]
    fn destinations_that_do_not_fit_are_refused() {
        assert_eq!(DestinationFormat::XApic.destination(0xfe), Some(0xfe00));
        assert_eq!(DestinationFormat::XApic.destination(0xff), None);
        assert_eq!(DestinationFormat::XApic.destination(0x100), None);
        assert_eq!(DestinationFormat::X2Apic.destination(0x100), Some(0x100));
        assert_eq!(DestinationFormat::X2Apic.destination(u32::MAX), None);
    }

    proptest! {
        #[test]
        fn no_entry_goes_unchecked_or_sets_reserved_bits(bits: u16, destination: u32, vector: u8, address: u64, urgent: bool) {
            for source in [
                Source::Exact(SourceId::from_bits(bits)),
                Source::Functions { source: SourceId::from_bits(bits), ignored: vector },
                Source::Buses { first: vector, last: bits as u8 },
            ] {
                let remapped = RemappedEntry::from_bits(Entry::remapped(source, destination, vector, Trigger::Level).bits());
                prop_assert_eq!(remapped.bits() & !RemappedEntry::DEFINED, 0);
                prop_assert!(matches!(remapped.source_validation(), 1 | 2));
                prop_assert!(!remapped.posted() && remapped.destination() as u32 == destination);
                let address = address & !63;
                let posted = PostedEntry::from_bits(Entry::posted(source, HostPhysical::new(address), vector, urgent).bits());
                prop_assert_eq!(posted.bits() & !PostedEntry::DEFINED, 0);
                prop_assert!(matches!(posted.source_validation(), 1 | 2));
                prop_assert_eq!((posted.descriptor_high() << 32 | posted.descriptor_low() << 6) as u64, address);
            }
        }
    }
}
