//! The invalidation queue (VT-d section 6.5.2).

use crate::command::{QUEUE, TRANSLATION};
use crate::fault::{COMPLETION_ERROR, EventControl, QUEUE_ERROR, TIME_OUT};
use crate::{Memory, Unit, Violation};

/// IQEI: why the queue stands still.
const BAD_TAIL: u64 = 1;
const FETCH: u64 = 2;
pub(crate) const BAD_TYPE: u64 = 3;
pub(crate) const RESERVED: u64 = 4;
/// A descriptor that only 256 bits can hold.
pub(crate) const WIDTH: u64 = 5;
const MISALIGNED: u64 = 6;

/// The queue's registers and state.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) head: u64,
    /// IQERCD.
    pub(crate) error_record: u64,
    /// ICS.IWC.
    pub(crate) wait_completed: bool,
    pub(crate) control: EventControl,
    /// A device did not answer: the next wait is aborted.
    unanswered: Option<u16>,
    left: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            head: 0,
            error_record: 0,
            wait_completed: false,
            control: EventControl::after_reset(),
            unanswered: None,
            left: 0,
        }
    }
}

impl<M: Memory> Unit<M> {
    fn queue_bytes(&self) -> u64 {
        4096 << (self.plain(0x90) & 7)
    }

    /// IQA.DW: descriptors of 256 bits.
    pub(crate) fn is_wide(&self) -> bool {
        self.plain(0x90) & 1 << 11 != 0
    }

    fn tail(&self) -> u64 {
        self.plain(0x88) & 0x7_fff0
    }

    pub(crate) fn queue_is_empty(&self) -> bool {
        self.queue.head == self.tail()
    }

    pub(crate) fn write_tail(&mut self, value: u32) {
        if value & !0x7_fff0 != 0 || u64::from(value) >= self.queue_bytes() {
            self.complain(Violation::TailOutsideQueue { tail: u64::from(value) });
            if self.status & QUEUE != 0 {
                self.stop_queue(BAD_TAIL);
            }
            return;
        }
        if self.is_wide() && value & 16 != 0 {
            self.complain(Violation::TailOutsideQueue { tail: u64::from(value) });
            if self.status & QUEUE != 0 {
                self.stop_queue(MISALIGNED);
            }
            return;
        }
        self.queue.left = self.configuration.delay;
        if self.configuration.delay == 0 {
            self.run_queue();
        }
    }

    pub(crate) fn tick_queue(&mut self) {
        if self.configuration.delay == 0 || self.queue_is_empty() {
            return;
        }
        self.queue.left = self.queue.left.saturating_sub(1);
        if self.queue.left == 0 {
            self.step_queue();
            self.queue.left = self.configuration.delay;
        }
    }

    pub(crate) fn run_queue(&mut self) {
        if self.configuration.delay == 0 {
            while self.step_queue() {}
        }
    }

    fn stop_queue(&mut self, why: u64) {
        self.queue.error_record = self.queue.error_record & !15 | why;
        self.raise_fault_status(QUEUE_ERROR);
    }

    /// Takes one descriptor. False: there is none, or the queue stands still.
    fn step_queue(&mut self) -> bool {
        if self.status & QUEUE == 0 || self.faults.stops_queue() || self.queue_is_empty() {
            return false;
        }
        let at = (self.plain(0x90) & self.pointer_mask()) + self.queue.head;
        // The queue is read through the caches on every unit.
        let (Some(low), Some(high)) = (self.memory.read(at), self.memory.read(at + 8)) else {
            self.stop_queue(FETCH);
            return false;
        };
        let wide = self.is_wide();
        if wide && (self.memory.read(at + 16), self.memory.read(at + 24)) != (Some(0), Some(0)) {
            self.complain(Violation::ReservedInDescriptor { low, high });
            self.stop_queue(RESERVED);
            return false;
        }
        if let Err(why) = self.execute(low, high) {
            self.stop_queue(why);
            return false;
        }
        self.queue.head = (self.queue.head + if wide { 32 } else { 16 }) % self.queue_bytes();
        true
    }

