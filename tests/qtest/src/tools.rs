//! The QEMU that `cargo xtask` found or fetched, as it says in the environment.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

/// Names the emulator: a JSON object with `program`, `arguments`, and `environment` as an object.
pub(crate) const VARIABLE: &str = "POSTERN_QEMU";

/// An emulator of x86-64 machines.
pub(crate) struct Qemu {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
}

impl Qemu {
    pub(crate) fn find() -> Result<Self> {
        let text = std::env::var(VARIABLE).with_context(|| {
            format!("{VARIABLE} does not name the emulator: start this as `cargo xtask test qtest [NAME]`")
        })?;
        Self::parse(&text).with_context(|| format!("{VARIABLE} is not what `cargo xtask` sets: {text}"))
    }

    fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let arguments = value.get("arguments")?.as_array()?.iter();
        let environment = value.get("environment")?.as_object()?.iter();
        Some(Self {
            program: value.get("program")?.as_str()?.into(),
            arguments: arguments.map(|argument| argument.as_str().map(Into::into)).collect::<Option<_>>()?,
            environment: environment
                .map(|(name, value)| Some((name.clone(), value.as_str()?.into())))
                .collect::<Option<_>>()?,
        })
    }

    /// The emulator, ready for a machine's arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_xtask_sets() {
        let qemu = Qemu::parse(r#"{"program":"/q","arguments":["-L","/s h"],"environment":{"A":"b"}}"#).unwrap();
        let command = qemu.command();
        assert_eq!(command.get_program(), "/q");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["-L", "/s h"]);
        assert!(command.get_envs().eq([("A".as_ref(), Some("b".as_ref()))]));
        assert!(Qemu::parse("/usr/bin/qemu").is_none());
    }
}
