//! What may be typed after `cargo xtask`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Builds, runs and tests Postern. Each command first finds or fetches the tools that it needs.
#[derive(Parser, Debug)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "Begin with `cargo xtask run`; `cargo xtask help COMMAND` has each command's options and examples.\n\n\
                  What is fetched is unpacked, without root, into one folder: $POSTERN_CACHE, or \
                  $XDG_CACHE_HOME/postern, or ~/.cache/postern. rustup and cargo keep what they fetch in their own \
                  folders: the bare-metal targets, where rustup can add them, and crates. $POSTERN_DEBIAN_MIRROR names \
                  the Debian mirror to fetch from, where apt's configuration names none, as on Ubuntu, or another one."
)]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Find or fetch every tool that the other commands need, and say where each one is
    #[command(after_help = "Examples:\n  \
                          cargo xtask setup             fetch what is missing, and say where everything is\n  \
                          cargo xtask setup --offline   only say what is missing")]
    Setup(Offline),
    /// Build the boot loader, the kernel and the test guests
    #[command(after_help = "Example:\n  \
                          cargo xtask build   the files' places are printed at the end")]
    Build(Offline),
    /// Boot Postern in an emulator and show its log and the guests' consoles
    ///
    /// Without --config it runs, in QEMU, the demo: a Linux guest that owns an NVMe disk and a network card, beside a
    /// guest whose device attacks everything in reach. It then proves from the log and the disk that the first worked and
    /// the second was stopped; the exit status is 0 only if every point is proven. With --config or --initrd there is
    /// nothing of the demo to prove: the exit status is 0 if every VM started, ended without a crash and gave its
    /// memory back.
    #[command(after_help = "Examples:\n  \
                          cargo xtask run                              the demo\n  \
                          cargo xtask run --shell                      the demo's machine, at the Linux guest's shell\n  \
                          cargo xtask run --config my.toml             your own configuration\n  \
                          cargo xtask run --kernel bzImage             the demo with your own Linux\n  \
                          cargo xtask run --qemu-arg=-d --qemu-arg=int QEMU's own log, in target/postern/run\n\n\
                          The serial log, QEMU's complaints and the disk stay in target/postern/run. Colours go to \
                          terminals only, and not where NO_COLOR is set.")]
    Run(Box<RunOptions>),
    /// Write the disk for a lab machine: a file to copy to a USB stick, which UEFI firmware boots from
    ///
    /// It has a GUID partition table and one EFI system partition with the loader, the kernel, the configuration and
    /// the files that it names. The configuration is checked before anything is written.
    #[command(after_help = "Example:\n  \
                          cargo xtask image usb.img --config my.toml")]
    Image(ImageOptions),
    /// Check formatting and lints, run the host tests, and boot the system tests in QEMU and in Bochs; what CI runs
    ///
    /// Ends with the line `N passed, N failed`.
    #[command(after_help = "Examples:\n  \
                          cargo xtask test                all\n  \
                          cargo xtask test host           nothing that boots\n  \
                          cargo xtask test system demo    one boot; its log stays in target/postern/demo")]
    Test(TestOptions),
    /// Show a machine's DMAR table as the driver understands it
    ///
    /// The exit status says what the driver makes of it: 0 it takes the table as it is, 3 it leaves out what a warning
    /// names, 2 it rejects the table; 1 if there is no table to read.
    #[command(after_help = "Examples:\n  \
                          sudo cat /sys/firmware/acpi/tables/DMAR >dmar.bin\n  \
                          cargo xtask dmar dmar.bin          as text\n  \
                          cargo xtask dmar dmar.bin --json   for programs")]
    Dmar(DmarOptions),
}

/// Whether anything may be fetched.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Offline {
    /// Fetch nothing; name what is missing instead
    #[arg(long)]
    pub(crate) offline: bool,
}

