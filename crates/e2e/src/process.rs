//! What the host sees of a container.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// The host's process whose arguments hold a text that no other has.
///
/// # Errors
/// If there is none.
pub fn with_argument(text: &str) -> Result<u32> {
    match all_with_argument(text)?[..] {
        [] => bail!("no process has the argument {text}"),
        [pid, ..] => Ok(pid),
    }
}

/// All processes of the host whose arguments hold a text.
///
/// # Errors
/// If the processes cannot be listed.
pub fn all_with_argument(text: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("failed to read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&arguments).contains(text) && pid != std::process::id() {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What tells the groups of these controllers apart by their paths: nothing where all are
/// in one tree.
#[must_use]
pub fn controllers<'a>(names: &'a [&'a str]) -> &'a [&'a str] {
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { &[""] } else { names }
}

/// The directory of a container's own group in one controller's hierarchy.
///
/// # Errors
/// If there is none.
pub fn group(controller: &str, id: &str) -> Result<PathBuf> {
    let found = testing::cgroup::find(|path| path.contains(id) && path.contains(controller))?;
    let found = found.into_iter().next();
    found.map(PathBuf::from).with_context(|| format!("{id} has no group of {controller}"))
}

/// A value of a container's own group.
///
/// # Errors
/// If there is none.
pub fn group_value(controller: &str, id: &str, file: &str) -> Result<String> {
    let path = group(controller, id)?.join(file);
    let value = fs::read_to_string(&path);
    Ok(value.with_context(|| format!("no {}", path.display()))?.trim().to_owned())
}
