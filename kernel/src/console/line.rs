//! How a line of the log looks: when, how grave, which room, what.
//!
//! ```text
//! [    0.123456] info  iommu       | 1 remapping unit
//! [    0.123501] linux             | Linux version 6.1
//! ```

use core::fmt::{self, Write};

/// Columns of the level and of the room, whose sum and a space is the column of a guest's name.
const LEVEL: usize = 5;
const ROOM: usize = 11;

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source<'s> {
    /// The hypervisor: how grave it is, and the room.
    Room(log::Level, &'s str),
    /// A guest's console.
    Guest(&'s str),
}

impl Source<'_> {
    fn write_prefix(&self, nanoseconds: u64, out: &mut dyn Write) -> fmt::Result {
        let microseconds = nanoseconds / 1000;
        write!(out, "[{:>5}.{:06}] ", microseconds / 1_000_000, microseconds % 1_000_000)?;
        match self {
            Self::Room(level, room) => write!(out, "{:<LEVEL$} {room:<ROOM$} | ", level_name(*level)),
            Self::Guest(name) => write!(out, "{name:<width$} | ", width = LEVEL + 1 + ROOM),
        }
    }
}

fn level_name(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "error",
        log::Level::Warn => "warn",
        log::Level::Info => "info",
        log::Level::Debug => "debug",
        log::Level::Trace => "trace",
    }
}

/// The room that a log record's target, a module's path, belongs to: the crate, or the kernel's module right below it.
pub(super) fn room(target: &str) -> &str {
    let mut parts = target.split("::");
    match parts.next() {
        Some("postern_kernel") => parts.next().unwrap_or("kernel"),
        Some(other) => other,
        None => target,
    }
}

/// Writes `message` with a prefix before each of its lines.
pub(super) fn write(source: Source<'_>, nanoseconds: u64, message: fmt::Arguments<'_>, out: &mut dyn Write) {
    let mut lines = Lines { source, nanoseconds, out, inside: false };
    // Writing to a console does not fail, and a message whose Display fails has written what it could.
    let _ = lines.write_fmt(message);
    let _ = lines.end();
}

/// Puts the prefix before whatever begins a line.
struct Lines<'l> {
    source: Source<'l>,
    nanoseconds: u64,
    out: &'l mut dyn Write,
    inside: bool,
}

impl Lines<'_> {
    fn end(&mut self) -> fmt::Result {
        if !self.inside {
            self.source.write_prefix(self.nanoseconds, self.out)?;
        }
        self.inside = false;
        self.out.write_char('\n')
    }
}

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut pieces = text.split('\n');
        let first = pieces.next().unwrap_or_default();
        self.piece(first)?;
        for piece in pieces {
            self.end()?;
            self.piece(piece)?;
        }
        Ok(())
    }
}

impl Lines<'_> {
    fn piece(&mut self, text: &str) -> fmt::Result {
        if text.is_empty() {
            return Ok(());
        }
        if !core::mem::replace(&mut self.inside, true) {
            self.source.write_prefix(self.nanoseconds, self.out)?;
        }
        self.out.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(source: Source<'_>, nanoseconds: u64, message: &str) -> String {
        let mut out = String::new();
        write(source, nanoseconds, format_args!("{message}"), &mut out);
        out
    }

    #[test]
    fn lines_are_aligned() {
        let info = Source::Room(log::Level::Info, "iommu");
        assert_eq!(line(info, 123_456_789, "one unit"), "[    0.123456] info  iommu       | one unit\n");
        let error = Source::Room(log::Level::Error, "passthrough");
        assert_eq!(line(error, 12_345_000_001_999, "no"), "[12345.000001] error passthrough | no\n");
        assert_eq!(line(Source::Guest("linux"), 0, "hi"), "[    0.000000] linux             | hi\n");
        assert_eq!(line(Source::Guest("a-name-that-is-long-"), 0, ""), "[    0.000000] a-name-that-is-long- | \n");
    }

    #[test]
    fn every_line_of_a_message_has_its_prefix() {
        let source = Source::Room(log::Level::Warn, "cpu");
        assert_eq!(
            line(source, 0, "a\n\nb\n"),
            "[    0.000000] warn  cpu         | a\n[    0.000000] warn  cpu         | \n[    0.000000] warn  cpu         | b\n[    0.000000] warn  cpu         | \n"
        );
    }

    #[test]
    fn the_room_is_the_crate_or_the_kernels_module() {
        assert_eq!(room("postern_kernel::cpu::apic"), "cpu");
        assert_eq!(room("postern_kernel"), "kernel");
        assert_eq!(room("iommu::unit"), "iommu");
        assert_eq!(room("demo"), "demo");
        assert_eq!(room(""), "");
    }
}