/// Options of `run`.
#[derive(Args, Debug, Clone)]
pub(crate) struct RunOptions {
    /// The machine: one with a remapping unit, devices to assign and SVM; or one with VMX, from the disk that `image`
    /// writes
    #[arg(long, value_enum, default_value_t = MachineKind::Qemu)]
    pub(crate) machine: MachineKind,
    /// The processor, as the emulator calls it [default: max,+svm in QEMU, arrow_lake in Bochs]
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu_model: Option<String>,
    /// Keep the machine running and connect this terminal to the Linux guest's shell (QEMU only)
    #[arg(long)]
    pub(crate) shell: bool,
    /// Boot with this configuration instead of the demo's; the files that it names are looked for beside it, then
    /// among the guests that xtask builds
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A Linux kernel (bzImage) to use as guests/vmlinuz instead of Debian's
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// An initramfs to use as guests/initrd instead of the one that xtask makes
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// What executes the machine's instructions: QEMU itself, or this computer's processor with nested virtualization,
    /// Intel's VMX or AMD's SVM, whichever it has (QEMU only)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) accel: Accelerator,
    /// One more argument for QEMU, as it is; may be given several times (QEMU only)
    #[arg(long = "qemu-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) qemu_arguments: Vec<String>,
    /// Stop the machine after so many seconds [default: 180, in Bochs 600; with --shell no limit]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Whether anything may be fetched.
    #[command(flatten)]
    pub(crate) offline: Offline,
}

/// The emulator of a machine.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MachineKind {
    /// QEMU's q35: an Intel remapping unit, PCI Express devices, a processor with SVM
    Qemu,
    /// Bochs's i440FX: a processor with VMX, no remapping unit
    Bochs,
}

/// Options of `image`.
#[derive(Args, Debug, Clone)]
pub(crate) struct ImageOptions {
    /// The file to write
    pub(crate) out: PathBuf,
    /// The configuration for the disk; the files that it names are looked for beside it, then among the guests that
    /// xtask builds [default: one Linux guest without devices, at its shell]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A Linux kernel (bzImage) to use as guests/vmlinuz instead of Debian's
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// An initramfs to use as guests/initrd instead of the one that xtask makes
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Whether anything may be fetched.
    #[command(flatten)]
    pub(crate) offline: Offline,
}

/// What executes the machine's instructions.
#[derive(ValueEnum, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// QEMU's own emulation, which has SVM
    #[default]
    Tcg,
    /// This computer's processor, by /dev/kvm
    Kvm,
}

/// Options of `test`.
#[derive(Args, Debug, Clone)]
pub(crate) struct TestOptions {
    /// Only this group
    #[arg(value_enum)]
    pub(crate) group: Option<TestGroup>,
    /// Only the tests whose names contain this
    pub(crate) name: Option<String>,
    /// Whether anything may be fetched.
    #[command(flatten)]
    pub(crate) offline: Offline,
}

/// Options of `dmar`.
#[derive(Args, Debug, Clone)]
pub(crate) struct DmarOptions {
    /// The table's bytes, as `acpidump -b` and /sys/firmware/acpi/tables give them [default: this machine's own table,
    /// /sys/firmware/acpi/tables/DMAR, which only root may read]
    pub(crate) file: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// A group of tests.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TestGroup {
    /// Formatting, lints, and tests that run as ordinary processes
    Host,
    /// The remapping-unit model and the driver against QEMU's remapping unit
    Qtest,
    /// Boots in QEMU
    System,
    /// Boots in Bochs
    Bochs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn qemu_arguments_may_start_with_a_hyphen_and_repeat() {
        let line = ["xtask", "run", "--qemu-arg", "-d", "--qemu-arg", "int", "--offline"];
        let Command::Run(options) = CommandLine::try_parse_from(line).unwrap().command else { panic!() };
        assert_eq!(options.qemu_arguments, ["-d", "int"]);
        assert!(options.offline.offline);
    }

    #[test]
    fn every_command_and_option_has_help() {
        for command in CommandLine::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains("cargo xtask"), "{} has no example", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
            }
        }
    }
}
