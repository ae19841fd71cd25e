//! Exec sessions: further processes in a running container, each in a cgroup of its own
//! where the machine has the unified tree, so that all of it can be killed.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use launch::{ExecLaunch, LaunchError, Launching, Placement, Stdio};
use monitor_proto::{Exec, ExecId, ExecStarted, Failure, FailureKind, KillCgroup, Notice, Reply};
use rustix::process::{Pid, Signal, pidfd_send_signal};
use sys::pidfd;
use types::ContainerId;

use crate::container::{LAUNCH_LIMIT, Process, kernel, launch_failure, open_cgroup};
use crate::exits::{self, kill_and_reap};
use crate::kill::kill_cgroup;
use crate::monitor::Monitor;
use crate::poll::Source;
use crate::program_exec::ExecFiles;
use crate::say;

/// The most sessions at a time.
const MAX_EXECS: usize = 1024;

/// The largest process that is taken: arguments and environment of execve fit in 2 MiB.
const MAX_PROCESS_BYTES: u64 = 4 << 20;

/// A usual process is shorter.
const USUAL_PROCESS_BYTES: usize = 4 << 10;

/// How long a session that was killed may take to end before that is told all the same.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// An exec session.
#[derive(Debug)]
pub(crate) struct ExecSession {
    pub(crate) container: ContainerId,
    pub(crate) id: ExecId,
    pub(crate) connection: u64,
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// While it is being set up: the launch, its key, and the request.
    pub(crate) launching: Option<(Box<Launching>, u64, u64)>,
    pub(crate) dir: Option<PathBuf>,
    /// When its time is over, or, once it was killed, when that is given up.
    pub(crate) until: Option<Instant>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) timed_out: bool,
    pub(crate) killed: bool,
    /// Its end was told although it did not come.
    pub(crate) given_up: bool,
    /// While a runtime program starts it.
    pub(crate) starting: Option<ExecFiles>,
    /// It goes on without the connection that asked for it.
    pub(crate) outlives_connection: bool,
}

/// The most cgroups of ended sessions that are kept in mind.
const MAX_LEFT_CGROUPS: usize = 256;

impl ExecSession {
    /// Kills what is in its cgroup.
    fn kill_all(&self) {
        if let Some(dir) = &self.dir {
            kill_cgroup(&KillCgroup {
                kill_file: Some(dir.join("cgroup.kill")),
                procs_file: Some(dir.join("cgroup.procs")),
            });
        }
    }
}

impl Monitor {
    /// Begins an exec session; the answer comes when its command executes.
    pub(crate) fn exec(
        &mut self,
        connection: u64,
        request: u64,
        wanted: Exec,
        descriptors: Vec<OwnedFd>,
    ) {
        if let Err(failure) = self.try_exec(connection, request, wanted, descriptors) {
            self.answer(connection, request, Err(failure));
        }
    }

