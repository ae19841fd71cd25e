//! User namespaces of pods.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::security_profile::ProfileType;
use cri_proto::v1::{
    ContainerConfig, IdMapping, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig,
    SecurityProfile, UserNamespace,
};

use crate::case;
use crate::case::Case;
use crate::context::{Context, Pod, code, equal, namespaces, refusal, security, strings};

pub(super) const CASES: &[Case] = &[
    case!("userns.ids_are_mapped", ids_are_mapped).ours(),
    case!("userns.files_are_owned_rightly_on_the_host", files).ours(),
    case!("userns.root_has_no_power_over_the_host", powerless).attack().ours(),
    case!("userns.root_has_power_inside", powerful).ours(),
    case!("userns.privileged_has_no_power_over_the_host", privileged).attack().ours(),
    case!("userns.the_pods_files_are_its_roots", pods_files).ours(),
    case!("userns.volumes_are_mapped", volumes).ours(),
    case!("userns.shared_pid_namespace", shared_pid).ours(),
    case!("userns.network", network).ours(),
    case!("userns.node_network", node_network).ours(),
    case!("userns.exec_and_terminal", exec_and_terminal).ours(),
    case!("userns.container_user_must_be_in_it", unknown_user).ours(),
    case!("userns.node_mode_is_the_nodes", node_mode).ours(),
    case!("userns.wrong_mappings_are_refused", wrong_mappings).ours(),
    case!("userns.container_must_have_its_pods", other_namespace).ours(),
    case!("userns.status_tells_them", status).ours(),
    case!("userns.a_new_daemon_goes_on", restart).ours().alone(),
    case!("userns.cgroup_is_the_pods", cgroup).ours(),
];

pub(super) const FIRST: u32 = 400_000;
const LENGTH: u32 = 65_536;

pub(super) fn range(host_id: u32, container_id: u32, length: u32) -> Vec<IdMapping> {
    vec![IdMapping { host_id, container_id, length }]
}

fn user(mode: NamespaceMode, uids: Vec<IdMapping>, gids: Vec<IdMapping>) -> UserNamespace {
    UserNamespace { mode: mode.into(), uids, gids }
}

pub(super) fn usual() -> UserNamespace {
    let ids = range(FIRST, 0, LENGTH);
    user(NamespaceMode::Pod, ids.clone(), ids)
}

pub(super) fn option(userns: UserNamespace) -> NamespaceOption {
    NamespaceOption {
        pid: NamespaceMode::Container.into(),
        userns_options: Some(userns),
        ..NamespaceOption::default()
    }
}

pub(super) fn pod_of(c: &Context, option: &NamespaceOption) -> Result<PodSandboxConfig> {
    let mut config = c.pod()?;
    *namespaces(&mut config)? = option.clone();
    Ok(config)
}

async fn usual_pod(c: &Context) -> Result<Pod> {
    c.run_pod(pod_of(c, &option(usual()))?).await
}

fn with(mut config: ContainerConfig, option: &NamespaceOption) -> Result<ContainerConfig> {
    security(&mut config)?.namespace_options = Some(option.clone());
    Ok(config)
}

pub(super) fn of_usual(config: ContainerConfig) -> Result<ContainerConfig> {
    with(config, &option(usual()))
}

/// Where a container's own files are on the host.
pub(super) fn upper_of(c: &Context, id: &str) -> Result<std::path::PathBuf> {
    let root = c.runtime.with_daemon(|daemon| Ok(daemon.root()))?;
    let path = root.join("snapshots/active").join(id).join("fs");
    ensure!(path.is_dir(), "{} is not there", path.display());
    Ok(path)
}

/// A container's first process, as the host numbers it.
fn first_process(id: &str) -> Result<u32> {
    let controller = crate::process::controllers(&["pids"])[0];
    let all = crate::process::group_value(controller, id, "cgroup.procs")?;
    let first = all.lines().next().context("it has no process")?;
    Ok(first.parse()?)
}

pub(super) fn owner(path: &Path) -> Result<(u32, u32)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.uid(), file.gid()))
}

async fn ids_are_mapped(c: &Context) -> Result<()> {
    let pod = usual_pod(c).await?;
    let config = of_usual(c.script(
        "tr -s ' ' < /proc/self/uid_map; tr -s ' ' < /proc/self/gid_map; id -u; \
         readlink /proc/self/ns/user; stat -c %u:%g / /bin/sh /tmp /dev /dev/null /etc/passwd | uniq",
    ))?;
    let text = c.output(&pod, &config).await?;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    equal("the maps", &lines[..3], &["0 400000 65536", "0 400000 65536", "0"][..])?;
    ensure!(lines[3] != fs::read_link("/proc/self/ns/user")?.display().to_string(), "it is ours");
    equal("the owners", &lines[4..], &["0:0"][..])?;
    c.clean_up().await
}

