//! A machine in Bochs, which has what QEMU lacks: VMX with EPT, APIC virtualization and posted interrupts.
//!
//! # How to use it
//!
//! ```text
//! cargo xtask test bochs               every case of `cases::bochs`
//! cargo xtask test bochs NAME          those whose names contain NAME
//! cargo xtask run --machine bochs --config FILE [--cpu-model MODEL] [--timeout SECONDS]
//! ```
//!
//! A case is a [`Case`](crate::case::Case) as for QEMU, made with `.in_bochs(Hardware { cpu_model, cpus, memory })`: the
//! same configuration text, the same expectations. `at_end = "power-off"` ends the run when every VM has ended;
//! `.stays()` ends it as soon as all expected lines came. Everything of a run lies in `target/postern/NAME`:
//! `serial.log` (COM1, from which the run is judged), `bochs.log` (what Bochs itself says: the reason of a triple fault
//! or of a failed VM entry is there), `bochsrc`, and the disk. Bochs's names of CPU models are listed by
//! `bochs --help cpu`.
//!
//! # What it is
//!
//! The chipset is an i440FX: no ECAM, no MSI, no remapping unit. The disk is the one of
//! [`disk_image`](crate::disk_image). All CPUs run in one host thread, some 200 million instructions a second, also
//! while all of them are halted. A reset, and so a triple fault, shows as firmware's starting again, which ends the
//! run. Where CPUID tells the TSC's rate (`arrow_lake`: 4.2 GHz), a second of the hypervisor's clock
//! is that many instructions, about 20 s; elsewhere the rate is measured, and a second is 100 million.

mod hardware;

use std::fs::{self, File};
use std::io::{PipeReader, copy, pipe};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

pub use hardware::Hardware;

use crate::child;
use crate::ending::Ended;
use crate::log_line::LogLine;
use crate::machine::{Event, Received, Running, listen, receive};
use crate::tools::Bochs;

/// The disk's name in a run's folder.
pub const DISK: &str = "disk.img";
/// What Bochs reports of its devices and CPUs.
const LOG: &str = "bochs.log";
/// What Bochs prints.
const OUTPUT: &str = "bochs-output.log";

/// Bochs's last words when the machine switched itself off: by ACPI, or by the port that Bochs has for it.
const SWITCHED_OFF: [&str; 2] = ["soft power off", "shutdown requested"];

/// What firmware says when it found something to boot.
const FIRMWARE_STARTS: &str = "BdsDxe: loading";

/// Part of what it says when a fault happened in the delivery of a double fault.
const TRIPLE_FAULT: &str = "exception with no resolution";

/// A machine that is running; it is stopped when this is dropped.
pub struct Machine {
    child: Child,
    lines: Receiver<LogLine>,
    folder: PathBuf,
    /// Firmware has started the machine.
    started: bool,
}

impl Machine {
    /// Starts a machine in `folder` from the disk [`DISK`] in there; its logs go there too. The thread that calls this
    /// must outlive the machine: Bochs is killed when that thread ends.
    ///
    /// # Errors
    /// When a file of the folder cannot be written or Bochs cannot be started. What Bochs itself dislikes comes as
    /// [`Event::Ended`].
    pub fn start(bochs: &Bochs, hardware: &Hardware, folder: &Path) -> Result<Self> {
        let at = |name: &str| folder.join(name);
        let create =
            |name: &str| File::create(at(name)).with_context(|| format!("cannot write {}", at(name).display()));
        // What an earlier run left must not be taken for this one's.
        let _ = fs::remove_file(at(LOG));
        let (log, output) = (create("serial.log")?, create(OUTPUT)?);
        fs::copy(&bochs.firmware, at(hardware::FIRMWARE)).context("cannot copy the firmware")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen for the serial port")?;
        let serial = listener.local_addr().context("the serial port has no address")?;
        fs::write(at("bochsrc"), hardware.configuration(bochs, serial.port())).context("cannot write bochsrc")?;
        let (said, ours) = pipe().context("cannot make a pipe")?;
        let mut command = bochs.command();
        command.current_dir(folder).args(["-q", "-unlock", "-f", "bochsrc"]);
        let mut command = child::bound(&command);
        command.stdin(Stdio::null()).stdout(ours.try_clone()?).stderr(ours);
        let child = command.spawn().context("cannot start Bochs")?;
        // It holds the pipe's other end, which Bochs alone should have.
        drop(command);
        let (sender, lines) = channel();
        thread::spawn(move || connect(&listener, log, &sender));
        thread::spawn(move || keep_output(said, output, serial));
        Ok(Self { child, lines, folder: folder.to_owned(), started: false })
    }

    /// Whether the line shows that firmware starts the machine once more: it was reset.
    fn is_restart(&mut self, line: &LogLine) -> bool {
        let starts = line.is_boots() && line.message.starts_with(FIRMWARE_STARTS);
        starts && std::mem::replace(&mut self.started, true)
    }

