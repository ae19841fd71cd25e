//! Containers that a runtime program makes: runc, and what has its command line.
//!
//! ```text
//! create ─► adopted by its pid file ─► start ─► Running ─► ended ─► delete ─► told
//!    └── fails, or takes too long ──► delete ──► forgotten, and the request answered
//! ```
//!
//! The container's first process falls to this process, a subreaper, when `create` ends; from
//! then on it is watched like any other. A program that hangs is killed with all that it
//! started: the loop never waits for one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use launch::{Launching, ProgramCreate, ProgramLaunch, Stdio};
use monitor_proto::{ContainerPid, Failure, FailureKind, Program, Reply, Signal, StartContainer};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use sys::pidfd;
use types::ContainerId;

use crate::container::{Container, Phase, Process, kernel, launch_failure, rootfs_of, start_time};
use crate::exits::kill_and_reap;
use crate::kill::kill_cgroup;
use crate::monitor::Monitor;
use crate::poll::Source;
use crate::say;

/// The longest that a program may take: with the deletion of what it left, less than the
/// daemon waits for a start.
const MAX_TIME: Duration = Duration::from_secs(45);
/// The longest that a program has to delete what is left of a container.
const DELETE_LIMIT: Duration = Duration::from_secs(10);
/// How long a killed program may take to end before it is left to itself.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// How much is read of a program's log.
const MAX_LOG_BYTES: u64 = 64 << 10;
/// The most characters of what a program says.
const MAX_TEXT: usize = 512;
/// How many ends are kept of children that nobody has claimed yet.
const MAX_STRANGERS: usize = 256;
/// The longest file with the number of a process.
const MAX_PID_BYTES: u64 = 32;
/// The longest message of a console socket: a terminal's name.
const MAX_CONSOLE_BYTES: usize = 4096;

/// What is known of a container that a program made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) program: Program,
    /// How its first process ended, where that came before it was known to be started.
    pub(crate) ended: Option<pidfd::Exit>,
    pub(crate) is_being_deleted: bool,
    /// Until it runs.
    waiting: Option<Waiting>,
}

/// A start under way, and who waits for it.
#[derive(Debug)]
struct Waiting {
    connection: u64,
    request: u64,
    until: Instant,
    failure: Option<Failure>,
    console: Option<Console>,
    /// The PID namespace to join: the program finds it by this descriptor.
    _pid_namespace: Option<OwnedFd>,
}

/// A program at work.
#[derive(Debug)]
pub(crate) struct Run {
    purpose: Purpose,
    process: Process,
    /// Until it executes.
    launching: Option<(Box<Launching>, u64)>,
    pub(crate) until: Instant,
    limit: Duration,
    log: PathBuf,
    failure: Option<Failure>,
    is_killed: bool,
}

/// What a program is run for.
#[derive(Debug)]
pub(crate) enum Purpose {
    Create(ContainerId),
    Start(ContainerId),
    Delete(ContainerId),
    Signal { connection: u64, request: u64, signal: Signal },
    Exec(u64),
}

/// A child that ended before anybody said whose it is.
#[derive(Debug)]
pub(crate) struct Stranger {
    pid: Pid,
    end: pidfd::Exit,
}

/// A command of a program.
pub(crate) struct Command<'a> {
    pub(crate) args: Vec<String>,
    pub(crate) stdio: Stdio<'a>,
    pub(crate) create: Option<ProgramCreate>,
    /// What it is told to have had; a part of it may be used already.
    pub(crate) limit: Duration,
    pub(crate) until: Instant,
}

/// No standard streams.
pub(crate) const NO_STDIO: Stdio<'static> =
    Stdio::Pipes { stdin: None, stdout: None, stderr: None };

impl Purpose {
    fn command(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::Delete(_) => "delete",
            Self::Signal { .. } => "kill",
            Self::Exec(_) => "exec",
        }
    }

    /// Whether it leaves a child behind that is then adopted.
    fn adopts(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Exec(_))
    }
}

