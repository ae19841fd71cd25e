//! Running programs.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The Cargo that runs us.
pub fn cargo_program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Where Cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

/// Runs Cargo and fails if it does.
pub fn cargo(arguments: &[&str]) -> Result<()> {
    run(Command::new(cargo_program()).args(arguments))
}

/// Runs a program and fails if it does.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a program, shows its output and hands each line of it to `see`; says whether
/// the program succeeded. Both streams are read: cargo-nextest writes its summary to
/// standard error.
pub fn watch(mut command: Command, mut see: impl FnMut(&str)) -> Result<bool> {
    let what = shown(&command);
    let (output, ours) = std::io::pipe().context("failed to make a pipe")?;
    let both = ours.try_clone().context("failed to duplicate a pipe")?;
    let mut child = command
        .stdout(ours)
        .stderr(both)
        .spawn()
        .with_context(|| format!("failed to run {what}"))?;
    // It holds the pipe's write ends, and reading ends only when all are closed.
    drop(command);
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(|| format!("failed to read the output of {what}"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        see(&line);
    }
    Ok(child.wait().with_context(|| format!("failed to wait for {what}"))?.success())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
