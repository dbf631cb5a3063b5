//! The non-maskable interrupt, where the engine does not hold the next one back itself. The guest is left before the
//! handler's IRET, but the next NMI may come only behind it: at the IRET it would find the stack that the IRET is about
//! to use. So when one waits, the IRET is carried out alone, by the trap flag. Nothing else is delivered meanwhile, and if
//! the IRET faults, the flag is taken back before the fault is: the guest never finds it in a saved RFLAGS.

use super::body::Body;
use super::engine::VcpuEngine;
use super::state::{Event, Exception, SystemRegister, bits};

/// DR6: a single step.
const DR6_BS: u64 = 1 << 14;
/// DR6: a breakpoint was met, or a debug register accessed.
const DR6_OTHERS: u64 = 0x200f;

/// Where the guest is with its last NMI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Handling {
    /// It has returned from it.
    #[default]
    No,
    /// It handles it.
    Yes,
    /// It is about to execute the IRET at this address.
    Returns { at: u64 },
    /// It executes that IRET with the trap flag set, which was the guest's own before or not.
    Steps { at: u64, traced: bool },
}

/// The state of the non-maskable interrupt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NonMaskable {
    pending: bool,
    handling: Handling,
}

impl NonMaskable {
    /// One more came; those that wait are one.
    pub(super) const fn request(&mut self) {
        self.pending = true;
    }

    /// One that was to be delivered was not.
    pub(super) const fn put_back(&mut self) {
        *self = Self { pending: true, handling: Handling::No };
    }
}

impl<E: VcpuEngine> Body<E> {
    /// Whether a waiting NMI can be delivered now.
    pub(super) fn takes_non_maskable(&self) -> bool {
        self.non_maskable.pending
            && match self.non_maskable.handling {
                Handling::No => true,
                Handling::Yes => false,
                Handling::Returns { at } | Handling::Steps { at, .. } => self.engine.instruction_pointer() != at,
            }
    }

    /// Delivers a waiting NMI, or does what it takes to get there. True when it will be delivered with the next entry.
    pub(super) fn deliver_non_maskable(&mut self) -> bool {
        if !self.takes_non_maskable() {
            self.step_over_return();
            return false;
        }
        self.non_maskable = NonMaskable { pending: false, handling: Handling::Yes };
        self.engine.watch_interrupt_return(true);
        self.engine.inject(Event::NonMaskable);
        true
    }

    fn step_over_return(&mut self) {
        if let (true, Handling::Returns { at }) = (self.non_maskable.pending, self.non_maskable.handling) {
            let flags = self.engine.flags();
            self.non_maskable.handling = Handling::Steps { at, traced: flags & bits::FLAGS_TF != 0 };
            self.engine.set_flags(flags | bits::FLAGS_TF);
            self.engine.watch_exceptions(true);
        }
    }

    /// Whether the guest executes an IRET alone.
    pub(super) const fn steps(&self) -> bool {
        matches!(self.non_maskable.handling, Handling::Steps { .. })
    }

    /// The IRET that was to be stepped over raised an exception: NMIs are no longer held back, as on a processor whose
    /// IRET faults.
    pub(super) fn give_up_step(&mut self) {
        let Handling::Steps { traced, .. } = self.non_maskable.handling else { return };
        self.end_step();
        if !traced {
            self.engine.set_flags(self.engine.flags() & !bits::FLAGS_TF);
        }
    }

    fn end_step(&mut self) {
        self.non_maskable.handling = Handling::No;
        self.engine.watch_exceptions(false);
        self.attention = true;
    }

    /// The guest is about to execute IRET.
    pub(super) fn handle_interrupt_return(&mut self) {
        self.engine.watch_interrupt_return(false);
        self.non_maskable.handling = Handling::Returns { at: self.engine.instruction_pointer() };
        self.attention = true;
    }

    /// The guest has returned from its NMI.
    pub(super) fn handle_non_maskable_window(&mut self) {
        self.engine.watch_interrupt_return(false);
        self.non_maskable.handling = Handling::No;
        self.attention = true;
    }

    /// A debug exception: the guest's, unless it was this step alone that raised it.
    pub(super) fn handle_debug_exception(&mut self) -> Result<(), Exception> {
        let Handling::Steps { traced, .. } = self.non_maskable.handling else { return Err(Exception::DEBUG) };
        self.end_step();
        let dr6 = self.engine.system(SystemRegister::Dr6);
        if traced || dr6 & DR6_OTHERS != 0 {
            return Err(Exception::DEBUG);
        }
        self.engine.set_system(SystemRegister::Dr6, dr6 & !DR6_BS);
        Ok(())
    }
}