impl Run {
    fn result(&mut self, end: pidfd::Exit) -> Result<(), Failure> {
        let command = self.purpose.command();
        if self.is_killed {
            let text =
                format!("{command}: the program did not end within {} s", self.limit.as_secs());
            return Err(Failure::new(FailureKind::Launch, text));
        }
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if end == pidfd::Exit::Code(0) {
            return Ok(());
        }
        let said = last_error(&self.log).unwrap_or_else(|| format!("{end:?}"));
        Err(Failure::new(FailureKind::Launch, format!("{command}: {said}")))
    }

    /// Kills it and all that it started and that did not leave its session.
    fn kill(&mut self) {
        self.is_killed = true;
        let _ =
            rustix::process::kill_process_group(self.process.pid, rustix::process::Signal::KILL);
        let _ = pidfd::send_signal(&self.process.pidfd, rustix::process::Signal::KILL.as_raw());
    }
}

impl Made {
    /// How long a command of the program may take.
    pub(crate) fn limit(&self) -> Duration {
        limit_of(&self.program)
    }
}

fn limit_of(program: &Program) -> Duration {
    Duration::from_millis(program.timeout_ms).min(MAX_TIME)
}

impl Monitor {
    /// Begins to have a container made.
    pub(crate) fn create_by_program(
        &mut self,
        connection: u64,
        request: u64,
        wanted: &StartContainer,
        program: &Program,
        stdio: Stdio<'_>,
    ) -> Result<Made, Failure> {
        let pid_file = wanted.bundle.join(PID_FILE);
        let _ = fs::remove_file(&pid_file);
        let (pid_namespace, path) = self.pid_namespace_path(&wanted.pid)?;
        let mut args = vec!["create".to_owned(), "--bundle".to_owned(), text(&wanted.bundle)];
        args.extend(["--pid-file".to_owned(), text(&pid_file)]);
        let console = if wanted.tty {
            let console = Console::new(&wanted.bundle, "console.sock")
                .map_err(|error| kernel("make a console socket", error))?;
            args.extend(["--console-socket".to_owned(), console.path()]);
            Some(console)
        } else {
            None
        };
        args.push(wanted.id.to_string());
        let limit = limit_of(program);
        let command = Command {
            args,
            stdio: if wanted.tty { NO_STDIO } else { stdio },
            create: Some(ProgramCreate {
                bundle: wanted.bundle.clone(),
                rootfs: rootfs_of(&wanted.rootfs),
                rootfs_target: wanted.rootfs_target.clone(),
                pid_namespace: path,
                pod_dir: self.arguments.state_dir.clone(),
            }),
            limit,
            until: Instant::now() + limit,
        };
        self.run_program(Purpose::Create(wanted.id.clone()), program, &wanted.bundle, command)?;
        let waiting = Waiting {
            connection,
            request,
            until: Instant::now() + limit,
            failure: None,
            console,
            _pid_namespace: pid_namespace,
        };
        Ok(Made {
            program: program.clone(),
            ended: None,
            is_being_deleted: false,
            waiting: Some(waiting),
        })
    }

    /// The PID namespace to join, by a descriptor of ours that stays open meanwhile.
    fn pid_namespace_path(
        &self,
        wanted: &ContainerPid,
    ) -> Result<(Option<OwnedFd>, Option<PathBuf>), Failure> {
        let path = |fd: &OwnedFd| own_path(fd.as_raw_fd(), None);
        match wanted {
            ContainerPid::New | ContainerPid::Host => Ok((None, None)),
            ContainerPid::Pod => match &self.reaper {
                Some(reaper) => Ok((None, Some(path(&reaper.pidns)))),
                None => {
                    let text = "the PID namespace to join is gone";
                    Err(Failure::new(FailureKind::NotRunning, text))
                }
            },
            ContainerPid::Container(_) => {
                let target = self.target_namespace(wanted)?;
                let found = target.as_ref().map(path);
                Ok((target, found))
            }
        }
    }

