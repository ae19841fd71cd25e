//! What is checked and settled once for a sandbox: its names, its resolver, its kernel
//! settings.

use std::collections::BTreeMap;

use types::{IdMapping, NamespaceMode, SandboxConfig, UserNamespace};

use crate::{
    SpecError,
    files::{check_hostname, resolv_conf},
    text::{check_count, check_line, shown},
};

/// The longest name, namespace or UID of a pod. Kubernetes has at most 253.
pub const MAX_NAME_BYTES: usize = 512;
/// How many kernel settings a sandbox may have: more than the namespaces hold.
pub const MAX_SYSCTLS: usize = 1024;
/// The longest value of a kernel setting: what the kernel reads at once.
pub const MAX_SYSCTL_BYTES: usize = 4095;

/// The kernel's settings of an IPC namespace, beside those of message queues.
const IPC_SYSCTLS: [&str; 10] = [
    "kernel.auto_msgmni",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// What a pod with a network of its own may do unless its settings say otherwise: bind
/// every port, and ping, without privileges. Nothing of the node is behind either.
const NETWORK_DEFAULTS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// Checks what a sandbox is asked for, as far as containers and files are made of it.
///
/// # Errors
///
/// What is asked for cannot be, or would be read as something else where it is written.
pub fn validate_sandbox(config: &SandboxConfig) -> Result<(), SpecError> {
    let names = &config.metadata;
    for (what, text) in [
        ("name of the pod", &names.name),
        ("namespace of the pod", &names.namespace),
        ("uid of the pod", &names.uid),
    ] {
        if text.is_empty() {
            return Err(SpecError::Empty { what });
        }
        check_count(what, text.len(), MAX_NAME_BYTES)?;
        check_line(what, text)?;
    }
    check_hostname(&config.hostname)?;
    if let Some(user) = &config.security.namespaces.user {
        check_user_namespace(user)?;
    }
    resolv_conf(config.dns.as_ref())?;
    sysctls(config)?;
    Ok(())
}

/// Checks the ids of a user namespace: one range of users and one of groups, each of which has the
/// container's root, as the kubelet gives a pod and other runtimes take it.
fn check_user_namespace(user: &UserNamespace) -> Result<(), SpecError> {
    for (what, ranges) in [("user", &user.uids), ("group", &user.gids)] {
        let failed = |why: String| SpecError::UserNamespace { what, why };
        let [range] = ranges.as_slice() else {
            return Err(failed(format!("one range is needed, {} are given", ranges.len())));
        };
        check_range(*range).map_err(failed)?;
        if range.container_id != 0 {
            let first = range.container_id;
            return Err(failed(format!("the range begins with {first}, id 0 must be in it")));
        }
    }
    Ok(())
}

/// Checks one range: the last of the numbers stands for none.
pub(crate) fn check_range(range: IdMapping) -> Result<(), String> {
    let IdMapping { host_id, container_id, length } = range;
    let ends = [host_id, container_id].map(|first| first.checked_add(length));
    match ends {
        _ if length == 0 => Err("a range is empty".to_owned()),
        [Some(_), Some(_)] => Ok(()),
        _ => Err(format!("a range of {length} ids from {host_id} goes beyond the last id")),
    }
}

/// Settles the kernel settings of a sandbox's namespaces: what is asked for, and the
/// defaults. Names have dots between their parts, and a slash for a dot within one.
///
/// # Errors
///
/// A setting is not of a namespace that the sandbox owns, or has characters that none has.
pub fn sysctls(config: &SandboxConfig) -> Result<BTreeMap<String, String>, SpecError> {
    check_count("kernel settings", config.sysctls.len(), MAX_SYSCTLS)?;
    let namespaces = &config.security.namespaces;
    let own_network = namespaces.network == NamespaceMode::Pod;
    let own_ipc = namespaces.ipc == NamespaceMode::Pod;
    let mut all = BTreeMap::new();
    for (name, value) in &config.sysctls {
        let refused = || SpecError::Sysctl { name: shown(name) };
        let dotted = dotted(name).ok_or_else(refused)?;
        let owned =
            if is_ipc(&dotted) { own_ipc } else { dotted.starts_with("net.") && own_network };
        if !owned {
            return Err(refused());
        }
        check_value(value)?;
        all.insert(dotted, value.trim_matches([' ', '\t']).to_owned());
    }
    if own_network {
        for (name, value) in NETWORK_DEFAULTS {
            all.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    Ok(all)
}

fn is_ipc(name: &str) -> bool {
    name.starts_with("fs.mqueue.") || IPC_SYSCTLS.contains(&name)
}

/// Brings a name into the form with dots, or returns `None` if it is none. Of the two
/// separators the first one that stands in a name separates its parts, and the other one
/// stands for itself (sysctl(8)): `net/ipv4/conf/eth0.1/forwarding` is
/// `net.ipv4.conf.eth0/1.forwarding`.
fn dotted(name: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
    if name.len() > MAX_NAME_BYTES || !name.chars().all(good) {
        return None;
    }
    let separator = name.chars().find(|c| matches!(c, '.' | '/'))?;
    let parts: Vec<&str> = name.split(separator).collect();
    // As file names the parts must not lead anywhere else.
    if parts.iter().any(|part| part.chars().all(|c| matches!(c, '.' | '/'))) {
        return None;
    }
    let swap = |part: &&str| {
        if separator == '/' { part.replace('.', "/") } else { (*part).to_owned() }
    };
    Some(parts.iter().map(swap).collect::<Vec<_>>().join("."))
}

/// A value is numbers or words. The characters that settings are separated by elsewhere
/// (`+`, `=`) are in none.
fn check_value(value: &str) -> Result<(), SpecError> {
    let what = "value of a sysctl";
    check_count(what, value.len(), MAX_SYSCTL_BYTES)?;
    let bad = |c: char| matches!(c, '+' | '=') || (c.is_control() && c != '\t') || !c.is_ascii();
    if value.trim().is_empty() {
        return Err(SpecError::Empty { what });
    }
    if value.contains(bad) {
        return Err(SpecError::Characters { what, text: shown(value) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use types::{NamespaceOptions, SandboxMetadata, SandboxSecurity};

    use super::*;

    fn sandbox(
        sysctls: &[(&str, &str)],
        network: NamespaceMode,
        ipc: NamespaceMode,
    ) -> SandboxConfig {
        SandboxConfig {
            metadata: SandboxMetadata {
                name: "web".to_owned(),
                uid: "u".to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            },
            hostname: "web".to_owned(),
            log_directory: String::new(),
            dns: None,
            port_mappings: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            cgroup_parent: String::new(),
            sysctls: sysctls.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            overhead: None,
            resources: None,
            security: SandboxSecurity {
                namespaces: NamespaceOptions { network, ipc, ..NamespaceOptions::default() },
                ..SandboxSecurity::default()
            },
            runtime_handler: String::new(),
        }
    }

    #[test]
    fn settings_of_own_namespaces_are_taken() {
        use NamespaceMode::{Node, Pod};
        for (network, ipc, name, dotted, value) in [
            (
                Pod,
                Pod,
                "net.ipv4.ip_local_port_range",
                "net.ipv4.ip_local_port_range",
                "1024 65535",
            ),
            (Pod, Node, "net/ipv4/conf/eth0.1/forwarding", "net.ipv4.conf.eth0/1.forwarding", "1"),
            (Pod, Node, "net.ipv4.conf.eth0/1.forwarding", "net.ipv4.conf.eth0/1.forwarding", "1"),
            (Node, Pod, "kernel.shm_rmid_forced", "kernel.shm_rmid_forced", "1"),
            (Node, Pod, "fs.mqueue.msg_max", "fs.mqueue.msg_max", "100"),
            (Node, Pod, "kernel/sem", "kernel.sem", "250\t32000\t100\t128"),
        ] {
            let all = sysctls(&sandbox(&[(name, value)], network, ipc)).unwrap();
            assert_eq!(all.get(dotted).map(String::as_str), Some(value), "{name}");
        }
    }

    #[test]
    fn defaults_are_for_pods_with_a_network() {
        let own = sandbox(
            &[("net.ipv4.ping_group_range", "1 0")],
            NamespaceMode::Pod,
            NamespaceMode::Pod,
        );
        let own = sysctls(&own).unwrap();
        assert_eq!(own["net.ipv4.ip_unprivileged_port_start"], "0");
        assert_eq!(own["net.ipv4.ping_group_range"], "1 0");
        let node = sandbox(&[], NamespaceMode::Node, NamespaceMode::Pod);
        assert!(sysctls(&node).unwrap().is_empty());
    }

    #[test]
    fn all_else_is_refused() {
        use NamespaceMode::{Node, Pod};
        for (network, ipc, name, value) in [
            (Node, Pod, "net.ipv4.ip_forward", "1"),
            (Pod, Node, "kernel.shmmax", "1"),
            (Pod, Pod, "kernel.core_pattern", "|/bin/sh"),
            (Pod, Pod, "kernel.hostname", "x"),
            (Pod, Pod, "vm.swappiness", "1"),
            (Pod, Pod, "net", "1"),
            (Pod, Pod, "", "1"),
            (Pod, Pod, "net/../kernel/core_pattern", "1"),
            (Pod, Pod, "net.//.kernel.core_pattern", "1"),
            (Pod, Pod, "net./..core_pattern", "1"),
            (Pod, Pod, "net.ipv4..x", "1"),
            (Pod, Pod, "net.ipv4.x y", "1"),
            (Pod, Pod, "net.ipv4.x=1", "1"),
            (Pod, Pod, "net.ipv4.x", "1+kernel.core_pattern=|/bin/sh"),
            (Pod, Pod, "net.ipv4.x", "1=2"),
            (Pod, Pod, "net.ipv4.x", "1\n2"),
            (Pod, Pod, "net.ipv4.x", ""),
            (Pod, Pod, "net.ipv4.x", " "),
            (Pod, Pod, "net.ipv4.x", "1\0"),
        ] {
            assert!(sysctls(&sandbox(&[(name, value)], network, ipc)).is_err(), "{name} {value:?}");
        }
    }

    #[test]
    fn sandboxes_with_broken_names_are_refused() {
        let good = sandbox(&[], NamespaceMode::Pod, NamespaceMode::Pod);
        validate_sandbox(&good).unwrap();
        let breaks: [fn(&mut SandboxConfig); 6] = [
            |config| config.metadata.name = "a\nb".to_owned(),
            |config| config.metadata.name.clear(),
            |config| config.metadata.uid.clear(),
            |config| config.metadata.namespace = "x".repeat(MAX_NAME_BYTES + 1),
            |config| config.hostname = "a\nb".to_owned(),
            |config| {
                config.dns =
                    Some(types::DnsConfig { servers: vec!["x".to_owned()], ..Default::default() })
            },
        ];
        for broken in breaks {
            let mut config = good.clone();
            broken(&mut config);
            assert!(validate_sandbox(&config).is_err());
        }
    }
}
