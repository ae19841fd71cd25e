//! ExecSync and ReopenContainerLog: what goes to the monitor without the pod's task.

use std::{path::PathBuf, sync::Arc, time::Duration};

use monitor_client::{ExecCgroup, ExecSync, Monitor};

use crate::{
    ContainerRecord,
    error::{Error, Result},
    files::PodFiles,
    record::ContainerState,
    service::{Pods, blocking},
    spec,
};

/// The most bytes of standard output and error together. The client takes 16 MiB a
/// message; the rest is room for the message's own fields.
const MAX_OUTPUT_BYTES: usize = (16 << 20) - (64 << 10);

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
    /// [`Error::ExecTimeout`] where it ran for longer than `limit` (zero is none): all of
    /// it has then been killed. Fails where the container does not run or the command
    /// cannot be started.
    ///
    /// # Cancellation
    /// Where the caller leaves, the command is killed with all that it started.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        limit: Duration,
    ) -> Result<ExecOutput> {
        let Some(name) = command.first().cloned() else {
            return Err(Error::Invalid("the command is empty".to_owned()));
        };
        let (record, monitor) = self.running(id, "nothing can be executed in it")?;
        let (process, cgroup) = self.prepare_exec(&record, command, false).await?;
        let wanted = ExecSync {
            container: record.id.clone(),
            timeout: (!limit.is_zero()).then_some(limit),
            cgroup,
            output_limit: MAX_OUTPUT_BYTES,
        };
        let output =
            monitor.exec_sync(&wanted, &process).await.map_err(|source| Error::Monitor {
                what: format!("execute \"{name}\" in container {}", record.id),
                source: Box::new(source),
            })?;
        if output.end.timed_out {
            return Err(Error::ExecTimeout { command: name, within: limit });
        }
        let exit = output.end.exit.ok_or_else(|| Error::Timeout {
            what: format!("the end of \"{name}\" in container {}", record.id),
            within: limit,
        })?;
        let exit_code = exit.signal.map_or(exit.code, |signal| 128 + signal);
        Ok(ExecOutput { stdout: output.stdout, stderr: output.stderr, exit_code })
    }

    /// Has the monitor open a container's log anew, after the kubelet has renamed it.
    ///
    /// # Errors
    /// Fails where the container does not run, or the new file cannot be made; there is
    /// then no new file.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let (record, monitor) = self.running(id, "its log is closed")?;
        if record.log_path.is_empty() {
            return Err(Error::WrongState(format!("container {} has no log", record.id)));
        }
        monitor.reopen_log(&record.id).await.map_err(|source| Error::Monitor {
            what: format!("reopen the log of container {}", record.id),
            source: Box::new(source),
        })
    }

    /// A container that runs, and its monitor.
    pub(crate) fn running(
        &self,
        id: &str,
        consequence: &str,
    ) -> Result<(Arc<ContainerRecord>, Monitor)> {
        let (record, handle) = self.owned(id)?.ok_or_else(|| Error::NoContainer(id.to_owned()))?;
        if !matches!(record.state, ContainerState::Running { .. }) {
            return Err(Error::WrongState(format!(
                "container {} does not run: {consequence}",
                record.id
            )));
        }
        let monitor = handle.monitor().ok_or_else(|| {
            Error::WrongState(format!("the monitor of container {} is dead", record.id))
        })?;
        Ok((record, monitor))
    }

    /// The process of the container's specification with another command, and the
    /// cgroups that it goes into.
    pub(crate) async fn prepare_exec(
        &self,
        record: &ContainerRecord,
        command: Vec<String>,
        tty: bool,
    ) -> Result<(Vec<u8>, ExecCgroup)> {
        let path = self.bundle(record).join(spec::PROCESS_FILE);
        let (inner, cgroup) = (self.inner.clone(), record.cgroup.clone());
        blocking(move || {
            let failed = |source| Error::File { what: "read", path: path.clone(), source };
            let text = std::fs::read(&path).map_err(failed)?;
            let own: oci_spec::runtime::Process =
                serde_json::from_slice(&text).map_err(|e| failed(std::io::Error::other(e)))?;
            let process = container_spec::exec_process(&own, &command, tty);
            let json =
                serde_json::to_vec(&process).map_err(|e| failed(std::io::Error::other(e)))?;
            Ok((json, spec::exec_cgroup(&inner, &cgroup)?))
        })
        .await
    }

    /// The container's specification, for verbose answers; null where it is gone.
    pub async fn spec_json(&self, record: &ContainerRecord) -> serde_json::Value {
        let path = self.bundle(record).join(spec::SPEC_FILE);
        let read = blocking(move || {
            std::fs::read(&path).map_err(|source| Error::File { what: "read", path, source })
        });
        read.await.ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    fn bundle(&self, record: &ContainerRecord) -> PathBuf {
        PodFiles::new(&self.inner.options.state, &record.sandbox_id).bundle(&record.id)
    }

    /// The time in nanoseconds since 1970; later than any that was told before.
    pub fn now_ns(&self) -> i64 {
        self.inner.clock.now_ns()
    }
}
