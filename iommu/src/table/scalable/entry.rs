//! Entries of scalable mode (VT-d sections 9.2 and 9.4 to 9.6).

use crate::address::HostPhysical;
use crate::layout::layout;

/// Context entries of 32 bytes in a table: one for each function of half a bus.
pub const CONTEXTS: usize = 128;
/// Process-table entries of 64 bytes in a table.
pub const PROCESSES: usize = 64;

layout! {
    /// One half of a root entry: the context table of the functions 00.0 to 0f.7 (low) or 10.0 to 1f.7 (high).
    pub struct HalfRootEntry(u64) {
        /// LP or UP: there is a context table.
        present, with_present: [0];
        /// LCTP or UCTP: the context table's frame number.
        context_table, with_context_table: [63:12];
    }
}

layout! {
    /// The low half of a context entry; its high half is 0.
    pub struct ScalableContextEntry(u128) {
        /// P: requests of this function are let in.
        present, with_present: [0];
        /// FPD: faults of this function are not recorded.
        fault_processing_disabled, with_fault_processing_disabled: [1];
        /// DTE: the device may have a TLB of its own.
        device_tlb, with_device_tlb: [2];
        /// PASIDE: requests may carry a process id.
        processes, with_processes: [3];
        /// PRE: the device may request pages.
        page_requests, with_page_requests: [4];
        /// PDTS: the process directory has `2^(PDTS + 7)` entries.
        directory_size, with_directory_size: [11:9];
        /// PASIDDIRPTR: the process directory's frame number.
        directory, with_directory: [63:12];
        /// RID_PASID: the process id of requests that carry none.
        plain_process, with_plain_process: [83:64];
        /// RID_PRIV: those requests have supervisor privilege.
        plain_privilege, with_plain_privilege: [84];
    }
}

layout! {
    /// An entry of a process directory.
    pub struct DirectoryEntry(u64) {
        /// P: there is a process table.
        present, with_present: [0];
        /// FPD.
        fault_processing_disabled, with_fault_processing_disabled: [1];
        /// SMPTBLPTR: the process table's frame number.
        table, with_table: [63:12];
    }
}

layout! {
    /// Bits 127:0 of a process-table entry.
    pub struct ProcessLow(u128) {
        /// P.
        present, with_present: [0];
        /// FPD.
        fault_processing_disabled, with_fault_processing_disabled: [1];
        /// AW: the second stage's levels minus 2.
        width_code, with_width_code: [4:2];
        /// SSEE: the second stage says who may execute.
        second_stage_execute, with_second_stage_execute: [5];
        /// PGTT: 1 first stage, 2 second stage, 3 nested, 4 pass-through.
        translation_type, with_translation_type: [8:6];
        /// SSADE: the unit sets accessed and dirty flags in the second stage.
        second_stage_accessed_dirty, with_second_stage_accessed_dirty: [9];
        /// SSPTPTR: the second stage's frame number.
        second_stage, with_second_stage: [63:12];
        /// DID.
        domain, with_domain: [79:64];
        /// PWSNP: the walk snoops the processors' caches.
        walk_snoops, with_walk_snoops: [87];
        /// PGSNP: the device's accesses snoop, whatever they ask for.
        pages_snoop, with_pages_snoop: [88];
        /// CD.
        cache_disable, with_cache_disable: [89];
        /// EMTE.
        memory_type_enable, with_memory_type_enable: [90];
        /// EMT.
        memory_type, with_memory_type: [93:91];
        /// PWT.
        write_through, with_write_through: [94];
        /// PCD.
        table_cache_disable, with_table_cache_disable: [95];
        /// PAT.
        page_attributes, with_page_attributes: [127:96];
    }
}

layout! {
    /// Bits 255:128 of a process-table entry; the rest is 0.
    pub struct ProcessHigh(u128) {
        /// SRE: supervisor requests are taken.
        supervisor, with_supervisor: [0];
        /// ERE: execute requests are taken.
        execute, with_execute: [1];
        /// FSPM: 0 for 4 levels in the first stage, 1 for 5.
        first_stage_levels, with_first_stage_levels: [3:2];
        /// WPE: supervisor requests obey write protection.
        write_protect, with_write_protect: [4];
        /// NXE: the first stage says who may not execute.
        no_execute, with_no_execute: [5];
        /// SMEP.
        supervisor_no_user_execute, with_supervisor_no_user_execute: [6];
        /// EAFE: the extended accessed flag.
        extended_accessed, with_extended_accessed: [7];
        /// FSPTPTR: the first stage's frame number.
        first_stage, with_first_stage: [63:12];
    }
}

const _: () = assert!(CONTEXTS * 2 * size_of::<ScalableContextEntry>() == 4096);
const _: () = assert!(PROCESSES * 2 * (size_of::<ProcessLow>() + size_of::<ProcessHigh>()) == 4096);

impl HalfRootEntry {
    /// The half that leads to `table`, a context table.
    pub const fn to(table: HostPhysical) -> Self {
        Self::from_bits(0).with_present(true).with_context_table(table.as_u64() >> 12)
    }

    /// The context table, if there is one.
    pub const fn table(self) -> Option<HostPhysical> {
        if self.present() { Some(HostPhysical::new(self.context_table() << 12)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_round_trip() {
        HalfRootEntry::check_round_trip();
        ScalableContextEntry::check_round_trip();
        DirectoryEntry::check_round_trip();
        ProcessLow::check_round_trip();
        ProcessHigh::check_round_trip();
        assert_eq!(!ScalableContextEntry::DEFINED as u64, 0x1e0, "8:5 are reserved");
        assert_eq!(!ProcessLow::DEFINED as u64, 0xc00, "11:10 are reserved");
        assert_eq!((!ProcessLow::DEFINED >> 64) as u64, 0x7f_0000, "86:80 are reserved");
        assert_eq!(!ProcessHigh::DEFINED as u64, 0xf00, "139:136 are reserved");
    }
}
