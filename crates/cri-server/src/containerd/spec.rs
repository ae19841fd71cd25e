//! The part of an OCI specification that is in memory: what was asked for. cAdvisor reads the
//! environment, and that only where it is told to; the whole specification is in the verbose
//! ContainerStatus.

use std::collections::BTreeMap;

use pods::{ContainerRecord, SandboxRecord};
use serde_json::{Value, json};

/// The version of the specification whose fields are used.
const OCI_VERSION: &str = "1.0.2";

/// Of the sandbox, which has no process that anybody asked for.
pub(super) fn of_sandbox(record: &SandboxRecord) -> Value {
    let mut annotations = record.config.annotations.clone();
    annotate_pod(&mut annotations, record);
    annotate(&mut annotations, "container-type", "sandbox");
    json!({
        "ociVersion": OCI_VERSION,
        "process": { "args": [], "cwd": "/", "env": [], "user": { "uid": 0, "gid": 0 } },
        "hostname": record.config.hostname,
        "annotations": annotations,
        "linux": { "cgroupsPath": record.cgroup_parent },
    })
}

/// Of a container: the environment that its image brings is not among it.
pub(super) fn of_container(record: &ContainerRecord, sandbox: Option<&SandboxRecord>) -> Value {
    let config = &record.config;
    let mut annotations = config.annotations.clone();
    if let Some(sandbox) = sandbox {
        annotate_pod(&mut annotations, sandbox);
    }
    annotate(&mut annotations, "container-type", "container");
    annotate(&mut annotations, "container-name", &config.metadata.name);
    annotate(&mut annotations, "image-name", &record.image.name);
    let env: Vec<String> = config
        .envs
        .iter()
        .map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(value)))
        .collect();
    let args: Vec<&String> = config.command.iter().chain(&config.args).collect();
    let cwd = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
    let user = json!({ "uid": record.user.uid, "gid": record.user.gid });
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": config.tty,
            "args": args,
            "cwd": cwd,
            "env": env,
            "user": user,
        },
        "annotations": annotations,
        "linux": { "cgroupsPath": record.cgroup },
    })
}

fn annotate_pod(annotations: &mut BTreeMap<String, String>, sandbox: &SandboxRecord) {
    let metadata = &sandbox.config.metadata;
    annotate(annotations, "sandbox-id", sandbox.id.as_str());
    annotate(annotations, "sandbox-name", &metadata.name);
    annotate(annotations, "sandbox-namespace", &metadata.namespace);
    annotate(annotations, "sandbox-uid", &metadata.uid);
}

fn annotate(annotations: &mut BTreeMap<String, String>, key: &str, value: &str) {
    annotations.insert(format!("io.kubernetes.cri.{key}"), value.to_owned());
}
