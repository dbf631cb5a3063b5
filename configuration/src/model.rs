//! What a configuration says: the whole file.

use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;
use toml::Spanned;
use toml::de::DeTable;

use crate::device::Selector;
use crate::overlap;
use crate::position::Placed;
use crate::problem::Rule;
use crate::read::{Notes, Section};
use crate::vm::{self, Wishes};

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// What the machine does when every VM has ended.
    pub at_end: AtEnd,
    /// The VMs, in the order of the file; at least one.
    pub vms: Vec<Vm>,
}

/// What the machine does when every VM has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtEnd {
    /// All CPUs stop.
    #[default]
    Halt,
    /// The machine is reset.
    Reset,
    /// The machine is switched off.
    PowerOff,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Its name: 1 to 15 letters, digits, `-` or `_`; no other VM has it.
    pub name: Placed<String>,
    /// Its virtual CPUs, and the host CPUs that run them.
    pub cpus: Cpus,
    /// Its RAM in bytes: a multiple of 2 MiB, not 0.
    pub memory: Placed<u64>,
    /// What it runs.
    pub image: Image,
    /// Whether it has a debug exit device at port 0xF4, where a guest ends its VM with a number.
    pub debug_exit: bool,
    /// The PCI functions that it owns, as the file names them; see [`Reading::claims`](crate::Reading::claims).
    pub devices: Vec<Placed<Selector>>,
    /// The rules that are overridden for it.
    pub allow: Vec<Override>,
    /// What becomes of it when it resets itself.
    pub on_reset: OnReset,
    /// How often it is started again, at most; `None`: always.
    pub restarts: Option<u32>,
}

/// The virtual CPUs of a VM, and the host CPUs (index in the MADT's order) that run them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cpus {
    /// A host CPU for each, in this order, which runs nothing else; at least one. No other VM names these CPUs.
    Pinned(Vec<Placed<u32>>),
    /// Host CPUs that each of them may run on, in turn with others that share those.
    Shared {
        /// How many virtual CPUs: 1 to 254.
        count: u32,
        /// The host CPUs: at least one, none twice. Other VMs may share them, no VM pins them.
        on: Vec<Placed<u32>>,
    },
}

impl Cpus {
    /// How many virtual CPUs there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Pinned(cpus) => cpus.len(),
            Self::Shared { count, .. } => usize::try_from(*count).unwrap_or(usize::MAX),
        }
    }

    /// The host CPUs that are named, in the order of the file.
    pub fn hosts(&self) -> &[Placed<u32>] {
        match self {
            Self::Pinned(cpus) | Self::Shared { on: cpus, .. } => cpus,
        }
    }

    /// Whether each virtual CPU has a host CPU for itself.
    pub fn are_pinned(&self) -> bool {
        matches!(self, Self::Pinned(_))
    }
}

/// What a VM runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// A Linux kernel (bzImage).
    Linux(LinuxImage),
    /// A Multiboot 1 image.
    Multiboot(MultibootImage),
}

/// A Linux kernel and what it is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxImage {
    /// Path of the bzImage.
    pub kernel: Placed<String>,
    /// Path of the initramfs.
    pub initrd: Option<Placed<String>>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// A Multiboot 1 image and what it is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultibootImage {
    /// Path of the image.
    pub image: Placed<String>,
    /// Its modules, in the order of the file.
    pub modules: Vec<Module>,
    /// Its command line.
    pub cmdline: String,
}

/// A file that a Multiboot image finds in its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Path of the file.
    pub path: Placed<String>,
    /// The string that comes with it.
    pub cmdline: String,
}

/// A rule that a VM may be excused from. Each start says so in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Override {
    /// `unsafe-interrupts`: devices may be assigned although the machine cannot remap interrupts, so that the VM can
    /// forge interrupts of others.
    UnsafeInterrupts,
    /// `device-tlb`: devices may keep translations of their own (ATS), so that one that lies reaches all of memory.
    DeviceTlb,
}

/// What becomes of a VM that resets itself: by the reset register, port 0xCF9, the keyboard controller or a triple
/// fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReset {
    /// It starts again.
    #[default]
    Restart,
    /// It ends.
    Stop,
}

impl Configuration {
    /// The files that the configuration names, each once, in the order of the file.
    pub fn files(&self) -> Vec<&Placed<String>> {
        each_once(self.vms.iter().map(|vm| &vm.image))
    }
}

/// The files of these images, each once, in the order of the configuration.
pub(crate) fn each_once<'a>(images: impl Iterator<Item = &'a Image>) -> Vec<&'a Placed<String>> {
    let mut files: Vec<&Placed<String>> = Vec::new();
    for file in images.flat_map(Image::files) {
        if !files.iter().any(|known| known.value == file.value) {
            files.push(file);
        }
    }
    files
}

impl Image {
    /// The files that the VM needs, in the order in which it needs them.
    pub fn files(&self) -> Vec<&Placed<String>> {
        match self {
            Self::Linux(linux) => core::iter::once(&linux.kernel).chain(&linux.initrd).collect(),
            Self::Multiboot(multiboot) => {
                core::iter::once(&multiboot.image).chain(multiboot.modules.iter().map(|module| &module.path)).collect()
            }
        }
    }
}

impl Vm {
    /// Whether this rule is overridden for the VM.
    pub fn allows(&self, rule: Override) -> bool {
        self.allow.contains(&rule)
    }
}

/// Reads the whole file's table: what each VM wants, and the configuration, unless something that cannot be left out is
/// missing or wrong.
pub(crate) fn read(table: Spanned<DeTable<'_>>, notes: &mut Notes<'_>) -> (Vec<Wishes>, Option<Configuration>) {
    let start = table.span().start;
    let mut top = Section::new("the configuration", start, table.into_inner(), notes);
    let at_end = top.read("at_end");
    let vms = top.array("vm");
    top.no_more_keys();
    let vms = match vms {
        Some(vms) if !vms.is_empty() => vms,
        Some(_) => {
            notes.problem(start, "the configuration", Rule::NoVm);
            return (Vec::new(), None);
        }
        None => {
            notes.missing(start, "the configuration", Rule::NoVm);
            return (Vec::new(), None);
        }
    };
    let (wishes, vms): (Vec<_>, Vec<_>) =
        vms.into_iter().enumerate().map(|(index, value)| vm::read(index, value, notes)).unzip();
    overlap::report(&wishes, notes);
    let vms = vms.into_iter().collect::<Option<Vec<Vm>>>();
    let at_end = at_end.map(|at_end| at_end.value).unwrap_or_default();
    (wishes, vms.map(|vms| Configuration { at_end, vms }))
}
