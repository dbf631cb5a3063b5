//! QEMU's monitor (QMP): JSON objects, one a line, over a Unix socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection to the monitor of one machine.
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the monitor at `socket`.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("cannot reach QEMU's monitor")?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        monitor.receive()?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Ends QEMU.
    pub(crate) fn quit(&mut self) -> Result<()> {
        self.execute("quit", &json!({})).map(|_| ())
    }

    /// Pauses the machine's processors and lets them go on.
    pub(crate) fn interrupt(&mut self) -> Result<()> {
        self.execute("stop", &json!({}))?;
        self.execute("cont", &json!({})).map(|_| ())
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}").context("cannot write to QEMU's monitor")?;
        loop {
            // Events may come between the request and its answer.
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
        if self.stream.read_line(&mut line).context("QEMU's monitor does not answer")? == 0 {
            bail!("QEMU's monitor closed the connection");
        }
        serde_json::from_str(&line).context("QEMU's monitor said something that is not JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_before_an_answer_are_passed_over_and_refusals_are_errors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut theirs = theirs;
        theirs
            .write_all(b"{\"event\":\"RESET\"}\n{\"return\":{\"x\":1}}\n{\"error\":{\"desc\":\"no such command\"}}\n")
            .unwrap();
        let mut monitor = Monitor { stream: BufReader::new(ours) };
        assert_eq!(monitor.execute("a", &json!({})).unwrap(), json!({"x": 1}));
        assert!(monitor.execute("b", &json!({})).unwrap_err().to_string().contains("no such command"));
        drop(theirs);
        assert!(monitor.execute("c", &json!({})).is_err());
    }
}
