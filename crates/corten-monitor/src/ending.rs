//! How containers end: killed to the last process, recorded, drained, told.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use monitor_proto::Notice;
use sys::pidfd;
use types::ContainerId;

use crate::container::Phase;
use crate::exits;
use crate::kill::kill_cgroup;
use crate::monitor::{Monitor, REPEAT};
use crate::say;
use crate::stream::{Stream, Which};

/// How long the streams of a container that has ended are read, where something that
/// was not killed still holds them.
const DRAIN: Duration = Duration::from_secs(1);

/// How often a stream is read before it is closed although something holds it: what the largest
/// pipe holds that an unprivileged process may ask for (1 MiB), and then some.
const MAX_LAST_READS: usize = 64;

impl Monitor {
    /// A container's first process has ended; it is recorded, then reaped.
    pub(crate) fn container_ended(&mut self, id: &ContainerId, end: pidfd::Exit) {
        // One that ends as soon as it executes is first told to have started.
        self.launch_ended(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        if let (Phase::Making, Some(made)) = (&container.phase, &mut container.made) {
            // Its end is told once the program says whether it was started.
            made.ended = Some(end);
            return;
        }
        let Phase::Running = container.phase else { return };
        // First of all: the cgroup may be taken away now that it is empty.
        let kills = self.has_oom_kills(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        // What it left behind in its cgroup ends with it.
        kill_cgroup(&container.kill);
        let oom_killed = !container.killed && kills && exits::was_killed(end);
        let exit = exits::exit_of(end, oom_killed);
        if let Err(error) = exits::record(&self.arguments.state_dir, id, container.pid, &exit) {
            say(&format!("{id}: its exit ({}) could not be recorded: {error}", exit.code));
        }
        if let Some(process) = container.process.take() {
            let _ = pidfd::reap(process.pidfd.as_fd());
        }
        container.phase = Phase::Draining { exit, until: Instant::now() + DRAIN };
        self.close_stdin(id);
        self.delete_by_program(id);
        if self.containers.get(id).is_some_and(|container| container.streams.is_empty()) {
            self.drained(id);
        }
    }

    /// The log of a container that has ended is complete: it is told.
    pub(crate) fn drained(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Draining { exit, .. } = &container.phase else { return };
        if container.made.as_ref().is_some_and(|made| made.is_being_deleted) {
            return;
        }
        let exit = exit.clone();
        container.phase = Phase::Ended { exit: exit.clone() };
        container.dropped = container.log.take().map_or(0, |log| log.dropped());
        let streams = std::mem::take(&mut container.streams);
        self.unwatch_streams(streams);
        self.repeat_at = Some(Instant::now() + REPEAT);
        self.end_attached(id);
        self.tell_all(&Notice::ContainerExited { container: id.clone(), exit });
    }

    /// Streams that something still holds are not waited for any longer.
    pub(crate) fn drain_overdue(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get(id) else { return };
        let open: Vec<Which> = container.streams.iter().map(|stream| stream.which).collect();
        for which in open {
            for _ in 0..MAX_LAST_READS {
                let stream = self.containers.get(id).and_then(|container| container.stream(which));
                if !stream.is_some_and(Stream::has_input) {
                    break;
                }
                self.read_stream(id, which);
            }
            self.close_stream(id, which);
        }
        self.drained(id);
    }
}