    /// Runs a program; its end comes to [`Monitor::program_ended`].
    pub(crate) fn run_program(
        &mut self,
        purpose: Purpose,
        program: &Program,
        bundle: &Path,
        command: Command<'_>,
    ) -> Result<Process, Failure> {
        let log = bundle.join("program.log");
        let _ = fs::remove_file(&log);
        let mut args = program.options.clone();
        args.extend(["--log".to_owned(), text(&log), "--log-format".to_owned(), "json".to_owned()]);
        args.extend(command.args);
        let launch = ProgramLaunch {
            program: program.path.clone(),
            args,
            stdio: command.stdio,
            create: command.create,
        };
        let launching = launch::start_program(&launch).map_err(|error| launch_failure(&error))?;
        let number = self.next_number();
        let (process, key) = self.watch_launch(&launching, Source::Program(number))?;
        let pidfd = process.pidfd.try_clone().map_err(|error| {
            kill_and_reap(&process.pidfd);
            crate::container::exhausted("keep the program's handle", error)
        })?;
        let child = Process { pid: process.pid, pidfd };
        let run = Run {
            purpose,
            process,
            launching: Some((Box::new(launching), key)),
            until: command.until,
            limit: command.limit,
            log,
            failure: None,
            is_killed: false,
        };
        self.programs.insert(number, run);
        Ok(child)
    }

    /// A program that is about to execute has something to say.
    pub(crate) fn program_progress(&mut self, number: u64) {
        let Some(run) = self.programs.get_mut(&number) else { return };
        let Some((launching, _)) = &mut run.launching else { return };
        let Some(result) = launching.poll() else { return };
        run.failure = result.err().map(|error| launch_failure(&error));
        if let Some((launching, key)) = run.launching.take() {
            self.poll.remove(launching.status_fd(), key);
        }
    }

    /// The run whose process this is.
    pub(crate) fn program_of(&self, pid: Pid) -> Option<u64> {
        self.programs.iter().find(|(_, run)| run.process.pid == pid).map(|(number, _)| *number)
    }

    /// A program has ended, or is given up.
    pub(crate) fn program_ended(&mut self, number: u64, end: pidfd::Exit) {
        self.program_progress(number);
        let Some(mut run) = self.programs.remove(&number) else { return };
        if let Some((launching, key)) = run.launching.take() {
            self.poll.remove(launching.status_fd(), key);
        }
        let _ = pidfd::reap(&run.process.pidfd);
        let result = run.result(end);
        match run.purpose {
            Purpose::Create(id) => match result.and_then(|()| self.adopt(&id)) {
                Ok(()) => self.start_by_program(&id),
                Err(failure) => self.making_failed(&id, failure),
            },
            Purpose::Start(id) => match result {
                Ok(()) => self.started_by_program(&id),
                Err(failure) => self.making_failed(&id, failure),
            },
            Purpose::Delete(id) => self.deleted_by_program(&id, result),
            Purpose::Signal { connection, request, signal } => {
                // The kernel's way is there where the program's fails.
                let sent = result.or_else(|_| self.signal(&signal)).map(|()| Reply::Done);
                self.answer(connection, request, sent);
            }
            Purpose::Exec(session) => self.exec_by_program_done(session, result),
        }
        if !self.programs.values().any(|run| run.purpose.adopts()) {
            self.strangers.clear();
        }
    }

    /// Kills programs that take too long, and gives up those that do not even die.
    pub(crate) fn programs_overdue(&mut self, now: Instant) {
        let due: Vec<u64> =
            self.programs.iter().filter(|(_, run)| run.until <= now).map(|(n, _)| *n).collect();
        for number in due {
            let Some(run) = self.programs.get_mut(&number) else { continue };
            if run.is_killed {
                self.program_ended(number, pidfd::Exit::Signal(9));
            } else {
                run.kill();
                run.until = now + KILL_PATIENCE;
            }
        }
    }

