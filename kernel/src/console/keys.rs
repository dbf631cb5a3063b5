//! What is typed at the console: for the guest that holds the focus, or, after Ctrl-A, for the hypervisor.

/// Ctrl-A: what follows is for the hypervisor.
const ESCAPE: u8 = 0x01;

/// What a byte meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// It goes to the guest that holds the focus.
    Pass(u8),
    /// It was the start or the end of a command, and nothing more is to be done.
    Taken,
    /// Print what the keys do.
    Help,
    /// The next guest gets the focus.
    Next,
    /// The focused guest's output is written as it comes, or by the line again.
    Raw,
    /// No command.
    Unknown(u8),
}

/// Printed for [`Key::Help`].
pub(super) const HELP: &str = "console keys: Ctrl-A h this help, Ctrl-A n next guest, Ctrl-A r its output as it comes \
                               or by the line, Ctrl-A Ctrl-A a Ctrl-A for the guest";

/// The state between two bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keys {
    escaped: bool,
}

impl Keys {
    pub(super) const fn new() -> Self {
        Self { escaped: false }
    }

    /// Takes one byte.
    pub(super) fn feed(&mut self, byte: u8) -> Key {
        match (core::mem::replace(&mut self.escaped, false), byte) {
            (false, ESCAPE) => {
                self.escaped = true;
                Key::Taken
            }
            (false, byte) => Key::Pass(byte),
            (true, ESCAPE) => Key::Pass(ESCAPE),
            (true, b'h' | b'?') => Key::Help,
            (true, b'n') => Key::Next,
            (true, b'r') => Key::Raw,
            (true, byte) => Key::Unknown(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_and_the_rest_passes() {
        let mut keys = Keys::new();
        let all: Vec<_> = b"a\x01hb\x01n\x01\x01\x01rq\x01zz".iter().map(|byte| keys.feed(*byte)).collect();
        use Key::*;
        assert_eq!(
            all,
            [
                Pass(b'a'),
                Taken,
                Help,
                Pass(b'b'),
                Taken,
                Next,
                Taken,
                Pass(1),
                Taken,
                Raw,
                Pass(b'q'),
                Taken,
                Unknown(b'z'),
                Pass(b'z')
            ]
        );
    }
}
