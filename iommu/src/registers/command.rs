//! GCMD and its protocol (VT-d section 11.4.4): one command at a time, every command awaited, and what is in force kept
//! in force.
//!
//! A write to GCMD states all switches at once. So each command starts from what GSTS says is on, less the states of
//! the one-shot commands (which would run again), and changes exactly one bit. A [`Commander`] is owned by one caller
//! at a time (`&mut self`; a unit keeps it under its command lock), which is what serialises commands.

use core::fmt;

use crate::door::{Clock, Registers};
use crate::registers::status::GlobalStatus;
use crate::registers::{Value, Wait, WaitExpired, Window, map};

/// The bits of GSTS that are switches: all but the states of the one-shot commands (30, 29, 27 and 24).
pub const SWITCHES: u32 = 0x96ff_ffff;

/// A word of GCMD. Only this module makes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommandWord(u32);

impl Value for CommandWord {
    type Word = u32;
    fn from_word(word: u32) -> Self {
        Self(word)
    }
    fn into_word(self) -> u32 {
        self.0
    }
}

/// A command that turns something on or off and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// TE: DMA remapping.
    Translation,
    /// EAFL: fault logging in memory.
    AdvancedFaultLogging,
    /// QIE: the invalidation queue.
    QueuedInvalidation,
    /// IRE: interrupt remapping.
    InterruptRemapping,
    /// CFI: interrupts of compatibility format pass.
    CompatibilityFormat,
}

impl Switch {
    const fn bit(self) -> u32 {
        match self {
            Self::Translation => 1 << 31,
            Self::AdvancedFaultLogging => 1 << 28,
            Self::QueuedInvalidation => 1 << 26,
            Self::InterruptRemapping => 1 << 25,
            Self::CompatibilityFormat => 1 << 23,
        }
    }
}

/// A command that happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OneShot {
    /// SRTP: take the root table from RTADDR.
    SetRootTable,
    /// WBF: flush the write buffer.
    FlushWriteBuffer,
    /// SIRTP: take the interrupt-remapping table from IRTA.
    SetInterruptTable,
}

impl OneShot {
    const fn bit(self) -> u32 {
        match self {
            Self::SetRootTable => 1 << 30,
            Self::FlushWriteBuffer => 1 << 27,
            Self::SetInterruptTable => 1 << 24,
        }
    }

    /// The write buffer's status is 1 while busy; the tables' are 1 when done.
    const fn done(self, status: u32) -> bool {
        match self {
            Self::SetRootTable | Self::SetInterruptTable => status & self.bit() != 0,
            Self::FlushWriteBuffer => status & self.bit() == 0,
        }
    }
}

/// A command that the unit did not carry out in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandExpired {
    /// What was asked for.
    pub command: &'static str,
    /// GSTS at the end.
    pub status: GlobalStatus,
    /// How long was waited.
    pub wait: WaitExpired,
}

impl fmt::Display for CommandExpired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the unit did not {} (GSTS {:#010x}, {}); it cannot be used until the machine is reset",
            self.command,
            self.status.bits(),
            self.wait
        )
    }
}

impl core::error::Error for CommandExpired {}

/// The only hand on GCMD of one unit.
#[derive(Debug)]
pub struct Commander {
    _one_per_unit: (),
}

impl Commander {
    /// For a unit on which no command is under way. One a unit.
    pub(crate) const fn new() -> Self {
        Self { _one_per_unit: () }
    }

    /// Turns `switch` on or off and waits until GSTS says so. Nothing is written when it is so already.
    pub fn set<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        switch: Switch,
        on: bool,
    ) -> Result<(), CommandExpired> {
        let status = window.read(map::GLOBAL_STATUS).bits();
        if (status & switch.bit() != 0) == on {
            return Ok(());
        }
        let others = status & SWITCHES & !switch.bit();
        window.write(map::GLOBAL_COMMAND, CommandWord(if on { others | switch.bit() } else { others }));
        Wait::COMMAND
            .until(clock, || ((window.read(map::GLOBAL_STATUS).bits() & switch.bit() != 0) == on).then_some(()))
            .map_err(|wait| CommandExpired {
                command: switch_name(switch, on),
                status: window.read(map::GLOBAL_STATUS),
                wait,
            })
    }

    /// Issues a one-shot command and waits until it is done.
    pub fn issue<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        command: OneShot,
    ) -> Result<(), CommandExpired> {
        let status = window.read(map::GLOBAL_STATUS).bits();
        window.write(map::GLOBAL_COMMAND, CommandWord(status & SWITCHES | command.bit()));
        Wait::COMMAND.until(clock, || command.done(window.read(map::GLOBAL_STATUS).bits()).then_some(())).map_err(
            |wait| CommandExpired { command: one_shot_name(command), status: window.read(map::GLOBAL_STATUS), wait },
        )
    }
}

