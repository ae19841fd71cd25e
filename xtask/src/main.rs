//! The project's automation: what `make` and the pipeline call.
#![forbid(unsafe_code)]

mod build;
mod command;
mod edges;
mod guest;
mod long;
mod metadata;
mod policy;
mod source;
mod tally;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use tally::Tally;

/// The project's automation.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Formatting, lints, dependency edges, licences, bans and sources.
    Check,
    /// The checks that need no compiler: dependency edges, licences, bans, sources.
    CheckFast,
    /// Builds the two programs static into target/dist.
    Build,
    /// Everything: checks, unit tests, programs, end-to-end tests here and in the guest.
    Test,
    /// End-to-end and kernel tests in an emulated machine: cgroup v2, systemd, AppArmor.
    Guest(guest::Options),
    /// What takes too long for each run: long cases, and parsers fuzzed for longer.
    Long(long::Options),
}

fn main() -> ExitCode {
    match run(&Arguments::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<bool> {
    std::env::set_current_dir(root()).context("failed to enter the project's directory")?;
    let mut tally = Tally::default();
    match task {
        Task::Check => check(&mut tally, true),
        Task::CheckFast => check(&mut tally, false),
        Task::Build => {
            build::build()?;
            return Ok(true);
        }
        Task::Test => {
            check(&mut tally, true);
            test::unit(&mut tally);
            test::end_to_end(&mut tally);
        }
        Task::Long(options) => long::run(&mut tally, options),
        Task::Guest(options) => {
            test::in_guest(&mut tally, || guest::run(options));
        }
    }
    Ok(tally.print())
}

/// Each check counts as one, and a failed one does not hide the next.
fn check(tally: &mut Tally, compile: bool) {
    tally.step("dependency edges", edges::check);
    tally.step("unsafe code is forbidden", source::check_unsafe);
    tally.step("licences, bans and sources", policy::check);
    if compile {
        tally.step("formatting", || command::cargo(&["fmt", "--all", "--check"]));
        let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-Dwarnings"];
        tally.step("lints", || command::cargo(&clippy));
    }
}

fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or(own.clone(), PathBuf::from)
}
