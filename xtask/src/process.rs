//! Running other programs and reporting their failures in words.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use system_tests::child;

/// Runs a command, with its standard output as the result; on failure the error carries what it said.
pub(crate) fn output_of(command: &Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = child::bound(command).stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, last_lines(said.trim(), 12));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last `count` lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Where the program `name` lies on PATH.
pub(crate) fn find_on_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = Path::new(name.as_ref());
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let error = output_of(Command::new("sh").args(["-c", "echo first >&2; echo no such luck >&2; exit 3"]));
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("no such luck") && text.contains('3'), "{text}");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }

    #[test]
    fn finds_programs_and_only_programs() {
        assert!(find_on_path("sh").is_some());
        assert!(find_on_path("no-such-program-anywhere").is_none());
    }
}
