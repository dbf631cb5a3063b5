//! Why the machine does not start: one sentence each, with the thing and the remedy.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use configuration::Problem;
use loader::kernel_file::KernelFileError;
use loader::page_tables::MapError;
use uefi::Status;

use super::{CONFIGURATION, KERNEL};

/// Why the machine does not start.
#[derive(Debug)]
pub(super) enum BootError {
    /// The processor cannot run the kernel.
    Processor(&'static str),
    /// The volume that the loader came from cannot be used.
    NoVolume(Status),
    /// A file is absent or cannot be read.
    File { path: String, status: Status },
    /// A file has another length than firmware says.
    FileLength { path: String, read: u64, length: u64 },
    /// The configuration is not UTF-8, from this byte on.
    NotText(usize),
    /// What is wrong with the configuration.
    Configuration(Vec<Problem>),
    /// The kernel's file is none.
    Kernel(KernelFileError),
    /// There is not enough memory: bytes, and what for.
    Memory { bytes: usize, purpose: String, status: Status },
    /// Firmware has no ACPI tables.
    NoAcpi,
    /// Firmware's memory map cannot be had or has more regions than were expected.
    MemoryMap(Status),
    /// The kernel's page tables cannot be built.
    Tables(MapError),
    /// Firmware does not let go of the machine.
    StillInFirmware(Status),
}

impl BootError {
    /// What to report if memory for `purpose` cannot be had.
    pub(super) fn memory_for(purpose: &str) -> impl FnOnce(usize, Status) -> Self + '_ {
        move |bytes, status| Self::Memory { bytes, purpose: purpose.into(), status }
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processor(lack) => write!(f, "This processor cannot run Postern: {lack}."),
            Self::NoVolume(status) => write!(
                f,
                "The volume that the loader was started from cannot be read ({status}). Start it from a FAT volume."
            ),
            Self::File { path, status: Status::NOT_FOUND } => {
                write!(f, "The boot volume has no file {path}. Copy it there.")
            }
            Self::File { path, status } => {
                write!(f, "The file {path} cannot be read ({status}). Copy it to the boot volume again.")
            }
            Self::FileLength { path, read, length } => write!(
                f,
                "The file {path} ended after {read} of {length} bytes. Copy it to the boot volume again, and check the \
                 volume."
            ),
            Self::NotText(at) => {
                write!(f, "{CONFIGURATION} is not UTF-8 text from byte {at} on. Save it as UTF-8.")
            }
            Self::Configuration(problems) => {
                writeln!(f, "{CONFIGURATION} has {} problem(s):", problems.len())?;
                for problem in problems {
                    writeln!(f, "  {problem}")?;
                }
                f.write_str("No guest was started. Correct the file and start again.")
            }
            Self::Kernel(error) => {
                write!(f, "{KERNEL} is no kernel: {error}. Build it again with `cargo xtask build`.")
            }
            Self::Memory { bytes, purpose, status } => {
                write!(
                    f,
                    "Firmware has no {bytes} bytes of memory for {purpose} ({status}). Use smaller files or more RAM."
                )
            }
            Self::NoAcpi => f.write_str(
                "Firmware has no ACPI tables, so CPUs and devices cannot be found. Enable ACPI in its setup.",
            ),
            Self::MemoryMap(status) => {
                write!(f, "Firmware's memory map cannot be used ({status}). Update the firmware.")
            }
            Self::Tables(error) => write!(f, "The kernel's page tables cannot be built: {error}."),
            Self::StillInFirmware(status) => {
                write!(f, "Firmware does not hand the machine over ({status}). Start again; if it stays, update it.")
            }
        }
    }
}

impl From<KernelFileError> for BootError {
    fn from(error: KernelFileError) -> Self {
        Self::Kernel(error)
    }
}

impl From<MapError> for BootError {
    fn from(error: MapError) -> Self {
        Self::Tables(error)
    }
}
