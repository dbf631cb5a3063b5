//! `cargo xtask test`: formatting, lints, host tests, and boots in QEMU and Bochs, with one line at the end that counts them.

mod host;
mod qtest;
mod system;
mod tally;

use anyhow::{Result, bail};

pub(crate) use tally::Tally;

use system_tests::cases;

use crate::command_line::{TestGroup, TestOptions};
use crate::tools;

/// Runs the tests; the error says that some failed, after the closing line.
pub(crate) fn run(options: &TestOptions) -> Result<()> {
    let mut tally = Tally::default();
    let wanted = |group| options.group.is_none_or(|only| only == group);
    if wanted(TestGroup::Host) {
        host::run(options, &mut tally)?;
    }
    if wanted(TestGroup::Qtest) {
        qtest::run(options, &mut tally)?;
    }
    if wanted(TestGroup::System) {
        system::run(options, "system", cases::all(), tools::prepare, &mut tally)?;
    }
    if wanted(TestGroup::Bochs) {
        system::run(options, "bochs", cases::bochs(), tools::prepare_with_bochs, &mut tally)?;
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
