//! Namespaces, identity, profiles and limits.

use cri_proto::v1;
use tonic::Status;
use types::{
    Capabilities, HugepageLimit, IdMapping, LinuxResources, NamespaceMode, NamespaceOptions,
    PidMode, Profile, SelinuxOptions, SupplementalGroupsPolicy, UserNamespace,
};

use super::invalid;

pub(crate) fn resources(from: v1::LinuxContainerResources) -> LinuxResources {
    let v1::LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit_in_bytes,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
        memory_swap_limit_in_bytes,
    } = from;
    LinuxResources {
        cpu_period_us: cpu_period,
        cpu_quota_us: cpu_quota,
        cpu_shares,
        memory_limit_bytes: memory_limit_in_bytes,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits: hugepage_limits
            .into_iter()
            .map(|v1::HugepageLimit { page_size, limit }| HugepageLimit {
                page_size,
                limit_bytes: limit,
            })
            .collect(),
        unified: unified.into_iter().collect(),
        memory_swap_limit_bytes: memory_swap_limit_in_bytes,
    }
}

pub(crate) fn resources_out(from: &LinuxResources) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: from.cpu_period_us,
        cpu_quota: from.cpu_quota_us,
        cpu_shares: from.cpu_shares,
        memory_limit_in_bytes: from.memory_limit_bytes,
        oom_score_adj: from.oom_score_adj,
        cpuset_cpus: from.cpuset_cpus.clone(),
        cpuset_mems: from.cpuset_mems.clone(),
        hugepage_limits: from
            .hugepage_limits
            .iter()
            .map(|l| v1::HugepageLimit { page_size: l.page_size.clone(), limit: l.limit_bytes })
            .collect(),
        unified: from.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: from.memory_swap_limit_bytes,
    }
}

pub(crate) fn namespaces(
    field: &str,
    from: Option<v1::NamespaceOption>,
) -> Result<NamespaceOptions, Status> {
    let v1::NamespaceOption { network, pid, ipc, target_id, userns_options } =
        from.unwrap_or_default();
    Ok(NamespaceOptions {
        network: pod_or_node(&format!("{field}.network"), network)?,
        pid: pid_mode(&format!("{field}.pid"), pid, target_id)?,
        ipc: pod_or_node(&format!("{field}.ipc"), ipc)?,
        user: user_namespace(&format!("{field}.userns_options"), userns_options)?,
    })
}

pub(crate) fn namespaces_out(from: &NamespaceOptions) -> v1::NamespaceOption {
    let mode = |m: NamespaceMode| match m {
        NamespaceMode::Pod => v1::NamespaceMode::Pod,
        NamespaceMode::Node => v1::NamespaceMode::Node,
    };
    let (pid, target_id) = match &from.pid {
        PidMode::Pod => (v1::NamespaceMode::Pod, String::new()),
        PidMode::Container => (v1::NamespaceMode::Container, String::new()),
        PidMode::Node => (v1::NamespaceMode::Node, String::new()),
        PidMode::Target(id) => (v1::NamespaceMode::Target, id.clone()),
    };
    let mapping = |m: &IdMapping| v1::IdMapping {
        host_id: m.host_id,
        container_id: m.container_id,
        length: m.length,
    };
    v1::NamespaceOption {
        network: mode(from.network).into(),
        pid: pid.into(),
        ipc: mode(from.ipc).into(),
        target_id,
        userns_options: from.user.as_ref().map(|u| v1::UserNamespace {
            mode: v1::NamespaceMode::Pod.into(),
            uids: u.uids.iter().map(mapping).collect(),
            gids: u.gids.iter().map(mapping).collect(),
        }),
    }
}

fn mode(field: &str, value: i32) -> Result<v1::NamespaceMode, Status> {
    v1::NamespaceMode::try_from(value)
        .map_err(|_| invalid(field, format!("unknown namespace mode {value}")))
}

fn pod_or_node(field: &str, value: i32) -> Result<NamespaceMode, Status> {
    match mode(field, value)? {
        v1::NamespaceMode::Pod => Ok(NamespaceMode::Pod),
        v1::NamespaceMode::Node => Ok(NamespaceMode::Node),
        other @ (v1::NamespaceMode::Container | v1::NamespaceMode::Target) => {
            Err(invalid(field, format!("mode {} is only for PID namespaces", other.as_str_name())))
        }
    }
}

