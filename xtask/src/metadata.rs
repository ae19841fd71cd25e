//! What Cargo knows about our crates and those that they need.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::command::cargo_program;

/// The platform that is built for; what only others need is not looked at.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The dependency graph.
#[derive(Deserialize)]
pub struct Metadata {
    /// All packages, ours included.
    pub packages: Vec<Package>,
}

/// A package.
#[derive(Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it comes from; none for ours.
    pub source: Option<String>,
    /// Its licence expression.
    pub license: Option<String>,
    /// Its manifest.
    pub manifest_path: PathBuf,
    /// What it says it needs.
    pub dependencies: Vec<Dependency>,
    /// What it builds.
    pub targets: Vec<Target>,
}

/// A dependency as the manifest has it.
#[derive(Deserialize)]
pub struct Dependency {
    /// The name of the package.
    pub name: String,
    /// `build`, `dev`, or none for a normal one.
    pub kind: Option<String>,
    /// Set for those of ours.
    pub path: Option<PathBuf>,
}

/// A library, program or test.
#[derive(Deserialize)]
pub struct Target {
    /// `lib`, `bin`, `test` and others.
    pub kind: Vec<String>,
    /// Its first file.
    pub src_path: PathBuf,
}

impl Metadata {
    /// Asks Cargo.
    pub fn load() -> Result<Self> {
        let output = Command::new(cargo_program())
            .args(["metadata", "--format-version=1", "--locked", "--filter-platform", TARGET])
            .output()
            .context("failed to run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("failed to read the dependency graph")
    }

    /// Our own packages.
    pub fn own(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.source.is_none())
    }

    /// The packages of others.
    pub fn foreign(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.source.is_some())
    }
}
