//! Benchmarks, kept in the tree so that a choice that they justified can be judged anew.
//!
//! ```text
//! bench inflate                                  which library inflates fastest
//! bench pull --program target/release/corten     pulls, beside Debian's containerd
//! bench pods --program target/dist/corten        pods' lives, beside Debian's containerd
//! ```
#![forbid(unsafe_code)]

mod inflate;
mod material;
mod pods;
mod pull;
mod report;
mod side;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Benchmarks.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Inflating one layer of this machine's files by each library.
    Inflate,
    /// Pulling images from a registry on loopback, by Corten and by containerd in turn.
    Pull {
        /// The `corten` that is measured, `corten-monitor` beside it.
        #[arg(long, value_name = "FILE")]
        program: PathBuf,
        /// How often each pull is made; the median counts.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Pods' lives and what stands of them, by Corten and by containerd in turn, beside the
    /// budgets.
    Pods {
        /// The `corten` that is measured, `corten-monitor` beside it.
        #[arg(long, value_name = "FILE")]
        program: PathBuf,
        /// Another build of `corten` in the place of containerd: what a change did.
        #[arg(long, value_name = "FILE")]
        beside: Option<PathBuf>,
        /// How many pods are made and ended one by one; the median counts.
        #[arg(long, default_value_t = 30)]
        rounds: usize,
        /// How many pods are made and ended, four at a time.
        #[arg(long, default_value_t = 120)]
        pods: usize,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().what {
        What::Inflate => inflate::run(),
        What::Pull { program, rounds } => pull::run(&program, rounds),
        What::Pods { program, beside, rounds, pods } => {
            pods::run(&program, beside.as_deref(), rounds, pods)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