fn pid_mode(field: &str, value: i32, target: String) -> Result<PidMode, Status> {
    match mode(field, value)? {
        v1::NamespaceMode::Pod => Ok(PidMode::Pod),
        v1::NamespaceMode::Container => Ok(PidMode::Container),
        v1::NamespaceMode::Node => Ok(PidMode::Node),
        v1::NamespaceMode::Target if target.is_empty() => {
            Err(invalid(field, "mode TARGET needs a target_id"))
        }
        v1::NamespaceMode::Target => Ok(PidMode::Target(target)),
    }
}

fn user_namespace(
    field: &str,
    from: Option<v1::UserNamespace>,
) -> Result<Option<UserNamespace>, Status> {
    let Some(v1::UserNamespace { mode: value, uids, gids }) = from else { return Ok(None) };
    match mode(field, value)? {
        v1::NamespaceMode::Node if uids.is_empty() && gids.is_empty() => Ok(None),
        v1::NamespaceMode::Node => Err(invalid(field, "mode NODE takes no mappings")),
        v1::NamespaceMode::Pod => {
            Ok(Some(UserNamespace { uids: id_mappings(uids), gids: id_mappings(gids) }))
        }
        other @ (v1::NamespaceMode::Container | v1::NamespaceMode::Target) => {
            Err(invalid(field, format!("mode {} is not one of POD and NODE", other.as_str_name())))
        }
    }
}

pub(crate) fn id_mappings(from: Vec<v1::IdMapping>) -> Vec<IdMapping> {
    from.into_iter()
        .map(|v1::IdMapping { host_id, container_id, length }| IdMapping {
            host_id,
            container_id,
            length,
        })
        .collect()
}

pub(crate) fn selinux(from: Option<v1::SeLinuxOption>) -> Option<SelinuxOptions> {
    from.map(|v1::SeLinuxOption { user, role, r#type, level }| SelinuxOptions {
        user,
        role,
        type_: r#type,
        level,
    })
}

pub(crate) fn groups_policy(field: &str, value: i32) -> Result<SupplementalGroupsPolicy, Status> {
    match v1::SupplementalGroupsPolicy::try_from(value) {
        Ok(v1::SupplementalGroupsPolicy::Merge) => Ok(SupplementalGroupsPolicy::Merge),
        Ok(v1::SupplementalGroupsPolicy::Strict) => Ok(SupplementalGroupsPolicy::Strict),
        Err(_) => Err(invalid(field, format!("unknown policy {value}"))),
    }
}

pub(crate) fn capabilities(from: Option<v1::Capability>) -> Capabilities {
    let v1::Capability { add_capabilities, drop_capabilities, add_ambient_capabilities } =
        from.unwrap_or_default();
    Capabilities {
        add: add_capabilities,
        drop: drop_capabilities,
        add_ambient: add_ambient_capabilities,
    }
}

/// Joins a profile field with its deprecated text form, which counts only where
/// the field is not set: `runtime/default`, `docker/default`, `unconfined`,
/// `localhost/NAME`, or empty.
pub(crate) fn profile(
    field: &str,
    from: Option<v1::SecurityProfile>,
    deprecated: &str,
) -> Result<Option<Profile>, Status> {
    let Some(v1::SecurityProfile { profile_type, localhost_ref }) = from else {
        return deprecated_profile(field, deprecated);
    };
    use v1::security_profile::ProfileType;
    match ProfileType::try_from(profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(Some(Profile::RuntimeDefault)),
        Ok(ProfileType::Unconfined) => Ok(Some(Profile::Unconfined)),
        Ok(ProfileType::Localhost) if localhost_ref.is_empty() => {
            Err(invalid(field, "a Localhost profile needs a localhost_ref"))
        }
        Ok(ProfileType::Localhost) => Ok(Some(Profile::Localhost(localhost_ref))),
        Err(_) => Err(invalid(field, format!("unknown profile type {profile_type}"))),
    }
}

fn deprecated_profile(field: &str, text: &str) -> Result<Option<Profile>, Status> {
    match text {
        "" => Ok(None),
        "runtime/default" | "docker/default" => Ok(Some(Profile::RuntimeDefault)),
        "unconfined" => Ok(Some(Profile::Unconfined)),
        other => match other.strip_prefix("localhost/") {
            Some(name) if !name.is_empty() => Ok(Some(Profile::Localhost(name.to_owned()))),
            _ => Err(invalid(field, format!("unknown profile \"{other}\""))),
        },
    }
}
