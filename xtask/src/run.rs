//! `cargo xtask build` and `cargo xtask run`.

use std::fs::File;
use std::io::{IsTerminal, stdin, stdout};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rustix::termios::tcgetwinsize;
use system_tests::boot_files::{self, Own};
use system_tests::demo::{self, Count, Facts, Finding, Point};
use system_tests::ending::{self, Ended, Watch};
use system_tests::log_line::LogLine;
use system_tests::machine::{Event, Machine, Running, Serial};
use system_tests::tools::Tools;
use system_tests::{bochs, disk, disk_image, volume};

use crate::command_line::{Accelerator, MachineKind, Offline, RunOptions};
use crate::{compile, image, nested, tools};

/// Seconds after which a run without --timeout is stopped.
const DEFAULT_TIMEOUT: u64 = 180;
/// The same in Bochs, which is slower.
const DEFAULT_TIMEOUT_IN_BOCHS: u64 = 600;

/// The seed of the disk's data.
const SEED: u64 = 0x706f_7374_6572_6e21;

/// The keys of the terminal while --shell connects it to the machine's serial port.
const CONSOLE_KEYS: &str = "Console keys: Ctrl-A h  the hypervisor's own keys\n\
                            \x20             Ctrl-A n  the next guest's console\n\
                            \x20             Ctrl-] x  stop the machine\n";

/// `cargo xtask build`.
pub(crate) fn build(options: &Offline) -> Result<()> {
    let images = compile::build(options)?;
    println!("loader  {}", images.loader.display());
    println!("kernel  {}", images.kernel.display());
    for (name, file) in &images.guests {
        println!("guest   {} ({name})", file.display());
    }
    Ok(())
}

/// `cargo xtask run`.
pub(crate) fn run(options: &RunOptions) -> Result<()> {
    match options.machine {
        MachineKind::Qemu => run_in_qemu(options),
        MachineKind::Bochs => run_in_bochs(options),
    }
}

fn run_in_qemu(options: &RunOptions) -> Result<()> {
    if options.shell && !stdin().is_terminal() {
        bail!("--shell connects this terminal to the guest, but standard input is not a terminal");
    }
    if options.accel == Accelerator::Kvm {
        nested::check(Path::new("/"))?;
    }
    let nonce = nonce();
    let configuration = configuration(options, &nonce)?;
    let tools = tools::prepare(&options.offline)?;
    let folder = tools.output.join("run");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let image = folder.join("nvme.img");
    let sum = disk::create(&image, SEED)?;
    let machine = start(&tools, options, &configuration, &folder, &image)?;
    let (lines, ended) = follow(Box::new(machine), options, DEFAULT_TIMEOUT, &configuration)?;
    if options.shell {
        return after_shell(&ended, &folder.join("serial.log"));
    }
    let death = ending::death(&lines, &ended);
    println!("\n{}", demo::summary_table(&lines));
    if options.config.is_some() || options.initrd.is_some() {
        return match death {
            Some(death) => bail!("{death}"),
            None => own_guests(&configuration, &lines),
        };
    }
    let points = demo::judge(&lines, Facts { sum: &sum, nonce: &nonce, image: &image });
    let proven = conclude(&points, Count::in_log(&lines));
    match death {
        Some(death) => bail!("{death}"),
        None => proven,
    }
}

/// Boots from the disk of a lab machine.
fn run_in_bochs(options: &RunOptions) -> Result<()> {
    if options.shell || !options.qemu_arguments.is_empty() {
        bail!("--shell and --qemu-arg are for the machine in QEMU: leave them out, or leave out --machine bochs");
    }
    let configuration = image::configuration(options.config.as_deref())?;
    let tools = tools::prepare_with_bochs(&options.offline)?;
    let emulator = tools.bochs.as_ref().context("Bochs was not found")?;
    let folder = tools.output.join("run-bochs");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    disk_image::write(&folder.join(bochs::DISK), &boot_files::collect(&tools.parts, &configuration, &own(options))?)?;
    let mut hardware = bochs::Hardware::default();
    if let Some(model) = &options.cpu_model {
        hardware.cpu_model.clone_from(model);
    }
    println!("booting in Bochs; Ctrl-C stops it; its logs go to {}", folder.display());
    let machine = bochs::Machine::start(emulator, &hardware, &folder)?;
    let (lines, ended) = follow(Box::new(machine), options, DEFAULT_TIMEOUT_IN_BOCHS, &configuration)?;
    match ending::death(&lines, &ended) {
        Some(death) => bail!("{death}"),
        None => own_guests(&configuration, &lines),
    }
}

