//! The programs as they are shipped: static, for one platform.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo_program, run, target_dir};
use crate::metadata::TARGET;

/// A program and how it is compiled.
struct Program {
    name: &'static str,
    profile: &'static str,
    flags: &'static str,
}

/// With an explicit target these flags reach our programs only, not the
/// procedural macros and build scripts, which cannot be static.
const PROGRAMS: [Program; 2] = [
    Program { name: "corten", profile: "release", flags: "-Ctarget-feature=+crt-static" },
    // Without position independence the monitor has no relocations to keep in
    // memory of its own, in each pod anew.
    Program {
        name: "corten-monitor",
        profile: "monitor",
        flags: "-Ctarget-feature=+crt-static -Crelocation-model=static",
    },
];

/// Builds both programs into `dist`.
pub fn build() -> Result<()> {
    let dist = dist();
    fs::create_dir_all(&dist).with_context(|| format!("failed to make {}", dist.display()))?;
    for program in &PROGRAMS {
        compile(program)?;
        install(program, &dist)?;
    }
    Ok(())
}

/// Where the programs are put.
pub fn dist() -> PathBuf {
    target_dir().join("dist")
}

fn compile(program: &Program) -> Result<()> {
    let mut cargo = Command::new(cargo_program());
    cargo.args(["build", "--locked", "--target", TARGET]);
    cargo.args(["--package", program.name, "--profile", program.profile]);
    run(cargo.env("RUSTFLAGS", program.flags))
}

/// Copies aside and renames: a running program's file cannot be written to.
fn install(program: &Program, dist: &Path) -> Result<()> {
    let built = target_dir().join(TARGET).join(program.profile).join(program.name);
    let (aside, place) = (dist.join(format!(".{}", program.name)), dist.join(program.name));
    fs::copy(&built, &aside).with_context(|| format!("failed to copy {}", built.display()))?;
    check_static(&aside)?;
    fs::rename(&aside, &place).with_context(|| format!("failed to make {}", place.display()))?;
    println!("{} {} KiB", place.display(), fs::metadata(&place)?.len() / 1024);
    Ok(())
}

/// Fails if the program asks for an interpreter: then it is not static.
fn check_static(program: &Path) -> Result<()> {
    let output = Command::new("readelf")
        .args(["--program-headers", "--wide"])
        .arg(program)
        .output()
        .context("failed to run readelf")?;
    let headers = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || headers.contains("INTERP") {
        bail!("{} is not a static program", program.display());
    }
    Ok(())
}
