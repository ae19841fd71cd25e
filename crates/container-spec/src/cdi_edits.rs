//! What vendors' devices ask of a container (Container Device Interface), put into its spec.

use std::path::{Path, PathBuf};

use cdi::{DeviceNode, Edits, Hook};
use oci_spec::runtime::{
    HookBuilder, Hooks, Linux, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceType,
    Mount, MountBuilder, Process, Spec,
};

use crate::{
    NetDevice, SpecError, SpecInput,
    devices::rule,
    process::set_variable,
    text::{check_count, check_no_nul, clean_path, shown},
};

/// How many of a sort the devices of a container may ask for together.
const MAX_EDITS: usize = 4096;

/// Puts what devices ask for into the spec: they come after what the request and the image
/// say, as the interface has it.
pub(crate) fn apply(spec: &mut Spec, input: &SpecInput<'_>) -> Result<(), SpecError> {
    for edits in input.cdi {
        let Edits {
            env,
            device_nodes,
            hooks,
            mounts,
            intel_rdt,
            additional_gids,
            net_devices: _, // of the pod's network: see `net_devices`
        } = edits;
        if intel_rdt.is_some() {
            return Err(SpecError::CdiUnsupported { what: "intelRdt" });
        }
        let late = |hook: &Hook| LATE_HOOKS.contains(&hook.hook_name.as_str());
        if hooks.iter().any(late) && !input.runs_all_hooks {
            return Err(SpecError::CdiUnsupported { what: "hooks after the container's making" });
        }
        if let Some(process) = spec.process_mut() {
            add_to_process(process, env, additional_gids)?;
        }
        for hook in hooks {
            let mut all = spec.hooks().clone().unwrap_or_default();
            add_hook(&mut all, hook)?;
            spec.set_hooks(Some(all));
        }
        for mount in mounts {
            let mount = to_mount(mount)?;
            let all = spec.mounts_mut().get_or_insert_default();
            all.push(mount);
            check_count("mounts of CDI devices", all.len(), crate::MAX_MOUNTS + MAX_EDITS)?;
        }
        if let Some(linux) = spec.linux_mut() {
            for node in device_nodes {
                add_node(linux, input, node)?;
            }
        }
    }
    Ok(())
}

/// The network devices that all devices together ask for. They move by the runtime's hand and not
/// by that of a handler's program, few of which know them.
pub(crate) fn net_devices(input: &SpecInput<'_>) -> Result<Vec<NetDevice>, SpecError> {
    let mut all: Vec<NetDevice> = Vec::new();
    for asked in input.cdi.iter().flat_map(|edits| &edits.net_devices) {
        if input.namespaces.network.is_none() {
            return Err(SpecError::NetDeviceOfNode { name: shown(&asked.host_interface_name) });
        }
        let host_name = interface("network device of a CDI device", &asked.host_interface_name)?;
        let name = match asked.name.as_str() {
            "" => host_name.clone(),
            name => interface("name of a CDI device's network device", name)?,
        };
        let wanted = NetDevice { host_name, name };
        if all.contains(&wanted) {
            continue;
        }
        let twice = |d: &NetDevice| d.host_name == wanted.host_name || d.name == wanted.name;
        if all.iter().any(twice) || wanted.name == "lo" {
            let what = "network device that is asked for twice or in place of the loopback";
            return Err(SpecError::Characters { what, text: shown(&wanted.name) });
        }
        all.push(wanted);
        check_count("network devices", all.len(), MAX_EDITS)?;
    }
    Ok(all)
}

/// The longest name of an interface, without its end (`IFNAMSIZ`).
const MAX_INTERFACE_BYTES: usize = 15;

/// A name that the kernel takes for an interface (its `dev_valid_name`), and no pattern.
fn interface(what: &'static str, name: &str) -> Result<String, SpecError> {
    check_count(what, name.len(), MAX_INTERFACE_BYTES)?;
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    if name.is_empty() || name == "." || name == ".." || name.contains(bad) {
        return Err(SpecError::Characters { what, text: shown(name) });
    }
    Ok(name.to_owned())
}

fn add_to_process(process: &mut Process, env: &[String], gids: &[u32]) -> Result<(), SpecError> {
    let what = "environment of a CDI device";
    for entry in env {
        check_no_nul(what, entry)?;
        if entry.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
            return Err(SpecError::Characters { what, text: shown(entry) });
        }
        set_variable(process.env_mut().get_or_insert_default(), entry);
    }
    let mut user = process.user().clone();
    let mut all = user.additional_gids().clone().unwrap_or_default();
    // Group 0 is what a vendor writes who forgot to say which.
    all.extend(gids.iter().filter(|gid| **gid != 0));
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    check_count("groups", all.len(), crate::MAX_GROUPS)?;
    user.set_additional_gids(Some(all));
    process.set_user(user);
    Ok(())
}

fn add_hook(hooks: &mut Hooks, hook: &Hook) -> Result<(), SpecError> {
    let Hook { hook_name, path, args, env, timeout } = hook;
    absolute("path of a hook", path)?;
    for text in args.iter().chain(env) {
        check_no_nul("argument of a hook", text)?;
    }
    let made = HookBuilder::default()
        .path(path)
        .args(args.clone())
        .env(env.clone())
        .timeout(timeout.unwrap_or(DEFAULT_HOOK_TIMEOUT_S))
        .build()
        .expect("every field of a hook is set");
    let list = match hook_name.as_str() {
        // Deprecated, and what older vendors' tools still write.
        #[allow(deprecated, reason = "it runs at the same time as createRuntime")]
        "prestart" => hooks.prestart_mut(),
        "createRuntime" => hooks.create_runtime_mut(),
        "createContainer" => hooks.create_container_mut(),
        "startContainer" => hooks.start_container_mut(),
        "poststart" => hooks.poststart_mut(),
        "poststop" => hooks.poststop_mut(),
        _ => return Err(SpecError::Characters { what: "name of a hook", text: shown(hook_name) }),
    };
    let list = list.get_or_insert_default();
    list.push(made);
    check_count("hooks of CDI devices", list.len(), MAX_EDITS)
}

