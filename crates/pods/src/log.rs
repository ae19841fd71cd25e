//! What a line of the log is about.
//!
//! A call's span is opened at the door with empty fields ([`telemetry::call_span`]); they
//! are filled here, where the objects are found, and the span goes with the command to
//! the pod's task. So a line says which request it belongs to and which pod and
//! container it is about, whoever writes it. What a task does by itself (an exit, a
//! timer) has the pod's own span.

use tracing::{Span, field, info_span};
use types::ContainerId;

use crate::record::{ContainerRecord, SandboxRecord};

/// The span of what a pod's task does without being asked.
pub(crate) fn pod_span(record: &SandboxRecord) -> Span {
    info_span!(parent: None, "task", pod = %pod_name(record), sandbox = %record.id)
}

/// Names the sandbox in the lines of the call.
pub(crate) fn name_sandbox(record: &SandboxRecord) {
    Span::current()
        .record("pod", field::display(pod_name(record)))
        .record("sandbox", field::display(&record.id));
}

/// Names the container in the lines of the call.
pub(crate) fn name_container(id: &ContainerId) {
    Span::current().record("container", field::display(id));
}

/// Names a container and its sandbox in the lines of the call.
pub(crate) fn name_both(container: &ContainerRecord, sandbox: Option<&SandboxRecord>) {
    match sandbox {
        Some(sandbox) => name_sandbox(sandbox),
        None => {
            Span::current().record("sandbox", field::display(&container.sandbox_id));
        }
    }
    name_container(&container.id);
}

fn pod_name(record: &SandboxRecord) -> String {
    let metadata = &record.config.metadata;
    format!("{}/{}", metadata.namespace, metadata.name)
}
