//! What can be wrong with a configuration: one table of rules, each with its sentence and its remedy.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::device::{FunctionAddress, Selector};
use crate::position::Position;
use crate::size::Bytes;

/// One thing that is wrong, where, and what to do about it. `Display` gives all of it on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// What it concerns, such as `vm "linux", memory`.
    pub thing: String,
    /// The rule that is broken.
    pub rule: Rule,
}

impl Problem {
    pub(crate) fn new(position: Position, thing: String, rule: Rule) -> Self {
        Self { line: position.line, column: position.column, thing, rule }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, thing, rule } = self;
        write!(f, "line {line}, column {column}: {thing}: {rule}.")?;
        match rule {
            Rule::Unsuitable(_) => Ok(()),
            _ => write!(f, " {}", rule.remedy()),
        }
    }
}

impl core::error::Error for Problem {}

/// A rule of the configuration file, with what broke it. `Display` states the rule, [`Rule::remedy`] says what to do
/// (nothing more for [`Rule::Unsuitable`], whose sentence says it).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// The text is not TOML.
    Syntax(String),
    /// The same key twice in a table.
    KeyTwice(String),
    /// A key that nothing reads.
    UnknownKey {
        /// The keys that are read here.
        known: Vec<&'static str>,
    },
    /// A value of another type.
    WrongType {
        /// What belongs here.
        expected: &'static str,
        /// What stands here.
        found: &'static str,
    },
    /// A value that its type refuses.
    Refused(String),
    /// A key that must be there.
    MissingKey {
        /// How a value of it looks.
        example: &'static str,
    },
    /// A word that is not one of those that mean something.
    UnknownWord {
        /// What stands here.
        found: String,
        /// The words.
        known: Vec<&'static str>,
    },
    /// The same word twice in a list.
    WordTwice(String),
    /// A number that is too small or too large.
    OutOfRange {
        /// The smallest that is allowed.
        low: u32,
        /// The largest.
        high: u32,
    },
    /// There is no VM at all.
    NoVm,
    /// A name that cannot be a VM's.
    BadName(String),
    /// The name of an earlier VM.
    NameTaken(String),
    /// A VM without a CPU.
    NoCpu,
    /// A CPU that is already given away.
    CpuTaken {
        /// The CPU.
        cpu: u32,
        /// What has it, such as `vm "linux"`.
        owner: String,
    },
    /// A CPU to be shared that is already given away.
    CpuPinned {
        /// The CPU.
        cpu: u32,
        /// What has it for itself, such as `vm "linux"`.
        owner: String,
    },
    /// A CPU to be given away that is already shared.
    CpuShared {
        /// The CPU.
        cpu: u32,
        /// What shares it, such as `vm "linux"`.
        owner: String,
    },
    /// A CPU twice in a list of those that are shared.
    CpuTwice(u32),
    /// A text that is no amount of memory.
    BadSize(String),
    /// An amount of memory that is 0 or not a multiple of 2 MiB.
    UnalignedSize(Bytes),
    /// Not exactly one kind of image.
    NotOneImage,
    /// A path that names no file of the boot volume.
    BadPath(PathFault),
    /// A command line that no guest can be given.
    BadCommandLine,
    /// A text that names no PCI function.
    BadDevice(String),
    /// A PCI function that is already given away.
    DeviceTaken {
        /// The function.
        address: FunctionAddress,
        /// What has it, such as `vm "linux"`.
        owner: String,
    },
    /// A limit on restarts for a VM that never restarts.
    RestartsWithoutRestart,
    /// A CPU that the machine does not have.
    NoSuchCpu {
        /// The CPU.
        cpu: u32,
        /// How many the machine has.
        cpus: u32,
    },
    /// More memory than the machine has left.
    MemoryExhausted {
        /// What the VM wants.
        wanted: Bytes,
        /// What is left of the machine's when the VMs before it have theirs.
        left: Bytes,
    },
    /// A file that the boot volume does not have.
    NoSuchFile(String),
    /// A PCI function that the machine does not have.
    NoSuchDevice(Selector),
    /// Fewer PCI functions of a kind than the configuration names.
    TooFewDevices {
        /// What the configuration says.
        selector: Selector,
        /// How many the machine has.
        present: usize,
    },
    /// What the machine cannot do, in its own words, the remedy among them.
    Unsuitable(String),
}

