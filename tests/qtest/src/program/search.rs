//! Draws programs from seeds, and makes the one that fails small.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use remapping_unit_model::Configuration;

use crate::emulator::Emulator;
use crate::program::divergence::TABLE;
use crate::program::operation::{self, Program};
use crate::program::run::{Tally, run};
use crate::tools::Qemu;

/// Runs of a failing program that making it small may take.
const SHRINKING: u32 = 400;

/// Runs programs with the numbers `first` to `first + count` on a unit with these options; the model is told to be
/// the same. Says what was seen.
pub(crate) fn search(
    qemu: &Qemu,
    options: &str,
    configuration: &Configuration,
    first: u64,
    count: u64,
) -> Result<String> {
    let mut emulator = Emulator::start(qemu, options)?;
    check_capabilities(&mut emulator, configuration)?;
    let mut tally = Tally::default();
    for seed in first..first + count {
        if !emulator.is_fresh() {
            emulator = Emulator::start(qemu, options)?;
        }
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), random);
        let levels = if configuration.levels & 4 != 0 { 4 } else { 3 };
        let tree = operation::program(levels).new_tree(&mut runner);
        let mut tree = tree.map_err(|reason| anyhow::anyhow!("no program: {reason}"))?;
        let Err(error) = run(&mut emulator, configuration, &tree.current(), &mut tally) else { continue };
        // A machine that a program has ended is of no more use.
        let mut restart = || Emulator::start(qemu, options);
        let (program, error) = shrink(&mut restart, configuration, &mut tree, error)?;
        bail!("seed {seed} with intel-iommu,{options}: {error:#}\n{program}repeat with POSTERN_SEED={seed}");
    }
    Ok(said(&tally))
}

fn shrink(
    restart: &mut impl FnMut() -> Result<Emulator>,
    configuration: &Configuration,
    tree: &mut impl ValueTree<Value = Program>,
    mut error: anyhow::Error,
) -> Result<(Program, anyhow::Error)> {
    let mut emulator = restart()?;
    let mut smallest = tree.current();
    let mut may_simplify = true;
    for _ in 0..SHRINKING {
        if !(if may_simplify { tree.simplify() } else { tree.complicate() }) {
            break;
        }
        if !emulator.is_fresh() {
            emulator = restart()?;
        }
        match run(&mut emulator, configuration, &tree.current(), &mut Tally::default()) {
            Ok(()) => may_simplify = false,
            Err(smaller) => {
                (error, smallest, may_simplify) = (smaller, tree.current(), true);
                emulator = restart()?;
            }
        }
    }
    Ok((smallest, error))
}

/// The model says of itself what QEMU says.
fn check_capabilities(emulator: &mut Emulator, configuration: &Configuration) -> Result<()> {
    let theirs = (emulator.read_u64(0x08)?, emulator.read_u64(0x10)?);
    let ours = (configuration.capability(), configuration.extended_capability());
    if theirs != ours {
        bail!("CAP and ECAP: QEMU {theirs:x?}, the model {ours:x?}");
    }
    Ok(())
}

fn said(tally: &Tally) -> String {
    let Tally { programs, transfers, faults, stale, interrupts, divergences } = tally;
    let mut text = format!(
        "{programs} programs, {transfers} transfers, {faults} DMA faults, {stale} stale answers, {interrupts} messages"
    );
    for (divergence, why) in TABLE {
        if let Some(count) = divergences.get(divergence) {
            let _ = write!(text, "\n  {count} times {divergence:?}: {why}");
        }
    }
    text
}

/// What `POSTERN_SEED` says.
pub(crate) fn wanted_seed() -> Result<Option<u64>> {
    match std::env::var("POSTERN_SEED") {
        Ok(text) => Ok(Some(text.parse().context("POSTERN_SEED is not a number")?)),
        Err(_) => Ok(None),
    }
}
