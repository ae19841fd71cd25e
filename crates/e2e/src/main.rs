//! Runs the end-to-end tests and prints their results side by side.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use e2e::case::Case;
use e2e::catalog::Catalog;
use e2e::machine::Machine;
use e2e::report::Results;
use e2e::runtime::{Kind, Runtime};
use testing::{Containerd, Driver, Ground};

/// End-to-end tests of CRI runtimes.
#[derive(Parser)]
struct Arguments {
    /// Against whom.
    #[arg(long, value_enum, default_value = "corten")]
    runtime: Which,
    /// Only cases whose name holds this text; may be given more than once.
    #[arg(long)]
    filter: Vec<String>,
    /// Our program; its monitor is beside it.
    #[arg(long)]
    program: Option<PathBuf>,
    /// The cases of the long tier in the place of the others.
    #[arg(long)]
    long: bool,
    /// Only the cases that are chosen for the guest.
    #[arg(long)]
    guest: bool,
    /// Who makes our cgroups.
    #[arg(long, default_value = "cgroupfs")]
    driver: Driver,
    /// How many cases run at a time, of those that may run with others.
    #[arg(long, default_value_t = e2e::runner::JOBS)]
    jobs: usize,
    /// Shows the cases' names.
    #[arg(long)]
    list: bool,
    /// Builds the images into this directory and does nothing else.
    #[arg(long)]
    build_images: Option<PathBuf>,
    /// Takes the images from there instead of building them.
    #[arg(long)]
    images: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Corten,
    Containerd,
    Both,
}

/// A case with all that it calls is one future, and a build without optimisation has no small ones.
const STACK: usize = 16 << 20;

fn main() -> ExitCode {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let result = runtime.enable_all().thread_stack_size(STACK).build();
    let result = result.map_err(anyhow::Error::from);
    match result.and_then(|runtime| runtime.block_on(run(&Arguments::parse()))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<bool> {
    if let Some(to) = &arguments.build_images {
        Catalog::build(&Ground::new()?)?.registry.save(to)?;
        return Ok(true);
    }
    let mut cases = e2e::cases::all();
    cases.retain(|case| case.long == arguments.long);
    if !arguments.filter.is_empty() {
        let wanted = |case: &Case| arguments.filter.iter().any(|text| case.name.contains(text));
        cases.retain(wanted);
    }
    ensure!(!cases.is_empty(), "no case has such a name");
    if arguments.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(true);
    }
    let program = arguments.program.clone().unwrap_or_else(program).canonicalize();
    e2e::runtime::set_command_line(program.context("our program is not built: run `make build`")?);
    let machine = Machine::look(arguments.driver)?;
    machine.retain(&mut cases, arguments.guest);
    ensure!(!cases.is_empty(), "no case is for this machine");
    let mut results = Results::default();
    let mut columns = Vec::new();
    if arguments.runtime != Which::Containerd {
        results.merge(against(Kind::Corten, arguments, &cases).await?);
        columns.push((Kind::Corten, format!("corten {}", env!("CARGO_PKG_VERSION"))));
    }
    if arguments.runtime != Which::Corten {
        results.merge(against(Kind::Containerd, arguments, &cases).await?);
        columns.push((Kind::Containerd, format!("containerd {}", Containerd::version()?)));
    }
    results.print(&columns);
    // Ours must pass; containerd judges the tests, the tests do not judge it.
    let judged = columns.first().context("nothing was run")?.0;
    let (passed, failed) = results.counts(judged);
    if columns.len() > 1 {
        let (passed, failed) = results.counts(Kind::Containerd);
        println!("beside it, on containerd: {passed} hold, {failed} do not unexpectedly");
    }
    for (name, why) in results.second(judged) {
        println!("at the second try: {name}: {}", why.lines().next().unwrap_or_default());
    }
    println!("end-to-end: {passed} passed, {failed} failed");
    Ok(failed == 0)
}

async fn against(kind: Kind, arguments: &Arguments, cases: &[Case]) -> Result<Results> {
    let ground = Arc::new(Ground::new()?);
    let catalog = match &arguments.images {
        Some(saved) => Catalog::open(&ground, saved),
        None => Catalog::build(&ground),
    };
    let catalog = Arc::new(catalog.context("failed to build the images")?);
    let runtime = match kind {
        Kind::Corten => {
            let program = e2e::runtime::command_line()?;
            Runtime::corten(ground, catalog, program, arguments.driver).await?
        }
        Kind::Containerd => Runtime::containerd(ground, catalog).await?,
    };
    e2e::runner::run(Arc::new(runtime), cases, arguments.jobs).await
}

fn program() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    target.join("dist/corten")
}
