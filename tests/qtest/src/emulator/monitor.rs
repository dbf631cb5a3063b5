//! QEMU's monitor, for what qtest does not show: which interrupts have arrived at the processor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A monitor that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// A place at which QEMU will connect its monitor.
pub(crate) struct Awaited(mpsc::Receiver<std::io::Result<UnixStream>>);

/// The monitor.
pub(crate) struct Monitor(BufReader<UnixStream>);

impl Awaited {
    pub(crate) fn at(socket: &Path) -> Result<Self> {
        let listener = UnixListener::bind(socket).context("cannot make the monitor's socket")?;
        let (sender, receiver) = mpsc::channel();
        // Ends with the process where QEMU never connects.
        thread::spawn(move || sender.send(listener.accept().map(|(stream, _)| stream)));
        Ok(Self(receiver))
    }

    pub(crate) fn connect(self) -> Result<Monitor> {
        let stream = self.0.recv_timeout(PATIENCE).context("QEMU does not connect its monitor")??;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Monitor(BufReader::new(stream));
        monitor.receive()?;
        monitor.execute(&json!({ "execute": "qmp_capabilities" }))?;
        Ok(monitor)
    }
}

impl Monitor {
    /// The vectors in the IRR of processor 0's local APIC: a bit each, vector 0 in bit 0 of the first word.
    pub(crate) fn requested_interrupts(&mut self) -> Result<[u64; 4]> {
        let command = json!({
            "execute": "human-monitor-command",
            "arguments": { "command-line": "info lapic 0" },
        });
        let answer = self.execute(&command)?;
        let text = answer.as_str().context("the monitor's answer is no text")?;
        vectors(text).with_context(|| format!("no IRR in {text:?}"))
    }

    fn execute(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.0.get_mut(), "{command}").context("QEMU's monitor takes no commands")?;
        loop {
            let answer = self.receive()?;
            if let Some(result) = answer.get("return") {
                return Ok(result.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
        }
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.0.read_line(&mut line).context("QEMU's monitor does not answer")? == 0 {
            bail!("QEMU's monitor closed the connection");
        }
        serde_json::from_str(&line).context("QEMU's monitor said something that is not JSON")
    }
}

/// Reads `IRR    48 49(level)` or `IRR    (none)`.
fn vectors(text: &str) -> Option<[u64; 4]> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("IRR"))?;
    let mut set = [0; 4];
    for word in line.split_whitespace().filter(|word| *word != "(none)") {
        let digits = word.split(|character: char| !character.is_ascii_digit()).next()?;
        let vector: usize = digits.parse().ok()?;
        *set.get_mut(vector / 64)? |= 1 << (vector % 64);
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_requested_interrupts() {
        assert_eq!(vectors("ISR\t (none)\r\nIRR\t 1 64(level) 255 \r\n"), Some([2, 1, 0, 1 << 63]));
        assert_eq!(vectors("IRR\t (none)\n"), Some([0; 4]));
        assert_eq!(vectors("nothing"), None);
    }
}
