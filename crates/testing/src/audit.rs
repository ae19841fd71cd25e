//! The leak audit: what the machine has now that it did not have before.
//!
//! A [`Snapshot`] is a set of facts, each a line of text: processes, mounts, network
//! namespaces, links, addresses, routes, packet rules, cgroups, sockets, files. What
//! one has more than an earlier one is a leak. Facts that a runtime keeps by
//! design while it has no pod (its bridge, its table, the monitors' group) are the
//! [`Scope`]'s standing equipment.

mod facts;
mod rules;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{Ground, program};

/// How long what ends by itself may take.
const SETTLING: std::time::Duration = std::time::Duration::from_secs(5);

/// What the audit looks at.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Texts that mark a fact as ours. Only such facts count unless `exclusive`.
    pub markers: Vec<String>,
    /// Whether everything on the machine counts.
    pub exclusive: bool,
    /// Directories whose files are facts.
    pub directories: Vec<PathBuf>,
    /// Texts that mark a fact as standing equipment.
    pub standing: Vec<String>,
    /// Whole facts that are standing equipment.
    pub exact: Vec<String>,
}

impl Scope {
    /// What bears the ground's names.
    #[must_use]
    pub fn of(ground: &Ground) -> Self {
        let (bridge, cgroup) = (ground.bridge(), ground.cgroup());
        let slice = format!("/{}/", ground.slice());
        let markers =
            vec![ground.path().display().to_string(), bridge.clone(), format!("{cgroup}/"), slice];
        let standing = vec![
            format!("link {bridge} "),
            format!("address {bridge} "),
            format!("route {}0/24 dev {bridge}", ground.subnet_prefix()),
            format!("rule {bridge}"),
        ];
        Self {
            markers,
            exclusive: ground.exclusive(),
            directories: Vec::new(),
            standing,
            exact: Vec::new(),
        }
    }

    fn counts(&self, fact: &str) -> bool {
        let has = |texts: &[String]| texts.iter().any(|text| fact.contains(text.as_str()));
        let standing = has(&self.standing) || self.exact.iter().any(|exact| exact == fact);
        (self.exclusive || has(&self.markers)) && !standing
    }
}

/// What the machine has at a moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    scope: Scope,
    facts: BTreeSet<String>,
}

impl Snapshot {
    /// Looks at the machine.
    ///
    /// # Errors
    /// If something cannot be looked at: an audit that does not see is not passed.
    pub fn take(scope: &Scope) -> Result<Self> {
        let mut facts = BTreeSet::new();
        facts::processes(scope, &mut facts)?;
        facts::mounts(&mut facts)?;
        facts::namespaces(&mut facts)?;
        facts::network(&mut facts)?;
        facts::cgroups(&mut facts)?;
        facts::units(&mut facts)?;
        facts::sockets(&mut facts)?;
        rules::rules(&mut facts)?;
        for directory in &scope.directories {
            facts::files(directory, &mut facts)?;
        }
        facts.retain(|fact| scope.counts(fact));
        Ok(Self { scope: scope.clone(), facts })
    }

    /// What there is now and was not then.
    ///
    /// # Errors
    /// If something cannot be looked at.
    pub fn leaks(&self) -> Result<Leaks> {
        let now = Self::take(&self.scope)?;
        Ok(Leaks(now.facts.difference(&self.facts).cloned().collect()))
    }

    /// Fails with the leaks if there are any after a moment: a process that was told to
    /// end is reaped, and an interface is taken down, by others than who asked for it.
    ///
    /// # Errors
    /// If there are leaks.
    pub fn audit(&self) -> Result<()> {
        let begun = std::time::Instant::now();
        loop {
            let leaks = self.leaks()?;
            if leaks.0.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > crate::wait::patient(SETTLING) {
                bail!("{leaks}");
            }
            std::thread::sleep(crate::wait::interval());
        }
    }

