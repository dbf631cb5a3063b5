//! What a unit says it can do: VER, CAP and ECAP (VT-d sections 11.4.1 to 11.4.3).

use crate::layout::layout;
use crate::registers::register_value;

layout! {
    /// VER: the version of the architecture that the unit follows.
    pub struct Version(u32) {
        /// The minor number.
        minor, with_minor: [3:0];
        /// The major number. From 6 on there is no invalidation by register, only by queue.
        major, with_major: [7:4];
    }
}

layout! {
    /// CAP, the capability register.
    pub struct Capability(u64) {
        /// ND: domain ids have `4 + 2 * ND` bits. 7 is reserved.
        domain_id_code, with_domain_id_code: [2:0];
        /// AFL: faults can be logged in memory.
        advanced_fault_logging, with_advanced_fault_logging: [3];
        /// RWBF: the unit's write buffer must be flushed before it sees some changes in memory.
        write_buffer_flush, with_write_buffer_flush: [4];
        /// PLMR: a protected low-memory range exists.
        protected_low_memory, with_protected_low_memory: [5];
        /// PHMR: a protected high-memory range exists.
        protected_high_memory, with_protected_high_memory: [6];
        /// CM: entries that are not present may be cached too, so that every change must be announced.
        caching_mode, with_caching_mode: [7];
        /// SAGAW: bit 1 = 39 bits in 3 levels, bit 2 = 48 in 4, bit 3 = 57 in 5.
        adjusted_widths, with_adjusted_widths: [12:8];
        /// MGAW: the widest address that a device may send, in bits, minus 1.
        maximum_width_code, with_maximum_width_code: [21:16];
        /// ZLR: reads of length zero may touch write-only pages.
        zero_length_read, with_zero_length_read: [22];
        /// FRO: the first fault record, in 16 bytes from the base.
        fault_record_offset, with_fault_record_offset: [33:24];
        /// SLLPS: bit 0 = leaves of 2 MiB, bit 1 = of 1 GiB in second-stage tables.
        large_pages, with_large_pages: [37:34];
        /// PSI: invalidation of single pages.
        page_selective_invalidation, with_page_selective_invalidation: [39];
        /// NFR: fault records minus 1.
        fault_record_code, with_fault_record_code: [47:40];
        /// MAMV: the largest address mask in an invalidation of pages.
        maximum_address_mask, with_maximum_address_mask: [53:48];
        /// DWD: an invalidation can wait for writes under way.
        write_drain, with_write_drain: [54];
        /// DRD: an invalidation can wait for reads under way.
        read_drain, with_read_drain: [55];
        /// FS1GP: leaves of 1 GiB in first-stage tables.
        first_stage_1g, with_first_stage_1g: [56];
        /// PI: interrupt-remapping entries of the posted form.
        posted_interrupts, with_posted_interrupts: [59];
        /// FS5LP: first-stage tables of 5 levels.
        first_stage_5_levels, with_first_stage_5_levels: [60];
        /// ECMDS: enhanced commands.
        enhanced_commands, with_enhanced_commands: [61];
        /// ESIRTPS: setting the interrupt table also empties the interrupt-entry cache.
        interrupt_table_set_invalidates, with_interrupt_table_set_invalidates: [62];
        /// ESRTPS: setting the root table also empties the translation caches.
        root_table_set_invalidates, with_root_table_set_invalidates: [63];
    }
}

impl Capability {
    /// How many domain ids the unit tells apart, 16 to 65536; `None` for the reserved code 7.
    pub const fn domain_ids(self) -> Option<u32> {
        match self.domain_id_code() {
            7 => None,
            code => Some(1 << (4 + 2 * code)),
        }
    }

    /// The widest address that a device may send, in bits, 1 to 64.
    pub const fn maximum_width(self) -> u8 {
        self.maximum_width_code() as u8 + 1
    }

    /// How many fault records there are, 1 to 256.
    pub const fn fault_records(self) -> usize {
        self.fault_record_code() as usize + 1
    }

    /// The first fault record, in bytes from the base.
    pub const fn fault_record_base(self) -> u64 {
        self.fault_record_offset() * 16
    }

    /// Whether second-stage tables of so many levels (3, 4 or 5) can be walked.
    pub const fn walks_levels(self, levels: u8) -> bool {
        levels >= 3 && levels <= 5 && self.adjusted_widths() >> (levels - 2) & 1 != 0
    }
}

