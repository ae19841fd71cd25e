//! What the containers of a pod share: namespaces, and the reaper that keeps one of them.

use std::os::fd::AsFd;

use launch::{NamespaceHandles, PinnedUser, Placement, Reaper, ReaperLaunch, SandboxNamespaces};
use monitor_proto::{Failure, FailureKind, MakeSandbox, Notice, ReaperRequest, SandboxMade};

use crate::container::{launch_failure, open_cgroup};
use crate::exits::{self, kill_and_reap};
use crate::monitor::Monitor;
use crate::say;

/// The longest description of a sandbox: every answer about the state repeats it, beside a page
/// of containers.
const MAX_SANDBOX: usize = 32 << 10;

impl Monitor {
    /// Makes the sandbox's namespaces; the same request again gets what was made.
    pub(crate) fn make_sandbox(&mut self, wanted: MakeSandbox) -> Result<SandboxMade, Failure> {
        if self.made.as_ref() == Some(&wanted) {
            return Ok(self.sandbox_made());
        }
        self.check_sandbox(&wanted)?;
        let namespaces = SandboxNamespaces {
            user: wanted
                .user
                .as_ref()
                .map(|user| PinnedUser { path: user.pin.clone(), mappings: user.mappings.clone() }),
            net: wanted.net.clone(),
            ipc: wanted.ipc.clone(),
            uts: wanted.uts.clone(),
            hostname: wanted.hostname.clone(),
            sysctls: wanted.sysctls.clone(),
        };
        let handles = if wanted.given {
            launch::open_sandbox_namespaces(&namespaces)
        } else {
            launch::make_sandbox_namespaces(&namespaces)
        };
        let handles = handles.map_err(|error| launch_failure(&error))?;
        if let Some(reaper) = &wanted.reaper {
            match start_reaper(reaper, &handles) {
                Ok(reaper) => self.reaper = Some(reaper),
                Err(failure) => {
                    if !wanted.given {
                        unpin(&namespaces);
                    }
                    return Err(failure);
                }
            }
        }
        self.namespaces = handles;
        self.made = Some(wanted);
        Ok(self.sandbox_made())
    }

    /// Starts the reaper of a sandbox that was made without one; the same request again gets what
    /// was made.
    pub(crate) fn start_late_reaper(
        &mut self,
        wanted: ReaperRequest,
    ) -> Result<SandboxMade, Failure> {
        let Some(made) = &self.made else {
            let text = "the sandbox's namespaces are not made";
            return Err(Failure::new(FailureKind::Invalid, text));
        };
        match &made.reaper {
            Some(known) if *known == wanted => return Ok(self.sandbox_made()),
            Some(_) => {
                let text = "the sandbox has a reaper already, in another place";
                return Err(Failure::new(FailureKind::AlreadyExists, text));
            }
            None => {}
        }
        let complete = MakeSandbox { reaper: Some(wanted.clone()), ..made.clone() };
        Self::check_size(&complete)?;
        self.reaper = Some(start_reaper(&wanted, &self.namespaces)?);
        self.made = Some(complete);
        Ok(self.sandbox_made())
    }

    fn check_sandbox(&self, wanted: &MakeSandbox) -> Result<(), Failure> {
        if wanted.sandbox != self.arguments.sandbox {
            let text = format!("this is the monitor of sandbox {}", self.arguments.sandbox);
            return Err(Failure::new(FailureKind::Invalid, text));
        }
        if self.made.is_some() {
            let text = "the sandbox was made already, differently";
            return Err(Failure::new(FailureKind::AlreadyExists, text));
        }
        if wanted.given && wanted.user.is_some() {
            let text = "the namespaces that a user namespace owns are the monitor's to make";
            return Err(Failure::new(FailureKind::Invalid, text));
        }
        Self::check_size(wanted)
    }

    fn check_size(wanted: &MakeSandbox) -> Result<(), Failure> {
        if monitor_proto::serialize(wanted).map_or(true, |text| text.len() > MAX_SANDBOX) {
            let text = format!("the sandbox's description exceeds {MAX_SANDBOX} bytes");
            return Err(Failure::new(FailureKind::Invalid, text));
        }
        Ok(())
    }

    fn sandbox_made(&self) -> SandboxMade {
        let pid = self.reaper.as_ref().map(|reaper| reaper.pid.as_raw_nonzero().get());
        SandboxMade { reaper_pid: pid }
    }

    /// The pod's PID namespace is at its end, and with it all that ran in there.
    pub(crate) fn reaper_ended(&mut self, end: sys::pidfd::Exit) {
        let Some(reaper) = self.reaper.take() else { return };
        let _ = sys::pidfd::reap(&reaper.pidfd);
        self.tell_all(&Notice::ReaperExited { exit: exits::exit_of(end, false) });
    }

    /// Ends the reaper, and with it what is left in the pod's PID namespace.
    pub(crate) fn end_reaper(&mut self) {
        if let Some(reaper) = self.reaper.take() {
            kill_and_reap(&reaper.pidfd);
        }
    }
}

fn start_reaper(wanted: &ReaperRequest, handles: &NamespaceHandles) -> Result<Reaper, Failure> {
    let into = open_cgroup(wanted.cgroup.v2_dir.as_deref())?;
    let joined = [&handles.net, &handles.ipc, &handles.uts];
    let launch = ReaperLaunch {
        namespaces: joined.into_iter().flatten().map(AsFd::as_fd).collect(),
        cgroup: Placement {
            procs_files: wanted.cgroup.procs_files.clone(),
            into_cgroup: into.as_ref().map(AsFd::as_fd),
        },
    };
    launch::start_reaper(&launch).map_err(|error| launch_failure(&error))
}

fn unpin(made: &SandboxNamespaces) {
    for pin in made.pins() {
        if let Err(error) = launch::unpin(pin) {
            say(&format!("a namespace stays pinned: {error}"));
        }
    }
}
