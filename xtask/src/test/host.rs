//! Formatting, lints, and the tests that run as ordinary processes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use system_tests::child;

use super::Tally;
use crate::command_line::TestOptions;
use crate::compile;
use crate::process::last_lines;
use crate::progress::Step;
use crate::workspace;

/// Runs what `options` asks for of formatting, lints and host tests.
pub(super) fn run(options: &TestOptions, tally: &mut Tally) -> Result<()> {
    if options.name.is_none() {
        one("formatting", &mut [with(cargo(options), &["fmt", "--all", "--check"])], tally)?;
        let lints = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        one("lints of what runs on the host", &mut [with(cargo(options), &lints)], tally)?;
        one("lints of what boots", &mut compile::lints(&options.offline)?, tally)?;
        let libraries =
            ["doc", "--quiet", "--no-deps", "-p", "iommu", "-p", "passthrough", "-p", "configuration", "-p", "handoff"];
        let mut documentation = with(cargo(options), &libraries);
        documentation.env("RUSTDOCFLAGS", "--deny warnings");
        one("the libraries' documentation", &mut [documentation], tally)?;
    }
    tests(options, tally)
}

/// The cargo that runs this.
pub(super) fn cargo(options: &TestOptions) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root());
    if options.offline.offline {
        command.env("CARGO_NET_OFFLINE", "true");
    }
    command
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

/// Commands that pass or fail as a whole.
fn one(name: &str, commands: &mut [Command], tally: &mut Tally) -> Result<()> {
    let step = Step::begin(format!("checking {name}"), 0);
    let mut complaints = String::new();
    for command in commands {
        let output = child::bound(command).stdin(Stdio::null()).output().context("cannot start cargo")?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            complaints.push_str(&last_lines(String::from_utf8_lossy(&said).trim(), 200));
            complaints.push('\n');
        }
    }
    drop(step);
    match complaints.is_empty() {
        true => tally.pass(name),
        false => tally.fail(name, complaints),
    }
    Ok(())
}

/// All host tests, counted one by one.
fn tests(options: &TestOptions, tally: &mut Tally) -> Result<()> {
    let mut command = cargo(options);
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if let Some(name) = &options.name {
        command.args(["--", name]);
    }
    // cargo shows what it builds by itself.
    let mut child =
        child::bound(&command).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut all = String::new();
    let mut failed = 0;
    let before = tally.passed();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read cargo's output")?;
        match verdict(&line) {
            Some((_, Verdict::Passed)) => tally.pass_quietly(),
            Some((name, Verdict::Failed)) => {
                failed += 1;
                tally.fail(name, String::new());
            }
            Some((name, Verdict::Ignored)) => tally.skip(name, "the test is marked as ignored"),
            None => {}
        }
        all.push_str(&line);
        all.push('\n');
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        let what = if failed > 0 { "output of the failed host tests" } else { "building the host tests" };
        tally.fail(what, failures_in(&all));
    } else {
        println!("ok      {} host tests", tally.passed() - before);
    }
    Ok(())
}

/// The result of one test.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Failed,
    Ignored,
}

/// Reads `test NAME ... ok`, as Rust's test programs print it.
pub(super) fn verdict(line: &str) -> Option<(&str, Verdict)> {
    let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let verdict = match result.split(|character: char| !character.is_alphabetic()).next()? {
        "ok" => Verdict::Passed,
        "FAILED" => Verdict::Failed,
        "ignored" => Verdict::Ignored,
        _ => return None,
    };
    Some((name, verdict))
}

/// The parts between `failures:` and `test result:` of the output.
pub(super) fn failures_in(output: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in output.lines() {
        inside = (inside || line == "failures:") && !line.starts_with("test result:");
        if inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    if kept.is_empty() { last_lines(output.trim(), 60) } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_verdicts_of_test_programs() {
        assert_eq!(verdict("test a::b ... ok"), Some(("a::b", Verdict::Passed)));
        assert_eq!(verdict("test a::b - should panic ... ok"), Some(("a::b - should panic", Verdict::Passed)));
        assert_eq!(verdict("test a ... FAILED"), Some(("a", Verdict::Failed)));
        assert_eq!(verdict("test a ... ignored, too slow"), Some(("a", Verdict::Ignored)));
        assert_eq!(
            verdict("test iommu/src/x.rs - x (line 12) ... ok"),
            Some(("iommu/src/x.rs - x (line 12)", Verdict::Passed))
        );
        assert_eq!(verdict("test result: ok. 3 passed"), None);
        assert_eq!(verdict("running 3 tests"), None);
    }

    #[test]
    fn only_the_failures_are_kept() {
        let output = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nleft != right\n\nfailures:\n    a\n\ntest result: FAILED. 0 passed\nrunning 1 test\n";
        let kept = failures_in(output);
        assert!(kept.contains("left != right") && !kept.contains("running 1 test"), "{kept}");
    }
}
