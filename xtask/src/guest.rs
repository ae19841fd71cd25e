//! Tests in a machine of their own: cgroup v2, systemd as first process, AppArmor, all
//! capabilities. QEMU emulates it, without hardware virtualisation, which not every
//! machine has.
//!
//! [`Root`] is Debian with its cloud kernel, built once and cached; [`Payload`] a second
//! disk with our programs and tests, built each time; [`machine`] boots both, shows what
//! the tests say and keeps the console's words for when something fails.

mod machine;
mod payload;
mod root;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::build;
use crate::command::target_dir;
use payload::{Payload, Work};
use root::Root;

/// What is run in the guest.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Only cases whose name holds this text; may be given more than once.
    #[arg(long)]
    filter: Vec<String>,
    /// Where our programs are, instead of building them as they are shipped.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Only the cases that `make test` runs there.
    #[arg(long)]
    chosen: bool,
    /// Only the tests on a real kernel, without the suite.
    #[arg(long)]
    kernel: bool,
    /// One driver of cgroups instead of both.
    #[arg(long)]
    driver: Option<String>,
    /// How many cases run there at a time.
    #[arg(long)]
    jobs: Option<usize>,
    /// A shell command to run instead of tests; the disk of tests is its directory.
    #[arg(long)]
    command: Option<String>,
}

/// How much is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// What only such a machine shows, bounded: for `make test`.
    Chosen,
    /// Every case.
    Everything,
}

/// The most that the chosen cases may take, on a machine that does other things too.
const CHOSEN_LIMIT: Duration = Duration::from_secs(20 * 60);
/// The most that all cases may take.
const EVERYTHING_LIMIT: Duration = Duration::from_secs(90 * 60);

/// The most that the guest's machine may be slower by.
const MAX_PATIENCE: u32 = 20;

/// What the guest's tests said.
#[derive(Default)]
pub struct Outcome {
    /// How many held.
    pub passed: u64,
    /// How many did not.
    pub failed: u64,
    /// Whether they came to their end without a failure.
    pub ended_well: bool,
    /// Why what was said is not all, if it is not.
    pub broken: Option<String>,
}

/// Builds what is missing, boots the guest and runs its tests.
///
/// # Errors
/// If the guest cannot be built or booted.
pub fn run(options: &Options) -> Result<Outcome> {
    let programs = match &options.programs {
        Some(programs) => programs.clone(),
        None => {
            build::build()?;
            build::dist()
        }
    };
    let extent = if options.chosen { Extent::Chosen } else { Extent::Everything };
    run_on(&programs, options, extent)
}

/// The chosen cases on programs that were built already.
///
/// # Errors
/// If the guest cannot be built or booted.
pub fn run_chosen(programs: &Path) -> Result<Outcome> {
    run_on(programs, &Options::default(), Extent::Chosen)
}

/// By how much this machine is slower than others, as who runs the tests says it; the guest, which
/// is emulated, counts that on top of its own.
fn patience() -> u32 {
    let said = std::env::var("CORTEN_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    said.unwrap_or(1).clamp(1, MAX_PATIENCE)
}

fn run_on(programs: &Path, options: &Options, extent: Extent) -> Result<Outcome> {
    let place = std::path::absolute(target_dir().join("guest"))?;
    let root = Root::ensure(&place)?;
    let work = Work::new(options, extent);
    let payload = Payload::build(&place, programs, &work)?;
    let limit = match extent {
        Extent::Chosen => CHOSEN_LIMIT,
        Extent::Everything => EVERYTHING_LIMIT,
    };
    let begun = Instant::now();
    let mut outcome = machine::run(&root, &payload, limit * patience())?;
    if options.command.is_some() && outcome.ended_well {
        outcome.passed += 1;
    }
    println!("the guest ran for {:.0} s", begun.elapsed().as_secs_f64());
    Ok(outcome)
}
