//! Every command a person runs: `cargo xtask --help` lists them.
//!
//! [`command_line`] says what may be typed, [`provision`] finds or fetches the tools, [`compile`] builds what boots,
//! and the crate `system_tests` boots it.

#![forbid(unsafe_code)]

mod command_line;
mod compile;
mod dmar;
mod image;
mod nested;
mod process;
mod progress;
mod provision;
mod run;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::Parser;
use command_line::{Command, CommandLine};

fn main() -> ExitCode {
    system_tests::child::serve();
    let command_line = CommandLine::parse();
    let outcome = match &command_line.command {
        Command::Setup(options) => provision::setup(options).map(|()| ExitCode::SUCCESS),
        Command::Build(options) => run::build(options).map(|()| ExitCode::SUCCESS),
        Command::Run(options) => run::run(options).map(|()| ExitCode::SUCCESS),
        Command::Image(options) => image::run(options).map(|()| ExitCode::SUCCESS),
        Command::Test(options) => test::run(options).map(|()| ExitCode::SUCCESS),
        Command::Dmar(options) => dmar::run(options),
    };
    match outcome {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
