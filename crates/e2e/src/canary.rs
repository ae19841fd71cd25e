//! What an attack must leave as it is: files and settings of the node, a neighbour, the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::ContainerState;

use crate::context::{CASE_LABEL, Context, Pod, equal};
use crate::runtime::Kind;

/// Files of the node that attacks are aimed at, as the images of the cases name them.
const FILES: [&str; 9] =
    ["keep", "secret", "passwd", "group", "hosts", "hostname", "mtab", "resolv.conf", "below/file"];

/// A line that makes a name of root's, for whoever reads the wrong file.
const LINE: &str = "canary:x:0:0::/:/bin/sh\n";

/// What of the node's own files and settings an attack could want.
const OF_THE_NODE: [&str; 6] = [
    "/etc/passwd",
    "/etc/shadow",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/sysrq",
];

/// How much more memory than before an attack may cost the daemon for a moment.
const MAX_GROWTH_KIB: u64 = 256 << 10;

/// Planted before an attack and looked at after it.
pub struct Canary {
    dir: PathBuf,
    before: BTreeMap<PathBuf, String>,
    neighbour: Pod,
    container: String,
    started_at: i64,
    daemon: Option<Process>,
}

/// The daemon before the attack.
struct Process {
    pid: u32,
    resident_kib: u64,
}

impl Canary {
    /// Plants files, and a neighbour of the attackers.
    ///
    /// # Errors
    /// If they cannot be.
    pub async fn plant(c: &Context) -> Result<Self> {
        let dir = c.canary();
        if dir.exists() {
            fs::remove_dir_all(&dir)?; // of the case's first try
        }
        make(&dir).context("failed to plant the canary")?;
        let before = facts(&dir)?;
        let mut config = c.pod()?;
        // The case cleans up what is its own.
        config.labels.remove(CASE_LABEL);
        let neighbour = c.run_pod(config).await?;
        match settle(c, &neighbour).await {
            Ok((container, started_at, daemon)) => {
                Ok(Self { dir, before, neighbour, container, started_at, daemon })
            }
            Err(error) => {
                take_away(c, &neighbour).await?;
                Err(error.context("the neighbour does not run"))
            }
        }
    }

    /// Looks whether all is as it was, and takes everything away.
    ///
    /// # Errors
    /// If something is not.
    pub async fn check(self, c: &Context) -> Result<()> {
        let looked = self.look(c).await;
        take_away(c, &self.neighbour).await?;
        looked?;
        Ok(fs::remove_dir_all(&self.dir)?)
    }

    async fn look(&self, c: &Context) -> Result<()> {
        let after = facts(&self.dir)?;
        for path in self.before.keys().chain(after.keys()) {
            let what = format!("the canary {}", path.display());
            equal(&what, after.get(path), self.before.get(path))?;
        }
        let own = self.dir.display().to_string();
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let stray = table.lines().find(|line| line.contains(&own));
        ensure!(stray.is_none(), "a mount of the node is on the canary: {stray:?}");

        equal("the neighbour", c.sh(&self.container, "echo healthy").await?, "healthy")?;
        let status = c.status(&self.container).await?;
        equal("its state", status.state(), ContainerState::ContainerRunning)?;
        equal("its start", status.started_at, self.started_at)?;
        let next = c.output(&self.neighbour, &c.script("echo healthy")).await?;
        equal("the neighbour's next container", next, "healthy")?;

        let (Some(before), Some(after)) = (&self.daemon, Process::of(c)?) else { return Ok(()) };
        equal("the daemon's process", after.pid, before.pid)?;
        let peak = after.kib("VmHWM")?;
        let allowed = before.resident_kib + MAX_GROWTH_KIB;
        ensure!(peak <= allowed, "the daemon had {peak} KiB, of {allowed} that are allowed");
        Ok(())
    }
}

async fn settle(c: &Context, neighbour: &Pod) -> Result<(String, i64, Option<Process>)> {
    let container = c.run(neighbour, &c.waiting()).await?;
    let started_at = c.status(&container).await?.started_at;
    Ok((container, started_at, Process::of(c)?))
}