/// Why a path names no file of the boot volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// It has no characters.
    Empty,
    /// It is longer than firmware takes.
    TooLong,
    /// It begins or ends with a slash, or has two in a row.
    Slash,
    /// It has a component `.` or `..`.
    Dots,
    /// It has a character that a FAT volume's names cannot have.
    Character(char),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(message) => write!(f, "this is not TOML: {message}"),
            Self::KeyTwice(key) => write!(f, "the key `{key}` stands here twice"),
            Self::UnknownKey { .. } => f.write_str("no such key"),
            Self::WrongType { expected, found } => write!(f, "this must be {expected}, not {found}"),
            Self::Refused(reason) => f.write_str(reason),
            Self::MissingKey { .. } => f.write_str("the key is missing"),
            Self::UnknownWord { found, .. } => write!(f, "\"{found}\" means nothing here"),
            Self::WordTwice(word) => write!(f, "\"{word}\" stands here twice"),
            Self::OutOfRange { low, high } => write!(f, "the number must be at least {low} and at most {high}"),
            Self::NoVm => f.write_str("there is no VM"),
            Self::BadName(name) => {
                write!(f, "\"{name}\" cannot be a name: it must have 1 to 15 letters, digits, `-` or `_`")
            }
            Self::NameTaken(name) => write!(f, "an earlier VM is named \"{name}\" already"),
            Self::NoCpu => f.write_str("a VM needs at least one CPU"),
            Self::CpuTaken { cpu, owner } => {
                write!(f, "CPU {cpu} belongs to {owner} already, and a pinned virtual CPU has its CPU for itself")
            }
            Self::CpuPinned { cpu, owner } => {
                write!(f, "CPU {cpu} cannot be shared, it runs a pinned virtual CPU of {owner}")
            }
            Self::CpuShared { cpu, owner } => {
                write!(f, "CPU {cpu} is shared by {owner}, and a pinned virtual CPU has its CPU for itself")
            }
            Self::CpuTwice(cpu) => write!(f, "CPU {cpu} stands here twice"),
            Self::BadSize(text) => write!(f, "\"{text}\" is not an amount of memory"),
            Self::UnalignedSize(size) => {
                write!(f, "{size} cannot be a VM's memory: it must be a multiple of 2M, and not 0")
            }
            Self::NotOneImage => f.write_str("a VM runs exactly one image"),
            Self::BadPath(fault) => write!(f, "the path {fault}"),
            Self::BadCommandLine => {
                f.write_str("a command line has at most 2047 bytes, and no line break or other control character")
            }
            Self::BadDevice(text) => write!(f, "\"{text}\" names no PCI function"),
            Self::DeviceTaken { address, owner } => {
                write!(f, "device {address} belongs to {owner} already, and a device has one owner")
            }
            Self::RestartsWithoutRestart => f.write_str("a VM with on_reset = \"stop\" is never restarted"),
            Self::NoSuchCpu { cpu, cpus: 1 } => write!(f, "there is no CPU {cpu}: this machine has CPU 0 only"),
            Self::NoSuchCpu { cpu, cpus } => {
                write!(f, "there is no CPU {cpu}: this machine has CPUs 0 to {}", cpus.saturating_sub(1))
            }
            Self::MemoryExhausted { wanted, left } => write!(
                f,
                "{wanted} do not fit: this machine has {left} left, with what the hypervisor and the VMs before need"
            ),
            Self::NoSuchFile(path) => write!(f, "the boot volume has no file \"{path}\""),
            Self::NoSuchDevice(selector) => write!(f, "this machine has no device {selector}"),
            Self::Unsuitable(reason) => f.write_str(reason),
            Self::TooFewDevices { selector, present } => {
                write!(f, "this machine has {present} device(s) {selector}, and all belong to a VM already")
            }
        }
    }
}

