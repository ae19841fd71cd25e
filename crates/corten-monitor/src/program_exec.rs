//! Exec sessions in containers that a runtime program made: `exec --detach`.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use launch::Stdio;
use monitor_proto::{Exec, ExecStarted, Failure, FailureKind, Reply};
use rustix::process::{Pid, PidfdFlags};
use sys::pidfd;

use crate::container::kernel;
use crate::exec::ExecSession;
use crate::monitor::Monitor;
use crate::program::{Command, Console, NO_STDIO, Purpose, pid_in, text};

/// What a session needs while a program starts it. The files end with it.
#[derive(Debug)]
pub(crate) struct ExecFiles {
    request: u64,
    process: PathBuf,
    pid: PathBuf,
    console: Option<Console>,
}

impl Drop for ExecFiles {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.process);
        let _ = fs::remove_file(&self.pid);
    }
}

impl Monitor {
    /// Begins a session; the answer comes when its command was started.
    pub(crate) fn exec_by_program(
        &mut self,
        connection: u64,
        request: u64,
        wanted: &Exec,
        process: &[u8],
        streams: &[Option<OwnedFd>; 3],
    ) -> Result<(), Failure> {
        let known = self.containers.get(&wanted.container).and_then(|c| c.program());
        let Some((program, bundle, limit)) = known else {
            let text = format!("container {} does not run", wanted.container);
            return Err(Failure::new(FailureKind::NotRunning, text));
        };
        let name = format!("exec-{}", wanted.exec);
        let mut files = ExecFiles {
            request,
            process: bundle.join(format!("{name}.json")),
            pid: bundle.join(format!("{name}.pid")),
            console: None,
        };
        fs::write(&files.process, process)
            .map_err(|e| kernel(&format!("write {}", files.process.display()), e))?;
        let mut args = vec!["exec".to_owned(), "--detach".to_owned(), "--process".to_owned()];
        args.extend([text(&files.process), "--pid-file".to_owned(), text(&files.pid)]);
        if wanted.tty {
            let console = Console::new(&bundle, &format!("{name}.sock"))
                .map_err(|error| kernel("make a console socket", error))?;
            args.extend(["--console-socket".to_owned(), console.path()]);
            files.console = Some(console);
        }
        args.push(wanted.container.to_string());
        let [stdin, stdout, stderr] = streams.each_ref().map(|s| s.as_ref().map(AsFd::as_fd));
        let stdio = if wanted.tty { NO_STDIO } else { Stdio::Pipes { stdin, stdout, stderr } };
        let number = self.next_number();
        let until = Instant::now() + limit;
        let command = Command { args, stdio, create: None, limit, until };
        let child = self.run_program(Purpose::Exec(number), &program, &bundle, command)?;
        let session = ExecSession {
            container: wanted.container.clone(),
            id: wanted.exec.clone(),
            connection,
            // The program, until it has named the session's own process.
            pid: child.pid,
            pidfd: child.pidfd,
            launching: None,
            dir: wanted.cgroup.dir.clone(),
            until: None,
            timeout: wanted.timeout_ms.map(Duration::from_millis),
            timed_out: false,
            killed: false,
            given_up: false,
            outlives_connection: wanted.outlives_connection,
            starting: Some(files),
        };
        self.execs.insert(number, session);
        Ok(())
    }

    /// The program has started a session's command, or has not.
    pub(crate) fn exec_by_program_done(&mut self, number: u64, result: Result<(), Failure>) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        let Some(mut files) = exec.starting.take() else { return };
        let (connection, request) = (exec.connection, files.request);
        let adopted = result.and_then(|()| pid_in(&files.pid)).and_then(|pid| {
            let master = files.console.take().map(Console::master).transpose();
            let master = master.map_err(|error| kernel("get the terminal", error))?;
            Ok((pid, self.adopt_session(number, pid)?, master))
        });
        match adopted {
            Ok((pid, ended, master)) => {
                let reply = ExecStarted { pid: pid.as_raw_nonzero().get(), notices: Vec::new() };
                self.answer_with(connection, request, Ok(Reply::ExecStarted(reply)), master);
                if let Some(end) = ended {
                    self.exec_ended(number, end);
                }
            }
            Err(failure) => {
                if let Some(exec) = self.execs.remove(&number) {
                    self.leave_cgroup(exec.dir);
                }
                self.answer(connection, request, Err(failure));
            }
        }
    }

    /// Takes a session's process over; where it has ended and was reaped, its end comes back.
    fn adopt_session(&mut self, number: u64, pid: Pid) -> Result<Option<pidfd::Exit>, Failure> {
        if let Some(end) = self.end_of_stranger(pid) {
            return Ok(Some(end));
        }
        let opened = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(std::io::Error::from)
            .and_then(|pidfd| pidfd::peek_exit(&pidfd).map(|_| pidfd));
        let pidfd = opened.map_err(|error| {
            let text = format!("the process that the program names is not its child: {error}");
            Failure::new(FailureKind::Launch, text)
        })?;
        let Some(exec) = self.execs.get_mut(&number) else { return Ok(None) };
        (exec.pid, exec.pidfd) = (pid, pidfd);
        exec.until = exec.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if let Some(dir) = &exec.dir {
            // What it has started already stays in the container's own cgroup. Where it has ended
            // there is nothing to place.
            let _ = fs::write(dir.join("cgroup.procs"), pid.as_raw_nonzero().to_string());
        }
        if exec.killed {
            self.kill_exec_session(number, false);
        }
        Ok(None)
    }
}
