//! `PodSandboxConfig`.

use cri_proto::v1;
use tonic::Status;
use types::{DnsConfig, PortMapping, Protocol, SandboxConfig, SandboxMetadata, SandboxSecurity};

use super::{
    invalid, required,
    security::{groups_policy, namespaces, profile, resources, selinux},
};

/// Converts what RunPodSandbox was asked for.
pub(crate) fn sandbox_config(
    from: v1::PodSandboxConfig,
    runtime_handler: String,
) -> Result<SandboxConfig, Status> {
    let v1::PodSandboxConfig {
        metadata,
        hostname,
        log_directory,
        dns_config,
        port_mappings,
        labels,
        annotations,
        linux,
        windows: _, // of no meaning on Linux
    } = from;
    let v1::LinuxPodSandboxConfig {
        cgroup_parent,
        security_context,
        sysctls,
        overhead,
        resources: sum,
    } = linux.unwrap_or_default();
    Ok(SandboxConfig {
        metadata: metadata_in(metadata)?,
        hostname,
        log_directory,
        dns: dns_config.map(|v1::DnsConfig { servers, searches, options }| DnsConfig {
            servers,
            searches,
            options,
        }),
        port_mappings: port_mappings.into_iter().map(port_mapping).collect::<Result<_, _>>()?,
        labels: labels.into_iter().collect(),
        annotations: annotations.into_iter().collect(),
        cgroup_parent,
        sysctls: sysctls.into_iter().collect(),
        overhead: overhead.map(resources),
        resources: sum.map(resources),
        security: security(security_context.unwrap_or_default())?,
        runtime_handler,
    })
}

fn metadata_in(from: Option<v1::PodSandboxMetadata>) -> Result<SandboxMetadata, Status> {
    let v1::PodSandboxMetadata { name, uid, namespace, attempt } =
        required("config.metadata", from)?;
    for (field, value) in [("name", &name), ("uid", &uid), ("namespace", &namespace)] {
        if value.is_empty() {
            return Err(invalid(&format!("config.metadata.{field}"), "is required"));
        }
        super::container::check_name(&format!("config.metadata.{field}"), value)?;
    }
    Ok(SandboxMetadata { name, uid, namespace, attempt })
}

fn port_mapping(from: v1::PortMapping) -> Result<PortMapping, Status> {
    let v1::PortMapping { protocol, container_port, host_port, host_ip } = from;
    let port = |field: &str, value: i32| {
        u16::try_from(value).map_err(|_| invalid(field, format!("{value} is not a port")))
    };
    Ok(PortMapping {
        protocol: match v1::Protocol::try_from(protocol) {
            Ok(v1::Protocol::Tcp) => Protocol::Tcp,
            Ok(v1::Protocol::Udp) => Protocol::Udp,
            Ok(v1::Protocol::Sctp) => Protocol::Sctp,
            Err(_) => {
                return Err(invalid(
                    "config.port_mappings.protocol",
                    format!("unknown protocol {protocol}"),
                ));
            }
        },
        container_port: port("config.port_mappings.container_port", container_port)?,
        host_port: port("config.port_mappings.host_port", host_port)?,
        host_ip,
    })
}

fn security(from: v1::LinuxSandboxSecurityContext) -> Result<SandboxSecurity, Status> {
    #[allow(deprecated)] // the deprecated form still counts where the new one is not set
    let v1::LinuxSandboxSecurityContext {
        namespace_options,
        selinux_options,
        run_as_user,
        run_as_group,
        readonly_rootfs,
        supplemental_groups,
        privileged,
        seccomp,
        apparmor,
        seccomp_profile_path,
        supplemental_groups_policy,
    } = from;
    let field = "config.linux.security_context";
    if run_as_group.is_some() && run_as_user.is_none() {
        return Err(invalid(&format!("{field}.run_as_group"), "needs run_as_user"));
    }
    Ok(SandboxSecurity {
        namespaces: namespaces(&format!("{field}.namespace_options"), namespace_options)?,
        selinux: selinux(selinux_options),
        run_as_user: run_as_user.map(|v| v.value),
        run_as_group: run_as_group.map(|v| v.value),
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy: groups_policy(
            &format!("{field}.supplemental_groups_policy"),
            supplemental_groups_policy,
        )?,
        privileged,
        seccomp: profile(&format!("{field}.seccomp"), seccomp, &seccomp_profile_path)?,
        apparmor: profile(&format!("{field}.apparmor"), apparmor, "")?,
    })
}