async fn files(c: &Context) -> Result<()> {
    let pod = usual_pod(c).await?;
    let mut config = of_usual(c.waiting())?;
    security(&mut config)?.run_as_user = Some(cri_proto::v1::Int64Value { value: 1234 });
    config.working_dir = "/made/by/the/runtime".to_owned();
    let id = c.run(&pod, &config).await?;
    let pid = first_process(&id)?;
    equal("the process's owner", owner(Path::new(&format!("/proc/{pid}/task")))?.0, FIRST + 1234)?;
    c.sh(&id, "touch /tmp/mine; id -u").await?;
    let upper = upper_of(c, &id)?;
    equal("its file", owner(&upper.join("tmp/mine"))?, (FIRST + 1234, FIRST))?;
    equal("the working directory", owner(&upper.join("made/by"))?, (FIRST, FIRST))?;
    equal("the root", owner(&upper)?, (FIRST, FIRST))?;
    c.clean_up().await
}

async fn powerless(c: &Context) -> Result<()> {
    let pod = usual_pod(c).await?;
    let secret = c.canary().join("secret");
    let mut config = of_usual(c.script(
        "cat /secret; echo x > /secret; chown 0 /secret; mknod /tmp/sda b 8 0; \
         echo 1 > /proc/sys/vm/drop_caches; stat -c %u /secret",
    ))?;
    security(&mut config)?.capabilities = Some(cri_proto::v1::Capability {
        add_capabilities: strings(&["ALL"]),
        ..Default::default()
    });
    config.mounts = vec![Mount {
        host_path: secret.display().to_string(),
        container_path: "/secret".to_owned(),
        ..Mount::default()
    }];
    equal("the output", c.output(&pod, &config).await?, "65534")?;
    c.clean_up().await
}

async fn powerful(c: &Context) -> Result<()> {
    let pod = usual_pod(c).await?;
    let mut config = of_usual(c.script(
        "mkdir /m && mount -t tmpfs tmpfs /m && touch /m/x && ip link set lo down && ip link set lo up && \
         hostname other && chown 77:77 /tmp && stat -c %u /tmp && umount /m",
    ))?;
    let secured = security(&mut config)?;
    secured.capabilities = Some(cri_proto::v1::Capability {
        add_capabilities: strings(&["SYS_ADMIN", "NET_ADMIN"]),
        ..Default::default()
    });
    // The default profile of AppArmor lets nobody mount, whatever the capabilities.
    secured.apparmor = Some(SecurityProfile {
        profile_type: ProfileType::Unconfined.into(),
        localhost_ref: String::new(),
    });
    equal("the output", c.output(&pod, &config).await?, "77")?;
    ensure!(fs::read_to_string("/proc/sys/kernel/hostname")?.trim() != "other", "it is the host's");
    c.clean_up().await
}

/// Privileged means all that the user namespace can give, not what the host has.
async fn privileged(c: &Context) -> Result<()> {
    let mut config = pod_of(c, &option(usual()))?;
    if let Some(security) = config.linux.as_mut().and_then(|l| l.security_context.as_mut()) {
        security.privileged = true;
    }
    let pod = c.run_pod(config).await?;
    let mut config = of_usual(c.script(
        "mkdir /m && mount -t tmpfs tmpfs /m && echo mounts; echo x > /dev/null && echo null; \
         for d in $(find /dev -type b) /dev/kmsg /dev/mem; do \
         chmod 777 $d && echo owns $d; head -c 1 $d > /m/x && echo reads $d; done 2>/dev/null; \
         echo 3 > /proc/sys/vm/drop_caches; echo x > /sys/power/state; \
         echo h > /proc/sysrq-trigger; find /sys/fs/cgroup -name release_agent | \
         while read f; do echo /x > $f && echo agent; done; true",
    ))?;
    security(&mut config)?.privileged = true;
    equal("what it can", c.output(&pod, &config).await?, "mounts\nnull")?;
    c.clean_up().await
}

async fn pods_files(c: &Context) -> Result<()> {
    let pod = usual_pod(c).await?;
    let config = of_usual(c.script(
        "stat -c '%n %u:%g' /etc/hosts /etc/resolv.conf /etc/hostname /dev/shm; \
         echo 1.2.3.4 added >> /etc/hosts; touch /dev/shm/x; echo out > /dev/stdout",
    ))?;
    equal(
        "the owners",
        c.output(&pod, &config).await?,
        "/etc/hosts 0:0\n/etc/resolv.conf 0:0\n/etc/hostname 0:0\n/dev/shm 0:0\nout",
    )?;
    let seen =
        c.output(&pod, &of_usual(c.script("grep -c added /etc/hosts; ls /dev/shm"))?).await?;
    equal("what the next one sees", seen, "1\nx")?;
    c.clean_up().await
}