    fn execute(&mut self, low: u64, high: u64) -> Result<(), u64> {
        let kind = low & 15 | low >> 5 & 0x70;
        let (low_allowed, high_allowed) = match kind {
            1 => (0x0003_ffff_ffff_003f, 0),
            2 => (0xffff_00ff, 0xffff_ffff_ffff_f07f),
            3 => (0x0000_ffff_001f_000f, 0xffff_ffff_ffff_f001),
            4 => (0x0000_ffff_f800_001f, 0),
            5 => (0xffff_ffff_0000_007f, 0xffff_ffff_ffff_fffc),
            6 => (0x000f_ffff_ffff_003f, 0xffff_ffff_ffff_f07f),
            7 => (0x000f_ffff_ffff_003f, 0),
            8 => (0x000f_ffff_ffff_01ff, 0xffff_ffff_ffff_f801),
            _ => {
                self.complain(Violation::UnknownDescriptor { low });
                return Err(BAD_TYPE);
            }
        };
        if low & !low_allowed != 0 || high & !high_allowed != 0 {
            self.complain(Violation::ReservedInDescriptor { low, high });
            return Err(RESERVED);
        }
        let (domain, source) = ((low >> 16) as u16, (low >> 32) as u16);
        let granularity = low >> 4 & 3;
        match kind {
            1 | 2 if granularity == 0 => {
                self.complain(Violation::UnknownDescriptor { low });
                Err(RESERVED)
            }
            1 => self.invalidate_contexts(granularity, domain, source, low >> 48 & 3).map_err(|_| RESERVED),
            2 => self.invalidate_pages(granularity, domain, high).map_err(|_| RESERVED),
            3 => self.invalidate_device(source, high),
            4 => self.invalidate_interrupts(low),
            6..=8 => self.invalidate_pasids(kind, low, high),
            _ => self.wait(low, high),
        }
    }

    fn invalidate_device(&mut self, source: u16, high: u64) -> Result<(), u64> {
        self.invalidate_device_pages(source, None, false, high & 1 != 0, high)
    }

    /// `pasid` `None`: what the device was told for requests without one; `every_pasid`: for all with one. With
    /// `sized`, the lowest clear bit of the address tells the size.
    pub(crate) fn invalidate_device_pages(
        &mut self,
        source: u16,
        pasid: Option<u32>,
        every_pasid: bool,
        sized: bool,
        high: u64,
    ) -> Result<(), u64> {
        if !self.configuration.device_tlb || self.status & TRANSLATION == 0 {
            self.complain(Violation::DeviceTlbInvalidation { source });
            return if self.configuration.device_tlb { Ok(()) } else { Err(BAD_TYPE) };
        }
        if self.silent.contains(&source) {
            self.queue.unanswered = Some(source);
            return Ok(());
        }
        if self.wrong.contains(&source) {
            self.queue.error_record = self.queue.error_record & 0x0000_ffff_ffff_ffff | u64::from(source) << 48;
            self.raise_fault_status(COMPLETION_ERROR);
            return Ok(());
        }
        let bits = if sized { 13 + (high >> 12).trailing_ones() } else { 12 };
        let bits = if bits >= 63 { 64 } else { bits };
        self.caches.forget_device_page(source, pasid, every_pasid, high & !0xfff, bits);
        Ok(())
    }

    fn invalidate_interrupts(&mut self, low: u64) -> Result<(), u64> {
        if low & 1 << 4 == 0 {
            self.caches.interrupts.clear();
            self.interrupt_debt = false;
            return Ok(());
        }
        let (mask, first) = ((low >> 27 & 31) as u8, (low >> 32) as u16);
        if mask > self.configuration.handle_mask {
            self.complain(Violation::InvalidationTooLarge { mask });
            return Err(RESERVED);
        }
        let count = 1u32 << mask;
        if !u32::from(first).is_multiple_of(count) {
            self.complain(Violation::MisalignedInvalidation { first: u64::from(first), mask });
        }
        let range = u32::from(first)..u32::from(first) + count;
        self.caches.interrupts.retain(|index, _| !range.contains(&u32::from(*index)));
        Ok(())
    }

    fn wait(&mut self, low: u64, high: u64) -> Result<(), u64> {
        let (interrupt, write) = (low & 1 << 4 != 0, low & 1 << 5 != 0);
        if interrupt == write {
            self.complain(Violation::WaitKind { low });
            return Err(RESERVED);
        }
        if let Some(source) = self.queue.unanswered.take() {
            self.queue.error_record = self.queue.error_record & 0xffff_0000_ffff_ffff | u64::from(source) << 32;
            self.raise_fault_status(TIME_OUT);
            return Ok(());
        }
        if write {
            self.memory.write_u32(high & !3, (low >> 32) as u32);
        } else if !core::mem::replace(&mut self.queue.wait_completed, true) {
            let event = self.queue.control.raise();
            self.announce_wait(event);
        }
        Ok(())
    }

    pub(crate) fn announce_wait(&mut self, event: bool) {
        if event {
            let message = self.event_message(0xa4);
            self.messages.push(message);
        }
    }
}
