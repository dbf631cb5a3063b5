//! QEMU's qtest protocol: a line a command, a line an answer, over the emulator's standard input and output.
//!
//! Commands without a value are sent together with the next one that has one.

use std::fmt::{Display, Write as _};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A command that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are sent without reading answers: less than a socket takes.
const TOGETHER: usize = 16 << 10;

/// The connection.
pub(crate) struct Protocol {
    stream: BufReader<UnixStream>,
    waiting: String,
    unanswered: usize,
}

impl Protocol {
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream), waiting: String::new(), unanswered: 0 })
    }

    /// A command whose answer has no value.
    pub(crate) fn tell(&mut self, command: impl Display) -> Result<()> {
        writeln!(self.waiting, "{command}")?;
        self.unanswered += 1;
        if self.waiting.len() > TOGETHER { self.settle() } else { Ok(()) }
    }

    /// A command whose answer is a number.
    pub(crate) fn ask(&mut self, command: impl Display) -> Result<u64> {
        self.settle()?;
        writeln!(self.waiting, "{command}")?;
        self.send()?;
        let answer = self.answer()?;
        let digits = answer.strip_prefix("0x").with_context(|| format!("QEMU answered {answer:?}"))?;
        Ok(u64::from_str_radix(digits, 16)?)
    }

    /// Waits until all that was told is done.
    pub(crate) fn settle(&mut self) -> Result<()> {
        if self.unanswered > 0 {
            self.send()?;
        }
        while self.unanswered > 0 {
            self.unanswered -= 1;
            self.answer()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        self.stream.get_mut().write_all(self.waiting.as_bytes()).context("QEMU takes no commands")?;
        self.waiting.clear();
        Ok(())
    }

    /// What follows `OK` in the next answer.
    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).context("QEMU does not answer")? == 0 {
            bail!("QEMU ended");
        }
        match line.trim().strip_prefix("OK") {
            Some(value) => Ok(value.trim().to_owned()),
            None => bail!("QEMU answered {:?}", line.trim()),
        }
    }
}