/// The files that the user gave.
fn own(options: &RunOptions) -> Own {
    Own {
        folder: options.config.as_ref().and_then(|file| file.parent()).map(ToOwned::to_owned),
        kernel: options.kernel.clone(),
        initrd: options.initrd.clone(),
        may_be_absent: true,
    }
}

/// The configuration to boot with. Its mistakes are Postern's to find: it knows the machine too, and names all at once.
///
/// # Errors
/// When a file that the user gave cannot be read, before anything is built.
fn configuration(options: &RunOptions, nonce: &str) -> Result<String> {
    for file in [&options.kernel, &options.initrd].into_iter().flatten() {
        File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    match &options.config {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())),
        None => Ok(demo::configuration(if options.shell { "shell" } else { "demo" }, nonce)),
    }
}

/// What there is to say when the user has stopped the machine, or it has ended.
fn after_shell(ended: &Ended, log: &Path) -> Result<()> {
    let text = std::fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<LogLine> = text.lines().filter_map(LogLine::parse).collect();
    // QEMU says so when the keys to stop it are typed.
    let stopped = lines.last().is_some_and(|line| line.message == "QEMU: Terminated");
    match ending::death(&lines, ended).filter(|_| !stopped) {
        Some(death) => bail!("{death} (the log: {})", log.display()),
        None => {
            println!("The machine is off. Its log is in {}.", log.display());
            Ok(())
        }
    }
}

/// What there is to say of guests that nobody here knows: how each ended.
fn own_guests(configuration: &str, lines: &[LogLine]) -> Result<()> {
    let mut bad = Vec::new();
    for end in ending::ends(configuration, lines) {
        match end.is_failure {
            true => bad.push(end.words),
            false => println!("{}", end.words),
        }
    }
    if !bad.is_empty() {
        bail!("{}", bad.join("; "));
    }
    ending::given_back(configuration, lines).map_err(anyhow::Error::msg)?;
    println!("\nThe machine ended in an orderly way. What the guests did is for you to judge.");
    Ok(())
}

fn start(tools: &Tools, options: &RunOptions, configuration: &str, folder: &Path, image: &Path) -> Result<Machine> {
    let own = own(options);
    if let Some(hint) = boot_files::absent(&tools.parts, configuration, &own)? {
        eprintln!("warning: {hint}");
    }
    let volume = folder.join("boot.img");
    volume::write(&volume, &boot_files::collect(&tools.parts, configuration, &own)?)?;
    let mut hardware = demo::hardware(image);
    if options.accel == Accelerator::Kvm {
        hardware = hardware.on_kvm();
    }
    if let Some(model) = &options.cpu_model {
        hardware.cpu_model.clone_from(model);
    }
    hardware.devices.extend(options.qemu_arguments.iter().cloned());
    let serial = if options.shell { Serial::Terminal } else { Serial::Lines };
    match serial {
        Serial::Terminal => print!("{CONSOLE_KEYS}"),
        Serial::Lines => println!(
            "booting in QEMU, which takes firmware some seconds; Ctrl-C stops it; the serial log goes to {}",
            folder.join("serial.log").display()
        ),
    }
    Machine::start(&tools.qemu, &hardware, &volume, folder, serial)
}

