//! `ContainerConfig`.

use cri_proto::v1;
use tonic::Status;
use types::{
    ContainerConfig, ContainerMetadata, ContainerSecurity, Device, ImageSpec, Mount, Propagation,
};

use super::{
    invalid, required,
    security::{capabilities, groups_policy, id_mappings, namespaces, profile, resources, selinux},
};

/// The most bytes that a name may have: those of a file's name, for names become
/// parts of labels, logs and events.
const MAX_NAME_BYTES: usize = 253;

/// Refuses names that are too long or hold control characters.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), Status> {
    if name.len() > MAX_NAME_BYTES {
        return Err(invalid(
            field,
            format!("has {} bytes, at most {MAX_NAME_BYTES} are allowed", name.len()),
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(invalid(field, "holds control characters"));
    }
    Ok(())
}

/// Converts what CreateContainer was asked for.
pub(crate) fn container_config(from: v1::ContainerConfig) -> Result<ContainerConfig, Status> {
    let v1::ContainerConfig {
        metadata,
        image,
        command,
        args,
        working_dir,
        envs,
        mounts,
        devices,
        labels,
        annotations,
        log_path,
        stdin,
        stdin_once,
        tty,
        linux,
        windows: _, // of no meaning on Linux
        cdi_devices,
        stop_signal,
    } = from;
    let v1::LinuxContainerConfig { resources: limits, security_context } =
        linux.unwrap_or_default();
    let v1::ContainerMetadata { name, attempt } = required("config.metadata", metadata)?;
    if name.is_empty() {
        return Err(invalid("config.metadata.name", "is required"));
    }
    check_name("config.metadata.name", &name)?;
    Ok(ContainerConfig {
        metadata: ContainerMetadata { name, attempt },
        image: image_spec(required("config.image", image)?),
        command,
        args,
        working_dir,
        envs: envs.into_iter().map(|v1::KeyValue { key, value }| (key, value)).collect(),
        mounts: mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
        devices: devices.into_iter().map(device).collect(),
        labels: labels.into_iter().collect(),
        annotations: annotations.into_iter().collect(),
        log_path,
        stdin,
        stdin_once,
        tty,
        cdi_devices: cdi_devices.into_iter().map(|v1::CdiDevice { name }| name).collect(),
        stop_signal: signal(stop_signal)?,
        resources: resources(limits.unwrap_or_default()),
        security: security(security_context.unwrap_or_default())?,
    })
}

/// Converts how a request names an image.
pub(crate) fn image_spec(from: v1::ImageSpec) -> ImageSpec {
    let v1::ImageSpec { image, annotations, user_specified_image, runtime_handler, image_ref } =
        from;
    ImageSpec {
        image,
        annotations: annotations.into_iter().collect(),
        user_specified_image,
        runtime_handler,
        image_ref,
    }
}

fn device(from: v1::Device) -> Device {
    let v1::Device { container_path, host_path, permissions } = from;
    Device { container_path, host_path, permissions }
}

fn mount(from: v1::Mount) -> Result<Mount, Status> {
    let v1::Mount {
        container_path,
        host_path,
        readonly,
        selinux_relabel,
        propagation,
        uid_mappings,
        gid_mappings,
        recursive_read_only,
        image,
        image_sub_path,
        mount_options,
    } = from;
    let propagation = match v1::MountPropagation::try_from(propagation) {
        Ok(v1::MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(v1::MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(v1::MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
        Err(_) => {
            return Err(invalid(
                "config.mounts.propagation",
                format!("unknown propagation {propagation}"),
            ));
        }
    };
    Ok(Mount {
        container_path,
        host_path,
        readonly,
        selinux_relabel,
        propagation,
        uid_mappings: id_mappings(uid_mappings),
        gid_mappings: id_mappings(gid_mappings),
        recursive_read_only,
        image: image.map(image_spec).filter(|i| !i.image.is_empty()),
        image_sub_path,
        mount_options,
    })
}

/// The wire numbers signals in the alphabetical order of their names
/// (`SIGNAL_SIGTERM` is 23), so the name is what counts.
fn signal(value: i32) -> Result<Option<i32>, Status> {
    let signal = v1::Signal::try_from(value)
        .map_err(|_| invalid("config.stop_signal", format!("unknown signal {value}")))?;
    let name = signal.as_str_name().trim_start_matches("SIGNAL_");
    if signal == v1::Signal::RuntimeDefault {
        return Ok(None);
    }
    types::signal_number(name)
        .map(Some)
        .ok_or_else(|| invalid("config.stop_signal", format!("{name} is not a signal of Linux")))
}

fn security(from: v1::LinuxContainerSecurityContext) -> Result<ContainerSecurity, Status> {
    #[allow(deprecated)] // the deprecated forms still count where the new ones are not set
    let v1::LinuxContainerSecurityContext {
        capabilities: caps,
        privileged,
        namespace_options,
        selinux_options,
        run_as_user,
        run_as_group,
        run_as_username,
        readonly_rootfs,
        supplemental_groups,
        no_new_privs,
        masked_paths,
        readonly_paths,
        seccomp,
        apparmor,
        apparmor_profile,
        seccomp_profile_path,
        supplemental_groups_policy,
    } = from;
    let field = "config.linux.security_context";
    Ok(ContainerSecurity {
        capabilities: capabilities(caps),
        privileged,
        namespaces: namespaces(&format!("{field}.namespace_options"), namespace_options)?,
        selinux: selinux(selinux_options),
        run_as_user: run_as_user.map(|v| v.value),
        run_as_username,
        run_as_group: run_as_group.map(|v| v.value),
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy: groups_policy(
            &format!("{field}.supplemental_groups_policy"),
            supplemental_groups_policy,
        )?,
        apparmor: profile(&format!("{field}.apparmor"), apparmor, &apparmor_profile)?,
        seccomp: profile(&format!("{field}.seccomp"), seccomp, &seccomp_profile_path)?,
        no_new_privs,
        masked_paths,
        readonly_paths,
    })
}
