//! Bochs, whose emulated processors have VMX, and firmware for it.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, pipe};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use system_tests::tools::Bochs;

use super::debian::PackageSet;
use super::qemu;
use crate::command_line::Offline;
use crate::process::{find_on_path, last_lines};

/// The first release with posted interrupts and, under UEFI, ACPI tables.
const OLDEST: (u32, u32) = (3, 1);

/// No stable release of Debian has a new enough one. The unpacked one is started through its own loader, with the C
/// library of its own release.
const DEBIAN_BOCHS: PackageSet = PackageSet {
    name: "bochs",
    purpose: "the machine with VMX (Bochs 3.1, of Debian's unstable release)",
    suites: &["sid"],
    packages: &["bochs", "bochs-term", "vgabios", "libc6"],
    // Icons, fonts and daemons of a desktop come along otherwise.
    wanted: |package| matches!(package, "bochs" | "bochs-term" | "vgabios") || package.starts_with("lib"),
    remedy: "install Bochs 3.1 or newer, with a display library that needs no screen (`term` or `nogui`)",
};

const DEBIAN_FIRMWARE: PackageSet = PackageSet {
    name: "ovmf",
    purpose: "Bochs's UEFI firmware (OVMF as one image of 2 MiB)",
    suites: &["bookworm"],
    packages: &["ovmf"],
    wanted: |package| package == "ovmf",
    remedy: "install OVMF (edk2) with its combined image of 2 MiB, /usr/share/ovmf/OVMF.fd",
};

/// Where the combined image lies: under the root of a Debian system, and of others.
const FIRMWARE: [&str; 3] = ["usr/share/ovmf/OVMF.fd", "usr/share/qemu/OVMF.fd", "usr/share/edk2/x64/OVMF.fd"];

/// The most that Bochs's ROM has room for.
const FIRMWARE_SIZE: u64 = 2 << 20;

/// Displays that need no screen.
const DISPLAYS: [&str; 2] = ["term", "nogui"];

/// How long a Bochs that is asked something may take; it answers at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Finds Bochs on PATH, else in the cache, else fetches it; and the firmware likewise.
pub(crate) fn find(options: &Offline) -> Result<Bochs> {
    let firmware = firmware(options)?;
    if let Some(found) = of_the_system(&firmware) {
        return Ok(found);
    }
    let root = DEBIAN_BOCHS.ensure(options)?;
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let library_path = std::env::join_paths([libraries.clone(), libraries.join("pulseaudio")])?;
    let words = [
        root.join("usr/lib64/ld-linux-x86-64.so.2").into_os_string(),
        "--library-path".into(),
        library_path,
        root.join("usr/bin/bochs-bin").into_os_string(),
    ];
    let mut found = guarded(words.to_vec(), firmware);
    found.environment.extend([
        ("LTDL_LIBRARY_PATH".into(), libraries.join("bochs/plugins").into_os_string()),
        ("BXSHARE".into(), root.join("usr/share/bochs").into_os_string()),
    ]);
    checked(found).context("the unpacked Bochs is not of use")
}

/// Where it is, for a person.
pub(crate) fn describe(bochs: &Bochs) -> String {
    let program = bochs.arguments.last().cloned().unwrap_or_default();
    let version =
        version(&answer(bochs, &["--help"])).map_or_else(|| "?".into(), |(major, minor)| format!("{major}.{minor}"));
    format!("{} (Bochs {version}), {}", program.to_string_lossy(), bochs.firmware.display())
}

fn of_the_system(firmware: &Path) -> Option<Bochs> {
    let program = find_on_path("bochs")?;
    checked(guarded(vec![program.into_os_string()], firmware.to_owned())).ok()
}

/// A Bochs that is started by these words, and killed when whoever started it ends: it has no other way to notice.
fn guarded(words: Vec<OsString>, firmware: PathBuf) -> Bochs {
    let guard = ["setpriv", "--pdeathsig", "KILL", "--"];
    let guard: &[&str] = if find_on_path(guard[0]).is_some() { &guard } else { &["env"] };
    let mut words = guard.iter().map(OsString::from).chain(words);
    let program = words.next().unwrap_or_default().into();
    // The display `term` asks for the kind of a terminal, though it has one of its own.
    let environment = vec![("TERM".into(), "xterm".into())];
    Bochs { program, arguments: words.collect(), environment, display: String::new(), firmware }
}

