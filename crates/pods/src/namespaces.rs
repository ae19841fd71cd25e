//! Namespaces of a pod that need no monitor to be made.
//!
//! A thread that ends with the work makes and pins them, while the monitor starts: no other thread
//! of the daemon is ever in them. Those that a user namespace owns are the monitor's to make.

use std::{io, thread};

use launch::{LaunchError, SandboxNamespaces, Step};
use rustix::io::Errno;
use tokio::sync::oneshot;
use types::NamespaceMode;

use crate::{
    error::{Error, Result},
    record::SandboxRecord,
    task::PodTask,
};

/// Whether the daemon makes the namespaces of a sandbox itself.
pub(crate) fn are_plain(record: &SandboxRecord) -> bool {
    record.config.security.namespaces.user.is_none()
}

/// What namespaces a sandbox is to have, and where they are pinned; users' left aside.
pub(crate) fn wanted(task: &PodTask) -> Result<SandboxNamespaces> {
    let config = &task.record.config;
    let sysctls = container_spec::sysctls(config);
    let own_ipc = config.security.namespaces.ipc == NamespaceMode::Pod;
    Ok(SandboxNamespaces {
        net: task.record.netns.clone(),
        ipc: own_ipc.then(|| task.files.ipc_ns()),
        // The node's UTS namespace goes with the node's network.
        uts: task.record.netns.is_some().then(|| task.files.uts_ns()),
        hostname: crate::run::hostname(config),
        sysctls: sysctls.map_err(|e| Error::Invalid(telemetry::chain(&e)))?,
        user: None,
    })
}

/// Begins to make and pin the namespaces of a sandbox; the task is not borrowed.
pub(crate) fn make(task: &PodTask) -> impl Future<Output = Result<()>> + use<> {
    let id = task.id().to_string();
    let begun = wanted(task).map(begin);
    async move {
        let made = match begun? {
            // Where nobody answers the thread has panicked.
            Ok(made) => {
                made.await.unwrap_or_else(|error| Err(LaunchError::Thread(io::Error::other(error))))
            }
            Err(error) => Err(LaunchError::Thread(error)),
        };
        made.map_err(|source| match &source {
            LaunchError::Child(failure)
                if failure.step == Step::Sysctl && is_bad_value(failure.errno) =>
            {
                Error::Invalid(format!("failed to make the namespaces of sandbox {id}: {failure}"))
            }
            _ => Error::Namespaces { id, source: Box::new(source) },
        })
    }
}

fn begin(
    wanted: SandboxNamespaces,
) -> io::Result<oneshot::Receiver<std::result::Result<(), LaunchError>>> {
    let (answer, made) = oneshot::channel();
    let work = move || {
        // Nobody who waited is no error here.
        let _ = answer.send(launch::make_namespaces_here(&wanted));
    };
    thread::Builder::new().name("corten-pod-ns".to_owned()).spawn(work)?;
    Ok(made)
}

/// Whether a kernel parameter is none here, or does not take the value that was asked for.
pub(crate) fn is_bad_value(errno: Option<i32>) -> bool {
    errno.is_some_and(|e| [Errno::NOENT, Errno::INVAL].map(Errno::raw_os_error).contains(&e))
}
