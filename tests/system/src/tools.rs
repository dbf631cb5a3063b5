//! What `xtask` found and built.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// Everything that a boot needs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The emulator.
    pub qemu: Qemu,
    /// The other emulator, where it was asked for.
    pub bochs: Option<Bochs>,
    /// What a boot volume is made from.
    pub parts: Parts,
    /// The folder for images and logs.
    pub output: PathBuf,
}

/// What a boot volume is made from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What boots.
    pub images: Images,
    /// What the Linux guest is made of.
    pub linux: LinuxFiles,
    /// The repository's root.
    pub root: PathBuf,
}

/// A QEMU and firmware for it.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// The emulator of x86-64 machines.
    pub program: PathBuf,
    /// Arguments that every start needs.
    pub arguments: Vec<OsString>,
    /// Environment variables that every start needs.
    pub environment: Vec<(String, OsString)>,
    /// OVMF's code, mapped read-only into the machine.
    pub firmware_code: PathBuf,
    /// OVMF's empty variable store, copied for each machine.
    pub firmware_variables: PathBuf,
}

impl Qemu {
    /// The emulator, ready for a machine's arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A Bochs and firmware for it.
#[derive(Clone, Debug)]
pub struct Bochs {
    /// What starts the emulator.
    pub program: PathBuf,
    /// Arguments that every start needs.
    pub arguments: Vec<OsString>,
    /// Environment variables that every start needs.
    pub environment: Vec<(String, OsString)>,
    /// The display that needs no screen.
    pub display: String,
    /// OVMF as one image of 2 MiB, the most that Bochs takes.
    pub firmware: PathBuf,
}

impl Bochs {
    /// The emulator, ready for a machine's arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// What boots.
#[derive(Clone, Debug)]
pub struct Images {
    /// The loader, `\EFI\BOOT\BOOTX64.EFI`.
    pub loader: PathBuf,
    /// The kernel's ELF file.
    pub kernel: PathBuf,
    /// The test guests: the name of each one's binary, and its file.
    pub guests: Vec<(String, PathBuf)>,
}

/// What the Linux guest is made of.
#[derive(Clone, Debug)]
pub struct LinuxFiles {
    /// The kernel's bzImage.
    pub kernel: PathBuf,
    /// The folder with the kernel's modules (`lib/modules/RELEASE`).
    pub modules: PathBuf,
    /// A statically linked busybox.
    pub busybox: PathBuf,
}
