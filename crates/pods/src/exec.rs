//! ExecSync: a command in a running container, with its output.
//!
//! The monitor starts the command with the write ends of two pipes; the daemon
//! reads them. What is over the limit is read and dropped, so that the command is
//! never blocked by its reader and the daemon never grows by it.

use std::{os::fd::OwnedFd, time::Duration};

use monitor_client::{ExecEnd, ExecRequest, Monitor};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{io::AsyncReadExt, net::unix::pipe, time::timeout};
use types::ContainerId;

use crate::{
    error::{Error, Result},
    record::ContainerState,
    service::{Pods, blocking},
};

/// The most bytes of standard output and error together. The client takes 16 MiB a
/// message; the rest is room for the message's own fields.
const MAX_OUTPUT_BYTES: usize = (16 << 20) - (64 << 10);

/// How long output is read after the command's end, where a child of it still holds a pipe.
const DRAIN: Duration = Duration::from_millis(500);

/// What a command did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, cut at the limit.
    pub stdout: Vec<u8>,
    /// Standard error, cut at the limit.
    pub stderr: Vec<u8>,
    /// The exit code, or 128 and the signal's number.
    pub exit_code: i32,
}

impl Pods {
    /// Runs a command in a container and waits for its end.
    ///
    /// # Errors
    /// [`Error::ExecTimeout`] where it ran for longer than `limit` (which, if zero, is
    /// none): all of it has then been killed. Fails where the container does not run
    /// or the command cannot be started.
    ///
    /// # Cancellation
    /// Where the caller leaves, the command is killed.
    pub async fn exec_sync(&self, id: &str, command: Vec<String>, limit: Duration) -> Result<ExecOutput> {
        let Some(name) = command.first().cloned() else {
            return Err(Error::Invalid("the command is empty".to_owned()));
        };
        let (record, handle) = self.owned(id)?.ok_or_else(|| Error::NoContainer(id.to_owned()))?;
        if !matches!(record.state, ContainerState::Running { .. }) {
            return Err(Error::WrongState(format!("container {} does not run: nothing can be executed in it", record.id)));
        }
        let monitor = handle
            .monitor()
            .ok_or_else(|| Error::WrongState(format!("the monitor of container {} is dead", record.id)))?;
        let process = self.process_json(&record, command).await?;
        let (stdout_read, stdout) = make_pipe()?;
        let (stderr_read, stderr) = make_pipe()?;
        let request = ExecRequest {
            container: record.id.clone(),
            process,
            timeout: limit,
            tty: false,
            stdin: None,
            stdout: Some(stdout),
            stderr: Some(stderr),
        };
        let exec = monitor.exec(request).await.map_err(|source| Error::Monitor {
            what: format!("execute \"{name}\" in container {}", record.id),
            source,
        })?;
        let guard = KillOnDrop { monitor, container: record.id.clone(), exec: exec.id(), armed: true };
        let (output, end) = collect(stdout_read, stderr_read, exec.ended()).await?;
        guard.disarm();
        let end = end.map_err(|source| Error::Monitor {
            what: format!("learn how \"{name}\" in container {} ended", record.id),
            source,
        })?;
        if end.timed_out {
            return Err(Error::ExecTimeout { command: name, within: limit });
        }
        let exit_code = if end.signal != 0 { 128 + end.signal } else { end.code };
        Ok(ExecOutput { exit_code, ..output })
    }

    /// The process of the container's specification, with another command.
    async fn process_json(&self, record: &crate::ContainerRecord, command: Vec<String>) -> Result<Vec<u8>> {
        let path = crate::files::PodFiles::new(&self.inner.options.state, &record.sandbox_id)
            .bundle(&record.id)
            .join("process.json");
        blocking(move || {
            let failed = |source| Error::File { what: "read", path: path.clone(), source };
            let text = std::fs::read(&path).map_err(failed)?;
            let mut process: oci_spec::runtime::Process =
                serde_json::from_slice(&text).map_err(|e| failed(std::io::Error::other(e)))?;
            process.set_args(Some(command));
            process.set_terminal(Some(false));
            serde_json::to_vec(&process).map_err(|e| failed(std::io::Error::other(e)))
        })
        .await
    }

    /// Has the monitor open a container's log anew, after the kubelet has renamed it.
    ///
    /// # Errors
    /// Fails where the container does not run, or the new file cannot be made; there is
    /// then no new file.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let (record, handle) = self.owned(id)?.ok_or_else(|| Error::NoContainer(id.to_owned()))?;
        if !matches!(record.state, ContainerState::Running { .. }) {
            return Err(Error::WrongState(format!("container {} does not run: its log is closed", record.id)));
        }
        let monitor = handle
            .monitor()
            .ok_or_else(|| Error::WrongState(format!("the monitor of container {} is dead", record.id)))?;
        monitor.reopen_log(&record.id).await.map_err(|source| Error::Monitor {
            what: format!("reopen the log of container {}", record.id),
            source,
        })
    }
}