    fn try_exec(
        &mut self,
        connection: u64,
        request: u64,
        wanted: Exec,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        if self.execs.values().any(|exec| exec.id == wanted.exec) {
            let text = format!("exec session {} runs already", wanted.exec);
            return Err(Failure::new(FailureKind::AlreadyExists, text));
        }
        if self.execs.len() >= MAX_EXECS {
            return Err(Failure::new(FailureKind::Exhausted, "the pod has too many exec sessions"));
        }
        let not_running = || {
            Failure::new(
                FailureKind::NotRunning,
                format!("container {} does not run", wanted.container),
            )
        };
        let container = self.containers.get(&wanted.container).ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                format!("container {} is not known", wanted.container),
            )
        })?;
        // Nothing new in one that is being killed: it would be killed half-way.
        let running = container.running().filter(|_| !container.killed);
        let init = running.ok_or_else(not_running)?;
        let by_program = container.made.is_some();
        let mut descriptors = descriptors.into_iter();
        let process = read_process(descriptors.next())?;
        let mut next = |announced: bool| match announced {
            false => Ok(None),
            true => descriptors.next().map(Some).ok_or_else(|| {
                Failure::new(FailureKind::Invalid, "an announced stream is not there")
            }),
        };
        let (stdin, stdout, stderr) =
            (next(wanted.stdin)?, next(wanted.stdout)?, next(wanted.stderr)?);
        if let Some(dir) = &wanted.cgroup.dir {
            fs::create_dir(dir)
                .map_err(|e| kernel(&format!("create cgroup {}", dir.display()), e))?;
        }
        if by_program {
            let streams = [stdin, stdout, stderr];
            let begun = self.exec_by_program(connection, request, &wanted, &process, &streams);
            if begun.is_err() {
                self.leave_cgroup(wanted.cgroup.dir);
            }
            return begun;
        }
        let into = match open_cgroup(wanted.cgroup.dir.as_deref()) {
            Ok(into) => into,
            Err(failure) => {
                self.leave_cgroup(wanted.cgroup.dir);
                return Err(failure);
            }
        };
        let launch = ExecLaunch {
            init_pid: init.pid,
            init_pidfd: init.pidfd.as_fd(),
            bundle: container.bundle.clone(),
            process,
            cgroup: Placement {
                procs_files: wanted.cgroup.procs_files.clone(),
                into_cgroup: into.as_ref().map(AsFd::as_fd),
            },
            stdio: if wanted.tty {
                Stdio::Terminal
            } else {
                Stdio::Pipes {
                    stdin: stdin.as_ref().map(AsFd::as_fd),
                    stdout: stdout.as_ref().map(AsFd::as_fd),
                    stderr: stderr.as_ref().map(AsFd::as_fd),
                }
            },
        };
        let launched = launch::start_exec(&launch).map_err(|error| launch_failure(&error));
        let tracked =
            launched.and_then(|launching| self.track_exec(connection, request, &wanted, launching));
        if tracked.is_err() {
            self.leave_cgroup(wanted.cgroup.dir);
        }
        tracked
    }

    fn track_exec(
        &mut self,
        connection: u64,
        request: u64,
        wanted: &Exec,
        launching: Launching,
    ) -> Result<(), Failure> {
        let number = self.next_number();
        let (process, key) = self.watch_launch(&launching, Source::ExecLaunch(number))?;
        let Process { pid, pidfd } = process;
        let session = ExecSession {
            container: wanted.container.clone(),
            id: wanted.exec.clone(),
            connection,
            pid,
            pidfd,
            launching: Some((Box::new(launching), key, request)),
            dir: wanted.cgroup.dir.clone(),
            until: Some(Instant::now() + LAUNCH_LIMIT),
            timeout: wanted.timeout_ms.map(Duration::from_millis),
            timed_out: false,
            killed: false,
            given_up: false,
            outlives_connection: wanted.outlives_connection,
            starting: None,
        };
        self.execs.insert(number, session);
        Ok(())
    }

    /// A session being set up has something to say.
    pub(crate) fn exec_progress(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        let Some((launching, _, _)) = &mut exec.launching else { return };
        if let Some(result) = launching.poll() {
            self.exec_launched(number, result.map_err(|error| launch_failure(&error)));
        }
    }

    /// A session's launch has come to its end.
    fn exec_launched(&mut self, number: u64, result: Result<launch::Started, Failure>) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        let Some((launching, key, request)) = exec.launching.take() else { return };
        let (connection, pid) = (exec.connection, exec.pid);
        self.poll.remove(launching.status_fd(), key);
        match result {
            Ok(launch::Started { notices, console }) => {
                // Its time is that of the command, not of its set-up.
                let now = Instant::now();
                exec.until = exec.timeout.and_then(|timeout| now.checked_add(timeout));
                let reply = ExecStarted { pid: pid.as_raw_nonzero().get(), notices };
                self.answer_with(connection, request, Ok(Reply::ExecStarted(reply)), console);
            }
            Err(failure) => {
                if let Some(exec) = self.execs.remove(&number) {
                    kill_and_reap(&exec.pidfd);
                    self.leave_cgroup(exec.dir);
                }
                self.answer(connection, request, Err(failure));
            }
        }
    }

    /// A session's command has ended. What it started may still run; its streams are the
    /// daemon's.
    pub(crate) fn exec_ended(&mut self, number: u64, end: pidfd::Exit) {
        // One that ends as soon as it executes is first told to have started.
        self.exec_progress(number);
        self.exec_launched(number, Err(launch_failure(&LaunchError::ChildDied)));
        let Some(exec) = self.execs.remove(&number) else { return };
        let _ = pidfd::reap(exec.pidfd.as_fd());
        if exec.killed {
            // What it forked after it was killed for the first time is found now.
            exec.kill_all();
        }
        self.leave_cgroup(exec.dir);
        if exec.given_up {
            return;
        }
        let notice = Notice::ExecExited {
            container: exec.container,
            exec: exec.id,
            exit: Some(exits::exit_of(end, false)),
            timed_out: exec.timed_out,
        };
        self.tell(exec.connection, notice);
    }

    /// A session's time is over, or killing it did not help.
    pub(crate) fn exec_overdue(&mut self, number: u64) {
        let Some(exec) = self.execs.get(&number) else { return };
        if exec.launching.is_some() {
            let seconds = LAUNCH_LIMIT.as_secs();
            let text = format!("the exec session was not set up within {seconds} s");
            let failure = Failure::new(FailureKind::Launch, text);
            return self.exec_launched(number, Err(failure));
        }
        if !exec.killed {
            return self.kill_exec_session(number, true);
        }
        let Some(exec) = self.execs.get_mut(&number) else { return };
        exec.until = None;
        exec.given_up = true;
        let notice = Notice::ExecExited {
            container: exec.container.clone(),
            exec: exec.id.clone(),
            exit: None,
            timed_out: exec.timed_out,
        };
        let connection = exec.connection;
        say(&format!(
            "{}: the exec session {} was killed and does not end",
            exec.container,
            exec.id.as_str()
        ));
        self.tell(connection, notice);
    }

    /// Kills a session and all that it started.
    pub(crate) fn kill_exec_session(&mut self, number: u64, timed_out: bool) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        exec.killed = true;
        exec.timed_out |= timed_out && exec.timeout.is_some();
        exec.until = Some(Instant::now() + KILL_PATIENCE);
        exec.kill_all();
        let _ = pidfd_send_signal(&exec.pidfd, Signal::KILL);
    }

    /// Removes a session's cgroup, or keeps it in mind while something still runs in it.
    pub(crate) fn leave_cgroup(&mut self, dir: Option<PathBuf>) {
        self.exec_dirs.extend(dir);
        self.remove_exec_dirs();
        if self.exec_dirs.len() > MAX_LEFT_CGROUPS {
            // The daemon removes it with the container's.
            self.exec_dirs.remove(0);
        }
    }

    /// Removes the cgroups of ended sessions in which nothing runs any more.
    pub(crate) fn remove_exec_dirs(&mut self) {
        self.exec_dirs.retain(|dir| match fs::remove_dir(dir) {
            Ok(()) => false,
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        });
    }
}

fn read_process(file: Option<OwnedFd>) -> Result<Vec<u8>, Failure> {
    let missing = || Failure::new(FailureKind::Invalid, "the session's process is not there");
    let file = fs::File::from(file.ok_or_else(missing)?);
    // Room for a usual one, so that it is read at once.
    let mut bytes = Vec::with_capacity(USUAL_PROCESS_BYTES);
    file.take(MAX_PROCESS_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| kernel("read the session's process", e))?;
    if bytes.len() as u64 > MAX_PROCESS_BYTES {
        return Err(Failure::new(
            FailureKind::Invalid,
            "the session's process is larger than 4 MiB",
        ));
    }
    Ok(bytes)
}
