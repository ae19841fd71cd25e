//! What is reported: records to the wire's messages.

use cri_proto::v1;
use pods::{ContainerRecord, ContainerState, Exit, SandboxRecord, StateKind};
use types::{ContainerConfig, Image, ImageSpec, Mount, Propagation, SandboxMetadata};

use super::security::{namespaces_out, resources_out};

pub(super) fn metadata(from: &SandboxMetadata) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: from.name.clone(),
        uid: from.uid.clone(),
        namespace: from.namespace.clone(),
        attempt: from.attempt,
    }
}

/// The state that a sandbox is reported in.
fn sandbox_state(record: &SandboxRecord) -> v1::PodSandboxState {
    if record.is_ready() {
        v1::PodSandboxState::SandboxReady
    } else {
        v1::PodSandboxState::SandboxNotready
    }
}

/// A sandbox in a list.
pub(crate) fn sandbox(record: &SandboxRecord) -> v1::PodSandbox {
    v1::PodSandbox {
        id: record.id.to_string(),
        metadata: Some(metadata(&record.config.metadata)),
        state: sandbox_state(record).into(),
        created_at: record.created_at_ns,
        labels: record.config.labels.clone().into_iter().collect(),
        annotations: record.config.annotations.clone().into_iter().collect(),
        runtime_handler: record.config.runtime_handler.clone(),
    }
}

/// A sandbox's status.
pub(crate) fn sandbox_status(record: &SandboxRecord) -> v1::PodSandboxStatus {
    let mut ips = record.ips().iter().map(ToString::to_string);
    v1::PodSandboxStatus {
        id: record.id.to_string(),
        metadata: Some(metadata(&record.config.metadata)),
        state: sandbox_state(record).into(),
        created_at: record.created_at_ns,
        network: Some(v1::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(namespaces_out(&record.config.security.namespaces)),
            }),
        }),
        labels: record.config.labels.clone().into_iter().collect(),
        annotations: record.config.annotations.clone().into_iter().collect(),
        runtime_handler: record.config.runtime_handler.clone(),
    }
}

/// The state that a container is reported in.
fn container_state(state: &ContainerState) -> v1::ContainerState {
    match StateKind::of(state) {
        StateKind::Created => v1::ContainerState::ContainerCreated,
        StateKind::Running => v1::ContainerState::ContainerRunning,
        StateKind::Exited => v1::ContainerState::ContainerExited,
        StateKind::Unknown => v1::ContainerState::ContainerUnknown,
    }
}

/// The image as the request named it; the runtime's own name for it is `shown`.
fn image_spec_out(spec: &ImageSpec, shown: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: shown.to_owned(),
        annotations: spec.annotations.clone().into_iter().collect(),
        user_specified_image: spec.user_specified_image.clone(),
        runtime_handler: spec.runtime_handler.clone(),
        image_ref: spec.image_ref.clone(),
    }
}

pub(super) fn container_metadata(config: &ContainerConfig) -> v1::ContainerMetadata {
    v1::ContainerMetadata { name: config.metadata.name.clone(), attempt: config.metadata.attempt }
}

/// A container in a list.
pub(crate) fn container(record: &ContainerRecord) -> v1::Container {
    v1::Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.sandbox_id.to_string(),
        metadata: Some(container_metadata(&record.config)),
        image: Some(image_spec_out(&record.config.image, &record.config.image.image)),
        image_ref: record.image.reference.clone(),
        state: container_state(&record.state).into(),
        created_at: record.created_at_ns,
        labels: record.config.labels.clone().into_iter().collect(),
        annotations: record.config.annotations.clone().into_iter().collect(),
        image_id: record.image.id.to_string(),
    }
}