/// The same if it is new enough and has a display that needs no screen.
fn checked(bochs: Bochs) -> Result<Bochs> {
    let said = answer(&bochs, &["--help"]);
    if version(&said).is_none_or(|found| found < OLDEST) {
        bail!("it is not Bochs {}.{} or newer: {}", OLDEST.0, OLDEST.1, last_lines(said.trim(), 3));
    }
    let display = DISPLAYS.into_iter().find(|display| has_display(&bochs, display));
    let display = display.with_context(|| format!("it has none of the display libraries {}", DISPLAYS.join(", ")))?;
    Ok(Bochs { display: display.to_owned(), ..bochs })
}

/// Whether it gets so far, with this display, that it misses a ROM that is nowhere.
fn has_display(bochs: &Bochs, display: &str) -> bool {
    let file = std::env::temp_dir().join(format!("postern-bochsrc-{}", std::process::id()));
    let text = format!("display_library: {display}\nromimage: file=/nowhere\npanic: action=fatal\n");
    let said = match fs::write(&file, text) {
        Ok(()) => answer(bochs, &["-q", "-f", &file.to_string_lossy()]),
        Err(_) => String::new(),
    };
    let _ = fs::remove_file(&file);
    said.contains("couldn't open ROM image")
}

/// What Bochs prints when it is started so; nothing if it does not end in time.
fn answer(bochs: &Bochs, arguments: &[&str]) -> String {
    let run = || -> Result<String> {
        let (mut said, ours) = pipe()?;
        let mut command = bochs.command();
        command.args(arguments).stdin(Stdio::null()).stdout(ours.try_clone()?).stderr(ours);
        let mut child = command.spawn()?;
        drop(command);
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = said.read_to_end(&mut text);
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
        });
        let text = receiver.recv_timeout(PATIENCE);
        let _ = child.kill();
        child.wait()?;
        Ok(text?)
    };
    run().unwrap_or_default()
}

/// The numbers of `Bochs x86 Emulator 3.1`, with `.devel` or the like behind them.
fn version(said: &str) -> Option<(u32, u32)> {
    let number = said.split("Bochs x86 Emulator ").nth(1)?.split_whitespace().next()?;
    let mut parts = number.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn firmware(options: &Offline) -> Result<PathBuf> {
    // QEMU's packages hold it too, where they were fetched.
    let roots = ["/".into()].into_iter().chain(qemu::unpacked()?);
    match roots.filter_map(|root: PathBuf| firmware_in(&root)).next() {
        Some(found) => Ok(found),
        None => firmware_in(&DEBIAN_FIRMWARE.ensure(options)?).context("the unpacked OVMF has no image of 2 MiB"),
    }
}

fn firmware_in(root: &Path) -> Option<PathBuf> {
    let fits = |file: &PathBuf| fs::metadata(file).is_ok_and(|data| data.len() == FIRMWARE_SIZE);
    FIRMWARE.iter().map(|file| root.join(file)).find(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version() {
        assert_eq!(version("===\n    Bochs x86 Emulator 3.1\n  Built"), Some((3, 1)));
        assert_eq!(version("Bochs x86 Emulator 3.0.devel\n"), Some((3, 0)));
        assert_eq!(version("no such program"), None);
    }

    #[test]
    fn a_program_that_is_no_bochs_is_refused() {
        let bochs = guarded(vec!["printf".into(), "asked %s".into()], "/dev/null".into());
        let error = format!("{:#}", checked(bochs).unwrap_err());
        assert!(error.contains("not Bochs 3.1 or newer: asked --help"), "{error}");
    }

    #[test]
    fn only_an_image_of_the_right_size_is_firmware_for_bochs() {
        let root = std::env::temp_dir().join(format!("postern-ovmf-{}", std::process::id()));
        fs::create_dir_all(root.join("usr/share/ovmf")).unwrap();
        let image = root.join(FIRMWARE[0]);
        fs::write(&image, vec![0; 4 << 20]).unwrap();
        assert_eq!(firmware_in(&root), None);
        fs::write(&image, vec![0; 2 << 20]).unwrap();
        assert_eq!(firmware_in(&root), Some(image));
        fs::remove_dir_all(root).unwrap();
    }
}
