//! The `corten` program: a client of any CRI runtime, and with `serve` the
//! daemon itself.
#![forbid(unsafe_code)]

mod archive;
mod cli;
mod commands;
mod containerd;
mod duration;
mod human;
mod input;
mod interactive;
mod json;
mod logs;
mod many;
mod output;
mod select;
#[cfg(feature = "daemon")]
mod serve;
mod session;
mod settings;
mod table;
mod terminal;

#[cfg(test)]
mod fake;

use std::io;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;
use crate::output::{Exit, Output};
use crate::session::Session;
use crate::settings::Settings;

/// What a shell reports for a program that ended by SIGPIPE.
const BROKEN_PIPE: u8 = 141;

/// What `--debug` logs: the calls, not the frames that carry them.
const DEBUG_LOG: &str = "cri_client=debug,corten=debug";

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    #[cfg(feature = "daemon")]
    if let cli::Command::Serve(args) = cli.command {
        return serve::run(args);
    }
    #[cfg(feature = "daemon")]
    if let cli::Command::Config(command) = cli.command {
        return serve::config::run(command, &mut io::stdout().lock());
    }
    #[cfg(feature = "daemon")]
    if let cli::Command::Fsck(args) = &cli.command
        && args.offline
    {
        return serve::fsck::run(args, &mut io::stdout().lock());
    }
    client(cli)
}

/// Runs a command that talks to a runtime.
fn client(cli: Cli) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    let settings = Settings::load(&global)?;
    if settings.debug {
        telemetry::init(DEBUG_LOG, false)?;
    }
    for warning in &settings.warnings {
        eprintln!("corten: warning: {warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let session = Session::new(settings);
    let (mut out, mut err) = (io::stdout().lock(), io::stderr());
    let mut output = Output::new(&mut out, &mut err);
    let result = runtime.block_on(commands::dispatch(command, &session, &mut output));
    // A read of standard input that is still blocked must not keep us.
    runtime.shutdown_background();
    result
}

/// Says what failed on one line; a closed pipe and an exit code are no news.
fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(Exit(code)) = error.downcast_ref::<Exit>() {
        return ExitCode::from(*code);
    }
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        return ExitCode::from(BROKEN_PIPE);
    }
    eprintln!("corten: {error:#}");
    ExitCode::FAILURE
}
