//! The disk with our programs and tests.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::root::make_disk;
use super::{Extent, Options};
use crate::command::{cargo_program, run};

/// Tests on a real kernel that this kernel answers differently: package and test.
const TESTS: [(&str, &str); 3] =
    [("cgroups", "kernel"), ("seccomp", "kernel"), ("network", "vlans")];

/// Who makes cgroups, in one run of the suite each.
const DRIVERS: [&str; 2] = ["cgroupfs", "systemd"];

const RUN: &str = include_str!("../../guest/run");

/// Sparse.
const SIZE: &str = "2G";

/// What the guest is to do.
pub enum Work {
    /// Kernel tests if `kernel`, then the suite with each of these arguments.
    Tests {
        /// Whether kernel tests are run.
        kernel: bool,
        /// The suite's arguments.
        suites: Vec<String>,
    },
    /// A command.
    Command(String),
}

/// A disk that is there.
pub struct Payload {
    place: PathBuf,
    disk: PathBuf,
}

impl Work {
    /// What was asked for.
    pub fn new(options: &Options, extent: Extent) -> Self {
        if let Some(command) = &options.command {
            return Self::Command(command.clone());
        }
        let mut suite = String::new();
        if extent == Extent::Chosen {
            suite.push_str(" --guest");
        }
        if let Some(jobs) = options.jobs {
            suite.push_str(&format!(" --jobs {jobs}"));
        }
        for filter in &options.filter {
            suite.push_str(" --filter ");
            suite.push_str(filter);
        }
        let drivers =
            options.driver.as_deref().map_or_else(|| DRIVERS.to_vec(), |driver| vec![driver]);
        let drivers = if options.kernel { Vec::new() } else { drivers };
        let suites = drivers.iter().map(|driver| format!("--driver {driver}{suite}"));
        Self::Tests { kernel: options.filter.is_empty(), suites: suites.collect() }
    }
}

impl Payload {
    /// Compiles the tests and puts them on a disk beside our programs.
    ///
    /// # Errors
    /// If something does not compile or is not there.
    pub fn build(place: &Path, programs: &Path, work: &Work) -> Result<Self> {
        let tree = place.join("payload");
        if tree.exists() {
            fs::remove_dir_all(&tree).context("failed to remove an old payload")?;
        }
        for directory in ["bin", "tests"] {
            fs::create_dir_all(tree.join(directory)).context("failed to make a directory")?;
        }
        for program in ["corten", "corten-monitor"] {
            copy(&programs.join(program), &tree.join("bin").join(program))?;
        }
        let suite = tree.join("bin/e2e");
        copy(&compiled(&["build", "--package", "e2e", "--bin", "e2e"])?, &suite)?;
        // There it would take much longer.
        run(Command::new(suite).arg("--build-images").arg(tree.join("images")))?;
        write_work(&tree, work)?;
        let disk = place.join("payload.img");
        make_disk(&tree, &disk, SIZE)?;
        Ok(Self { place: place.to_owned(), disk })
    }

    /// Where the guest's files are on this machine.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The disk.
    pub fn disk(&self) -> &Path {
        &self.disk
    }
}

fn write_work(tree: &Path, work: &Work) -> Result<()> {
    let (script, tests, suites) = match work {
        Work::Command(command) => (command_script(command), Vec::new(), &Vec::new()),
        Work::Tests { kernel, suites } => {
            let tests = if *kernel { copy_tests(tree)? } else { Vec::new() };
            (RUN.to_owned(), tests, suites)
        }
    };
    let lines = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    fs::write(tree.join("tests.list"), lines(&tests)).context("failed to list the tests")?;
    fs::write(tree.join("suites.list"), lines(suites)).context("failed to list the suites")?;
    let patience = format!("{}\n", super::patience());
    fs::write(tree.join("patience"), patience).context("failed to write the patience")?;
    fs::write(tree.join("run"), script).context("failed to write a script")?;
    run(Command::new("chmod").arg("755").arg(tree.join("run")))
}

fn command_script(command: &str) -> String {
    format!(
        "#!/bin/sh\nstty -F /dev/ttyS1 raw -echo\ncd /payload\n\
         export CORTEN_TEST_PATIENCE=$((CORTEN_TEST_PATIENCE * $(cat patience)))\n(\n{command}\n)\n\
         echo \"guest: exit $?\"\n"
    )
}

fn copy_tests(tree: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (package, test) in TESTS {
        let built = compiled(&["test", "--no-run", "--package", package, "--test", test])?;
        let name = format!("{package}-{test}");
        copy(&built, &tree.join("tests").join(&name))?;
        names.push(name);
    }
    Ok(names)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("failed to copy {}", from.display()))?;
    Ok(())
}

/// A line of Cargo's, of which only the programs' are of interest.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// Has Cargo build one program and gives its path.
fn compiled(arguments: &[&str]) -> Result<PathBuf> {
    let mut cargo = Command::new(cargo_program());
    cargo.args(arguments).args(["--locked", "--message-format=json-render-diagnostics"]);
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("failed to run cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut built = None;
    for line in BufReader::new(output).lines() {
        let line = line.context("failed to read cargo's output")?;
        let message: Message = serde_json::from_str(&line).context("cargo says no JSON")?;
        built = message.executable.or(built);
    }
    let status = child.wait().context("failed to wait for cargo")?;
    ensure!(status.success(), "cargo {} failed: {status}", arguments.join(" "));
    built.with_context(|| format!("cargo {} built no program", arguments.join(" ")))
}