async fn take_away(c: &Context, neighbour: &Pod) -> Result<()> {
    c.stop_pod(&neighbour.id).await?;
    c.remove_pod(&neighbour.id).await
}

impl Process {
    fn of(c: &Context) -> Result<Option<Self>> {
        if c.runtime.kind != Kind::Corten {
            return Ok(None);
        }
        let pid = c.runtime.with_daemon(|daemon| daemon.pid())?;
        let mut process = Self { pid, resident_kib: 0 };
        process.resident_kib = process.kib("VmRSS")?;
        Ok(Some(process))
    }

    /// A line of the kernel's account of the process.
    fn kib(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.with_context(|| format!("no {name}"))?.parse()?)
    }
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("below"))?;
    for file in FILES {
        fs::write(dir.join(file), LINE)?;
    }
    fs::write(dir.join("program"), "#!/bin/sh\n")?;
    symlink("keep", dir.join("link"))?;
    chown(dir.join("group"), Some(1234), Some(5678))?;
    for (file, mode) in [("secret", 0o600), ("group", 0o640), ("program", 0o4755), ("", 0o700)] {
        fs::set_permissions(dir.join(file), fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// All that can be told of the files: what they hold, whose they are, when they were changed.
fn facts(dir: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut all = BTreeMap::new();
    for path in OF_THE_NODE.map(Path::new).into_iter().filter(|path| path.exists()) {
        all.insert(path.to_owned(), String::from_utf8_lossy(&fs::read(path)?).into_owned());
    }
    add(&mut all, dir)?;
    Ok(all)
}

fn add(all: &mut BTreeMap<PathBuf, String>, path: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let content = match meta.file_type() {
        kind if kind.is_dir() => {
            for entry in fs::read_dir(path)? {
                add(all, &entry?.path())?;
            }
            String::new()
        }
        kind if kind.is_symlink() => fs::read_link(path)?.display().to_string(),
        kind if kind.is_file() => fs::read_to_string(path)?,
        kind => format!("{kind:?}"),
    };
    let text = format!(
        "inode {} of {}, mode {:o}, owner {}:{}, {} links, {} bytes, written {}.{:09}, \
         changed {}.{:09}: {content}",
        meta.ino(),
        meta.dev(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    );
    all.insert(path.to_owned(), text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is done to a file or beside it is seen.
    #[test]
    fn every_change_is_seen() {
        let ground = tempfile_dir();
        let dir = ground.join("canary");
        type Touch = fn(&Path) -> std::io::Result<()>;
        let touches: [(&str, Touch); 9] = [
            ("a new file", |dir| fs::write(dir.join("new"), "")),
            ("another content", |dir| fs::write(dir.join("keep"), LINE.to_uppercase())),
            ("a mode", |dir| {
                fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o644))
            }),
            ("a mode and back", |dir| {
                fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o644))?;
                fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o600))
            }),
            ("an owner", |dir| chown(dir.join("keep"), Some(7), None)),
            ("a file that is gone", |dir| fs::remove_file(dir.join("below/file"))),
            ("another file of the name", |dir| {
                fs::write(dir.join("aside"), LINE)?;
                fs::rename(dir.join("aside"), dir.join("keep"))
            }),
            ("one more link", |dir| fs::hard_link(dir.join("keep"), dir.with_file_name("hard"))),
            ("another target", |dir| {
                fs::remove_file(dir.join("link"))?;
                symlink("secret", dir.join("link"))
            }),
        ];
        for (what, touch) in touches {
            make(&dir).unwrap();
            let before = facts(&dir).unwrap();
            assert_eq!(facts(&dir).unwrap(), before, "reading is no change");
            touch(&dir).unwrap();
            assert_ne!(facts(&dir).unwrap(), before, "{what}");
            fs::remove_dir_all(&dir).unwrap();
        }
        fs::remove_dir_all(ground).unwrap();
    }

    fn tempfile_dir() -> PathBuf {
        let dir = std::env::temp_dir().join(format!("corten-canary-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }
}
