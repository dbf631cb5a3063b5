//! What is typed, and which guest gets it.

use alloc::string::String;
use alloc::vec::Vec;

use spin::Mutex;

use super::keys::{HELP, Key, Keys};
use super::output;
use crate::cpu::interrupts;

/// Typed bytes that wait for their guest; more are lost.
const WAITING: usize = 256;

struct Focus {
    keys: Keys,
    guests: Vec<String>,
    focused: usize,
    raw: bool,
    waiting: Queue,
}

/// Bytes in order, in a ring.
struct Queue {
    bytes: [u8; WAITING],
    first: usize,
    length: usize,
}

impl Queue {
    fn push(&mut self, byte: u8) {
        if self.length < WAITING
            && let Some(place) = self.bytes.get_mut((self.first + self.length) % WAITING)
        {
            *place = byte;
            self.length += 1;
        }
    }

    fn pop(&mut self) -> Option<u8> {
        if self.length == 0 {
            return None;
        }
        let byte = self.bytes.get(self.first).copied();
        self.first = (self.first + 1) % WAITING;
        self.length -= 1;
        byte
    }
}

impl Focus {
    fn focused(&self) -> Option<&str> {
        self.guests.get(self.focused).map(String::as_str)
    }

    /// Takes one typed byte; what is to be said about it.
    fn feed(&mut self, byte: u8) -> Option<Answer> {
        match self.keys.feed(byte) {
            Key::Pass(byte) => {
                self.waiting.push(byte);
                None
            }
            Key::Taken => None,
            Key::Help => Some(Answer::Help),
            Key::Unknown(_) => Some(Answer::Unknown),
            Key::Next => {
                self.focused = (self.focused + 1).checked_rem(self.guests.len()).unwrap_or(0);
                self.waiting.length = 0;
                Some(Answer::Focus)
            }
            Key::Raw => {
                self.raw = !self.raw;
                Some(if self.raw { Answer::Raw } else { Answer::Lines })
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Help,
    Unknown,
    Focus,
    Raw,
    Lines,
}

static FOCUS: Mutex<Focus> = Mutex::new(Focus {
    keys: Keys::new(),
    guests: Vec::new(),
    focused: 0,
    raw: false,
    waiting: Queue { bytes: [0; WAITING], first: 0, length: 0 },
});

fn with<T>(act: impl FnOnce(&mut Focus) -> T) -> T {
    interrupts::without(|| act(&mut FOCUS.lock()))
}

/// Makes a guest known, once.
pub(super) fn register(name: &str) {
    with(|focus| {
        if !focus.guests.iter().any(|known| known == name) {
            focus.guests.push(String::from(name));
        }
    });
}

/// The next byte typed for this guest.
pub(super) fn take(name: &str) -> Option<u8> {
    with(|focus| if focus.focused() == Some(name) { focus.waiting.pop() } else { None })
}

/// The next typed byte, whoever it is for.
pub(super) fn take_any() -> Option<u8> {
    with(|focus| focus.waiting.pop())
}

/// Whether this guest's output is to be written as it comes.
pub(super) fn is_raw(name: &str) -> bool {
    with(|focus| focus.raw && focus.focused() == Some(name))
}

/// Takes what was typed from the serial port. Few bytes a call: the port holds 16.
pub(super) fn poll() {
    for _ in 0..16 {
        let Some(byte) = output::received() else { return };
        match with(|focus| focus.feed(byte)) {
            None => {}
            Some(Answer::Help) => log::info!("{HELP}"),
            Some(Answer::Unknown) => log::info!("no such key; {HELP}"),
            Some(Answer::Focus) => match with(|focus| focus.focused().map(String::from)) {
                Some(name) => log::info!("what is typed goes to {name}"),
                None => log::info!("there is no guest to type for"),
            },
            Some(Answer::Raw) => log::info!("the focused guest's output is written as it comes"),
            Some(Answer::Lines) => log::info!("guests' output is written by the line"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn focus(guests: &[&str]) -> Focus {
        Focus {
            keys: Keys::new(),
            guests: guests.iter().map(|name| String::from(*name)).collect(),
            focused: 0,
            raw: false,
            waiting: Queue { bytes: [0; WAITING], first: 0, length: 0 },
        }
    }

    #[test]
    fn the_focus_goes_round_and_takes_no_old_bytes_along() {
        let mut focus = focus(&["linux", "intruder"]);
        assert_eq!(focus.feed(b'x'), None);
        assert_eq!(focus.feed(1), None);
        assert_eq!(focus.feed(b'n'), Some(Answer::Focus));
        assert_eq!(focus.focused(), Some("intruder"));
        assert_eq!(focus.waiting.pop(), None);
        focus.feed(1);
        focus.feed(b'n');
        assert_eq!(focus.focused(), Some("linux"));
        focus.feed(1);
        assert_eq!(focus.feed(b'r'), Some(Answer::Raw));
        assert!(focus.raw);
    }

    #[test]
    fn without_guests_nothing_breaks() {
        let mut focus = focus(&[]);
        focus.feed(1);
        assert_eq!(focus.feed(b'n'), Some(Answer::Focus));
        assert_eq!(focus.focused(), None);
    }

    #[test]
    fn typed_bytes_keep_their_order_and_are_bounded() {
        let mut focus = focus(&["linux"]);
        for round in 0..3u32 {
            for byte in 0..300u32 {
                focus.feed((byte % 100 + 2 + round) as u8);
            }
            let got: Vec<u8> = core::iter::from_fn(|| focus.waiting.pop()).collect();
            let want: Vec<u8> = (0..256).map(|byte| (byte % 100 + 2 + round) as u8).collect();
            assert_eq!(got, want);
        }
    }
}
