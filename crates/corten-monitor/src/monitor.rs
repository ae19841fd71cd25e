//! The event loop and what it owns.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use container_log::Scratch;
use launch::{NamespaceHandles, Reaper};
use monitor_proto::{MakeSandbox, Notice};
use types::ContainerId;

use crate::attach::Attached;
use crate::connection::Connection;
use crate::container::{Container, Phase};
use crate::exec::ExecSession;
use crate::ooms::Ooms;
use crate::poll::{Poll, Source};
use crate::program::{Run, Stranger};
use crate::say;
use crate::setup::{Arguments, Inherited};
use crate::stream::READ_BYTES;

/// How often exits that no daemon has acknowledged are told again.
pub(crate) const REPEAT: Duration = Duration::from_secs(5);

/// How often a monitor without daemon and containers looks whether its pod is still
/// there: one that is nobody's ends itself.
const ALONE: Duration = Duration::from_secs(30);

/// The pod's parent process.
pub(crate) struct Monitor {
    pub(crate) arguments: Arguments,
    pub(crate) poll: Poll,
    pub(crate) listener: OwnedFd,
    pub(crate) listener_key: u64,
    /// Until when nobody is let in.
    pub(crate) closed_until: Option<Instant>,
    signals: OwnedFd,
    pub(crate) connections: HashMap<u64, Connection>,
    pub(crate) containers: HashMap<ContainerId, Container>,
    pub(crate) execs: HashMap<u64, ExecSession>,
    /// Sessions that are attached to containers.
    pub(crate) attached: HashMap<u64, Attached>,
    /// Cgroups of sessions that have ended, in which something still runs.
    pub(crate) exec_dirs: Vec<PathBuf>,
    /// Runtime programs at work.
    pub(crate) programs: HashMap<u64, Run>,
    /// Children that ended before anybody said whose they are.
    pub(crate) strangers: Vec<Stranger>,
    /// What was counted above the containers' cgroups.
    pub(crate) ooms: HashMap<PathBuf, Ooms>,
    pub(crate) made: Option<MakeSandbox>,
    pub(crate) namespaces: NamespaceHandles,
    pub(crate) reaper: Option<Reaper>,
    pub(crate) repeat_at: Option<Instant>,
    pub(crate) ending: bool,
    pub(crate) input: Box<[u8]>,
    pub(crate) scratch: Scratch,
    alone_at: Instant,
    next: u64,
}

impl Monitor {
    pub(crate) fn new(arguments: Arguments, inherited: Inherited) -> io::Result<Self> {
        let mut poll = Poll::new()?;
        let signals = sys::children::watch()?;
        let listener_key = poll.add(inherited.listener.as_fd(), Source::Listener)?;
        poll.add(signals.as_fd(), Source::Signals)?;
        let mut monitor = Self {
            arguments,
            poll,
            listener: inherited.listener,
            listener_key,
            closed_until: None,
            signals,
            connections: HashMap::new(),
            containers: HashMap::new(),
            execs: HashMap::new(),
            attached: HashMap::new(),
            ooms: HashMap::new(),
            exec_dirs: Vec::new(),
            programs: HashMap::new(),
            strangers: Vec::new(),
            made: None,
            namespaces: NamespaceHandles::default(),
            reaper: None,
            repeat_at: None,
            ending: false,
            input: vec![0; READ_BYTES].into_boxed_slice(),
            scratch: Scratch::default(),
            alone_at: Instant::now() + ALONE,
            next: 0,
        };
        monitor.add_connection(inherited.daemon);
        Ok(monitor)
    }

    pub(crate) fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Runs until it is told to end.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while !self.ending {
            for source in self.poll.wait(self.deadline())? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Signals => {
                        sys::children::drain(&self.signals);
                        self.children();
                    }
                    Source::Connection(number) => self.read_connection(number),
                    Source::Launch(id) => {
                        self.launch_progress(&id);
                        self.children();
                    }
                    Source::ExecLaunch(number) => {
                        self.exec_progress(number);
                        self.children();
                    }
                    Source::Stream(id, which) => {
                        self.read_stream(&id, which);
                        self.pass_stdin(&id);
                    }
                    Source::Stdin(id) => self.pass_stdin(&id),
                    Source::Attached(number, part) => self.attached_event(number, part),
                    Source::Program(number) => {
                        self.program_progress(number);
                        self.children();
                    }
                }
            }
            self.time();
        }
        self.end();
        Ok(())
    }

    /// The next moment at which something is due.
    fn deadline(&self) -> Option<Instant> {
        let containers = self.containers.values().filter_map(Container::due);
        let programs = self.programs.values().map(|run| run.until);
        let execs = self.execs.values().filter_map(|e| e.until);
        let alone = self.is_alone().then_some(self.alone_at);
        let repeat = self.repeat_at.filter(|_| !self.connections.is_empty());
        containers
            .chain(programs)
            .chain(self.closed_until)
            .chain(execs)
            .chain(repeat)
            .chain(alone)
            .min()
    }

    fn is_alone(&self) -> bool {
        self.connections.is_empty() && !self.containers.values().any(Container::lives)
    }

    fn time(&mut self) {
        let now = Instant::now();
        let due: Vec<(ContainerId, bool)> = self
            .containers
            .iter()
            .filter(|(_, c)| c.due().is_some_and(|due| due <= now))
            .map(|(id, c)| (id.clone(), matches!(c.phase, Phase::Starting(_))))
            .collect();
        for (id, starting) in due {
            if starting {
                self.launch_overdue(&id);
            } else {
                self.drain_overdue(&id);
            }
        }
        self.programs_overdue(now);
        let execs: Vec<u64> = self
            .execs
            .iter()
            .filter(|(_, e)| e.until.is_some_and(|t| t <= now))
            .map(|(n, _)| *n)
            .collect();
        for number in execs {
            self.exec_overdue(number);
        }
        if self.closed_until.is_some_and(|at| at <= now) {
            self.open_door();
        }
        if self.repeat_at.is_some_and(|at| at <= now) {
            self.repeat_exits(None);
        }
        if self.is_alone() && self.alone_at <= now {
            self.alone_at = now + ALONE;
            if !self.arguments.state_dir.exists() {
                say("the pod is gone: so goes its monitor");
                self.ending = true;
            }
        }
    }

    /// Tells exits that are not acknowledged, to one daemon or to all.
    pub(crate) fn repeat_exits(&mut self, to: Option<u64>) {
        let ended: Vec<Notice> = self
            .containers
            .iter()
            .filter_map(|(id, c)| match &c.phase {
                Phase::Ended { exit } => {
                    Some(Notice::ContainerExited { container: id.clone(), exit: exit.clone() })
                }
                _ => None,
            })
            .collect();
        self.repeat_at = (!ended.is_empty()).then(|| Instant::now() + REPEAT);
        for notice in ended {
            match to {
                Some(number) => self.tell(number, notice),
                None => self.tell_all(&notice),
            }
        }
    }

    /// Leaves nothing behind but what the daemon pinned.
    fn end(&mut self) {
        self.end_reaper();
        let _ = std::fs::remove_file(self.arguments.state_dir.join(monitor_proto::SOCKET_NAME));
    }
}