/// A container's status.
pub(crate) fn container_status(record: &ContainerRecord) -> v1::ContainerStatus {
    let none = Exit { code: 0, reason: String::new(), message: String::new(), finished_at_ns: 0 };
    let exit = match &record.state {
        ContainerState::Exited(exit) => exit.clone(),
        ContainerState::Created | ContainerState::Starting | ContainerState::Running { .. } => none,
        ContainerState::Unknown => Exit {
            code: 255,
            reason: "Unknown".to_owned(),
            message: format!("the container's record {}", record.damage),
            finished_at_ns: record.created_at_ns,
        },
    };
    v1::ContainerStatus {
        id: record.id.to_string(),
        metadata: Some(container_metadata(&record.config)),
        state: container_state(&record.state).into(),
        created_at: record.created_at_ns,
        started_at: record.started_at_ns,
        finished_at: exit.finished_at_ns,
        exit_code: exit.code,
        image: Some(image_spec_out(&record.config.image, &record.image.name)),
        image_ref: record.image.reference.clone(),
        reason: exit.reason,
        message: exit.message,
        labels: record.config.labels.clone().into_iter().collect(),
        annotations: record.config.annotations.clone().into_iter().collect(),
        mounts: mounts_out(record),
        log_path: record.log_path.clone(),
        resources: Some(v1::ContainerResources {
            linux: Some(resources_out(&record.config.resources)),
            windows: None,
        }),
        image_id: record.image.id.to_string(),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: record.user.uid.into(),
                gid: record.user.gid.into(),
                supplemental_groups: record
                    .user
                    .additional_gids
                    .iter()
                    .map(|g| i64::from(*g))
                    .collect(),
            }),
        }),
        stop_signal: stop_signal(record.stop_signal).into(),
    }
}

/// The wire's name for a signal of Linux.
fn stop_signal(number: i32) -> v1::Signal {
    let Some(name) = types::signal_name(number) else { return v1::Signal::RuntimeDefault };
    let name = name.replace('+', "PLUS").replace('-', "MINUS");
    v1::Signal::from_str_name(&format!("SIGNAL_{name}")).unwrap_or(v1::Signal::RuntimeDefault)
}

/// The mounts as they were asked for, with the ids of their images.
fn mounts_out(record: &ContainerRecord) -> Vec<v1::Mount> {
    let mut mounts: Vec<_> = record.config.mounts.iter().map(mount_out).collect();
    for (index, id) in &record.volume_images {
        if let Some(image) = mounts.get_mut(*index).and_then(|mount| mount.image.as_mut()) {
            image.image_ref = id.to_string();
        }
    }
    mounts
}

fn mount_out(from: &Mount) -> v1::Mount {
    let mapping = |m: &types::IdMapping| v1::IdMapping {
        host_id: m.host_id,
        container_id: m.container_id,
        length: m.length,
    };
    v1::Mount {
        container_path: from.container_path.clone(),
        host_path: from.host_path.clone(),
        readonly: from.readonly,
        selinux_relabel: from.selinux_relabel,
        propagation: match from.propagation {
            Propagation::Private => v1::MountPropagation::PropagationPrivate,
            Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
            Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
        }
        .into(),
        uid_mappings: from.uid_mappings.iter().map(mapping).collect(),
        gid_mappings: from.gid_mappings.iter().map(mapping).collect(),
        recursive_read_only: from.recursive_read_only,
        image: from.image.as_ref().map(|i| image_spec_out(i, &i.image)),
        image_sub_path: from.image_sub_path.clone(),
        mount_options: from.mount_options.clone(),
    }
}

/// An image.
pub(crate) fn image(from: &Image) -> v1::Image {
    let (uid, username) = image_user(&from.config.user);
    v1::Image {
        id: from.id.to_string(),
        repo_tags: from.repo_tags.clone(),
        repo_digests: from.repo_digests.clone(),
        size: from.size_bytes,
        uid: uid.map(|value| v1::Int64Value { value }),
        username,
        spec: None,
        pinned: from.pinned,
    }
}

/// Who an image's containers are unless told otherwise: a number, or a name without
/// its group. Nothing at all would be read as root by the kubelet's check of
/// `runAsNonRoot`, so an image without a user says uid 0 itself.
fn image_user(user: &str) -> (Option<i64>, String) {
    let name = user.split(':').next().unwrap_or_default();
    if name.is_empty() {
        return (Some(0), String::new());
    }
    match name.parse::<i64>() {
        Ok(uid) if name.bytes().all(|b| b.is_ascii_digit()) => (Some(uid), String::new()),
        _ => (None, name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_users_are_told_as_the_kubelet_reads_them() {
        for (user, uid, name) in [
            ("", Some(0), ""),
            ("1002", Some(1002), ""),
            ("1003:group", Some(1003), ""),
            ("www-data", None, "www-data"),
            ("www-data:www-data", None, "www-data"),
            ("-1", None, "-1"),
        ] {
            assert_eq!(image_user(user), (uid, name.to_owned()), "{user}");
        }
    }

    #[test]
    fn every_signal_has_its_name_on_the_wire() {
        assert_eq!(stop_signal(15), v1::Signal::Sigterm);
        assert_eq!(stop_signal(37), v1::Signal::Sigrtminplus3);
        assert_eq!(stop_signal(0), v1::Signal::RuntimeDefault);
    }
}
