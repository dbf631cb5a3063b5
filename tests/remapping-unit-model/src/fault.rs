//! Fault records, their overflow, and event messages with mask and pending bits (VT-d sections 7.2 and 7.3).

use alloc::vec;
use alloc::vec::Vec;

use crate::{Memory, Message, Unit};

const OVERFLOW: u32 = 1;
pub(crate) const QUEUE_ERROR: u32 = 1 << 4;
pub(crate) const COMPLETION_ERROR: u32 = 1 << 5;
pub(crate) const TIME_OUT: u32 = 1 << 6;
/// What writing one clears.
const CLEARED: u32 = OVERFLOW | QUEUE_ERROR | COMPLETION_ERROR | TIME_OUT;

/// IM and IP of an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventControl {
    masked: bool,
    pending: bool,
}

impl EventControl {
    pub(crate) const fn after_reset() -> Self {
        Self { masked: true, pending: false }
    }

    pub(crate) fn bits(self) -> u32 {
        u32::from(self.masked) << 31 | u32::from(self.pending) << 30
    }

    /// True: a message that was pending goes out.
    pub(crate) fn write(&mut self, value: u32) -> bool {
        self.masked = value & 1 << 31 != 0;
        !self.masked && core::mem::take(&mut self.pending)
    }

    /// True: a message goes out.
    pub(crate) fn raise(&mut self) -> bool {
        self.pending |= self.masked;
        !self.masked
    }

    /// What the message was about has been dealt with.
    pub(crate) fn withdraw(&mut self) {
        self.pending = false;
    }
}

/// FSTS and the records.
#[derive(Debug)]
pub(crate) struct Faults {
    records: Vec<(u64, u64)>,
    next: usize,
    /// FRI: where the first fault went while no other was pending.
    first: usize,
    sticky: u32,
    pub(crate) control: EventControl,
}

impl Faults {
    pub(crate) fn new(records: usize) -> Self {
        Self { records: vec![(0, 0); records], next: 0, first: 0, sticky: 0, control: EventControl::after_reset() }
    }

    fn pending(&self) -> bool {
        self.records.iter().any(|(_, high)| high >> 63 != 0)
    }

    pub(crate) fn status(&self) -> u32 {
        let pending = self.pending();
        self.sticky | u32::from(pending) << 1 | if pending { (self.first as u32) << 8 } else { 0 }
    }

    pub(crate) fn stops_queue(&self) -> bool {
        self.sticky & (QUEUE_ERROR | TIME_OUT) != 0
    }

    pub(crate) fn read_half(&self, offset: u64) -> u32 {
        let Some((low, high)) = self.records.get((offset / 16) as usize) else { return 0 };
        let word = if offset & 8 == 0 { low } else { high };
        if offset & 4 == 0 { *word as u32 } else { (word >> 32) as u32 }
    }

    /// False: read-only.
    pub(crate) fn write_half(&mut self, offset: u64, value: u32) -> bool {
        let Some((_, high)) = self.records.get_mut((offset / 16) as usize) else { return value == 0 };
        match offset & 15 {
            12 => {
                if value & 1 << 31 != 0 {
                    *high &= !(1 << 63);
                }
                self.settle();
                true
            }
            // The lower half of the same register, in an access of 8 bytes.
            8 => true,
            _ => false,
        }
    }

    fn settle(&mut self) {
        if self.sticky == 0 && !self.pending() {
            self.control.withdraw();
        }
    }

    /// True: a message goes out.
    fn record(&mut self, low: u64, high: u64) -> bool {
        let quiet = self.sticky == 0 && !self.pending();
        if self.sticky & OVERFLOW != 0 {
            return false;
        }
        let next = self.next;
        let was_pending = self.pending();
        match self.records.get_mut(next) {
            Some(record) if record.1 >> 63 == 0 => {
                *record = (low, high | 1 << 63);
                if !was_pending {
                    self.first = next;
                }
                self.next = (next + 1) % self.records.len();
            }
            _ => self.sticky |= OVERFLOW,
        }
        quiet && self.control.raise()
    }
}

impl<M: Memory> Unit<M> {
    pub(crate) fn clear_fault_status(&mut self, value: u32) {
        let resumed = self.faults.sticky & value & TIME_OUT != 0;
        self.faults.sticky &= !(value & CLEARED);
        self.faults.settle();
        if resumed {
            self.run_queue();
        }
    }

    /// Bits of FSTS that the queue sets.
    pub(crate) fn raise_fault_status(&mut self, bits: u32) {
        let quiet = self.faults.sticky == 0 && !self.faults.pending();
        self.faults.sticky |= bits;
        let event = quiet && self.faults.control.raise();
        self.announce_fault(event);
    }

    /// `read` is T1 of the record.
    pub(crate) fn record_fault(&mut self, source: u16, reason: u8, information: u64, read: bool, address_type: u64) {
        self.record_fault_of(source, None, reason, information, read, address_type);
    }

    /// The same for a request that may have a PASID.
    pub(crate) fn record_fault_of(
        &mut self,
        source: u16,
        pasid: Option<u32>,
        reason: u8,
        information: u64,
        read: bool,
        address_type: u64,
    ) {
        let high = u64::from(read) << 62 | (address_type & 3) << 60 | u64::from(reason) << 32 | u64::from(source);
        let high = high | pasid.map_or(0, |pasid| 1 << 31 | u64::from(pasid & 0xf_ffff) << 40);
        let event = self.faults.record(information, high);
        self.announce_fault(event);
    }

    pub(crate) fn announce_fault(&mut self, event: bool) {
        if event {
            let message = self.event_message(0x3c);
            self.messages.push(message);
        }
    }

    /// The message in the three registers from `data` on.
    pub(crate) fn event_message(&self, data: u64) -> Message {
        let half = |offset| self.registers.get(&offset).copied().unwrap_or(0);
        Message { address: u64::from(half(data + 8)) << 32 | u64::from(half(data + 4)), data: half(data) }
    }
}
