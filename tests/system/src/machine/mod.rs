//! One emulated machine: QEMU's q35 with Intel's remapping unit and a CPU with SVM, started, listened to and stopped.
//! The other kind of machine is [`bochs`](crate::bochs); both are [`Running`].
//!
//! Nothing here sleeps: the serial port's lines and the end of QEMU arrive as events, with one deadline for all.

mod hardware;
mod monitor;
mod terminal;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, bail};

pub use hardware::Hardware;
use monitor::Monitor;
use terminal::Terminal;

use crate::child;
use crate::ending::Ended;
use crate::log_line::LogLine;
use crate::tools::Qemu;

/// What a machine reports.
#[derive(Debug)]
pub enum Event {
    /// A line on the serial port.
    Line(LogLine),
    /// The emulator ended: the machine was reset or powered off, or the emulator refused what it was told.
    Ended(Ended),
    /// The deadline passed.
    DeadlinePassed,
}

/// How the machine's serial port is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    /// Its lines are events.
    Lines,
    /// It is this terminal.
    Terminal,
}

/// A machine that is running in an emulator; it is stopped when this is dropped.
pub trait Running {
    /// The next event, waiting for it until `deadline` (`None`: for ever).
    ///
    /// # Errors
    /// When the emulator cannot be watched any more.
    fn next(&mut self, deadline: Option<Instant>) -> Result<Event>;

    /// Stops the machine in an orderly way, so that its disks' images are complete.
    ///
    /// # Errors
    /// When the emulator does not obey.
    fn stop(self: Box<Self>) -> Result<Ended>;

    /// From now on until it is stopped pauses the machine and lets it go on, again and again: each time the emulator's
    /// threads leave the guest at a place where they rarely do. Not for machines that end by themselves: QEMU crashes
    /// when it is paused while it ends.
    ///
    /// # Errors
    /// Where the emulator cannot do that.
    fn disturb(&mut self) -> Result<()> {
        bail!("this emulator cannot be paused from outside")
    }
}

/// A machine that is running in QEMU.
pub struct Machine {
    child: Child,
    lines: Receiver<LogLine>,
    monitor: PathBuf,
    errors: PathBuf,
    /// Where QEMU notes processors that are reset, with their registers.
    debug: PathBuf,
    disturbance: Option<Disturbance>,
    /// Restored last, when QEMU has let go of it.
    _terminal: Option<Terminal>,
}

impl Machine {
    /// Starts a machine from the boot volume `volume`; its files (firmware's variables, the serial log) go to `folder`.
    pub fn start(qemu: &Qemu, hardware: &Hardware, volume: &Path, folder: &Path, serial: Serial) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let variables = folder.join("firmware-variables.fd");
        fs::copy(&qemu.firmware_variables, &variables).context("cannot copy the firmware's variables")?;
        // A socket's path has room for some hundred bytes only: not under the target folder.
        let monitor = std::env::temp_dir().join(format!("postern-{}-{}", std::process::id(), unique()));
        let errors = folder.join("qemu.log");
        let debug = folder.join("qemu-debug.log");
        // QEMU makes the file when it has something to write.
        let _ = fs::remove_file(&debug);
        let mut command = qemu.command();
        // First, so that a user's own -d is the one that counts.
        command.args(["-d", "cpu_reset", "-D"]).arg(&debug);
        command.args(hardware.arguments(&qemu.firmware_code, &variables, volume));
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        command.args(["-serial", "chardev:serial", "-chardev"]);
        let log_path = folder.join("serial.log");
        let terminal = match serial {
            Serial::Lines => {
                command.arg("stdio,id=serial,signal=off");
                None
            }
            // QEMU's own escape key is Ctrl-]: Ctrl-A is the hypervisor's.
            Serial::Terminal => {
                let log = hardware::escaped(&log_path);
                command.arg(format!("stdio,id=serial,signal=off,mux=on,logfile={log}")).args(["-echr", "0x1d"]);
                Terminal::remember()
            }
        };
        let mut command = child::bound(&command);
        match serial {
            Serial::Lines => command.stdin(Stdio::null()).stdout(Stdio::piped()),
            Serial::Terminal => command.stdin(Stdio::inherit()).stdout(Stdio::inherit()),
        };
        command.stderr(File::create(&errors).with_context(|| format!("cannot write {}", errors.display()))?);
        let mut child = command.spawn().context("cannot start QEMU")?;
        let (sender, lines) = channel();
        if let Some(output) = child.stdout.take() {
            let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
            thread::spawn(move || listen(output, log, &sender));
        }
        Ok(Self { child, lines, monitor, errors, debug, disturbance: None, _terminal: terminal })
    }

    /// Waits for QEMU's end.
    fn ended(&mut self) -> Result<Ended> {
        let status = self.child.wait().context("cannot wait for QEMU")?;
        let complaints = fs::read_to_string(&self.errors).unwrap_or_default().trim().to_owned();
        let resets = fs::read(&self.debug).unwrap_or_default();
        let triple_fault = String::from_utf8_lossy(&resets).contains("Triple fault").then(|| self.debug.clone());
        Ok(Ended::qemu(status, &complaints, triple_fault))
    }
}

