//! The guests' consoles: what they write, by the line and marked with their name, and who gets what is typed.

use alloc::string::String;
use core::fmt;

use super::{focus, output};

/// Bytes of a line that are kept until its end comes.
const LINE: usize = 200;

/// One guest's console. Its output is held until a line is whole; while the guest has the focus and its output is
/// wanted as it comes (Ctrl-A r), nothing is held.
pub struct GuestConsole {
    name: String,
    line: [u8; LINE],
    length: usize,
}

impl GuestConsole {
    /// The console of the VM with this name. The first one made gets the focus.
    pub fn new(name: &str) -> Self {
        focus::register(name);
        Self { name: String::from(name), line: [0; LINE], length: 0 }
    }

    /// Takes one byte that the guest sends.
    pub fn write(&mut self, byte: u8) {
        if focus::is_raw(&self.name) {
            self.flush();
            output::raw(&[byte]);
            return;
        }
        match byte {
            b'\n' => self.end(),
            b'\r' => {}
            byte => {
                if let Some(place) = self.line.get_mut(self.length) {
                    *place = byte;
                    self.length += 1;
                }
                if self.length == LINE {
                    self.end();
                }
            }
        }
    }

    /// Writes what is held of a line that has no end yet: a prompt, or a guest's last words.
    pub fn flush(&mut self) {
        if self.length > 0 {
            self.end();
        }
    }

    /// The next byte that was typed for this guest; `None` unless it has the focus.
    pub fn read(&self) -> Option<u8> {
        focus::take(&self.name)
    }

    fn end(&mut self) {
        let length = core::mem::take(&mut self.length);
        output::guest_line(&self.name, self.line.get(..length).unwrap_or_default());
    }
}

impl Drop for GuestConsole {
    fn drop(&mut self) {
        self.flush();
    }
}

impl fmt::Debug for GuestConsole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestConsole").field("name", &self.name).field("held", &self.length).finish()
    }
}

/// A guest's bytes as text that cannot disturb a terminal: what is no printable ASCII is written as `.`; escape
/// sequences that only set colours, which many guests write, are left out.
pub(super) struct Printable<'b>(pub(super) &'b [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let mut rest = self.0;
        while let [first, tail @ ..] = rest {
            if let Some(after) = behind_escape(rest) {
                rest = after;
                continue;
            }
            f.write_char(match first {
                b'\t' => ' ',
                0x20..=0x7e => char::from(*first),
                _ => '.',
            })?;
            rest = tail;
        }
        Ok(())
    }
}

/// What follows a control sequence (ECMA-48 section 5.4: ESC `[`, parameters, intermediates, one final byte).
fn behind_escape(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(b"\x1b[")?;
    let end = rest.iter().position(|byte| !matches!(byte, 0x20..=0x3f))?;
    matches!(rest.get(end)?, 0x40..=0x7e).then(|| rest.get(end + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_cannot_send_escape_sequences() {
        let text = |bytes: &[u8]| Printable(bytes).to_string();
        assert_eq!(text(b"\x1b[1;32mok\x1b[0m done\t."), "ok done .");
        assert_eq!(text(b"\x1b[2J\x1b]0;title\x07"), ".]0;title.");
        assert_eq!(text(b"\x1b["), ".[");
        assert_eq!(text(b"\x1b[12"), ".[12");
        assert_eq!(text(b"a\x80\xffb\0"), "a..b.");
    }
}