async fn volumes(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    fs::create_dir(directory.join("below"))?;
    std::os::unix::fs::chown(directory.join("below"), Some(55), Some(66))?;
    let pod = usual_pod(c).await?;
    let ids = range(FIRST, 0, LENGTH);
    let mut config = of_usual(c.script(
        "stat -c %u:%g /mapped /mapped/below /plain; touch /mapped/new; chown 9:9 /mapped/new",
    ))?;
    let mount = |to: &str| Mount {
        host_path: directory.display().to_string(),
        container_path: to.to_owned(),
        ..Mount::default()
    };
    config.mounts = vec![
        Mount { uid_mappings: ids.clone(), gid_mappings: ids, ..mount("/mapped") },
        mount("/plain"),
    ];
    equal("the owners", c.output(&pod, &config).await?, "0:0\n55:66\n65534:65534")?;
    equal("the new file's on the host", owner(&directory.join("new"))?, (9, 9))?;
    let mut config = of_usual(c.waiting())?;
    config.mounts = vec![Mount {
        propagation: cri_proto::v1::MountPropagation::PropagationBidirectional.into(),
        ..mount("/spreads")
    }];
    equal("the code", code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    c.clean_up().await
}

async fn shared_pid(c: &Context) -> Result<()> {
    let option = NamespaceOption { pid: NamespaceMode::Pod.into(), ..option(usual()) };
    let pod = c.run_pod(pod_of(c, &option)?).await?;
    let one =
        c.run(&pod, &with(c.command(&["tail", "-f", "/dev/null", "/seen"]), &option)?).await?;
    let two = c.run(&pod, &with(c.waiting(), &option)?).await?;
    equal("the other's process", c.sh(&two, "ps -o args | grep -c '[/]seen'").await?, "1")?;
    // The pod's first process is none of theirs, and they cannot end it.
    c.sh(&two, "kill -9 1 || true").await?;
    equal("the other", c.sh(&one, "echo alive").await?, "alive")?;
    let target = NamespaceOption {
        pid: NamespaceMode::Target.into(),
        target_id: one.clone(),
        ..option.clone()
    };
    let third = c.run(&pod, &with(c.waiting(), &target)?).await?;
    equal("its id", c.sh(&third, "id -u; kill -0 $(pidof tail) && echo mine").await?, "0\nmine")?;
    c.clean_up().await
}

async fn network(c: &Context) -> Result<()> {
    let mut config = pod_of(c, &option(usual()))?;
    if let Some(linux) = &mut config.linux {
        // Not one of net.core: older kernels have none of them in such a namespace.
        linux.sysctls.insert("kernel.shm_rmid_forced".to_owned(), "1".to_owned());
        linux.sysctls.insert("net.ipv4.tcp_keepalive_time".to_owned(), "77".to_owned());
    }
    let pod = c.run_pod(config).await?;
    let address = c.address(&pod).await?;
    let config = of_usual(c.script(
        "ip -o addr; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/tcp_keepalive_time \
         /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /sys/class/net",
    ))?;
    let text = c.output(&pod, &config).await?;
    ensure!(text.contains(&address), "{address} is not among {text}");
    ensure!(text.contains("\n1\n77\n0\n"), "the settings are others: {text}");
    ensure!(text.ends_with("eth0\nlo"), "the interfaces are others: {text}");
    c.clean_up().await
}

async fn node_network(c: &Context) -> Result<()> {
    let option = NamespaceOption { network: NamespaceMode::Node.into(), ..option(usual()) };
    let pod = c.run_pod(pod_of(c, &option)?).await?;
    let text =
        c.output(&pod, &with(c.script("readlink /proc/self/ns/net; id -u"), &option)?).await?;
    let own = fs::read_link("/proc/self/ns/net")?.display().to_string();
    equal("the namespace", text, format!("{own}\n0"))?;
    c.clean_up().await
}

async fn exec_and_terminal(c: &Context) -> Result<()> {
    let pod = usual_pod(c).await?;
    let mut config = of_usual(c.script("tty; stat -c %u:%g $(tty); id -u; tail -f /dev/null"))?;
    config.tty = true;
    let id = c.run(&pod, &config).await?;
    let script = "test $(readlink /proc/self/ns/user) = $(readlink /proc/1/ns/user) && id -u; \
                  touch /by-exec && stat -c %u /by-exec";
    equal("the session", c.sh(&id, script).await?, "0\n0")?;
    equal("its file", owner(&upper_of(c, &id)?.join("by-exec"))?, (FIRST, FIRST))?;
    c.stop(&id, 0).await?;
    let text = crate::logs::read(&pod, &config)?.text();
    equal("the terminal", text.replace('\r', ""), "/dev/pts/0\n0:5\n0\n")?;
    c.clean_up().await
}

async fn unknown_user(c: &Context) -> Result<()> {
    let pod = usual_pod(c).await?;
    let mut config = of_usual(c.waiting())?;
    security(&mut config)?.run_as_user =
        Some(cri_proto::v1::Int64Value { value: i64::from(LENGTH) });
    let result = c.create(&pod, &config).await;
    let error = refusal(result)?.to_string();
    ensure!(error.contains("user 65536 is not in the user namespace"), "{error}");
    c.clean_up().await
}

async fn node_mode(c: &Context) -> Result<()> {
    let option = option(user(NamespaceMode::Node, Vec::new(), Vec::new()));
    let pod = c.run_pod(pod_of(c, &option)?).await?;
    let text = c.output(&pod, &with(c.script("readlink /proc/self/ns/user"), &option)?).await?;
    equal("the namespace", text, fs::read_link("/proc/self/ns/user")?.display().to_string())?;
    c.clean_up().await
}

async fn wrong_mappings(c: &Context) -> Result<()> {
    let good = || range(FIRST, 0, LENGTH);
    let two = || [range(FIRST, 0, 10), range(FIRST + 10, 10, 10)].concat();
    let pod = NamespaceMode::Pod;
    for wrong in [
        user(pod, two(), good()),
        user(pod, good(), two()),
        user(pod, Vec::new(), good()),
        user(pod, good(), Vec::new()),
        user(pod, Vec::new(), Vec::new()),
        user(pod, range(FIRST, 1, LENGTH), good()),
        user(pod, good(), range(FIRST, 1, LENGTH)),
        user(pod, range(FIRST, 0, 0), good()),
        user(pod, range(u32::MAX - 5, 0, LENGTH), good()),
        user(NamespaceMode::Container, good(), good()),
        user(NamespaceMode::Target, good(), good()),
        user(NamespaceMode::Node, good(), good()),
    ] {
        let result = c.run_pod(pod_of(c, &option(wrong.clone()))?).await;
        equal(&format!("the code for {wrong:?}"), code(result)?, Code::InvalidArgument)?;
    }
    Ok(())
}

async fn other_namespace(c: &Context) -> Result<()> {
    let plain = c.plain_pod().await?;
    let result = c.create(&plain, &of_usual(c.waiting())?).await;
    equal("the code", code(result)?, Code::InvalidArgument)?;
    let pod = usual_pod(c).await?;
    let others = range(FIRST + 1, 0, LENGTH);
    let other = option(user(NamespaceMode::Pod, others.clone(), others));
    for config in [c.waiting(), with(c.waiting(), &other)?] {
        equal("the code", code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    }
    c.clean_up().await
}

async fn status(c: &Context) -> Result<()> {
    let answer = c.runtime.pods.status(cri_proto::v1::StatusRequest::default()).await?;
    for handler in answer.runtime_handlers.iter().filter(|h| h.name.is_empty()) {
        let features = handler.features.context("the handler has no features")?;
        ensure!(features.user_namespaces, "user namespaces are not offered");
        ensure!(features.recursive_read_only_mounts, "recursive mounts are not offered");
    }
    let features = answer.features.context("the runtime has no features")?;
    ensure!(features.mount_options && features.user_namespaces_host_network, "{features:?}");
    let pod = usual_pod(c).await?;
    let said = c.pod_status(&pod.id).await?.linux.and_then(|linux| linux.namespaces);
    equal("the namespaces", said.and_then(|n| n.options), Some(option(usual())))
}

async fn restart(c: &Context) -> Result<()> {
    let pod = usual_pod(c).await?;
    let id = c.run(&pod, &of_usual(c.waiting())?).await?;
    c.runtime.kill()?;
    c.runtime.launch().await?;
    equal("the old one", c.sh(&id, "id -u").await?, "0")?;
    let text = c.output(&pod, &of_usual(c.script("cut -c 12-21 /proc/self/uid_map"))?).await?;
    equal("the new one's map", text.trim(), "400000")?;
    c.clean_up().await
}

async fn cgroup(c: &Context) -> Result<()> {
    let pod = usual_pod(c).await?;
    let id = c.run(&pod, &of_usual(c.waiting())?).await?;
    let pid = first_process(&id)?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    // Of systemd's making it is a scope that has the id in its name.
    let is_own = |line: &str| line.contains(&id);
    ensure!(groups.lines().any(is_own), "it is not in the container's group: {groups}");
    let write = "for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do \
                 if echo 1 2>/dev/null > $f; then echo wrote; fi; done; echo done";
    equal("what root may write", c.sh(&id, write).await?, "done")?;
    c.clean_up().await
}
