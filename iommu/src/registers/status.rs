//! What the registers beside the capabilities hold: commands and states, faults, events, and where the structures in
//! memory are (VT-d sections 11.4.4 to 11.4.10).

use crate::layout::layout;
use crate::registers::register_value;

layout! {
    /// GSTS: which of the commands of GCMD are in force.
    pub struct GlobalStatus(u32) {
        /// CFIS: interrupts of compatibility format pass.
        compatibility_format, with_compatibility_format: [23];
        /// IRTPS: the interrupt table's pointer is set.
        interrupt_table_set, with_interrupt_table_set: [24];
        /// IRES: interrupt remapping is on.
        interrupt_remapping, with_interrupt_remapping: [25];
        /// QIES: the queue is on.
        queued_invalidation, with_queued_invalidation: [26];
        /// WBFS: the write buffer is being flushed.
        write_buffer_flushing, with_write_buffer_flushing: [27];
        /// AFLS: faults are logged in memory.
        advanced_fault_logging, with_advanced_fault_logging: [28];
        /// FLS: the fault log's pointer is set.
        fault_log_set, with_fault_log_set: [29];
        /// RTPS: the root table's pointer is set.
        root_table_set, with_root_table_set: [30];
        /// TES: DMA remapping is on.
        translation, with_translation: [31];
    }
}

layout! {
    /// RTADDR: the root table.
    pub struct RootTableAddress(u64) {
        /// TTM: 0 legacy, 1 scalable, 3 abort all DMA. Changes only while translation is off.
        mode, with_mode: [11:10];
        /// The table's frame number.
        frame, with_frame: [63:12];
    }
}

layout! {
    /// FSTS: what went wrong. All bits but PPF and FRI are cleared by writing ones.
    pub struct FaultStatus(u32) {
        /// PFO: a fault was lost because no record was free.
        overflow, with_overflow: [0];
        /// PPF: some record is set (read-only).
        pending, with_pending: [1];
        /// AFO: the fault log in memory overflowed.
        advanced_overflow, with_advanced_overflow: [2];
        /// APF: the fault log in memory has a fault.
        advanced_pending, with_advanced_pending: [3];
        /// IQE: the queue met a descriptor that it does not take, and stands still.
        queue_error, with_queue_error: [4];
        /// ICE: a device answered a device-TLB invalidation wrongly.
        completion_error, with_completion_error: [5];
        /// ITE: a device did not answer a device-TLB invalidation.
        time_out, with_time_out: [6];
        /// PRO: the page-request queue overflowed (older units).
        page_request_overflow, with_page_request_overflow: [7];
        /// FRI: the first record that is set (read-only).
        first_record, with_first_record: [15:8];
    }
}

impl FaultStatus {
    /// Every bit that is cleared by writing one to it.
    pub const ALL: Self = Self::from_bits(0xfd);
}

layout! {
    /// FECTL, IECTL and PECTL: the control of an event's message.
    pub struct EventControl(u32) {
        /// IP: an event happened while the message was masked (read-only).
        pending, with_pending: [30];
        /// IM: the message is held back.
        masked, with_masked: [31];
    }
}

layout! {
    /// FEDATA and its like: the data of an event's message.
    pub struct EventData(u32) {
        /// The data of the MSI.
        data, with_data: [15:0];
    }
}

layout! {
    /// FEADDR and its like: the low half of the address of an event's message.
    pub struct EventAddress(u32) {
        /// Bits 31:2 of the address.
        dword, with_dword: [31:2];
    }
}

layout! {
    /// FEUADDR and its like: the high half of the address of an event's message.
    pub struct EventUpperAddress(u32) {
        /// Bits 63:32 of the address: bits 31:8 of an x2APIC destination.
        upper, with_upper: [31:0];
    }
}

layout! {
    /// PMEN: the protected memory ranges, which block DMA whatever the tables say.
    pub struct ProtectedMemoryEnable(u32) {
        /// PRS: the ranges are in force (read-only).
        in_force, with_in_force: [0];
        /// EPM: the ranges are to be in force.
        enable, with_enable: [31];
    }
}

layout! {
    /// PLMBASE and PLMLIMIT: an end of the low protected range. How many low bits count is the unit's choice: those
    /// that do not read back as written are ones in a limit and zeros in a base.
    pub struct ProtectedLowAddress(u32) {
        /// The address.
        address, with_address: [31:0];
    }
}

layout! {
    /// PHMBASE and PHMLIMIT: likewise for the high protected range.
    pub struct ProtectedHighAddress(u64) {
        /// The address.
        address, with_address: [63:0];
    }
}

layout! {
    /// IQH and IQT: a place in the invalidation queue.
    pub struct QueuePosition(u64) {
        /// The offset in bytes from the queue's start, in units of 16.
        slot, with_slot: [18:4];
    }
}

layout! {
    /// IQA: the invalidation queue.
    pub struct QueueAddress(u64) {
        /// QS: the queue has 2^QS pages.
        size, with_size: [2:0];
        /// DW: descriptors of 256 bits.
        wide, with_wide: [11];
        /// The queue's frame number.
        frame, with_frame: [63:12];
    }
}

layout! {
    /// IQERCD: why the queue stands still (0 where the unit does not say).
    pub struct QueueErrorRecord(u64) {
        /// IQEI: what is wrong with the descriptor; see [`crate::queue::InvalidDescriptor`].
        info, with_info: [3:0];
        /// ITESID: the device that did not answer.
        time_out_source, with_time_out_source: [47:32];
        /// ICESID: the device that answered wrongly.
        completion_source, with_completion_source: [63:48];
    }
}

layout! {
    /// IRTA: the interrupt-remapping table.
    pub struct InterruptTableAddress(u64) {
        /// S: the table has 2^(S+1) entries.
        size, with_size: [3:0];
        /// EIME: destinations have 32 bits.
        extended_interrupt_mode, with_extended_interrupt_mode: [11];
        /// The table's frame number.
        frame, with_frame: [63:12];
    }
}

register_value!(
    GlobalStatus: u32,
    RootTableAddress: u64,
    FaultStatus: u32,
    EventControl: u32,
    EventData: u32,
    EventAddress: u32,
    EventUpperAddress: u32,
    ProtectedMemoryEnable: u32,
    ProtectedLowAddress: u32,
    ProtectedHighAddress: u64,
    QueuePosition: u64,
    QueueAddress: u64,
    QueueErrorRecord: u64,
    InterruptTableAddress: u64,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_round_trip() {
        GlobalStatus::check_round_trip();
        RootTableAddress::check_round_trip();
        FaultStatus::check_round_trip();
        EventControl::check_round_trip();
        EventData::check_round_trip();
        EventAddress::check_round_trip();
        EventUpperAddress::check_round_trip();
        ProtectedMemoryEnable::check_round_trip();
        ProtectedLowAddress::check_round_trip();
        ProtectedHighAddress::check_round_trip();
        QueuePosition::check_round_trip();
        QueueAddress::check_round_trip();
        QueueErrorRecord::check_round_trip();
        InterruptTableAddress::check_round_trip();
    }

    #[test]
    fn clearing_all_faults_names_no_read_only_bit() {
        assert!(!FaultStatus::ALL.pending());
        assert_eq!(FaultStatus::ALL.first_record(), 0);
    }
}