/// Shows the machine's lines until it ends or `timeout` seconds are over, and how the emulator ended.
fn follow(
    mut machine: Box<dyn Running>,
    options: &RunOptions,
    timeout: u64,
    configuration: &str,
) -> Result<(Vec<LogLine>, Ended)> {
    let seconds = options.timeout.or((!options.shell).then_some(timeout));
    let mut watch = Watch::limited_to(seconds.map(Duration::from_secs));
    let colour = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut lines = Vec::new();
    loop {
        match machine.next(watch.deadline())? {
            Event::Line(line) => {
                println!("{}", line.show(colour));
                watch.hear(&line);
                lines.push(line);
            }
            Event::Ended(ended) => return Ok((lines, ended)),
            // It stands still, as it said.
            Event::DeadlinePassed if watch.last_words().is_some() => return Ok((lines, machine.stop()?)),
            Event::DeadlinePassed => {
                machine.stop()?;
                bail!(
                    "the machine was still running after {} s and was stopped; VMs that had not ended: {}. \
                     --timeout SECONDS gives it longer",
                    seconds.unwrap_or_default(),
                    ending::still_running(configuration, &lines)
                );
            }
        }
    }
}

/// Shows what was proven, and what cannot be here; an error unless all was that can be.
fn conclude(points: &[Point], count: Count) -> Result<()> {
    for Point { claim, finding } in points {
        let (mark, text) = match finding {
            Finding::Proven(text) => ("proven", text),
            Finding::NotBlockable(text) => ("NOT BLOCKED", text),
            Finding::NotProven(text) => ("NOT PROVEN", text),
        };
        show_point(mark, &format!("{claim}: {text}"));
    }
    let proven = points.iter().filter(|point| matches!(point.finding, Finding::Proven(_))).count();
    let unproven = points.iter().filter(|point| matches!(point.finding, Finding::NotProven(_))).count();
    if unproven > 0 {
        bail!("{unproven} of {} points are not proven", proven + unproven);
    }
    println!("\nAll {proven} points are proven: the exit status is 0.");
    if count.not_blockable > 0 {
        println!(
            "Told apart (NOT BLOCKED): {} of the intruder's {} tries, which QEMU cannot block whatever it is told; \
             real remapping units can.",
            count.not_blockable, count.all
        );
    }
    Ok(())
}

/// One point, with its mark in front; on a terminal broken between words, elsewhere one line.
fn show_point(mark: &str, text: &str) {
    // 0 is the answer of a terminal that does not know.
    let columns = tcgetwinsize(stdout()).map_or(0, |size| usize::from(size.ws_col));
    let width = if columns == 0 { usize::MAX } else { columns };
    const MARGIN: usize = 13;
    let mut lines = broken(text, width.saturating_sub(MARGIN).max(MARGIN)).into_iter();
    println!("{mark:MARGIN$}{}", lines.next().unwrap_or_default());
    for line in lines {
        println!("{:MARGIN$}{line}", "");
    }
}

/// A text as lines of at most `width` characters, where its words are no longer than that.
fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// What the guest writes to the disk: another text in each run, so that an old image proves nothing.
fn nonce() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros());
    format!("postern-{now:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_the_shell_is_no_failure_but_a_machine_that_dies_is() {
        let log = std::env::temp_dir().join(format!("postern-shell-{}.log", std::process::id()));
        let ended = Ended { trouble: None, triple_fault: None };
        for (text, is_good) in [
            ("[    1.000000] linux     | / # \r\nQEMU: Terminated\n\r", true),
            ("[    1.000000] info  schedule  | every VM has ended; the machine resets\r\n", true),
            ("[    1.000000] linux     | / # \r\n", false),
        ] {
            std::fs::write(&log, text).unwrap();
            assert_eq!(after_shell(&ended, &log).is_ok(), is_good, "{text}");
        }
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_text_is_broken_between_words() {
        assert_eq!(broken("aa bb  cc d", 5), ["aa bb", "cc d"]);
        assert_eq!(broken("long-word a", 4), ["long-word", "a"]);
        assert_eq!(broken("a b c", usize::MAX), ["a b c"]);
        assert!(broken("", 10).is_empty());
    }

    #[test]
    fn what_is_not_proven_fails_and_what_cannot_be_blocked_does_not() {
        let point = |finding| Point { claim: "claim".into(), finding };
        let good = [point(Finding::Proven("p".into())), point(Finding::NotBlockable("n".into()))];
        assert!(conclude(&good, Count::default()).is_ok());
        let bad = [point(Finding::Proven("p".into())), point(Finding::NotProven("n".into()))];
        assert!(conclude(&bad, Count::default()).unwrap_err().to_string().starts_with("1 of 2 points"));
    }
}
