//! Facts from the kernel's own tables.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Scope;
use crate::{cgroup, program};

type Facts = BTreeSet<String>;

/// Where named network namespaces are.
const NETNS: &str = "/run/netns";

/// Processes of ours: by name, by cgroup or by what they were started with. Others
/// come and go on any machine.
pub(super) fn processes(scope: &Scope, facts: &mut Facts) -> Result<()> {
    for entry in fs::read_dir("/proc").context("failed to read /proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end while it is looked at.
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let text = |file: &str| String::from_utf8_lossy(&read(file)).replace(['\0', '\n'], " ");
        let (comm, cmdline, groups) = (text("comm"), text("cmdline"), text("cgroup"));
        let marked = |text: &str| scope.markers.iter().any(|marker| text.contains(marker));
        let group = groups.split(' ').find(|group| marked(&format!("{group}/")));
        let ours = comm.starts_with("corten") || marked(&cmdline) || group.is_some();
        // The audit itself runs in a program that may bear the name.
        let itself = pid == std::process::id() || comm.starts_with("cargo");
        if ours && !itself {
            let group = group.unwrap_or_default();
            facts.insert(format!("process {pid} {} {} {group}", comm.trim(), cmdline.trim()));
        }
    }
    Ok(())
}

pub(super) fn mounts(facts: &mut Facts) -> Result<()> {
    for line in mount_table()?.lines() {
        let (place, kind) = line.split_once(" - ").unwrap_or((line, ""));
        let fields: Vec<&str> = place.split(' ').collect();
        let [_, _, _, root, point, ..] = fields[..] else { continue };
        let mut kind = kind.split(' ');
        let (kind, source) = (kind.next().unwrap_or_default(), kind.next().unwrap_or_default());
        facts.insert(format!("mount {point} {kind} {source} {root}"));
    }
    Ok(())
}

/// Where something is mounted, in the order in which it was.
pub(super) fn mount_points() -> Result<Vec<PathBuf>> {
    let table = mount_table()?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.map(PathBuf::from).collect())
}

fn mount_table() -> Result<String> {
    fs::read_to_string("/proc/self/mountinfo").context("failed to read the mount table")
}

pub(super) fn namespaces(facts: &mut Facts) -> Result<()> {
    let directory = Path::new(NETNS);
    if directory.exists() {
        for entry in fs::read_dir(directory).context("failed to read the namespaces")?.flatten() {
            facts.insert(format!("netns {}", entry.path().display()));
        }
    }
    Ok(())
}

pub(super) fn network(facts: &mut Facts) -> Result<()> {
    let ip = |arguments: &[&str]| program::output(Command::new("ip").args(arguments));
    for line in ip(&["-o", "link"])?.lines() {
        // "7: veth1@if2: <FLAGS> mtu 1500 qdisc noqueue master corten0 state UP ..."
        let mut words = line.split_whitespace().skip(1);
        let name = words.next().unwrap_or_default().trim_end_matches(':');
        let master = words.skip_while(|word| *word != "master").nth(1).unwrap_or("-");
        facts.insert(format!("link {name} master {master}"));
    }
    for line in ip(&["-o", "addr"])?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, name, family, address, ..] = words[..] {
            facts.insert(format!("address {name} {family} {address}"));
        }
    }
    for line in ip(&["-o", "-4", "route"])?.lines() {
        // Whether a bridge without ports has noticed that it has none is a matter of time.
        facts.insert(format!("route {}", line.trim().trim_end_matches(" linkdown")));
    }
    Ok(())
}

pub(super) fn cgroups(facts: &mut Facts) -> Result<()> {
    facts.extend(cgroup::find(|_| true)?.into_iter().map(|path| format!("cgroup {path}/")));
    Ok(())
}

/// systemd's scopes and slices: one whose cgroup has gone may still be kept.
pub(super) fn units(facts: &mut Facts) -> Result<()> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(());
    }
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["list-units", "--all", "--type=scope,slice", "--plain", "--no-legend"]);
    let listed = program::output(&mut systemctl)?;
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    facts.extend(names.map(|name| format!("unit {name}")));
    Ok(())
}

pub(super) fn sockets(facts: &mut Facts) -> Result<()> {
    let table = fs::read_to_string("/proc/net/unix").context("failed to read the sockets")?;
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Flags of a listening socket: others live as long as a connection.
        if let [_, _, _, "00010000", _, _, _, path] = words[..] {
            facts.insert(format!("socket {path}"));
        }
    }
    Ok(())
}

pub(super) fn files(directory: &Path, facts: &mut Facts) -> Result<()> {
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(entries) = fs::read_dir(&path) else { continue };
        for entry in entries.flatten() {
            facts.insert(format!("file {}", entry.path().display()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    Ok(())
}