layout! {
    /// ECAP, the extended capability register.
    pub struct ExtendedCapability(u64) {
        /// C: the unit reads its tables through the processors' caches.
        coherent, with_coherent: [0];
        /// QI: queued invalidation.
        queued_invalidation, with_queued_invalidation: [1];
        /// DT: requests that a device translated itself (ATS).
        device_tlb, with_device_tlb: [2];
        /// IR: interrupt remapping.
        interrupt_remapping, with_interrupt_remapping: [3];
        /// EIM: interrupt destinations of 32 bits (x2APIC).
        extended_interrupt_mode, with_extended_interrupt_mode: [4];
        /// PT: context entries that pass requests through.
        pass_through, with_pass_through: [6];
        /// SC: leaves can force requests to snoop.
        snoop_control, with_snoop_control: [7];
        /// IRO: the IOTLB registers, in 16 bytes from the base.
        iotlb_offset, with_iotlb_offset: [17:8];
        /// MHMV: the largest handle mask in an invalidation of interrupt entries.
        maximum_handle_mask, with_maximum_handle_mask: [23:20];
        /// MTS: memory types in second-stage leaves.
        memory_type, with_memory_type: [25];
        /// NEST: nested translation.
        nested, with_nested: [26];
        /// PRS: page requests.
        page_requests, with_page_requests: [29];
        /// ERS: requests to execute.
        execute_requests, with_execute_requests: [30];
        /// SRS: requests with supervisor privilege.
        supervisor_requests, with_supervisor_requests: [31];
        /// NWFS: page requests carry no write flag.
        no_write_flag, with_no_write_flag: [33];
        /// EAFS: extended accessed flag.
        extended_accessed_flag, with_extended_accessed_flag: [34];
        /// PSS: bits of a PASID minus 1.
        pasid_size_code, with_pasid_size_code: [39:35];
        /// PASID: requests with a process id.
        pasid, with_pasid: [40];
        /// DIT: device-TLB invalidations are throttled by the physical function.
        device_tlb_throttle, with_device_tlb_throttle: [41];
        /// PDS: an invalidation can drain page requests.
        page_request_drain, with_page_request_drain: [42];
        /// SMTS: scalable mode.
        scalable_mode, with_scalable_mode: [43];
        /// VCS: virtual commands.
        virtual_commands, with_virtual_commands: [44];
        /// SSADS: accessed and dirty flags in second-stage tables.
        second_stage_accessed_dirty, with_second_stage_accessed_dirty: [45];
        /// SSTS: second-stage translation in scalable mode.
        second_stage, with_second_stage: [46];
        /// FSTS: first-stage translation in scalable mode.
        first_stage, with_first_stage: [47];
        /// SMPWCS: in scalable mode the unit reads its tables through the processors' caches.
        scalable_mode_coherent, with_scalable_mode_coherent: [48];
        /// RPS: a PASID for requests without one.
        request_without_pasid, with_request_without_pasid: [49];
        /// PMS: performance counters.
        performance_monitoring, with_performance_monitoring: [51];
        /// ADMS: a mode that aborts all DMA.
        abort_dma_mode, with_abort_dma_mode: [52];
        /// RPRIVS: a privilege for requests without PASID.
        request_privilege, with_request_privilege: [53];
    }
}

impl ExtendedCapability {
    /// The IOTLB registers (IVA, then IOTLB), in bytes from the base.
    pub const fn iotlb_base(self) -> u64 {
        self.iotlb_offset() * 16
    }
}

register_value!(Version: u32, Capability: u64, ExtendedCapability: u64);

/// The bytes that a unit's registers fill: 4 KiB, or more where CAP and ECAP place the fault records or the IOTLB
/// registers further out; whole pages.
pub fn window_size(capability: Capability, extended: ExtendedCapability) -> u64 {
    let records = capability.fault_record_base() + 16 * capability.fault_records() as u64;
    let iotlb = extended.iotlb_base() + 16;
    records.max(iotlb).next_multiple_of(0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_round_trip() {
        Version::check_round_trip();
        Capability::check_round_trip();
        ExtendedCapability::check_round_trip();
    }

    /// The values that QEMU's unit gives by default (intremap=on, eim=on).
    #[test]
    fn a_known_unit_is_read_right() {
        let capability = Capability::from_bits(0x00d2_008c_222f_0606);
        assert_eq!(capability.domain_ids(), Some(65536));
        assert!(!capability.walks_levels(2) && capability.walks_levels(3) && capability.walks_levels(4));
        assert!(!capability.walks_levels(5) && !capability.walks_levels(9));
        assert_eq!(capability.maximum_width(), 48);
        assert_eq!((capability.fault_record_base(), capability.fault_records()), (0x220, 1));
        assert_eq!(capability.large_pages(), 0b11);
        assert!(capability.page_selective_invalidation() && capability.write_drain() && capability.read_drain());
        assert_eq!(capability.maximum_address_mask(), 18);
        assert!(!capability.caching_mode() && !capability.write_buffer_flush());
        assert!(!capability.posted_interrupts() && !capability.root_table_set_invalidates());
        let extended = ExtendedCapability::from_bits(0x00f0_0f5a);
        assert!(!extended.coherent() && extended.queued_invalidation() && extended.interrupt_remapping());
        assert!(extended.extended_interrupt_mode() && extended.pass_through() && !extended.snoop_control());
        assert_eq!((extended.iotlb_base(), extended.maximum_handle_mask()), (0xf0, 15));
        assert_eq!(window_size(capability, extended), 0x1000);
    }

    #[test]
    fn the_window_grows_with_what_lies_far_out() {
        let capability = Capability::default().with_fault_record_offset(0xff).with_fault_record_code(255);
        assert_eq!(window_size(capability, ExtendedCapability::default()), 0x2000);
        assert_eq!(window_size(Capability::default(), ExtendedCapability::default().with_iotlb_offset(0x100)), 0x2000);
    }

    #[test]
    fn the_reserved_domain_code_has_no_count() {
        assert_eq!(Capability::default().domain_ids(), Some(16));
        assert_eq!(Capability::default().with_domain_id_code(6).domain_ids(), Some(65536));
        assert_eq!(Capability::default().with_domain_id_code(7).domain_ids(), None);
    }
}
