//! The tests that drive QEMU's remapping unit without a guest (`tests/qtest`).

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::json;

use super::Tally;
use super::host::{Verdict, cargo, failures_in, verdict};
use crate::command_line::TestOptions;
use crate::provision;

/// Runs the tests that `options` names, counted one by one.
pub(super) fn run(options: &TestOptions, tally: &mut Tally) -> Result<()> {
    let qemu = provision::qemu(&options.offline)?;
    let text = |words: &std::ffi::OsString| words.to_string_lossy().into_owned();
    let environment: serde_json::Map<_, _> =
        qemu.environment.iter().map(|(name, value)| (name.clone(), text(value).into())).collect();
    let arguments: Vec<_> = qemu.arguments.iter().map(text).collect();
    let description = json!({ "program": qemu.program, "arguments": arguments, "environment": environment });
    let mut command = cargo(options);
    command.args(["run", "--quiet", "--package", "qtest", "--"]).args(&options.name);
    let mut child = command
        .env("POSTERN_QEMU", description.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut all = String::new();
    let mut failed = 0;
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read cargo's output")?;
        match verdict(&line) {
            Some((name, Verdict::Passed)) => tally.pass(name),
            Some((name, Verdict::Failed)) => {
                failed += 1;
                tally.fail(name, String::new());
            }
            _ => println!("        {line}"),
        }
        all.push_str(&line);
        all.push('\n');
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        let what = if failed > 0 { "what differs from QEMU's unit" } else { "building or starting tests/qtest" };
        tally.fail(what, failures_in(&all));
    }
    Ok(())
}
