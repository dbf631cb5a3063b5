//! `cargo xtask test`: formatting, lints, host tests and system tests, with one line at the end that counts them.

mod host;
mod system;
mod tally;

use anyhow::{Result, bail};

pub(crate) use tally::Tally;

use crate::command_line::{TestGroup, TestOptions};

/// Runs the tests; the error says that some failed, after the closing line.
pub(crate) fn run(options: &TestOptions) -> Result<()> {
    let mut tally = Tally::default();
    if options.group != Some(TestGroup::System) {
        host::run(options, &mut tally)?;
    }
    if options.group != Some(TestGroup::Host) {
        system::run(options, &mut tally)?;
    }
    tally.print_failures();
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    println!("{}", tally.closing_line());
    if tally.failed() > 0 {
        bail!("tests failed");
    }
    if in_ci && tally.skipped() > 0 {
        bail!("tests were skipped, which must not happen with CI=true");
    }
    if tally.passed() == 0 {
        bail!("no test has this name");
    }
    Ok(())
}
