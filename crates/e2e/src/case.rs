//! What a test case is.

use std::future::Future;
use std::pin::Pin;

use anyhow::Result;

use crate::context::Context;

/// A case's future.
pub type Run<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Whether cases may run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// With others: it touches only what is its own.
    Parallel,
    /// Alone: it restarts the runtime or counts everything.
    Alone,
}

/// Against whom a case is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// Against every runtime.
    Any,
    /// Containerd is known to differ, and why.
    Differs(&'static str),
    /// Only ours: it looks at what only ours has.
    Ours,
}

/// What a case needs of the machine. Where it is not there the case is not run, and that
/// is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Cgroup v2 alone.
    UnifiedCgroups,
    /// systemd as first process.
    Systemd,
    /// A daemon that lets systemd make its cgroups.
    SystemdDriver,
    /// A daemon that makes its cgroups by itself.
    CgroupfsDriver,
    /// A kernel with AppArmor.
    AppArmor,
    /// A kernel without AppArmor.
    NoAppArmor,
    /// No capability taken from root.
    FullCapabilities,
    /// A program that records what is written to a disk.
    Recorder,
    /// Debian's containerd.
    Containerd,
    /// The project's own files, and the package archives of its languages.
    Workshop,
}

/// A test.
#[derive(Clone, Copy)]
pub struct Case {
    /// `subject.what_must_hold`.
    pub name: &'static str,
    /// The test.
    pub run: for<'a> fn(&'a Context) -> Run<'a>,
    /// Whether it may run with others.
    pub manner: Manner,
    /// Against whom.
    pub judge: Judge,
    /// What it needs of the machine.
    pub needs: &'static [Need],
    /// Whether it is of the long tier: it is run only when that is asked for.
    pub long: bool,
    /// Whether it attacks: a canary and a neighbour are there meanwhile, and looked at after.
    pub attack: bool,
}

impl Case {
    /// A case that must be run alone.
    #[must_use]
    pub const fn alone(self) -> Self {
        Self { manner: Manner::Alone, ..self }
    }

    /// A case of the long tier, which is run alone too.
    #[must_use]
    pub const fn long(self) -> Self {
        Self { long: true, ..self.alone() }
    }

    /// A case that attacks the node, which must be as it was then (`Canary`).
    #[must_use]
    pub const fn attack(self) -> Self {
        Self { attack: true, ..self }
    }

    /// A case on which containerd is known to differ.
    #[must_use]
    pub const fn differs(self, reason: &'static str) -> Self {
        Self { judge: Judge::Differs(reason), ..self }
    }

    /// A case for ours only.
    #[must_use]
    pub const fn ours(self) -> Self {
        Self { judge: Judge::Ours, ..self }
    }

    /// A case that needs something that not every machine has; the guest has most of it.
    #[must_use]
    pub const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }
}

/// Makes a case of a name and an async function of the module.
#[macro_export]
macro_rules! case {
    ($name:literal, $function:path) => {
        $crate::case::Case {
            name: $name,
            run: |context| Box::pin($function(context)),
            manner: $crate::case::Manner::Parallel,
            judge: $crate::case::Judge::Any,
            needs: &[],
            long: false,
            attack: false,
        }
    };
}
