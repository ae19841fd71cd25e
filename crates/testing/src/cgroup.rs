//! Cgroup directories of tests: v1, hybrid and v2 alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::wait;

const CGROUPS: &str = "/sys/fs/cgroup";
const PATIENCE: Duration = Duration::from_secs(5);

/// Where each hierarchy is mounted.
///
/// # Errors
/// If the mount table cannot be read.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("failed to read mountinfo")?;
    let mut mounts = Vec::new();
    for line in table.lines() {
        let (place, kind) = line.split_once(" - ").unwrap_or((line, ""));
        let point = place.split(' ').nth(4).unwrap_or_default();
        if kind.starts_with("cgroup") && point.starts_with(CGROUPS) {
            mounts.push(PathBuf::from(point));
        }
    }
    Ok(mounts)
}

/// Makes a group in all hierarchies, as the kubelet does before it asks for a pod.
///
/// # Errors
/// If one cannot be made.
pub fn make(group: &str) -> Result<()> {
    for mount in hierarchies()? {
        let path = mount.join(group.trim_start_matches('/'));
        if mount.ends_with("cpuset") {
            make_cpuset(&mount, Path::new(group.trim_start_matches('/')))?;
        } else {
            fs::create_dir_all(&path)
                .with_context(|| format!("failed to make {}", path.display()))?;
        }
    }
    Ok(())
}

/// A new v1 cpuset has no processors; a process could not be put into it.
fn make_cpuset(mount: &Path, group: &Path) -> Result<()> {
    let mut path = mount.to_owned();
    for part in group {
        let parent = path.clone();
        path.push(part);
        fs::create_dir_all(&path).with_context(|| format!("failed to make {}", path.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let value = fs::read_to_string(parent.join(file)).unwrap_or_default();
            let _ = fs::write(path.join(file), value.trim());
        }
    }
    Ok(())
}

/// All groups of all hierarchies whose path matches.
///
/// # Errors
/// If a hierarchy cannot be read.
pub fn find(matches: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for mount in hierarchies()? {
        let mut open = vec![mount];
        while let Some(path) = open.pop() {
            for child in children(&path) {
                let text = child.to_string_lossy();
                if matches(&text) {
                    found.push(text.into_owned());
                }
                open.push(child);
            }
        }
    }
    Ok(found)
}

/// Kills what is in a group and below it, and removes it from all hierarchies.
pub fn remove_tree(group: &str) {
    for mount in hierarchies().unwrap_or_default() {
        let path = mount.join(group.trim_start_matches('/'));
        if path.is_dir() {
            let _ = remove_deep(&path);
        }
    }
}

fn remove_deep(path: &Path) -> Result<()> {
    for child in children(path) {
        remove_deep(&child)?;
    }
    wait::until(PATIENCE, "an empty cgroup", || {
        for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
            let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
            // The group is a test's own, so is everything in it.
            let _ =
                pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
        Ok(fs::remove_dir(path).is_ok().then_some(()))
    })
}

fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let directories = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    directories.map(|entry| entry.path()).collect()
}
