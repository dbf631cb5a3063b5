//! `cargo xtask build` and `cargo xtask run`.

use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use system_tests::boot_files::{self, Own};
use system_tests::machine::{Event, Hardware, Machine, Serial};
use system_tests::{disk, volume};

use crate::command_line::{Offline, RunOptions};
use crate::{compile, tools};

/// Seconds after which a run without --timeout is stopped.
const DEFAULT_TIMEOUT: u64 = 180;

/// The seed of the disk's data.
const SEED: u64 = 0x706f_7374_6572_6e21;

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
    let tools = tools::prepare(&options.offline)?;
    let configuration = match &options.config {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => "at_end = \"reset\"\n[[vm]]\nname = \"linux\"\ncpus = [0]\nmemory = \"512M\"\nimage = { linux = { kernel = \"guests/vmlinuz\", initrd = \"guests/initrd\", cmdline = \"console=ttyS0 postern.task=boot\" } }\n".to_owned(),
    };
    let own = Own {
        folder: options.config.as_ref().and_then(|file| file.parent()).map(ToOwned::to_owned),
        kernel: options.kernel.clone(),
        initrd: options.initrd.clone(),
    };
    let folder = tools.output.join("run");
    let volume = folder.join("boot.img");
    volume::write(&volume, &boot_files::collect(&tools, &configuration, &own)?)?;
    let image = folder.join("nvme.img");
    disk::create(&image, SEED)?;
    let mut hardware = Hardware::default().nvme(&image).e1000e().edu();
    hardware.devices.extend(options.qemu_arguments.iter().cloned());
    let serial = if options.shell { Serial::Terminal } else { Serial::Lines };
    let mut machine = Machine::start(&tools.qemu, &hardware, &volume, &folder, serial)?;
    let deadline = match (options.timeout, options.shell) {
        (Some(seconds), _) => Some(Instant::now() + Duration::from_secs(seconds)),
        (None, true) => None,
        (None, false) => Some(Instant::now() + Duration::from_secs(DEFAULT_TIMEOUT)),
    };
    let colour = stdout().is_terminal();
    loop {
        match machine.next(deadline)? {
            Event::Line(line) => println!("{}", line.show(colour)),
            Event::Ended(status) if status.success() => return Ok(()),
            Event::Ended(status) => bail!("QEMU failed ({status}): {}", machine.complaints()),
            Event::DeadlinePassed => {
                machine.stop()?;
                bail!("the machine was still running when the time was over (--timeout sets it)");
            }
        }
    }
}
