//! The volume that the loader was started from.

use alloc::string::String;

use uefi::boot::{self, ScopedProtocol};
use uefi::proto::media::file::{Directory, File, FileAttribute, FileInfo, FileMode, RegularFile};
use uefi::proto::media::fs::SimpleFileSystem;
use uefi::{CString16, Status};

use super::console::part;
use super::error::BootError;
use super::memory::Pages;
use super::say;

/// Bytes that are read between two looks at the progress.
const CHUNK: usize = 1 << 20;
/// Files from this length on show their progress.
const LARGE: u64 = 16 << 20;

/// The boot volume, opened.
pub(super) struct Volume {
    root: Directory,
    // After the directory, so that it closes after it.
    _file_system: ScopedProtocol<SimpleFileSystem>,
}

impl Volume {
    pub(super) fn open() -> Result<Self, BootError> {
        let failed = |error: uefi::Error| BootError::NoVolume(error.status());
        let mut file_system = boot::get_image_file_system(boot::image_handle()).map_err(failed)?;
        let root = file_system.open_volume().map_err(failed)?;
        Ok(Self { root, _file_system: file_system })
    }

    /// Whether there is such a file, be it one that cannot be read.
    pub(super) fn holds(&mut self, path: &str) -> bool {
        !matches!(self.open_file(path), Err(Status::NOT_FOUND))
    }

    /// Reads a whole file, with its progress on the console if it is large. `path` has `/` between its parts.
    pub(super) fn read(&mut self, path: &str) -> Result<Pages, BootError> {
        let (mut file, length) =
            self.open_file(path).map_err(|status| BootError::File { path: path.into(), status })?;
        let size = usize::try_from(length)
            .map_err(|_| BootError::File { path: path.into(), status: Status::BAD_BUFFER_SIZE })?;
        let mut pages = Pages::allocate(size, BootError::memory_for(path))?;
        let mut progress = Progress::new(path, length);
        let mut read: usize = 0;
        while read < size {
            let end = read.saturating_add(CHUNK).min(size);
            let Some(chunk) = pages.bytes_mut().get_mut(read..end) else { break };
            let count =
                file.read(chunk).map_err(|error| BootError::File { path: path.into(), status: error.status() })?;
            if count == 0 {
                return Err(BootError::FileLength { path: path.into(), read: read as u64, length });
            }
            read = read.saturating_add(count);
            progress.show(read as u64);
        }
        progress.done();
        Ok(pages)
    }

    /// A regular file and its length in bytes.
    fn open_file(&mut self, path: &str) -> Result<(RegularFile, u64), Status> {
        let name: String = path.chars().map(|character| if character == '/' { '\\' } else { character }).collect();
        let name = CString16::try_from(name.as_str()).map_err(|_| Status::INVALID_PARAMETER)?;
        let file = self.root.open(&name, FileMode::Read, FileAttribute::empty()).map_err(|error| error.status())?;
        let mut file = file.into_regular_file().ok_or(Status::NOT_FOUND)?;
        let information = file.get_boxed_info::<FileInfo>().map_err(|error| error.status())?;
        Ok((file, information.file_size()))
    }
}

/// A line that shows how much of a file is read.
struct Progress<'p> {
    path: &'p str,
    length: u64,
    /// The last tenth that was shown.
    shown: u64,
}

impl<'p> Progress<'p> {
    fn new(path: &'p str, length: u64) -> Self {
        if length >= LARGE {
            part(format_args!("Reading {path} ({} MiB):", length >> 20));
        }
        Self { path, length, shown: 0 }
    }

    fn show(&mut self, read: u64) {
        let tenth = read.saturating_mul(10).checked_div(self.length).unwrap_or(10);
        if self.length >= LARGE && tenth > self.shown {
            self.shown = tenth;
            part(format_args!(" {}%", tenth.saturating_mul(10)));
        }
    }

    fn done(self) {
        if self.length >= LARGE {
            say!("");
        } else {
            say!("Read {} ({} bytes).", self.path, self.length);
        }
    }
}
