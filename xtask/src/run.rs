//! `cargo xtask build` and `cargo xtask run`.

use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command_line::{Offline, RunOptions};
use crate::compile::{self, Images};
use crate::log_line::LogLine;
use crate::machine::{Event, Hardware, Machine, Serial};
use crate::provision::Qemu;
use crate::volume::{self, Files, Source};
use crate::workspace;

/// Seconds after which a run without --timeout is stopped.
const DEFAULT_TIMEOUT: u64 = 180;

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
    let qemu = Qemu::find(&options.offline)?;
    let images = compile::build(&options.offline)?;
    let configuration = match &options.config {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => "at_end = \"reset\"\n".to_owned(),
    };
    let folder = workspace::output().join("run");
    let volume = folder.join("boot.img");
    volume::write(&volume, &files(&images, configuration))?;
    let mut hardware = Hardware::default().edu();
    hardware.devices.extend(options.qemu_arguments.iter().cloned());
    let serial = if options.shell { Serial::Terminal } else { Serial::Lines };
    let mut machine = Machine::start(&qemu, &hardware, &volume, &folder, serial)?;
    let deadline = match (options.timeout, options.shell) {
        (Some(seconds), _) => Some(Instant::now() + Duration::from_secs(seconds)),
        (None, true) => None,
        (None, false) => Some(Instant::now() + Duration::from_secs(DEFAULT_TIMEOUT)),
    };
    let colour = stdout().is_terminal();
    loop {
        match machine.next(deadline)? {
            Event::Line(line) => show(&line, colour),
            Event::Ended(status) if status.success() => return Ok(()),
            Event::Ended(status) => bail!("QEMU failed ({status}): {}", machine.complaints()),
            Event::DeadlinePassed => {
                machine.stop()?;
                bail!("the machine was still running when the time was over (--timeout sets it)");
            }
        }
    }
}

fn show(line: &LogLine, colour: bool) {
    println!("{}", line.show(colour));
}

fn files(images: &Images, configuration: String) -> Files {
    let mut files = vec![
        ("EFI/BOOT/BOOTX64.EFI".to_owned(), Source::File(images.loader.clone())),
        ("postern-kernel.elf".to_owned(), Source::File(images.kernel.clone())),
        ("postern.toml".to_owned(), Source::Bytes(configuration.into_bytes())),
    ];
    for (name, file) in &images.guests {
        files.push((format!("guests/{name}.elf"), Source::File(file.clone())));
    }
    files
}