/// Kills a command whose client has left.
struct KillOnDrop {
    monitor: Monitor,
    container: ContainerId,
    exec: u64,
    armed: bool,
}

impl KillOnDrop {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if self.armed {
            let (monitor, container, exec) = (self.monitor.clone(), self.container.clone(), self.exec);
            tokio::spawn(async move {
                let _ = monitor.kill_exec(&container, exec).await;
            });
        }
    }
}

fn make_pipe() -> Result<(pipe::Receiver, OwnedFd)> {
    let failed = |source: std::io::Error| Error::File { what: "make", path: "a pipe".into(), source };
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    rustix::io::ioctl_fionbio(&read, true).map_err(|e| failed(e.into()))?;
    Ok((pipe::Receiver::from_owned_fd(read).map_err(failed)?, write))
}

/// Reads both pipes until the command has ended and they are drained.
async fn collect<E>(
    mut stdout: pipe::Receiver,
    mut stderr: pipe::Receiver,
    ended: impl Future<Output = std::result::Result<ExecEnd, E>>,
) -> Result<(ExecOutput, std::result::Result<ExecEnd, E>)> {
    let mut output = ExecOutput::default();
    let mut room = MAX_OUTPUT_BYTES;
    let (mut chunk_out, mut chunk_err) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    let (mut out_open, mut err_open) = (true, true);
    let mut end = None;
    tokio::pin!(ended);
    while out_open || err_open || end.is_none() {
        let drain = tokio::time::sleep(DRAIN);
        tokio::select! {
            biased;
            n = stdout.read(&mut chunk_out), if out_open => {
                out_open = take(n, &chunk_out, &mut output.stdout, &mut room);
            }
            n = stderr.read(&mut chunk_err), if err_open => {
                err_open = take(n, &chunk_err, &mut output.stderr, &mut room);
            }
            e = &mut ended, if end.is_none() => end = Some(e),
            () = drain, if end.is_some() => break,
        }
    }
    let end = match end {
        Some(end) => end,
        None => timeout(Duration::MAX, ended).await.map_err(|_| Error::Stopping)?,
    };
    Ok((output, end))
}

/// Keeps what there is room for; false means that the pipe is closed.
fn take(n: std::io::Result<usize>, chunk: &[u8], into: &mut Vec<u8>, room: &mut usize) -> bool {
    let n = n.unwrap_or(0);
    let kept = n.min(*room);
    into.extend_from_slice(chunk.get(..kept).unwrap_or_default());
    *room -= kept;
    n > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(code: i32) -> std::result::Result<ExecEnd, ()> {
        Ok(ExecEnd { code, signal: 0, timed_out: false })
    }

    #[tokio::test]
    async fn output_is_read_to_the_end_of_both_pipes() {
        let ((out, w_out), (err, w_err)) = (make_pipe().unwrap(), make_pipe().unwrap());
        rustix::io::write(&w_out, b"out").unwrap();
        rustix::io::write(&w_err, b"err").unwrap();
        drop((w_out, w_err));
        let (output, ended) = collect(out, err, async { end(3) }).await.unwrap();
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out"[..], &b"err"[..]));
        assert_eq!(ended.unwrap().code, 3);
    }

    #[tokio::test]
    async fn a_child_that_keeps_a_pipe_does_not_keep_the_call() {
        let ((out, _held), (err, w_err)) = (make_pipe().unwrap(), make_pipe().unwrap());
        drop(w_err);
        collect(out, err, async { end(0) }).await.unwrap();
    }

    #[tokio::test]
    async fn output_over_the_limit_is_dropped_and_never_blocks() {
        let ((out, w_out), (err, w_err)) = (make_pipe().unwrap(), make_pipe().unwrap());
        drop(w_err);
        let writer = std::thread::spawn(move || {
            let block = vec![b'x'; 1 << 20];
            for _ in 0..20 {
                let mut rest = block.as_slice();
                while !rest.is_empty() {
                    let n = rustix::io::write(&w_out, rest).unwrap();
                    rest = &rest[n..];
                }
            }
        });
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let done = std::thread::spawn(move || {
            writer.join().unwrap();
            drop(sender);
        });
        let ended = async {
            let _ = receiver.await;
            end(0)
        };
        let (output, _) = collect(out, err, ended).await.unwrap();
        done.join().unwrap();
        assert_eq!(output.stdout.len(), MAX_OUTPUT_BYTES);
    }
}
