//! The terminal that a machine's serial port is connected to: as it was before, when the machine is gone.
//!
//! QEMU switches it to raw input without waiting, and back at its end; but a QEMU that is killed does not, and leaves
//! a terminal that shows nothing of what is typed.

use std::io::stdin;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Restores the terminal at standard input when it is dropped.
pub(super) struct Terminal {
    attributes: Termios,
    flags: OFlags,
}

impl Terminal {
    /// Remembers the state of the terminal at standard input; `None` when none is there.
    pub(super) fn remember() -> Option<Self> {
        let input = stdin();
        Some(Self { attributes: tcgetattr(&input).ok()?, flags: fcntl_getfl(&input).ok()? })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let input = stdin();
        // A terminal that is gone needs no state.
        let _ = fcntl_setfl(&input, self.flags);
        let _ = tcsetattr(&input, OptionalActions::Now, &self.attributes);
    }
}
