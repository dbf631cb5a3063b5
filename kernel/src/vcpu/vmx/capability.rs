//! What a processor's VMX can do, as its capability MSRs say it (SDM volume 3 appendix A).

use iommu::address::HostPhysical;

/// Numbers of the capability MSRs.
mod number {
    pub(super) const BASIC: u32 = 0x480;
    pub(super) const PIN: u32 = 0x481;
    pub(super) const PRIMARY: u32 = 0x482;
    pub(super) const EXIT: u32 = 0x483;
    pub(super) const ENTRY: u32 = 0x484;
    pub(super) const MISCELLANEOUS: u32 = 0x485;
    pub(super) const CR0_FIXED_0: u32 = 0x486;
    pub(super) const CR0_FIXED_1: u32 = 0x487;
    pub(super) const CR4_FIXED_0: u32 = 0x488;
    pub(super) const CR4_FIXED_1: u32 = 0x489;
    pub(super) const SECONDARY: u32 = 0x48b;
    pub(super) const EPT_VPID: u32 = 0x48c;
    pub(super) const TRUE_PIN: u32 = 0x48d;
    pub(super) const TRUE_PRIMARY: u32 = 0x48e;
    pub(super) const TRUE_EXIT: u32 = 0x48f;
    pub(super) const TRUE_ENTRY: u32 = 0x490;
}

/// IA32_VMX_BASIC: the TRUE capability MSRs exist.
const BASIC_TRUE: u64 = 1 << 55;

/// Which settings of a word of controls the processor takes: the MSR's low half must be 1, its high half may be 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Allowed(u64);

impl Allowed {
    /// The bits that must be 1.
    pub(super) const fn must(self) -> u32 {
        self.0 as u32
    }

    /// The bits that may be 1.
    pub(super) const fn may(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether this word can be entered with.
    pub(super) const fn takes(self, word: u32) -> bool {
        word & self.must() == self.must() && word & !self.may() == 0
    }
}

/// A processor's capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    basic: u64,
    /// The TRUE variants where the processor has them.
    pub(super) pin: Allowed,
    pub(super) primary: Allowed,
    pub(super) secondary: Allowed,
    pub(super) exit: Allowed,
    pub(super) entry: Allowed,
    miscellaneous: u64,
    pub(super) cr0_fixed: Fixed,
    pub(super) cr4_fixed: Fixed,
    ept_vpid: u64,
}

/// The bits of a control register that VMX operation fixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fixed {
    /// Bits that must be 1.
    pub(super) ones: u64,
    /// Bits that may be 1.
    pub(super) may: u64,
}

impl Fixed {
    /// Whether the register may hold this value in VMX operation; the bits of `free` do not matter.
    pub(super) const fn takes(self, value: u64, free: u64) -> bool {
        value & self.ones & !free == self.ones & !free && value & !self.may & !free == 0
    }
}

impl Capabilities {
    /// The capabilities by their MSRs. `read` is asked only for registers that exist.
    pub(super) fn read(read: impl Fn(u32) -> u64) -> Self {
        let basic = read(number::BASIC);
        let exact = basic & BASIC_TRUE != 0;
        let either = |exactly, plainly| Allowed(read(if exact { exactly } else { plainly }));
        let primary = either(number::TRUE_PRIMARY, number::PRIMARY);
        let secondary =
            if primary.may() & super::controls::ACTIVATE_SECONDARY != 0 { read(number::SECONDARY) } else { 0 };
        let has_ept_or_vpid = secondary >> 32 & u64::from(super::controls::EPT | super::controls::VPID) != 0;
        Self {
            basic,
            pin: either(number::TRUE_PIN, number::PIN),
            primary,
            secondary: Allowed(secondary),
            exit: either(number::TRUE_EXIT, number::EXIT),
            entry: either(number::TRUE_ENTRY, number::ENTRY),
            miscellaneous: read(number::MISCELLANEOUS),
            cr0_fixed: Fixed { ones: read(number::CR0_FIXED_0), may: read(number::CR0_FIXED_1) },
            cr4_fixed: Fixed { ones: read(number::CR4_FIXED_0), may: read(number::CR4_FIXED_1) },
            ept_vpid: if has_ept_or_vpid { read(number::EPT_VPID) } else { 0 },
        }
    }

    /// What a VMXON region and a VMCS begin with.
    pub(super) const fn revision(&self) -> u32 {
        self.basic as u32 & 0x7fff_ffff
    }

    /// Whether the addresses of VMX structures have only 32 bits.
    pub(super) const fn addresses_have_32_bits(&self) -> bool {
        self.basic & 1 << 48 != 0
    }

    /// Whether a page at this address can be a VMX structure.
    pub(super) fn reaches(&self, page: HostPhysical) -> bool {
        !self.addresses_have_32_bits() || page.as_u64() >> 32 == 0
    }

    /// Whether an exception may be injected with or without an error code whatever its vector.
    pub(super) const fn injects_any_error_code(&self) -> bool {
        self.basic & 1 << 56 != 0
    }

    /// Whether a guest may be entered in the HLT state.
    pub(super) const fn has_halt_state(&self) -> bool {
        self.miscellaneous & 1 << 6 != 0
    }