    /// Keeps in mind how an unknown child ended, while a program may still name it ours.
    pub(crate) fn stranger_ended(&mut self, pid: Pid, end: pidfd::Exit) {
        if self.programs.values().any(|run| run.purpose.adopts()) {
            if self.strangers.len() >= MAX_STRANGERS {
                self.strangers.remove(0);
            }
            self.strangers.push(Stranger { pid, end });
        }
    }

    /// How a child ended that a program now names.
    pub(crate) fn end_of_stranger(&self, pid: Pid) -> Option<pidfd::Exit> {
        self.strangers.iter().rev().find(|s| s.pid == pid).map(|stranger| stranger.end)
    }

    /// Takes over the first process of a container that was made.
    fn adopt(&mut self, id: &ContainerId) -> Result<(), Failure> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        let process = child_in(&container.bundle.join(PID_FILE))?;
        container.pid = process.pid.as_raw_nonzero().get();
        container.start_time = start_time(process.pid);
        container.process = Some(process);
        let waiting = container.made.as_mut().and_then(|made| made.waiting.as_mut());
        let Some(console) = waiting.and_then(|waiting| waiting.console.take()) else {
            return Ok(());
        };
        let master = console.master().map_err(|error| kernel("get the terminal", error))?;
        self.add_console(id, Some(master));
        Ok(())
    }

    fn start_by_program(&mut self, id: &ContainerId) {
        let Some((made, bundle)) = self.made(id) else { return };
        let Some(waiting) = &made.waiting else { return };
        let command = Command {
            args: vec!["start".to_owned(), id.to_string()],
            stdio: NO_STDIO,
            create: None,
            // Both share the time that a handler has.
            limit: made.limit(),
            until: waiting.until,
        };
        let (program, bundle) = (made.program.clone(), bundle.to_owned());
        if let Err(failure) =
            self.run_program(Purpose::Start(id.clone()), &program, &bundle, command)
        {
            self.making_failed(id, failure);
        }
    }

    fn started_by_program(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(made) = &mut container.made else { return };
        let Some(waiting) = made.waiting.take() else { return };
        let ended = made.ended.take();
        let reply = container.runs_now(Vec::new());
        self.answer(waiting.connection, waiting.request, Ok(Reply::Started(reply)));
        if let Some(end) = ended {
            self.container_ended(id, end);
        }
    }

    /// Nothing is to be left of a container that was not started.
    fn making_failed(&mut self, id: &ContainerId, failure: Failure) {
        let Some(container) = self.containers.get_mut(id) else { return };
        kill_cgroup(&container.kill);
        if let Some(process) = container.process.take() {
            kill_and_reap(&process.pidfd);
        }
        if let Some(waiting) = container.made.as_mut().and_then(|made| made.waiting.as_mut()) {
            waiting.failure.get_or_insert(failure);
        }
        self.delete_by_program(id);
        if self.made(id).is_some_and(|(made, _)| !made.is_being_deleted) {
            self.making_ended(id);
        }
    }

    fn making_ended(&mut self, id: &ContainerId) {
        let made = self.containers.get_mut(id).and_then(|container| container.made.as_mut());
        let waiting = made.and_then(|made| made.waiting.take());
        let Some(Waiting { connection, request, failure, .. }) = waiting else { return };
        let failure = failure.unwrap_or_else(|| Failure::new(FailureKind::Launch, "not started"));
        self.start_failed(id, connection, request, failure);
    }

    /// Begins to have the program delete what it keeps of a container; nothing for others.
    pub(crate) fn delete_by_program(&mut self, id: &ContainerId) {
        let Some((made, bundle)) = self.made(id) else { return };
        let args = ["delete", "--force", id.as_str()].map(str::to_owned).to_vec();
        let limit = made.limit().min(DELETE_LIMIT);
        let until = Instant::now() + limit;
        let command = Command { args, stdio: NO_STDIO, create: None, limit, until };
        let (program, bundle) = (made.program.clone(), bundle.to_owned());
        let begun = self.run_program(Purpose::Delete(id.clone()), &program, &bundle, command);
        if let Err(failure) = &begun {
            say(&format!("{id}: what the program keeps of it stays: {failure}"));
        }
        if let Some(made) = self.containers.get_mut(id).and_then(|c| c.made.as_mut()) {
            made.is_being_deleted = begun.is_ok();
        }
    }

    fn deleted_by_program(&mut self, id: &ContainerId, result: Result<(), Failure>) {
        if let Err(failure) = result {
            say(&format!("{id}: what the program keeps of it may stay: {failure}"));
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Some(made) = &mut container.made {
            made.is_being_deleted = false;
        }
        if matches!(container.phase, Phase::Making) {
            self.making_ended(id);
        } else if container.streams.is_empty() {
            self.drained(id);
        }
    }

    fn made(&self, id: &ContainerId) -> Option<(&Made, &Path)> {
        let container = self.containers.get(id)?;
        Some((container.made.as_deref()?, &container.bundle))
    }

    /// Whether a signal goes by the program: what it runs in may be more than a process.
    /// SIGKILL, and signals to all processes, go by the cgroup.
    pub(crate) fn signals_by_program(&self, wanted: &Signal) -> bool {
        let kills = wanted.signal == rustix::process::Signal::KILL.as_raw();
        let container = self.containers.get(&wanted.container);
        !kills
            && !wanted.all
            && (1..=64).contains(&wanted.signal)
            && container.is_some_and(|c| c.made.is_some() && c.running().is_some())
    }

    /// Has the program send a signal; the answer comes when it has.
    pub(crate) fn signal_by_program(&mut self, connection: u64, request: u64, wanted: &Signal) {
        let Some((made, bundle)) = self.made(&wanted.container) else { return };
        let args = vec!["kill".to_owned(), wanted.container.to_string(), wanted.signal.to_string()];
        let (limit, until) = (KILL_PATIENCE, Instant::now() + KILL_PATIENCE);
        let command = Command { args, stdio: NO_STDIO, create: None, limit, until };
        let (program, bundle) = (made.program.clone(), bundle.to_owned());
        let purpose = Purpose::Signal { connection, request, signal: wanted.clone() };
        if self.run_program(purpose, &program, &bundle, command).is_err() {
            let sent = self.signal(wanted).map(|()| Reply::Done);
            self.answer(connection, request, sent);
        }
    }
}

