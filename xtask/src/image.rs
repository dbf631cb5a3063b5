//! `cargo xtask image`: the disk for a lab machine.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use system_tests::boot_files::{self, Own};
use system_tests::disk_image;

use crate::command_line::ImageOptions;
use crate::progress::Step;
use crate::tools;

/// What a machine can run of which nothing is known: a Linux guest without devices, its shell on COM1.
pub(crate) const CONFIGURATION: &str = r#"# A Linux guest without devices. docs/configuration.md has every key.
at_end = "halt"

[[vm]]
name = "linux"
cpus = [0]
memory = "512M"
image = { linux = { kernel = "guests/vmlinuz", initrd = "guests/initrd", cmdline = "console=ttyS0 postern.task=shell" } }
"#;

/// Writes the image.
pub(crate) fn run(options: &ImageOptions) -> Result<()> {
    let configuration = configuration(options.config.as_deref())?;
    check_place(&options.out, options.force)?;
    let parts = tools::parts(&options.offline)?;
    let own = Own {
        folder: options.config.as_ref().and_then(|file| file.parent()).map(ToOwned::to_owned),
        kernel: options.kernel.clone(),
        initrd: options.initrd.clone(),
        may_be_absent: false,
    };
    let files = boot_files::collect(&parts, &configuration, &own)?;
    let megabytes = disk_image::size(&files)? >> 20;
    let step = Step::begin(format!("writing {}, {megabytes} MiB", options.out.display()), 0);
    disk_image::write(&options.out, &files)?;
    step.end();
    let out = options.out.display();
    println!("{out} holds {} files. To put it on a USB stick, which loses all that is on it:", files.len());
    println!("    dd if={out} of=/dev/sdX bs=4M conv=fsync      (sdX: the stick; lsblk lists disks)");
    Ok(())
}

/// The configuration's text, without a mistake that can be seen here.
pub(crate) fn configuration(file: Option<&Path>) -> Result<String> {
    let Some(file) = file else { return Ok(CONFIGURATION.to_owned()) };
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    match configuration::parse(&text) {
        Ok(_) => Ok(text),
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
            bail!("{} is not a configuration that Postern starts with:{}", file.display(), lines.concat())
        }
    }
}

/// That an image may be written there. A device is never written to: what is on it would be lost to a slip of the keys.
fn check_place(out: &Path, force: bool) -> Result<()> {
    match fs::symlink_metadata(out) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", out.display())),
        Ok(data) if !data.is_file() => bail!(
            "{} is not a plain file: let the image be written to a file, and copy that to a disk with dd",
            out.display()
        ),
        Ok(_) if !force => bail!("{} exists: name another file, or write over it with --force", out.display()),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_configuration_is_right() {
        assert!(configuration::parse(CONFIGURATION).is_ok());
        assert_eq!(configuration(None).unwrap(), CONFIGURATION);
    }

    #[test]
    fn every_mistake_is_named_before_anything_is_written() {
        let file = std::env::temp_dir().join(format!("postern-config-{}.toml", std::process::id()));
        fs::write(&file, "at_end = \"never\"\n[[vm]]\nname = \"a\"\ncpus = [0]\nmemory = \"3M\"\n").unwrap();
        let error = configuration(Some(&file)).unwrap_err().to_string();
        fs::remove_file(&file).unwrap();
        assert!(error.contains("line 1, column 10") && error.contains("line 5, column 10"), "{error}");
        let error = format!("{:#}", configuration(Some(&file)).unwrap_err());
        assert!(error.contains("cannot read"), "{error}");
    }

    #[test]
    fn a_file_is_written_over_only_when_asked_and_a_device_never() {
        let file = std::env::temp_dir().join(format!("postern-there-{}", std::process::id()));
        assert!(check_place(&file, false).is_ok());
        fs::write(&file, "precious").unwrap();
        assert!(check_place(&file, false).unwrap_err().to_string().contains("--force"));
        assert!(check_place(&file, true).is_ok());
        fs::remove_file(&file).unwrap();
        for place in ["/dev/null", "/"] {
            assert!(check_place(Path::new(place), true).unwrap_err().to_string().contains("plain file"));
        }
    }
}