const fn switch_name(switch: Switch, on: bool) -> &'static str {
    match (switch, on) {
        (Switch::Translation, true) => "turn DMA remapping on",
        (Switch::Translation, false) => "turn DMA remapping off",
        (Switch::AdvancedFaultLogging, true) => "turn fault logging on",
        (Switch::AdvancedFaultLogging, false) => "turn fault logging off",
        (Switch::QueuedInvalidation, true) => "turn queued invalidation on",
        (Switch::QueuedInvalidation, false) => "turn queued invalidation off",
        (Switch::InterruptRemapping, true) => "turn interrupt remapping on",
        (Switch::InterruptRemapping, false) => "turn interrupt remapping off",
        (Switch::CompatibilityFormat, true) => "let compatibility-format interrupts pass",
        (Switch::CompatibilityFormat, false) => "block compatibility-format interrupts",
    }
}

const fn one_shot_name(command: OneShot) -> &'static str {
    match command {
        OneShot::SetRootTable => "take the root table",
        OneShot::FlushWriteBuffer => "flush its write buffer",
        OneShot::SetInterruptTable => "take the interrupt-remapping table",
    }
}

#[cfg(test)]
mod tests {
    use core::cell::{Cell, RefCell};
    use std::string::ToString;
    use std::vec::Vec;

    use super::*;

    struct Ticks(Cell<u64>);

    impl Clock for Ticks {
        fn nanoseconds(&self) -> u64 {
            self.0.set(self.0.get() + 1_000_000);
            self.0.get()
        }
    }

    /// GSTS answers `lag` reads late.
    struct Bare {
        status: Cell<u32>,
        next: Cell<(u32, u32)>,
        lag: u32,
        written: RefCell<Vec<(u64, u32)>>,
    }

    impl Bare {
        fn new(status: u32, lag: u32) -> Window<Self> {
            Window::new(Self {
                status: Cell::new(status),
                next: Cell::new((status, 0)),
                lag,
                written: RefCell::default(),
            })
        }
    }

    impl Registers for Bare {
        fn size(&self) -> u64 {
            4096
        }

        fn read_u32(&self, offset: u64) -> u32 {
            assert_eq!(offset, 0x1c);
            let (next, left) = self.next.get();
            if left == 0 {
                self.status.set(next);
            } else {
                self.next.set((next, left - 1));
            }
            self.status.get()
        }

        fn read_u64(&self, _: u64) -> u64 {
            panic!("GCMD and GSTS have 4 bytes")
        }

        fn write_u32(&self, offset: u64, value: u32) {
            self.written.borrow_mut().push((offset, value));
            let write_buffer = 1 << 27;
            self.status.set(self.status.get() | value & write_buffer);
            self.next.set((value & !write_buffer | self.status.get() & 0x4100_0000, self.lag));
        }

        fn write_u64(&self, _: u64, _: u64) {
            panic!("GCMD and GSTS have 4 bytes")
        }
    }

    fn written(window: &Window<Bare>) -> Vec<(u64, u32)> {
        window.registers.written.take()
    }

    #[test]
    fn one_bit_changes_and_one_shots_do_not_run_again() {
        let clock = Ticks(Cell::new(0));
        // Root and interrupt tables set, queue on, CFI on.
        let window = Bare::new(0x4580_0000, 3);
        let mut commander = Commander::new();
        commander.set(&window, &clock, Switch::Translation, true).unwrap();
        assert_eq!(written(&window), [(0x18, 0x8480_0000)]);
        commander.set(&window, &clock, Switch::CompatibilityFormat, false).unwrap();
        assert_eq!(written(&window), [(0x18, 0x8400_0000)]);
        commander.issue(&window, &clock, OneShot::FlushWriteBuffer).unwrap();
        assert_eq!(written(&window), [(0x18, 0x8c00_0000)]);
        commander.issue(&window, &clock, OneShot::SetRootTable).unwrap();
        assert_eq!(written(&window), [(0x18, 0xc400_0000)]);
        commander.set(&window, &clock, Switch::Translation, true).unwrap();
        assert_eq!(written(&window), [], "it is on already");
    }

    #[test]
    fn a_command_that_never_ends_is_named() {
        let clock = Ticks(Cell::new(0));
        let window = Bare::new(0, u32::MAX);
        let expired = Commander::new().set(&window, &clock, Switch::InterruptRemapping, true).unwrap_err();
        assert_eq!(
            expired.to_string(),
            "the unit did not turn interrupt remapping on (GSTS 0x00000000, no answer within 1000 ms); \
             it cannot be used until the machine is reset"
        );
    }
}