    /// The same facts, to be compared with what another scope sees: after the daemon
    /// was replaced, say.
    #[must_use]
    pub fn with_scope(&self, scope: Scope) -> Self {
        Self { scope, facts: self.facts.clone() }
    }

    /// How many facts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }
}

/// What was left behind.
#[derive(Clone, Debug)]
pub struct Leaks(pub Vec<String>);

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More lines tell no more.
        const SHOWN: usize = 40;
        write!(f, "{} leaks", self.0.len())?;
        for leak in self.0.iter().take(SHOWN) {
            write!(f, "\n  {leak}")?;
        }
        Ok(())
    }
}

/// Unmounts all that is below a directory, the deepest first.
///
/// # Errors
/// If a mount stays.
pub fn unmount_below(directory: &Path) -> Result<()> {
    for mount in facts::mount_points()?.iter().rev().filter(|mount| mount.starts_with(directory)) {
        program::output(Command::new("umount").arg("--lazy").arg(mount))
            .with_context(|| format!("failed to unmount {}", mount.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Stdio;

    use super::*;
    use crate::wait;

    #[test]
    fn what_was_made_is_found_and_what_was_removed_is_not() {
        let ground = Ground::new().expect("a ground");
        let mut scope = Scope::of(&ground);
        scope.exclusive = false;
        scope.directories.push(ground.make("files").expect("a directory"));
        let before = Snapshot::take(&scope).expect("a look at the machine");
        before.audit().expect("nothing was made");

        let (mount, file) = (ground.make("mount").expect("made"), ground.path().join("files/a"));
        fs::write(&file, "x").expect("written");
        let namespace = format!("{}n", ground.bridge());
        let run = |program: &str, arguments: &[&str]| {
            program::output(Command::new(program).args(arguments)).expect("it runs");
        };
        let (point, bridge) = (mount.to_str().expect("plain").to_owned(), ground.bridge());
        let link = format!("{bridge}x");
        run("mount", &["-t", "tmpfs", "tmpfs", &point]);
        run("ip", &["netns", "add", &namespace]);
        run("ip", &["link", "add", &link, "type", "bridge"]);
        run("nft", &["add", "table", "inet", &link]);
        run(
            "nft",
            &["add", "chain", "inet", &link, "c", "{ type filter hook input priority 0 ; }"],
        );
        run("nft", &["add", "rule", "inet", &link, "c", "accept"]);
        crate::cgroup::make(&format!("{}/pod", ground.cgroup())).expect("made");
        // It waits for a line that never comes; the path is only an argument.
        let mut waiting = Command::new("sh");
        waiting.args(["-c", "read line"]).arg(ground.path()).stdin(Stdio::piped());
        let mut child = waiting.spawn().expect("a process");
        // The kernel lets the parent of a `vfork` go on before the new program's arguments are
        // in place: until then nothing shows what the process has to do with this test.
        let arguments = format!("/proc/{}/cmdline", child.id());
        wait::until(SETTLING, "the arguments", || {
            Ok(fs::read(&arguments)?.ends_with(b"\0").then_some(()))
        })
        .expect("they are there");
        let socket = std::os::unix::net::UnixListener::bind(ground.path().join("socket"));

        let found = before.leaks().expect("a look at the machine").to_string();
        for kind in ["process", "mount", "netns", "link", "rule", "cgroup", "socket", "file"] {
            assert!(found.contains(&format!("\n  {kind} ")), "no {kind} in {found}");
        }

        drop(socket);
        child.kill().and_then(|()| child.wait()).expect("ended");
        run("nft", &["delete", "table", "inet", &link]);
        run("ip", &["link", "delete", &link]);
        run("ip", &["netns", "delete", &namespace]);
        unmount_below(ground.path()).expect("unmounted");
        crate::cgroup::remove_tree(&ground.cgroup());
        fs::remove_file(&file).expect("removed");
        before.audit().expect("everything was removed");
    }
}