    /// Why Bochs ended.
    fn ending(&self) -> Ended {
        let read = |name: &str| fs::read(self.folder.join(name)).unwrap_or_default();
        let [log, output] = [LOG, OUTPUT].map(|name| String::from_utf8_lossy(&read(name)).into_owned());
        ending(&log, &output, &self.folder)
    }
}

impl Running for Machine {
    fn next(&mut self, deadline: Option<Instant>) -> Result<Event> {
        Ok(match receive(&self.lines, deadline) {
            // Bochs cannot be told to end where the machine would start again.
            Received::Line(line) if self.is_restart(&line) => {
                self.child.kill().context("cannot stop Bochs")?;
                self.child.wait().context("cannot wait for Bochs")?;
                Event::Ended(Ended { trouble: None, ..self.ending() })
            }
            Received::Line(line) => Event::Line(line),
            Received::DeadlinePassed => Event::DeadlinePassed,
            Received::Closed => {
                // The status is 1 whatever happened.
                self.child.wait().context("cannot wait for Bochs")?;
                Event::Ended(self.ending())
            }
        })
    }

    fn stop(self: Box<Self>) -> Result<Ended> {
        // Dropping kills it; what a guest wrote is in the disk's image already.
        Ok(Ended::default())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Where it has ended already, there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until Bochs connects its serial port, and passes on what comes from there.
fn connect(listener: &TcpListener, log: File, lines: &Sender<LogLine>) {
    if let Ok((port, _)) = listener.accept() {
        listen(port, log, lines);
    }
}

/// Keeps what Bochs prints, until it ends. If that was before it connected its serial port, whoever waits there is told
/// by a connection that says nothing.
fn keep_output(mut said: PipeReader, mut output: File, serial: SocketAddr) {
    // A full disk must not stop Bochs in the middle of a line.
    if copy(&mut said, &mut output).is_err() {
        let _ = copy(&mut said, &mut std::io::sink());
    }
    let _ = TcpStream::connect(serial);
}

/// Judges by Bochs's last words, which are in its log or, before it has one, in what it prints.
fn ending(log: &str, output: &str, folder: &Path) -> Ended {
    let panic = |text: &str| {
        let line = text.lines().rfind(|line| line.contains(">>PANIC<<"))?;
        Some(line.split_once(">>PANIC<<").map_or(line, |(_, reason)| reason).trim().to_owned())
    };
    if log.contains(TRIPLE_FAULT) {
        return Ended { triple_fault: Some(folder.join(LOG)), ..Ended::default() };
    }
    match panic(log).or_else(|| panic(output)) {
        Some(reason) if SWITCHED_OFF.iter().any(|words| reason.contains(words)) => Ended::default(),
        Some(reason) => Ended { trouble: Some(format!("Bochs stopped: {reason}")), ..Ended::default() },
        None => Ended { trouble: Some("Bochs ended without a reason in its log".into()), ..Ended::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_machine_that_switched_itself_off_ended_well() {
        let judge = |log: &str, output: &str| ending(log, output, Path::new("/f"));
        let off = "00000000000i[ACPI  ] sleep\n01306876453p[ACPI  ] >>PANIC<< ACPI control: soft power off\n";
        assert_eq!(judge(off, ""), Ended::default());
        assert_eq!(judge("1p[UNMAP ] >>PANIC<< Shutdown port: shutdown requested\n", ""), Ended::default());
        let fault =
            "1e[CPU0  ] exception(): 3rd (13) exception with no resolution, shutdown status is 00h, resetting\n";
        assert_eq!(judge(fault, "").triple_fault, Some("/f/bochs.log".into()));
        let trouble = |log: &str, output: &str| judge(log, output).trouble.unwrap();
        assert!(trouble("", "0p[      ] >>PANIC<< bochsrc:1: unknown cpu\n").contains("unknown cpu"));
        assert!(trouble("quiet\n", "quiet\n").contains("without a reason"));
    }

    #[test]
    fn an_emulator_that_ends_before_it_connects_is_noticed() {
        let folder = std::env::temp_dir().join(format!("postern-bochs-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("rom"), "").unwrap();
        let bochs = Bochs {
            program: "sh".into(),
            arguments: vec!["-c".into(), "echo '0p[      ] >>PANIC<< no such machine'; exit 1".into()],
            environment: Vec::new(),
            display: "term".into(),
            firmware: folder.join("rom"),
        };
        let mut machine = Machine::start(&bochs, &Hardware::default(), &folder).unwrap();
        match machine.next(None).unwrap() {
            Event::Ended(ended) => assert!(ended.trouble.unwrap().contains("no such machine")),
            other => panic!("{other:?}"),
        }
        drop(machine);
        fs::remove_dir_all(folder).unwrap();
    }
}
