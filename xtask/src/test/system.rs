//! The tests that boot machines, as many at once as there are CPUs.

use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::Result;
use system_tests::case::Case;
use system_tests::tools::Tools;

use super::Tally;
use crate::command_line::{Offline, TestOptions};
use crate::progress::Step;

/// Runs those tests of a group that `options` names, with what `prepare` finds and builds.
pub(super) fn run(
    options: &TestOptions,
    group: &str,
    cases: Vec<Case>,
    prepare: fn(&Offline) -> Result<Tools>,
    tally: &mut Tally,
) -> Result<()> {
    let wanted = |case: &Case| options.name.as_ref().is_none_or(|name| case.name.contains(name.as_str()));
    let cases: Vec<Case> = cases.into_iter().filter(wanted).collect();
    if cases.is_empty() {
        return Ok(());
    }
    let tools = prepare(&options.offline)?;
    let workers = thread::available_parallelism().map_or(1, usize::from).min(cases.len());
    let step = Step::begin(format!("{} {group} tests, {workers} at a time", cases.len()), cases.len() as u64);
    let waiting = Mutex::new(cases.iter());
    let done = Mutex::new((tally, 0));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Ok(case) = waiting.lock().map(|mut waiting| waiting.next()) else { return };
                    let Some(case) = case else { return };
                    let start = Instant::now();
                    let result = case.run(&tools, |_| ());
                    let Ok(mut done) = done.lock() else { return };
                    done.1 += 1;
                    let position = done.1;
                    let name = format!("{group} {} ({} s)", case.name, start.elapsed().as_secs());
                    step.suspended(|| match result {
                        Ok(()) => done.0.pass(&name),
                        Err(error) => done.0.fail(&name, format!("{error:#}")),
                    });
                    step.at(position);
                }
            });
        }
    });
    step.end();
    Ok(())
}