impl Running for Machine {
    fn next(&mut self, deadline: Option<Instant>) -> Result<Event> {
        match receive(&self.lines, deadline) {
            Received::Line(line) => Ok(Event::Line(line)),
            Received::DeadlinePassed => Ok(Event::DeadlinePassed),
            Received::Closed => self.ended().map(Event::Ended),
        }
    }

    fn stop(mut self: Box<Self>) -> Result<Ended> {
        self.disturbance = None;
        if self.child.try_wait().context("cannot ask for QEMU's state")?.is_none() {
            Monitor::connect(&self.monitor)?.quit()?;
        }
        self.ended()
    }

    fn disturb(&mut self) -> Result<()> {
        self.disturbance = Some(Disturbance::of(Monitor::connect(&self.monitor)?));
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // After `stop` both fail: there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.monitor);
    }
}

/// A thread that pauses a machine and lets it go on. Ending it lets the machine go on.
struct Disturbance {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Disturbance {
    fn of(mut monitor: Monitor) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = thread::spawn(move || while !told.load(Ordering::Relaxed) && monitor.interrupt().is_ok() {});
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Disturbance {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // A thread that panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What came from the listener of a serial port.
pub(crate) enum Received {
    /// A line.
    Line(LogLine),
    /// The deadline passed.
    DeadlinePassed,
    /// The emulator closed the port, which it does at its end only.
    Closed,
}

/// Waits for a line until `deadline` (`None`: for ever).
pub(crate) fn receive(lines: &Receiver<LogLine>, deadline: Option<Instant>) -> Received {
    let received = match deadline {
        None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(deadline) => lines.recv_timeout(deadline.saturating_duration_since(Instant::now())),
    };
    match received {
        Ok(line) => Received::Line(line),
        Err(RecvTimeoutError::Timeout) => Received::DeadlinePassed,
        Err(RecvTimeoutError::Disconnected) => Received::Closed,
    }
}

/// Sends each line of the serial port, and writes the port's bytes to a file.
pub(crate) fn listen(output: impl Read, mut log: File, lines: &Sender<LogLine>) {
    let mut output = BufReader::new(output);
    let mut raw = Vec::new();
    while output.read_until(b'\n', &mut raw).is_ok_and(|count| count > 0) {
        // A log that cannot be written is no reason to lose the machine's events.
        let _ = log.write_all(&raw);
        if let Some(line) = LogLine::parse(&String::from_utf8_lossy(&raw))
            && lines.send(line).is_err()
        {
            return;
        }
        raw.clear();
    }
}

/// A number that no other machine of this process has.
fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_as_they_were_said_and_are_kept() {
        let path = std::env::temp_dir().join(format!("postern-listen-{}.log", std::process::id()));
        let (sender, lines) = channel();
        let said = b"BdsDxe: starting\r\n\r\n[    0.000001] info  kernel    | up\n[    0.000002] linux     | $ ";
        listen(&said[..], File::create(&path).unwrap(), &sender);
        drop(sender);
        let messages: Vec<String> = lines.iter().map(|line| line.message).collect();
        assert_eq!(messages, ["BdsDxe: starting", "up", "$"]);
        assert_eq!(fs::read(&path).unwrap(), said);
        fs::remove_file(path).unwrap();
    }
}
