//! `cargo xtask dmar`: a machine's DMAR table as the driver understands it, for people or for programs.

mod json;
mod source;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use iommu::Dmar;
use iommu::dmar::DmarError;

use crate::command_line::DmarOptions;

/// What a driver does with the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Takes it as it is.
    Accepted,
    /// Takes it without some structures.
    AcceptedWithWarnings,
    /// Does without it, and so without remapping.
    Rejected,
}

impl Answer {
    const fn of(dmar: &Dmar, refused: Option<DmarError>) -> Self {
        match refused {
            Some(_) => Self::Rejected,
            None if dmar.warnings.is_empty() => Self::Accepted,
            None => Self::AcceptedWithWarnings,
        }
    }

    const fn status(self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::AcceptedWithWarnings => 3,
            Self::Rejected => 2,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::AcceptedWithWarnings => "accepted with warnings",
            Self::Rejected => "rejected",
        }
    }
}

/// Prints the table that `options` name. The status says what a driver makes of it.
pub(crate) fn run(options: &DmarOptions) -> Result<ExitCode> {
    let bytes = source::read(options.file.as_deref())?;
    let (dmar, refused) = Dmar::inspect(&bytes);
    let shown = if options.json { json::text(&dmar, refused) } else { text(&dmar, refused) };
    // A reader that has seen enough (`| head`) is no failure.
    match std::io::stdout().write_all(shown.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot print the table"),
        _ => Ok(ExitCode::from(Answer::of(&dmar, refused).status())),
    }
}

/// The table as a tree, then what a driver makes of it. After an error, what stood before it.
fn text(dmar: &Dmar, refused: Option<DmarError>) -> String {
    let answer = Answer::of(dmar, refused).name();
    match refused {
        // Not even the header could be read.
        Some(error) if dmar.host_address_width == 0 => format!("{answer}: {error}\n"),
        Some(error) => format!("{dmar}\n{answer}: {error}\n"),
        None => format!("{dmar}\n{answer}\n"),
    }
}
