//! Namespaces of a pod that need no monitor to be made.
//!
//! A thread that ends with the work makes and pins them, while the monitor starts: no other thread
//! of the daemon is ever in them. Those that a user namespace owns, and those with kernel
//! parameters of their own, are the monitor's to make.

use std::{io, thread};

use launch::{LaunchError, SandboxNamespaces};
use tokio::sync::oneshot;
use types::NamespaceMode;

use crate::{
    error::{Error, Result},
    record::SandboxRecord,
    task::PodTask,
};

/// Whether the daemon makes the namespaces of a sandbox itself.
pub(crate) fn are_plain(record: &SandboxRecord) -> bool {
    let config = &record.config;
    config.security.namespaces.user.is_none()
        && container_spec::sysctls(config).is_ok_and(|s| s.is_empty())
}

/// Where the namespaces of a sandbox are pinned, users' left aside.
pub(crate) fn pins(task: &PodTask) -> SandboxNamespaces {
    let config = &task.record.config;
    let own_ipc = config.security.namespaces.ipc == NamespaceMode::Pod;
    SandboxNamespaces {
        net: task.record.netns.clone(),
        ipc: own_ipc.then(|| task.files.ipc_ns()),
        // The node's UTS namespace goes with the node's network.
        uts: task.record.netns.is_some().then(|| task.files.uts_ns()),
        hostname: crate::run::hostname(config),
        ..SandboxNamespaces::default()
    }
}

/// Begins to make and pin the namespaces of a sandbox; the task is not borrowed.
pub(crate) fn make(task: &PodTask) -> impl Future<Output = Result<()>> + use<> {
    let (wanted, id) = (pins(task), task.id().to_string());
    let (answer, made) = oneshot::channel();
    let work = move || {
        // Nobody who waited is no error here.
        let _ = answer.send(launch::make_namespaces_here(&wanted));
    };
    let begun = thread::Builder::new().name("corten-pod-ns".to_owned()).spawn(work);
    async move {
        let made = match begun {
            Ok(_) => made.await.unwrap_or_else(|_| {
                Err(LaunchError::Thread(io::Error::other("the thread panicked")))
            }),
            Err(error) => Err(LaunchError::Thread(error)),
        };
        made.map_err(|source| Error::Namespaces { id, source: Box::new(source) })
    }
}