    /// How many values CR3 can be compared with.
    pub(super) const fn cr3_targets(&self) -> u32 {
        (self.miscellaneous >> 16) as u32 & 0x1ff
    }

    /// IA32_VMX_EPT_VPID_CAP.
    pub(super) const fn ept_vpid(&self) -> u64 {
        self.ept_vpid
    }

    /// EPT: tables of 4 levels.
    pub(super) const fn ept_has_4_levels(&self) -> bool {
        self.ept_vpid & 1 << 6 != 0
    }

    /// EPT: tables of 5 levels.
    pub(super) const fn ept_has_5_levels(&self) -> bool {
        self.ept_vpid & 1 << 7 != 0
    }

    /// EPT: the tables may be uncached.
    pub(super) const fn ept_is_uncacheable(&self) -> bool {
        self.ept_vpid & 1 << 8 != 0
    }

    /// EPT: the tables may be cached.
    pub(super) const fn ept_is_write_back(&self) -> bool {
        self.ept_vpid & 1 << 14 != 0
    }

    /// EPT: accessed and dirty flags.
    pub(super) const fn ept_has_accessed_dirty(&self) -> bool {
        self.ept_vpid & 1 << 21 != 0
    }

    /// INVEPT of one table.
    pub(super) const fn invalidates_one_table(&self) -> bool {
        self.ept_vpid & (1 << 20 | 1 << 25) == 1 << 20 | 1 << 25
    }

    /// INVEPT of all tables.
    pub(super) const fn invalidates_all_tables(&self) -> bool {
        self.ept_vpid & (1 << 20 | 1 << 26) == 1 << 20 | 1 << 26
    }

    /// INVVPID of one guest.
    pub(super) const fn invalidates_one_guest(&self) -> bool {
        self.ept_vpid & (1 << 32 | 1 << 41) == 1 << 32 | 1 << 41
    }

    /// INVVPID of all guests.
    pub(super) const fn invalidates_all_guests(&self) -> bool {
        self.ept_vpid & (1 << 32 | 1 << 42) == 1 << 32 | 1 << 42
    }
}

#[cfg(test)]
pub(super) mod recorded {
    //! Values that were read on machines.

    use super::Capabilities;

    /// The emulator's model of an Arrow Lake: everything but IPI virtualization and 5-level tables.
    pub(in super::super) const ARROW_LAKE: [(u32, u64); 17] = [
        (0x480, 0x01d8_1000_0000_0004),
        (0x481, 0x0000_00ff_0000_0016),
        (0x482, 0xfffb_fffe_0401_e172),
        (0x483, 0xf87f_ffff_0003_6dff),
        (0x484, 0x0058_ffff_0000_11ff),
        (0x485, 0x0000_0000_6004_01e0),
        (0x486, 0x8000_0021),
        (0x487, 0xffff_ffff),
        (0x488, 0x2000),
        (0x489, 0x0bf7_2fff),
        (0x48a, 0x54),
        (0x48b, 0x06d7_7fff_0000_0000),
        (0x48c, 0x0000_0f01_06f3_4141),
        (0x48d, 0x0000_00ff_0000_0016),
        (0x48e, 0xfffb_fffe_0400_6172),
        (0x48f, 0xf87f_ffff_0003_6dfb),
        (0x490, 0x0058_ffff_0000_11fb),
    ];

    /// The machine's capabilities, with some registers replaced.
    pub(in super::super) fn arrow_lake(replaced: &[(u32, u64)]) -> Capabilities {
        Capabilities::read(|number| {
            let find = |list: &[(u32, u64)]| list.iter().find(|(known, _)| *known == number).map(|(_, value)| *value);
            find(replaced).or_else(|| find(&ARROW_LAKE)).expect("a register that exists")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::recorded::arrow_lake;
    use super::*;

    #[test]
    fn the_true_registers_count_where_they_exist() {
        let exact = arrow_lake(&[]);
        assert_eq!((exact.revision(), exact.primary.must()), (4, 0x0400_6172));
        let plain = arrow_lake(&[(0x480, 0x0058_1000_0000_0004)]);
        assert_eq!(plain.primary.must(), 0x0401_e172);
    }

    #[test]
    fn registers_that_may_not_exist_are_not_read() {
        let without = Capabilities::read(|number| match number {
            0x48b | 0x48c => panic!("{number:#x} does not exist without secondary controls"),
            0x48e => 0x7ffb_fffe_0400_6172,
            _ => 1 << 55,
        });
        assert_eq!((without.secondary, without.ept_vpid()), (Allowed::default(), 0));
    }

    #[test]
    fn the_extended_tables_abilities() {
        let all = arrow_lake(&[]);
        assert!(all.ept_has_4_levels() && !all.ept_has_5_levels() && all.ept_is_write_back());
        assert!(all.ept_has_accessed_dirty() && all.invalidates_one_table() && all.invalidates_one_guest());
        assert!(all.has_halt_state() && all.cr3_targets() == 4);
    }

    #[test]
    fn fixed_bits_are_ones_and_zeros() {
        let fixed = Fixed { ones: 0x21, may: 0xff };
        assert!(fixed.takes(0x21, 0) && fixed.takes(0xff, 0));
        assert!(!fixed.takes(0x20, 0) && fixed.takes(0x20, 1) && !fixed.takes(0x121, 0));
    }
}
