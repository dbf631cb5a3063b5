//! Fault records: their layout, and reading them without losing any (VT-d sections 7.2.1 and 11.4.7.6).
//!
//! Records and the fault bits of FSTS belong to their unit's fault lock.

use core::fmt;

use crate::address::SourceId;
use crate::door::Registers;
use crate::fault::reason::Reason;
use crate::layout::layout;
use crate::registers::access::{ReadOnly, WriteOneToClear};
use crate::registers::capability::Capability;
use crate::registers::status::FaultStatus;
use crate::registers::{Register, Window, map, register_value};

layout! {
    /// The low half of a record.
    pub struct RecordLow(u64) {
        /// The page that was asked for.
        page, with_page: [63:12];
    }
}

layout! {
    /// The low half of a record of an interrupt.
    pub struct InterruptRecordLow(u64) {
        /// The index of the interrupt-remapping entry.
        index, with_index: [63:48];
    }
}

layout! {
    /// The high half of a record.
    pub struct RecordHigh(u64) {
        /// Who asked.
        source, with_source: [15:0];
        /// The second bit of the kind of request.
        kind_low, with_kind_low: [28];
        /// The request asked for supervisor privilege.
        privileged, with_privileged: [29];
        /// The request asked to execute.
        execute, with_execute: [30];
        /// The request carried a process id.
        has_process, with_has_process: [31];
        /// The reason.
        reason, with_reason: [39:32];
        /// The process id; junk without `has_process`.
        process, with_process: [59:40];
        /// 0 untranslated, 1 translation request, 2 translated.
        address_type, with_address_type: [61:60];
        /// The first bit of the kind of request.
        kind_high, with_kind_high: [62];
        /// The record is set; cleared by writing one.
        valid, with_valid: [63];
    }
}

layout! {
    /// The top 4 bytes of a record, through which it is cleared.
    pub struct RecordTop(u32) {
        /// As in [`RecordHigh`].
        valid, with_valid: [31];
    }
}

register_value!(RecordLow: u64, RecordHigh: u64, RecordTop: u32);

/// What a request wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// To write.
    Write,
    /// To read.
    Read,
    /// To ask for a page.
    PageRequest,
    /// To change atomically.
    Atomic,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::PageRequest => "page request",
            Self::Atomic => "atomic access",
        })
    }
}

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Memory: the address of its page (bits 11:0 are not recorded).
    Memory(u64),
    /// An interrupt: the index of its entry (0 where the request had no valid one).
    Interrupt(u16),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(page) => write!(f, "{page:#x}"),
            Self::Interrupt(index) => write!(f, "interrupt handle {index:#x}"),
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who asked.
    pub source: SourceId,
    /// What for.
    pub access: Access,
    /// Where.
    pub place: Place,
    /// The process id, if the request carried one.
    pub process: Option<u32>,
    /// Why it was refused.
    pub reason: Reason,
}

impl Fault {
    /// From the two halves of a record.
    pub fn decode(low: u64, high: u64) -> Self {
        let high = RecordHigh::from_bits(high);
        let reason = Reason::from_code(high.reason() as u8);
        Self {
            source: SourceId::from_bits(high.source() as u16),
            access: match (high.kind_high(), high.kind_low()) {
                (false, false) => Access::Write,
                (true, false) => Access::Read,
                (false, true) => Access::PageRequest,
                (true, true) => Access::Atomic,
            },
            place: if reason.is_of_an_interrupt() {
                Place::Interrupt(InterruptRecordLow::from_bits(low).index() as u16)
            } else {
                Place::Memory(RecordLow::from_bits(low).page() << 12)
            },
            process: high.has_process().then_some(high.process() as u32),
            reason,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Memory(_) => write!(f, "{} of {} by {}", self.access, self.place, self.source)?,
            Place::Interrupt(_) => write!(f, "{} by {}", self.place, self.source)?,
        }
        if let Some(process) = self.process {
            write!(f, " (process {process:#x})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The records of one unit, and where the next fault is expected.
#[derive(Debug)]
pub struct Records {
    base: u64,
    count: usize,
    next: usize,
}

impl Records {
    /// Those of a unit with this capability. The window holds them all.
    pub fn of(capability: Capability) -> Self {
        Self { base: capability.fault_record_base(), count: capability.fault_records(), next: 0 }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes and clears the oldest fault. `None` when no record is set.
    ///
    /// Hardware fills the records in a circle, and FSTS.FRI says where the first is. A fault that comes while records
    /// are cleared either finds a record, which the next call takes, or sets PFO.
    pub fn take<R: Registers>(&mut self, window: &Window<R>) -> Option<Fault> {
        let status = window.read(map::FAULT_STATUS);
        if !status.pending() {
            return None;
        }
        self.next = status.first_record() as usize % self.count;
        for _ in 0..self.count {
            let offset = self.base + 16 * self.next as u64;
            self.next = (self.next + 1) % self.count;
            let high = window.read(Register::<RecordHigh, ReadOnly>::at(offset + 8));
            if high.valid() {
                let low = window.read(Register::<RecordLow, ReadOnly>::at(offset));
                let top = Register::<RecordTop, WriteOneToClear>::at(offset + 12);
                window.clear(top, RecordTop::default().with_valid(true));
                return Some(Fault::decode(low.bits(), high.bits()));
            }
        }
        None
    }

    /// Whether faults were lost because no record was free. Asking clears it.
    pub fn take_overflow<R: Registers>(&self, window: &Window<R>) -> bool {
        let lost = window.read(map::FAULT_STATUS).overflow();
        if lost {
            window.clear(map::FAULT_STATUS, FaultStatus::default().with_overflow(true));
        }
        lost
    }

    /// Clears every record and every fault bit, whatever they say. Gives the number of records that were set.
    pub fn clear_all<R: Registers>(&mut self, window: &Window<R>) -> usize {
        let mut cleared = 0;
        for record in 0..self.count {
            let offset = self.base + 16 * record as u64;
            if window.read(Register::<RecordHigh, ReadOnly>::at(offset + 8)).valid() {
                let top = Register::<RecordTop, WriteOneToClear>::at(offset + 12);
                window.clear(top, RecordTop::default().with_valid(true));
                cleared += 1;
            }
        }
        window.clear(map::FAULT_STATUS, FaultStatus::ALL);
        cleared
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn layouts_round_trip() {
        RecordLow::check_round_trip();
        InterruptRecordLow::check_round_trip();
        RecordHigh::check_round_trip();
        RecordTop::check_round_trip();
    }

    #[test]
    fn records_are_decoded_and_junk_is_dropped() {
        // A read by 01:00.0, as an emulator that fills the process id with ones records it.
        let fault = Fault::decode(0x1234_5fff, 0xc0ff_ff06_0000_0100);
        assert_eq!(
            fault,
            Fault {
                source: SourceId::new(1, 0, 0),
                access: Access::Read,
                place: Place::Memory(0x1234_5000),
                process: None,
                reason: Reason::from_code(6),
            }
        );
        assert_eq!(fault.to_string(), "read of 0x12345000 by 01:00.0: reading there is not permitted (reason 0x06)");
        let fault = Fault::decode(0x0012_0000_0000_0000, 0x8000_0026_0000_0018);
        assert_eq!(fault.place, Place::Interrupt(0x12));
        assert_eq!(
            fault.to_string(),
            "interrupt handle 0x12 by 00:03.0: the handle belongs to another device (reason 0x26)"
        );
        let fault = Fault::decode(0x1000, 0xc001_2378_9000_0018);
        assert_eq!((fault.access, fault.process), (Access::Atomic, Some(0x123)));
    }
}
