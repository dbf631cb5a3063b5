//! The serial log, line by line.
//!
//! The hypervisor's lines look like `[    0.123456] info  iommu     | message`, a guest's like
//! `[    0.123456] linux     | text`; everything else was printed before the kernel ran, by firmware or the loader.

/// Who said a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Firmware or the loader.
    Firmware,
    /// The hypervisor: the level, and the part that speaks.
    Hypervisor {
        /// `error`, `warn`, `info`, `debug` or `trace`.
        level: String,
        /// The part of the hypervisor, such as `iommu`.
        room: String,
    },
    /// The console of the VM of this name.
    Guest(String),
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Microseconds since the kernel started, where the line says so.
    pub microseconds: Option<u64>,
    /// Who said it.
    pub source: Source,
    /// What was said.
    pub message: String,
}

impl LogLine {
    /// Reads a line as it came over the wire; terminal control sequences are dropped. `None`: nothing is left.
    pub fn parse(raw: &str) -> Option<Self> {
        let text = plain(raw);
        let text = text.trim_end();
        if text.trim().is_empty() {
            return None;
        }
        Some(parse_marked(text).unwrap_or_else(|| Self {
            microseconds: None,
            source: Source::Firmware,
            message: text.to_owned(),
        }))
    }

    /// Whether the hypervisor said it.
    pub fn is_hypervisors(&self) -> bool {
        matches!(self.source, Source::Hypervisor { .. })
    }

    /// Whether the hypervisor said it as an error.
    pub fn is_error(&self) -> bool {
        matches!(&self.source, Source::Hypervisor { level, .. } if level == "error")
    }

    /// Whether firmware or the loader said it.
    pub fn is_boots(&self) -> bool {
        self.source == Source::Firmware
    }

    /// The VM on whose console it was said.
    pub fn guest(&self) -> Option<&str> {
        match &self.source {
            Source::Guest(name) => Some(name),
            _ => None,
        }
    }

    /// The line as it is shown: with its source marked, and with colour where wanted.
    pub fn show(&self, colour: bool) -> String {
        let time = match self.microseconds {
            Some(time) => format!("[{:5}.{:06}]", time / 1_000_000, time % 1_000_000),
            None => " ".repeat(14),
        };
        // The columns of the kernel's own log.
        let (source, code) = match &self.source {
            Source::Firmware => (format!("{:17}", "boot"), "2"),
            Source::Hypervisor { level, room } => {
                let code = match level.as_str() {
                    "error" => "1;31",
                    "warn" => "33",
                    _ => "36",
                };
                (format!("{level:5} {room:11}"), code)
            }
            Source::Guest(name) => (format!("{name:17}"), "32"),
        };
        if colour {
            format!("\x1b[2m{time}\x1b[0m \x1b[{code}m{source}\x1b[0m | {}", self.message)
        } else {
            format!("{time} {source} | {}", self.message)
        }
    }
}

fn parse_marked(text: &str) -> Option<LogLine> {
    let (time, rest) = text.strip_prefix('[')?.split_once("] ")?;
    let (seconds, fraction) = time.trim().split_once('.')?;
    if fraction.len() != 6 {
        return None;
    }
    let microseconds = seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(fraction.parse().ok()?)?;
    let (mark, message) = rest.split_once('|')?;
    let mut words = mark.split_whitespace();
    let source = match (words.next()?, words.next(), words.next()) {
        (level, Some(room), None) => Source::Hypervisor { level: level.to_owned(), room: room.to_owned() },
        (name, None, None) => Source::Guest(name.to_owned()),
        _ => return None,
    };
    let message = message.strip_prefix(' ').unwrap_or(message).to_owned();
    Some(LogLine { microseconds: Some(microseconds), source, message })
}

/// A text without terminal control sequences and other control characters.
fn plain(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut characters = raw.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            if characters.next_if(|next| *next == '[').is_some() {
                // A control sequence ends with a letter (or another byte of @ to ~).
                for next in characters.by_ref() {
                    if ('@'..='~').contains(&next) {
                        break;
                    }
                }
            } else {
                characters.next();
            }
        } else if character == '\t' {
            text.push_str("    ");
        } else if !character.is_control() {
            text.push(character);
        }
    }
    text
}

/// The fields `key=value` of a message that a program reads, such as `summary vm=linux exits=12`.
///
/// `None` when the message does not begin with the word `kind`.
pub fn fields<'a>(kind: &str, message: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    let rest = message.strip_prefix(kind)?;
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    Some(rest.split_whitespace().filter_map(|word| word.split_once('=')).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_hypervisor_from_guests_and_firmware() {
        let line = LogLine::parse("[    0.123456] info  iommu     | unit 0 | on\r\n").unwrap();
        assert_eq!(line.microseconds, Some(123_456));
        assert_eq!(line.source, Source::Hypervisor { level: "info".into(), room: "iommu".into() });
        assert_eq!(line.message, "unit 0 | on");
        let line = LogLine::parse("[   12.000001] linux     | [    0.000000] Linux version | 6.1").unwrap();
        assert_eq!(line.source, Source::Guest("linux".into()));
        assert_eq!(line.message, "[    0.000000] Linux version | 6.1");
        assert_eq!(line.microseconds, Some(12_000_001));
        assert_eq!(LogLine::parse("BdsDxe: loading Boot0001").unwrap().source, Source::Firmware);
        assert_eq!(LogLine::parse("[x] y | z").unwrap().source, Source::Firmware);
    }

    #[test]
    fn control_sequences_vanish() {
        assert_eq!(LogLine::parse("\x1b[2J\x1b[01;01H\x1b[=3h\r"), None);
        assert_eq!(LogLine::parse("\x1b[0mhello\x1b[K").unwrap().message, "hello");
    }

    #[test]
    fn a_shown_line_reads_back_the_same() {
        for raw in ["[    0.123456] warn  vm        | text", "[  123.123456] intruder  | a | b"] {
            let line = LogLine::parse(raw).unwrap();
            assert_eq!(LogLine::parse(&line.show(false)).unwrap(), line);
            assert_eq!(LogLine::parse(&line.show(true)).unwrap(), line);
        }
    }

    #[test]
    fn lines_are_shown_in_the_columns_that_they_came_in() {
        for raw in [
            "[    0.123456] warn  assignment  | text",
            "[  123.123456] info  passthrough | text",
            "[  123.123456] intruder          | text",
        ] {
            assert_eq!(LogLine::parse(raw).unwrap().show(false), raw);
        }
        assert_eq!(LogLine::parse("text").unwrap().show(false), "               boot              | text");
    }

    #[test]
    fn fields_are_read_only_from_their_kind_of_message() {
        assert_eq!(fields("summary", "summary vm=linux exits=12"), Some(vec![("vm", "linux"), ("exits", "12")]));
        assert_eq!(fields("summary", "summary"), Some(vec![]));
        assert_eq!(fields("summary", "summaryx vm=linux"), None);
        assert_eq!(fields("summary", "no summary"), None);
    }
}