/// Hooks of moments that the native handler does not have.
const LATE_HOOKS: [&str; 3] = ["startContainer", "poststart", "poststop"];

/// How long a hook of a vendor may take that does not say so.
const DEFAULT_HOOK_TIMEOUT_S: i64 = 30;

fn to_mount(mount: &cdi::Mount) -> Result<Mount, SpecError> {
    let cdi::Mount { host_path, container_path, options, kind } = mount;
    absolute("target of a CDI device's mount", container_path)?;
    check_no_nul("source of a CDI device's mount", host_path)?;
    let is_bind = kind.is_empty() || kind == "bind" || kind == "none";
    if is_bind {
        absolute("source of a CDI device's mount", host_path)?;
    }
    check_count("options of a mount", options.len(), MAX_OPTIONS)?;
    let mut options = options.clone();
    for option in &options {
        check_no_nul("option of a CDI device's mount", option)?;
    }
    if is_bind && !options.iter().any(|option| option == "bind" || option == "rbind") {
        options.push("rbind".to_owned());
    }
    Ok(MountBuilder::default()
        .destination(clean_path(container_path))
        .typ(if is_bind { "bind" } else { kind.as_str() })
        .source(host_path)
        .options(options)
        .build()
        .expect("every field of a mount has a default"))
}

/// How many options a mount may have.
const MAX_OPTIONS: usize = 64;

fn add_node(linux: &mut Linux, input: &SpecInput<'_>, node: &DeviceNode) -> Result<(), SpecError> {
    let made = to_device(input, node)?;
    let good = node.permissions.chars().all(|c| matches!(c, 'r' | 'w' | 'm'));
    if !good || node.permissions.len() > 3 {
        let (host_path, permissions) = (shown(&node.path), shown(&node.permissions));
        return Err(SpecError::DevicePermissions { host_path, permissions });
    }
    if !input.container.security.privileged && made.typ() != LinuxDeviceType::P {
        let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
        let rule: LinuxDeviceCgroup =
            rule(true, Some(made.typ()), Some(made.major()), Some(made.minor()), access);
        let mut resources = linux.resources().clone().unwrap_or_default();
        resources.devices_mut().get_or_insert_default().push(rule);
        linux.set_resources(Some(resources));
    }
    let devices = linux.devices_mut().get_or_insert_default();
    devices.retain(|known| known.path() != made.path());
    devices.push(made);
    check_count("devices", devices.len(), crate::MAX_DEVICES)
}

/// What the vendor leaves open is as the node has it.
fn to_device(input: &SpecInput<'_>, node: &DeviceNode) -> Result<LinuxDevice, SpecError> {
    let DeviceNode {
        path,
        host_path,
        kind,
        major,
        minor,
        file_mode,
        permissions: _, // of the cgroup's rule
        uid,
        gid,
    } = node;
    absolute("path of a CDI device", path)?;
    let source = if host_path.is_empty() { path } else { host_path };
    absolute("path of a CDI device", source)?;
    let typ = match kind.as_str() {
        "" => None,
        "b" => Some(LinuxDeviceType::B),
        "c" | "u" => Some(LinuxDeviceType::C),
        "p" => Some(LinuxDeviceType::P),
        _ => return Err(SpecError::Characters { what: "type of a CDI device", text: shown(kind) }),
    };
    let is_whole = typ == Some(LinuxDeviceType::P)
        || (typ.is_some() && major.is_some_and(|number| number > 0) && minor.is_some());
    let known = if is_whole { None } else { Some(of_node(input, source)?) };
    let default_mode = known.as_ref().map_or(0o660, |known| known.mode);
    let of_known = |number: fn(&crate::DeviceNode) -> u32| {
        known.as_ref().map_or(0, |known| i64::from(number(known)))
    };
    let kind_of_node = known.as_ref().is_some_and(|known| known.block);
    let of_node = if kind_of_node { LinuxDeviceType::B } else { LinuxDeviceType::C };
    Ok(LinuxDeviceBuilder::default()
        .path(PathBuf::from(clean_path(path)))
        .typ(typ.unwrap_or(of_node))
        .major(
            major.filter(|number| is_whole || *number > 0).unwrap_or_else(|| of_known(|k| k.major)),
        )
        .minor(if is_whole { minor.unwrap_or(0) } else { of_known(|k| k.minor) })
        .file_mode(file_mode.unwrap_or(default_mode))
        .uid(uid.unwrap_or(input.user.uid))
        .gid(gid.unwrap_or(input.user.gid))
        .build()
        .expect("every field of a device has a default"))
}

fn of_node(input: &SpecInput<'_>, path: &str) -> Result<crate::DeviceNode, SpecError> {
    let none = || SpecError::NoDevice { host_path: shown(path) };
    let found = input.devices.at(Path::new(path)).map_err(|_| none())?;
    found.into_iter().find(|node| node.path == Path::new(path)).ok_or_else(none)
}

fn absolute(what: &'static str, path: &str) -> Result<(), SpecError> {
    check_no_nul(what, path)?;
    if path.starts_with('/') {
        Ok(())
    } else {
        Err(SpecError::NotAbsolute { what, path: shown(path) })
    }
}
