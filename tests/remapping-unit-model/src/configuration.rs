//! What a modelled unit can do, as its capability registers tell (VT-d sections 11.4.1 to 11.4.3).

/// IVA and the IOTLB register.
pub(crate) const INVALIDATION_REGISTERS: u64 = 0xf0;
/// The first fault record.
pub(crate) const FAULT_RECORDS: u64 = 0x220;

/// What a unit can do in scalable mode (ECAP.SMTS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scalable {
    /// ECAP.FSTS: first-stage translation.
    pub first_stage: bool,
    /// ECAP.SSTS: second-stage translation.
    pub second_stage: bool,
    /// ECAP.NEST: first-stage addresses go through the second stage.
    pub nested: bool,
    /// ECAP.PASID with ECAP.PSS + 1, 1 to 20: requests may have a PASID of so many bits.
    pub pasid_bits: Option<u8>,
    /// ECAP.RPS: the context entry names the PASID of requests without one; otherwise it is 0.
    pub rid_pasid: bool,
    /// ECAP.SMPWCS: walks snoop where the PASID entry says PWSNP. Otherwise accessed and dirty bits stay as they are.
    pub coherent: bool,
    /// ECAP.SRS: supervisor requests.
    pub supervisor: bool,
    /// CAP.FS1GP: first-stage pages of 1 GiB.
    pub huge_pages: bool,
    /// CAP.FS5LP: first-stage tables of 5 levels.
    pub five_levels: bool,
}

impl Default for Scalable {
    /// Everything, with PASIDs of 20 bits.
    fn default() -> Self {
        Self {
            first_stage: true,
            second_stage: true,
            nested: true,
            pasid_bits: Some(20),
            rid_pasid: true,
            coherent: true,
            supervisor: true,
            huge_pages: true,
            five_levels: true,
        }
    }
}

impl Scalable {
    /// Its part of CAP.
    fn capability(&self) -> u64 {
        u64::from(self.huge_pages) << 56 | u64::from(self.five_levels) << 60
    }

    /// Its part of ECAP.
    fn extended_capability(&self) -> u64 {
        let flag = |set: bool, bit: u32| u64::from(set) << bit;
        flag(self.nested, 26)
            | flag(self.supervisor, 31)
            | u64::from(self.pasid_bits.unwrap_or(1).clamp(1, 20) - 1) << 35
            | flag(self.pasid_bits.is_some(), 40)
            | 1 << 43
            | flag(self.second_stage, 46)
            | flag(self.first_stage, 47)
            | flag(self.coherent, 48)
            | flag(self.rid_pasid, 49)
    }
}

/// What a unit can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The major version, 1 to 6. From 6 on there is no register-based invalidation.
    pub version: u8,
    /// CAP.ND, 0 to 6: `2^(4 + 2 ND)` domain ids.
    pub domains: u8,
    /// CAP.SAGAW: bit 1 for 3 levels, bit 2 for 4, bit 3 for 5.
    pub levels: u8,
    /// Bits of a device's address (CAP.MGAW + 1), 1 to 64.
    pub width: u8,
    /// Bits of a memory address (the host address width), 32 to 52.
    pub host_width: u8,
    /// CAP.SSLPS: bit 0 for 2 MiB, bit 1 for 1 GiB.
    pub large_pages: u8,
    /// CAP.PSI with CAP.MAMV.
    pub page_selective: Option<u8>,
    /// CAP.DWD and CAP.DRD.
    pub draining: bool,
    /// CAP.RWBF.
    pub write_buffer: bool,
    /// CAP.CM.
    pub caching_mode: bool,
    /// CAP.PLMR.
    pub protected_low: bool,
    /// CAP.PHMR.
    pub protected_high: bool,
    /// CAP.NFR + 1, 1 to 256.
    pub fault_records: u16,
    /// CAP.PI.
    pub posted_interrupts: bool,
    /// CAP.ESRTPS.
    pub root_invalidates: bool,
    /// CAP.ESIRTPS.
    pub interrupt_table_invalidates: bool,
    /// ECAP.C.
    pub coherent: bool,
    /// ECAP.QI.
    pub queue: bool,
    /// ECAP.DT.
    pub device_tlb: bool,
    /// ECAP.IR.
    pub interrupt_remapping: bool,
    /// ECAP.EIM.
    pub extended_interrupts: bool,
    /// ECAP.PT.
    pub pass_through: bool,
    /// ECAP.SC.
    pub snoop_control: bool,
    /// ECAP.MHMV, 0 to 15.
    pub handle_mask: u8,
    /// ECAP.SMTS, and what comes with it.
    pub scalable: Option<Scalable>,
    /// How many reads of registers a command takes, and each descriptor of the queue. 0: done at once.
    pub delay: u32,
}

impl Default for Configuration {
    /// A middling unit: 3 and 4 levels, all page sizes, not coherent, everything of legacy mode but posting.
    fn default() -> Self {
        Self {
            version: 1,
            domains: 2,
            levels: 0b0110,
            width: 48,
            host_width: 48,
            large_pages: 3,
            page_selective: Some(18),
            draining: true,
            write_buffer: false,
            caching_mode: false,
            protected_low: false,
            protected_high: false,
            fault_records: 4,
            posted_interrupts: false,
            root_invalidates: false,
            interrupt_table_invalidates: false,
            coherent: false,
            queue: true,
            device_tlb: true,
            interrupt_remapping: true,
            extended_interrupts: true,
            pass_through: true,
            snoop_control: false,
            handle_mask: 15,
            scalable: None,
            delay: 0,
        }
    }
}

impl Configuration {
    /// CAP.
    pub fn capability(&self) -> u64 {
        let flag = |set: bool, bit: u32| u64::from(set) << bit;
        u64::from(self.domains & 7)
            | flag(self.write_buffer, 4)
            | flag(self.protected_low, 5)
            | flag(self.protected_high, 6)
            | flag(self.caching_mode, 7)
            | u64::from(self.levels & 31) << 8
            | u64::from(self.width.saturating_sub(1) & 63) << 16
            | (FAULT_RECORDS / 16) << 24
            | u64::from(self.large_pages & 3) << 34
            | flag(self.page_selective.is_some(), 39)
            | u64::from(self.fault_records.clamp(1, 256) - 1) << 40
            | u64::from(self.page_selective.unwrap_or(0) & 63) << 48
            | flag(self.draining, 54)
            | flag(self.draining, 55)
            | flag(self.posted_interrupts, 59)
            | flag(self.interrupt_table_invalidates, 62)
            | flag(self.root_invalidates, 63)
            | self.scalable.map_or(0, |scalable| scalable.capability())
    }

    /// ECAP.
    pub fn extended_capability(&self) -> u64 {
        let flag = |set: bool, bit: u32| u64::from(set) << bit;
        flag(self.coherent, 0)
            | flag(self.queue, 1)
            | flag(self.device_tlb, 2)
            | flag(self.interrupt_remapping, 3)
            | flag(self.extended_interrupts, 4)
            | flag(self.pass_through, 6)
            | flag(self.snoop_control, 7)
            | (INVALIDATION_REGISTERS / 16) << 8
            | u64::from(self.handle_mask & 15) << 20
            | self.scalable.map_or(0, |scalable| scalable.extended_capability())
    }

    /// Bytes of the register window: whole pages.
    pub fn window(&self) -> u64 {
        (FAULT_RECORDS + 16 * u64::from(self.fault_records)).next_multiple_of(4096)
    }

    /// Domain ids are below this.
    pub fn domain_limit(&self) -> u32 {
        1 << (4 + 2 * u32::from(self.domains.min(6)))
    }
}
