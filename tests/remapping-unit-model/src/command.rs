//! GCMD and GSTS: switches, one-shot commands, and the time that they take (VT-d sections 11.4.4 and 11.4.5).

use crate::{Memory, Unit, Violation};

pub(crate) const TRANSLATION: u32 = 1 << 31;
const SET_ROOT: u32 = 1 << 30;
const FLUSH_BUFFER: u32 = 1 << 27;
pub(crate) const QUEUE: u32 = 1 << 26;
pub(crate) const INTERRUPTS: u32 = 1 << 25;
const SET_INTERRUPTS: u32 = 1 << 24;
pub(crate) const COMPATIBILITY: u32 = 1 << 23;

const SWITCHES: u32 = TRANSLATION | QUEUE | INTERRUPTS | COMPATIBILITY;
const ONE_SHOTS: u32 = SET_ROOT | FLUSH_BUFFER | SET_INTERRUPTS;

/// A command under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    changed: u32,
    shots: u32,
    left: u32,
}

impl<M: Memory> Unit<M> {
    pub(crate) fn command(&mut self, written: u32) {
        if self.pending.is_some() {
            self.complain(Violation::CommandPending { offset: 0x18 });
            self.finish_command();
        }
        let status = self.status & SWITCHES;
        let changed = (written ^ status) & SWITCHES;
        let shots = written & ONE_SHOTS;
        if changed.count_ones() + shots.count_ones() != 1 {
            self.complain(Violation::NotOneCommand { written, status });
        }
        let unsupported = self.unsupported(changed & written | shots) | written & !(SWITCHES | ONE_SHOTS);
        if unsupported != 0 {
            self.complain(Violation::CommandUnsupported { bits: unsupported });
        }
        let (changed, shots) = (changed & !unsupported, shots & !unsupported);
        // The states of the tables are 0, and that of the write buffer is 1, until the command is done.
        self.status = self.status & !shots | shots & FLUSH_BUFFER;
        self.pending = Some(Pending { changed, shots, left: self.configuration.delay });
        if self.configuration.delay == 0 {
            self.finish_command();
        }
    }

    fn unsupported(&self, bits: u32) -> u32 {
        let mut lacking = 0;
        if !self.configuration.queue {
            lacking |= QUEUE;
        }
        if !self.configuration.interrupt_remapping {
            lacking |= INTERRUPTS | SET_INTERRUPTS | COMPATIBILITY;
        }
        if !self.configuration.write_buffer {
            lacking |= FLUSH_BUFFER;
        }
        bits & lacking
    }

    pub(crate) fn is_pending(&self, bit: u32) -> bool {
        self.pending.is_some_and(|pending| (pending.changed | pending.shots) & bit != 0)
    }

    /// Time passes: a register was read.
    pub(crate) fn tick(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.left = pending.left.saturating_sub(1);
            if pending.left == 0 {
                self.finish_command();
            }
        }
        self.tick_register_invalidation();
        self.tick_queue();
    }

    fn finish_command(&mut self) {
        let Some(Pending { changed, shots, .. }) = self.pending.take() else { return };
        if shots & FLUSH_BUFFER != 0 {
            self.buffer_flushed = true;
            self.status &= !FLUSH_BUFFER;
        }
        if shots & SET_ROOT != 0 {
            let root = self.plain(0x20);
            if self.status & TRANSLATION != 0 && self.root.is_some_and(|old| (old ^ root) & 0xc00 != 0) {
                self.complain(Violation::WrittenWhileOn { offset: 0x20 });
            }
            self.root = Some(root);
            self.after_buffer_flush();
            if self.configuration.root_invalidates {
                self.caches.forget_contexts();
                self.caches.pasids.clear();
                self.caches.forget_pages();
                self.root_debt = 0;
            } else {
                self.root_debt = if self.is_scalable() { 7 } else { 3 };
            }
            self.status |= SET_ROOT;
        }
        if shots & SET_INTERRUPTS != 0 {
            self.interrupt_table = Some(self.plain(0xb8));
            self.after_buffer_flush();
            if self.configuration.interrupt_table_invalidates {
                self.caches.interrupts.clear();
            }
            self.interrupt_debt = !self.configuration.interrupt_table_invalidates;
            self.status |= SET_INTERRUPTS;
        }
        self.switch(changed);
    }

    fn after_buffer_flush(&mut self) {
        if self.configuration.write_buffer && !self.buffer_flushed {
            self.complain(Violation::WriteBufferNotFlushed);
        }
        self.buffer_flushed = false;
    }

    fn switch(&mut self, mut changed: u32) {
        let turned_on = changed & !self.status;
        if turned_on & TRANSLATION != 0 {
            if self.root.is_none() {
                self.complain(Violation::NoRootTable);
            } else if self.root_debt != 0 {
                self.complain(Violation::RootNotInvalidated);
            }
        }
        if turned_on & INTERRUPTS != 0 {
            if self.interrupt_table.is_none() {
                self.complain(Violation::NoInterruptTable);
            } else if self.interrupt_debt {
                self.complain(Violation::InterruptTableNotInvalidated);
            }
        }
        if changed & QUEUE != 0 && turned_on & QUEUE == 0 && !self.queue_is_empty() {
            self.complain(Violation::QueueNotEmpty);
            changed &= !QUEUE;
        }
        self.status ^= changed;
    }
}