impl Rule {
    /// What a person does to mend it: one sentence.
    pub fn remedy(&self) -> impl fmt::Display + '_ {
        Remedy(self)
    }
}

struct Remedy<'a>(&'a Rule);

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Rule::Syntax(_) => f.write_str("Write it as TOML 1.0 has it."),
            Rule::UnknownKey { known } => {
                f.write_str("Remove it or write one of ")?;
                list(f, known)
            }
            Rule::WrongType { expected, .. } => write!(f, "Write {expected}."),
            Rule::Refused(_) => f.write_str("Correct the value."),
            Rule::MissingKey { example } => write!(f, "Add a line such as `{example}`."),
            Rule::UnknownWord { known, .. } => {
                f.write_str("Write one of ")?;
                list(f, known)
            }
            Rule::KeyTwice(_) | Rule::WordTwice(_) | Rule::CpuTwice(_) => f.write_str("Remove one."),
            Rule::OutOfRange { .. } => f.write_str("Write a number in this range."),
            Rule::NoVm => f.write_str("Add a table `[[vm]]`."),
            Rule::BadName(_) => f.write_str("Choose such a name."),
            Rule::NameTaken(_) => f.write_str("Rename one of the two."),
            Rule::NoCpu => f.write_str("Name one, such as `[0]`."),
            Rule::CpuTaken { cpu, .. } | Rule::CpuPinned { cpu, .. } | Rule::CpuShared { cpu, .. } => write!(
                f,
                "Name another CPU, or let all VMs that are to run on it share it: `cpus = {{ count = 1, on = [{cpu}] }}`."
            ),
            Rule::BadSize(_) => f.write_str("Write a number with K, M or G behind it, such as \"512M\"."),
            Rule::UnalignedSize(size) => write!(f, "Write \"{}\".", size.next_multiple()),
            Rule::NotOneImage => f.write_str("Write either `image.linux` or `image.multiboot`."),
            Rule::BadPath(_) => f.write_str("Write it from the root of the boot volume, such as \"guests/vmlinuz\"."),
            Rule::BadCommandLine => f.write_str("Shorten it or remove the character."),
            Rule::BadDevice(_) => f.write_str(
                "Write segment:bus:device.function or vendor:device in hexadecimal, such as \"0000:01:00.0\" or \
                 \"8086:10d3\".",
            ),
            Rule::DeviceTaken { .. } => f.write_str("Remove one of the two."),
            Rule::RestartsWithoutRestart => f.write_str("Remove `restarts` or write on_reset = \"restart\"."),
            Rule::NoSuchCpu { .. } => f.write_str("Name one that exists."),
            Rule::MemoryExhausted { left, .. } => write!(f, "Give this VM or an earlier one less; {left} is the most."),
            Rule::NoSuchFile(_) => f.write_str("Copy the file to the volume or correct the path."),
            Rule::NoSuchDevice(_) => {
                f.write_str("Correct it, or plug the device in; the log of the boot lists every device.")
            }
            Rule::TooFewDevices { .. } => f.write_str("Remove it from one VM, or plug another such device in."),
            Rule::Unsuitable(_) => Ok(()),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, words: &[&str]) -> fmt::Result {
    for (index, word) in words.iter().enumerate() {
        write!(f, "{}`{word}`", if index == 0 { "" } else { ", " })?;
    }
    f.write_str(".")
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::TooLong => f.write_str("has more than 255 characters"),
            Self::Slash => f.write_str("begins or ends with `/`, or has two in a row"),
            Self::Dots => f.write_str("has a component `.` or `..`"),
            Self::Character(character) => {
                write!(f, "has the character {character:?}, which a name on a FAT volume cannot have")
            }
        }
    }
}
