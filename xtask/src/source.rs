//! Rules about our text that no lint has.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::metadata::Metadata;

/// The only crate with unsafe code.
const UNSAFE: &str = "sys";
const FORBID: &str = "#![forbid(unsafe_code)]";

/// Fails unless each library and program but `sys` forbids unsafe code.
pub fn check_unsafe() -> Result<()> {
    let metadata = Metadata::load()?;
    let mut missing = Vec::new();
    for package in metadata.own().filter(|package| package.name != UNSAFE) {
        let built = |kind: &String| kind == "lib" || kind == "bin";
        for target in package.targets.iter().filter(|target| target.kind.iter().any(built)) {
            let file = &target.src_path;
            let text = fs::read_to_string(file)
                .with_context(|| format!("failed to read {}", file.display()))?;
            if !text.lines().any(|line| line == FORBID) {
                missing.push(file.display().to_string());
            }
        }
    }
    if !missing.is_empty() {
        bail!("{FORBID} is missing in\n{}", missing.join("\n"));
    }
    Ok(())
}