/// The number of a container's first process, in its bundle.
const PID_FILE: &str = "init.pid";

/// Opens the child that a program has named; one that is not ours is refused.
fn child_in(file: &Path) -> Result<Process, Failure> {
    let pid = pid_in(file)?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(io::Error::from)
        .and_then(|pidfd| pidfd::peek_exit(&pidfd).map(|_| Process { pid, pidfd }));
    process.map_err(|error| {
        let text = format!("the process that the program names is not its child: {error}");
        Failure::new(FailureKind::Launch, text)
    })
}

/// Reads the number of a process that a program has written.
pub(crate) fn pid_in(file: &Path) -> Result<Pid, Failure> {
    let mut text = String::new();
    let read = File::open(file).and_then(|f| f.take(MAX_PID_BYTES).read_to_string(&mut text));
    let number = read.ok().and_then(|_| text.trim().parse::<i32>().ok());
    // PID 1 is nobody's child.
    number.filter(|number| *number > 1).and_then(Pid::from_raw).ok_or_else(|| {
        let text = format!("the program wrote no process into {}", file.display());
        Failure::new(FailureKind::Launch, text)
    })
}

/// The last error in a program's log: a line of JSON each.
fn last_error(log: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(log).ok()?.take(MAX_LOG_BYTES).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find_map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_error = value.get("level").and_then(|level| level.as_str()) == Some("error");
        let said = value.get("msg")?.as_str().filter(|_| is_error)?;
        let said: String = said.chars().take(MAX_TEXT).collect();
        Some(said.trim().replace(['\n', '\r'], " "))
    })
}

pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A path to a descriptor of this process, or to a file in it, that children can use.
fn own_path(fd: i32, name: Option<&str>) -> PathBuf {
    let own = rustix::process::getpid().as_raw_nonzero();
    let path = PathBuf::from(format!("/proc/{own}/fd/{fd}"));
    name.map_or(path.clone(), |name| path.join(name))
}

/// A socket to which a program sends a terminal's master.
///
/// Its path goes by a directory's descriptor: a socket's address has 108 bytes, and that of a
/// bundle has more.
#[derive(Debug)]
pub(crate) struct Console {
    listener: OwnedFd,
    dir: OwnedFd,
    name: String,
}

impl Console {
    pub(crate) fn new(dir: &Path, name: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = rustix::fs::open(dir, flags, Mode::empty())?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let _ = rustix::fs::unlinkat(&dir, name, AtFlags::empty());
        let address = SocketAddrUnix::new(own_path(dir.as_raw_fd(), Some(name)))?;
        rustix::net::bind(&listener, &address)?;
        rustix::net::listen(&listener, 1)?;
        Ok(Self { listener, dir, name: name.to_owned() })
    }

    pub(crate) fn path(&self) -> String {
        text(&own_path(self.dir.as_raw_fd(), Some(&self.name)))
    }

    /// Takes what a program has sent that has ended since. Never waits.
    pub(crate) fn master(self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connection = rustix::net::accept_with(self.listener.as_fd(), flags)?;
        let mut name = [0; MAX_CONSOLE_BYTES];
        let received = sys::message::receive(&connection, &mut name)?;
        let none = || io::Error::other("the program sent no terminal");
        received.descriptors.into_iter().next().ok_or_else(none)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.dir, self.name.as_str(), AtFlags::empty());
    }
}

impl Container {
    /// The program that made it, its bundle, and how long the program may take.
    pub(crate) fn program(&self) -> Option<(Program, PathBuf, Duration)> {
        let made = self.made.as_ref()?;
        Some((made.program.clone(), self.bundle.clone(), made.limit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_what_a_program_says() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(
            &log,
            "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"two\\nlines\"}\n\
             {\"level\":\"warning\",\"msg\":\"no\"}\nnonsense\n",
        )
        .unwrap();
        assert_eq!(last_error(&log).as_deref(), Some("two lines"));
        assert_eq!(last_error(&dir.path().join("none")), None);
    }

    #[test]
    fn only_a_number_of_a_process_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        for bad in ["", "x", "0", "1", "-5", "99999999999", "12 13"] {
            fs::write(&file, bad).unwrap();
            assert!(pid_in(&file).is_err(), "{bad}");
        }
        fs::write(&file, "4711\n").unwrap();
        assert_eq!(pid_in(&file).unwrap().as_raw_nonzero().get(), 4711);
        // This process is not a child of itself.
        fs::write(&file, std::process::id().to_string()).unwrap();
        assert!(child_in(&file).is_err());
    }

    #[test]
    fn a_terminal_comes_by_a_socket_in_a_deep_directory() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        fs::create_dir(&deep).unwrap();
        let console = Console::new(&deep, "c.sock").unwrap();
        let client = std::os::unix::net::UnixStream::connect(console.path()).unwrap();
        let null = File::open("/dev/null").unwrap();
        sys::message::send(&client, b"/dev/pts/0", &[null.as_fd()]).unwrap();
        console.master().unwrap();
        assert!(!deep.join("c.sock").exists());
        let nobody = Console::new(&deep, "c.sock").unwrap();
        assert_eq!(nobody.master().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
