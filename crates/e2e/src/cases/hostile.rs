//! Images and containers that attack the node: each case ends with an untouched canary and a
//! healthy neighbour, and the audit after all of them finds nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::security_profile::ProfileType;
use cri_proto::v1::{
    Capability, ContainerConfig, ContainerStatusRequest, Int64Value, KeyValue,
    LinuxContainerResources, Mount, NamespaceMode, SecurityProfile,
    UpdateContainerResourcesRequest,
};
use serde_json::json;
use streaming::Streams;
use streaming::client::Transport;
use testing::image::LayerBuilder;
use testing::wait::patient;

use super::streaming::{begin, exec_address};
use super::users::publish;
use crate::case;
use crate::case::Case;
use crate::context::{
    Context, PATIENCE, Pod, code, equal, image_spec, map, namespaces, refusal, security, strings,
};

pub(super) const CASES: &[Case] = &[
    case!("hostile.labels_of_an_image_steer_nothing", labels).attack().ours(),
    case!("hostile.lines_in_values_make_no_lines_in_files", lines).attack().ours(),
    case!("hostile.environment_is_the_containers_alone", environment).attack().ours(),
    case!("hostile.environment_is_the_containers_alone_for_long", environment_for_long)
        .attack()
        .ours()
        .long(),
    case!("hostile.working_directory_stays_inside", working_directory).attack().ours(),
    case!("hostile.links_at_the_kernels_places_stay_inside", kernel_places).attack().ours(),
    case!("hostile.cgroups_give_no_power", cgroups).attack().ours(),
    case!("hostile.devices_stay_denied", devices).attack().ours(),
    case!("hostile.nodes_of_an_image_are_of_no_use", nodes).attack().ours(),
    case!("hostile.programs_of_the_node_stay_as_they_are", programs_stay).attack().alone().ours(),
    case!("hostile.only_standard_descriptors_are_open", descriptors).attack().ours(),
    case!("hostile.nothing_is_inheritable", inheritable).attack().ours(),
    case!("hostile.long_values_are_exact_or_refused", long).attack().ours(),
    case!("hostile.sockets_and_directories_are_closed", closed).attack().ours(),
    case!("hostile.programs_of_an_image_are_not_run_by_the_node", image_programs).attack().ours(),
    case!("hostile.default_filter_denies_what_escapes", filter).attack().ours(),
];

pub(super) fn of_image(mut config: ContainerConfig, image: &str) -> ContainerConfig {
    config.image = Some(image_spec(image));
    config
}

/// Both ways in which containers are made.
pub(super) const HANDLERS: [&str; 2] = ["", "runc"];

async fn labels(c: &Context) -> Result<()> {
    let canary = c.canary();
    let log = format!("binary://{}", canary.join("pwn").display());
    let image = c.runtime.catalog.busybox.with(
        "Labels",
        json!({
            "containerd.io/restart.logpath": log, "containerd.io/restart.status": "running",
            "io.corten.rlimits": "nofile=7", "cdi.k8s.io/x": "no.such/device=0",
            "io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "x",
            "org.systemd.property.ExecStart": "'/bin/sh'", "run.oci.keep_original_groups": "1",
        }),
    );
    let name = publish(c, "hostile-labels", &image).await?;
    let pod = c.plain_pod().await?;
    equal("the limit", c.output(&pod, &of_image(c.script("ulimit -n"), &name)).await?, "1024")?;
    let mut config = of_image(c.waiting(), &name);
    // The client's own steer no other runtime's features either.
    config.annotations = map(&[
        ("org.systemd.property.SuccessAction", "'poweroff-force'"),
        ("run.oci.handler", "krun"),
        ("io.kubernetes.cri-o.Devices", "/dev/sda"),
    ]);
    let id = c.run(&pod, &config).await?;
    let request = ContainerStatusRequest { container_id: id, verbose: true };
    let answer = c.runtime.pods.container_status(request).await?;
    let info: serde_json::Value =
        serde_json::from_str(answer.info.get("info").context("no information")?)?;
    let text = info["runtimeSpec"].to_string();
    for word in ["restart.logpath", "nofile=7", "no.such/device", "org.systemd", "run.oci", "cri-o"]
    {
        ensure!(!text.contains(word), "the specification has the image's {word}");
    }
    equal(
        "the type",
        &info["runtimeSpec"]["annotations"]["io.kubernetes.cri.container-type"],
        "container",
    )?;
    c.clean_up().await?;
    c.remove_image(&name).await
}

async fn lines(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let files = "cat /etc/passwd /etc/group /etc/hosts /etc/resolv.conf /etc/hostname | wc -l";
    let plain = c.output(&pod, &c.script(files)).await?;
    for value in
        ["/a\nroot2:x:0:0::/:/bin/sh", "/a\rroot2:x:0:0", "/a\r\nroot2:x:0:0", "/a\\nroot2:x:0:0"]
    {
        let script = format!("{files}; grep -c root2 /etc/passwd; printf %s \"$GIVEN\" | wc -c");
        let with = |other: &str| -> Result<ContainerConfig> {
            let mut config = c.script(&script);
            let set = |key: &str| KeyValue { key: key.to_owned(), value: value.into() };
            config.envs = vec![set("GIVEN"), set(other)];
            security(&mut config)?.run_as_user = Some(Int64Value { value: 1234 });
            Ok(config)
        };
        let wanted = format!("{plain}\n0\n{}", value.len());
        equal(value, c.output(&pod, &with("USER")?).await?, wanted.as_str())?;
        // What would be a line of somebody else's passwd is refused.
        if value.contains(['\n', '\r']) {
            let result = c.create(&pod, &with("HOME")?).await;
            equal(value, code(result)?, Code::InvalidArgument)?;
        } else {
            equal(value, c.output(&pod, &with("HOME")?).await?, wanted)?;
        }
    }
    type Break = fn(&mut cri_proto::v1::PodSandboxConfig);
    let breaks: [(&str, Break); 4] = [
        ("a host name", |pod| pod.hostname = "a\n1.2.3.4 evil".to_owned()),
        ("a server", |pod| dns(pod).servers = strings(&["1.2.3.4\nnameserver 6.6.6.6"])),
        ("a search domain", |pod| dns(pod).searches = strings(&["a\nnameserver 6.6.6.6"])),
        ("an option", |pod| dns(pod).options = strings(&["a\rnameserver 6.6.6.6"])),
    ];
    for (what, break_it) in breaks {
        let mut config = c.pod()?;
        break_it(&mut config);
        equal(what, code(c.run_pod(config).await)?, Code::InvalidArgument)?;
    }
    c.clean_up().await
}

fn dns(pod: &mut cri_proto::v1::PodSandboxConfig) -> &mut cri_proto::v1::DnsConfig {
    pod.dns_config.get_or_insert_with(Default::default)
}

/// How many containers of one image are made at once, each with its own secret.
const AT_ONCE: usize = 12;

/// How often, in the long form.
const TIMES: u32 = 100;

async fn environment(c: &Context) -> Result<()> {
    environments(c, 1).await
}

async fn environment_for_long(c: &Context) -> Result<()> {
    environments(c, TIMES).await?;
    c.figure(&format!("{TIMES} times {AT_ONCE} containers at once had their own alone"));
    Ok(())
}

async fn environments(c: &Context, times: u32) -> Result<()> {
    let image = c.runtime.catalog.busybox.with("Env", json!(["NOEQ", "*", "=x", "OF=image"]));
    let name = publish(c, "hostile-env", &image).await?;
    for _ in 0..times {
        let pod = c.plain_pod().await?;
        let runs = (0..AT_ONCE).map(|number| own_environment(c, &pod, &name, number));
        futures_util::future::try_join_all(runs).await?;
        c.clean_up().await?;
    }
    c.remove_image(&name).await
}

async fn own_environment(c: &Context, pod: &Pod, image: &str, number: usize) -> Result<()> {
    let mut config = of_image(c.script("tr '\\0' '\\n' < /proc/1/environ | sort"), image);
    let set =
        |key: &str, value: String| KeyValue { key: key.to_owned(), value: value.into_bytes() };
    config.envs = vec![set("PATH", "/bin".to_owned()), set("SECRET", number.to_string())];
    let text = c.output(pod, &config).await?;
    // The user's home and the pod's name are no secret of anybody.
    let known = ["HOME=", "HOSTNAME=", "OF=image", "PATH=/bin"];
    let own = format!("SECRET={number}");
    let stranger =
        text.lines().find(|line| *line != own && !known.iter().any(|k| line.starts_with(k)));
    ensure!(stranger.is_none(), "container {number} has {stranger:?}");
    ensure!(text.lines().any(|line| line == own), "container {number} lost its own: {text}");
    Ok(())
}

/// The highest descriptor that is tried as a working directory.
const MAX_DESCRIPTOR: u32 = 20;

async fn working_directory(c: &Context) -> Result<()> {
    let canary = c.canary();
    let mut layer = LayerBuilder::new();
    layer.symlink("out", &canary.display().to_string())?;
    layer.symlink("up", "../../../../../../../../../tmp")?;
    let image = c.runtime.catalog.busybox.with_layer(layer.finish()?);
    let name = publish(c, "hostile-cwd", &image).await?;
    for handler in HANDLERS {
        let pod = c.run_pod_by(handler, c.pod()?).await?;
        let descriptors = (3..=MAX_DESCRIPTOR).map(|number| format!("/proc/self/fd/{number}"));
        let links =
            ["/out", "/out/made", "/up/corten-made", "/proc/1/root/made"].map(str::to_owned);
        for path in descriptors.chain(links) {
            let mut config = of_image(
                c.script("ls ./keep ./secret ../keep ../../shadow 2> /dev/null; pwd -P"),
                &name,
            );
            config.working_dir.clone_from(&path);
            let Ok(id) = c.run(&pod, &config).await else { continue };
            c.exited(&id).await?;
            let seen = crate::logs::read(&pod, &config)?.of("stdout");
            ensure!(!seen.contains("keep") && !seen.contains("shadow"), "{path} leads out: {seen}");
        }
        ensure!(!Path::new("/tmp/corten-made").exists(), "a directory was made on the host");
        c.clean_up().await?;
    }
    c.clean_up().await?;
    c.remove_image(&name).await
}

async fn kernel_places(c: &Context) -> Result<()> {
    let canary = c.canary();
    let target = canary.display().to_string();
    for place in ["proc", "sys", "dev", "dev/shm", "dev/pts", "dev/mqueue", "etc"] {
        let mut layer = LayerBuilder::new();
        layer.symlink(place, &target)?;
        let image = c.runtime.catalog.busybox.with_layer(layer.finish()?);
        let label = format!("hostile-{}", place.replace('/', "-"));
        let name = publish(c, &label, &image).await?;
        for handler in HANDLERS {
            let pod = c.run_pod_by(handler, c.pod()?).await?;
            let mut config = of_image(
                c.script("echo x > /dev/null; echo x > /etc/hosts; touch /dev/shm/x; true"),
                &name,
            );
            config.tty = place == "dev/pts";
            // Refused, or inside: what counts is the canary.
            if let Ok(id) = c.run(&pod, &config).await {
                c.exited(&id).await?;
            }
            c.clean_up().await?;
        }
        c.remove_image(&name).await?;
    }
    Ok(())
}

async fn cgroups(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script = "mkdir -p /m; for c in memory pids rdma ''; do mount -t cgroup -o ${c:-none,name=x} cgroup /m && echo mounted $c; done; \
        mount -t cgroup2 cgroup2 /m && echo mounted 2; \
        find /sys/fs/cgroup -name release_agent -o -name cgroup.procs -o -name notify_on_release | \
        while read f; do echo 1 > $f && echo wrote $f; done; \
        mkdir /sys/fs/cgroup/memory/x /sys/fs/cgroup/x && echo made; \
        unshare -Urm sh -c 'mount -t cgroup -o memory cgroup /m' && echo unshared; echo end";
    for profile in [ProfileType::RuntimeDefault, ProfileType::Unconfined] {
        let mut config = c.script(&format!("exec 2> /dev/null; {script}"));
        security(&mut config)?.seccomp =
            Some(SecurityProfile { profile_type: profile.into(), localhost_ref: String::new() });
        equal(profile.as_str_name(), c.output(&pod, &config).await?, "end")?;
    }
    c.clean_up().await
}

async fn devices(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    security(&mut config)?.capabilities =
        Some(Capability { add_capabilities: strings(&["MKNOD"]), ..Capability::default() });
    let id = c.run(&pod, &config).await?;
    // The disks of every kind, memory and the kernel's log.
    let script = "for d in b:8:0 b:254:0 b:259:0 b:7:0 c:1:1 c:1:2 c:1:11 c:10:229; do \
        set -- $(echo $d | tr : ' '); rm -f /tmp/d; mknod /tmp/d $1 $2 $3 && \
        (exec 3< /tmp/d) 2> /dev/null && echo opened $d; done; echo end";
    equal("at the start", c.sh(&id, script).await?, "end")?;
    let request = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(LinuxContainerResources { cpu_shares: 300, ..Default::default() }),
        ..Default::default()
    };
    c.runtime.pods.update_container_resources(request).await?;
    equal("after an update", c.sh(&id, script).await?, "end")?;
    c.clean_up().await
}

/// Devices that an image brings: memory, a disk, and one that every container may use.
const NODES: [(&str, bool, (u32, u32)); 3] =
    [("nodes/mem", false, (1, 1)), ("nodes/disk", true, (8, 0)), ("nodes/null", false, (1, 3))];

/// They are there and cannot be opened, whatever the rules for devices say. The usual ones, and one
/// that is asked for, can be.
async fn nodes(c: &Context) -> Result<()> {
    let mut layer = LayerBuilder::new();
    for (path, block, number) in NODES {
        layer.device(path, block, number)?;
    }
    let image = c.runtime.catalog.busybox.with_layer(layer.finish()?);
    let name = publish(c, "hostile-nodes", &image).await?;
    let script = "cd /nodes; for n in *; do (exec 3< $n) 2> /dev/null && echo opened $n; done; \
        mknod /nodes/made c 1 3 2> /dev/null && (exec 3< /nodes/made) 2> /dev/null && echo opened made; \
        grep -q ' / / [a-z,]*nodev' /proc/self/mountinfo && echo nodev; \
        for d in null zero random tty; do test -c /dev/$d || echo no $d; done; \
        echo x > /dev/null; head -c 3 /dev/zero | wc -c";
    for handler in HANDLERS {
        let pod = c.run_pod_by(handler, c.pod()?).await?;
        let config = of_image(c.script(script), &name);
        equal(handler, c.output(&pod, &config).await?, "nodev\n3")?;
        let mut config = of_image(c.script(script), &name);
        security(&mut config)?.readonly_rootfs = true;
        // Debian's runc mounts such a root anew without the attribute: the rules are left.
        let wanted = if handler.is_empty() { "nodev\n3" } else { "opened null\n3" };
        let output = c.output(&pod, &config).await?;
        equal(&format!("{handler}, read-only"), output, wanted)?;
    }
    // It cannot make a node there either.
    use super::user_namespaces::{of_usual, option, pod_of, usual};
    let pod = c.run_pod(pod_of(c, &option(usual()))?).await?;
    let script = format!("exec 2> /dev/null; {script}");
    let config = of_usual(of_image(c.script(&script), &name))?;
    equal("in a user namespace", c.output(&pod, &config).await?, "nodev\n3")?;
    // A device that is asked for has its place where the client wants it.
    let pod = c.plain_pod().await?;
    let script = "(exec 3< /nodes/mem) 2> /dev/null || echo denied; \
        exec 3< /nodes/mine && echo opened";
    let mut config = of_image(c.script(script), &name);
    config.devices.push(cri_proto::v1::Device {
        container_path: "/nodes/mine".to_owned(),
        host_path: "/dev/loop-control".to_owned(),
        permissions: "r".to_owned(),
    });
    equal("outside /dev", c.output(&pod, &config).await?, "denied\nopened")?;
    c.clean_up().await?;
    c.remove_image(&name).await
}

/// The programs that a container could reach by what executes for it.
fn sums(c: &Context, pod: &Pod) -> Result<String> {
    let mut sum = std::process::Command::new("sha256sum");
    let daemon = c.runtime.with_daemon(|daemon| daemon.pid())?;
    let monitor = super::restart::monitor_of(&pod.id)?;
    let paths = [daemon, monitor].map(|pid| format!("/proc/{pid}/exe"));
    testing::program::output(sum.args(paths).arg("/usr/sbin/runc"))
}

/// How often a command is executed that is the program which executes it.
const EXECS: usize = 10;

async fn programs_stay(c: &Context) -> Result<()> {
    let mut layer = LayerBuilder::new();
    layer.file("bad", 0o755, b"#!/proc/self/exe\n")?;
    layer.symlink("worse", "/proc/self/exe")?;
    let image = c.runtime.catalog.busybox.with_layer(layer.finish()?);
    let name = publish(c, "hostile-exe", &image).await?;
    let holder = c.plain_pod().await?;
    let before = sums(c, &holder)?;
    for handler in HANDLERS {
        let pod = c.run_pod_by(handler, c.pod()?).await?;
        for command in ["/bad", "/worse"] {
            if let Ok(id) = c.run(&pod, &of_image(c.command(&[command]), &name)).await {
                c.exited(&id).await?;
            }
        }
        // While commands come in, what executes them is looked for to be written to.
        let writer = "while true; do for p in /proc/[0-9]*; do \
            (exec 3>> $p/exe) 2> /dev/null && echo pwn >> $p/exe; done; done";
        let id = c.run(&pod, &of_image(c.script(writer), &name)).await?;
        for _ in 0..EXECS {
            for command in ["/bad", "/worse"] {
                let _ = c.exec_for(&id, &[command], 10).await;
            }
        }
    }
    // Who sees the node's processes has no more power over their programs.
    let mut config = c.pod()?;
    namespaces(&mut config)?.pid = NamespaceMode::Node.into();
    let pod = c.run_pod(config).await?;
    let mut config = c.script("for p in /proc/[0-9]*; do (exec 3>> $p/exe) 2> /dev/null && echo opened $p; done; echo end");
    let options = security(&mut config)?.namespace_options.as_mut().context("no namespaces")?;
    options.pid = NamespaceMode::Node.into();
    equal("what the node's pod opens", c.output(&pod, &config).await?, "end")?;
    equal("the programs", sums(c, &holder)?, before)?;
    c.clean_up().await?;
    c.remove_image(&name).await
}

async fn descriptors(c: &Context) -> Result<()> {
    for handler in HANDLERS {
        let pod = c.run_pod_by(handler, c.pod()?).await?;
        for tty in [false, true] {
            let mut config = c.waiting();
            config.tty = tty;
            let id = c.run(&pod, &config).await?;
            // The first process's, and a command's: `ls` has one for what it lists.
            let first = c.sh(&id, "ls /proc/1/fd | grep -v '^10$'").await?;
            equal(
                &format!("the first process's by {handler:?}"),
                first.replace('\n', " "),
                "0 1 2",
            )?;
            let answer = c.exec_for(&id, &["ls", "/proc/self/fd"], 20).await?;
            let seen = String::from_utf8_lossy(&answer.stdout).into_owned();
            equal("a command's", seen.trim().replace('\n', " "), "0 1 2 3")?;
            equal("a session's on a terminal", on_terminal(c, &id).await?, "0 1 2 3")?;
            let links = c.sh(&id, "for f in /proc/1/fd/*; do readlink $f; done").await?;
            let allowed = ["pipe:", "/dev/null", "/dev/pts/", "/dev/console", "/0", "/dev/tty"];
            let stranger = links.lines().find(|line| !allowed.iter().any(|a| line.starts_with(a)));
            ensure!(stranger.is_none(), "{handler:?} leaves {stranger:?}");
        }
        c.clean_up().await?;
    }
    Ok(())
}

/// What a session on a terminal has open; `ls` has one for what it lists.
async fn on_terminal(c: &Context, id: &str) -> Result<String> {
    const TERMINAL: Streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
    let address = exec_address(c, id, &["ls", "-1", "/proc/self/fd"], TERMINAL).await?;
    let mut session = begin(&address, TERMINAL, Transport::Spdy).await?;
    let (stdin, mut stdout) = (session.stdin.take(), session.stdout.take().context("no output")?);
    let mut text = Vec::new();
    let reading = async {
        while let Some(bytes) = stdout.recv().await {
            text.extend_from_slice(&bytes);
        }
    };
    tokio::time::timeout(patient(PATIENCE), reading).await?;
    drop(stdin);
    Ok(String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" "))
}

async fn inheritable(c: &Context) -> Result<()> {
    let sets = "grep -E 'Cap(Inh|Amb)' /proc/self/status | cut -f 2 | sort -u";
    let none = || "0".repeat(16);
    for handler in HANDLERS {
        let mut config = c.pod()?;
        if let Some(own) = config.linux.as_mut().and_then(|l| l.security_context.as_mut()) {
            own.privileged = true;
        }
        let pod = c.run_pod_by(handler, config).await?;
        type Ask = fn(&mut cri_proto::v1::LinuxContainerSecurityContext);
        let asks: [(&str, Ask); 3] = [
            ("root", |_| {}),
            ("a user", |security| security.run_as_user = Some(Int64Value { value: 1000 })),
            ("a privileged one", |security| security.privileged = true),
        ];
        for (who, ask) in asks {
            let mut config = c.waiting();
            ask(security(&mut config)?);
            let id = c.run(&pod, &config).await?;
            equal(who, c.sh(&id, sets).await?, none())?;
            equal(who, c.sh(&id, &sets.replace("self", "1")).await?, none())?;
        }
        c.clean_up().await?;
    }
    Ok(())
}

async fn long(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config =
        c.script("env | grep -c ^LONG; env | grep ^LONG | cut -d= -f2 | tr -d '\\n' | wc -c");
    let set = |key: String, length: usize| KeyValue { key, value: vec![b'x'; length] };
    config.envs = (0..700).map(|number| set(format!("LONG{number}"), 1000)).collect();
    equal("many variables", c.output(&pod, &config).await?, "700\n700000")?;
    // A string that the kernel takes none of, and more than a call may be long.
    let mut config = c.waiting();
    config.envs = vec![set("LONG".to_owned(), 200 << 10)];
    let error = refusal(c.run(&pod, &config).await)?.to_string();
    ensure!(!error.contains('\n') && error.len() < 2000, "{error}");
    let directory = c.directory()?;
    let mut config = c.script("grep -c ' /many/' /proc/self/mountinfo");
    config.mounts = (0..300)
        .map(|number| Mount {
            host_path: directory.display().to_string(),
            container_path: format!("/many/{number}/{}", "y".repeat(200)),
            ..Mount::default()
        })
        .collect();
    equal("many mounts", c.output(&pod, &config).await?, "300")?;
    c.clean_up().await
}

async fn closed(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    namespaces(&mut config)?.network = NamespaceMode::Node.into();
    let pod = c.run_pod(config).await?;
    let (root, state) = c.runtime.with_daemon(|daemon| Ok((daemon.root(), daemon.state())))?;
    // Abstract sockets belong to who has the node's network.
    let mut config = c.script("grep -E '@.*(corten|monitor)' /proc/net/unix; echo end");
    let options = security(&mut config)?.namespace_options.as_mut().context("no namespaces")?;
    options.network = NamespaceMode::Node.into();
    equal("the abstract sockets", c.output(&pod, &config).await?, "end")?;
    let id = c.run(&pod, &config).await?;
    c.exited(&id).await?;
    for top in [&root, &state] {
        let mode = fs::metadata(top)?.permissions().mode() & 0o7777;
        equal(&top.display().to_string(), format!("{mode:o}"), "700")?;
    }
    // Plugins look into what is kept of networks; it lies in a directory that is closed.
    let mut find = std::process::Command::new("find");
    find.args([&root, &state]).args([
        "-mindepth",
        "1",
        "-maxdepth",
        "2",
        "-not",
        "-path",
        "*/root/cni*",
    ]);
    find.args(["(", "-type", "d", "-o", "-type", "s", ")", "-perm", "/077", "-printf", "%m %p\n"]);
    let open = testing::program::output(&mut find)?;
    ensure!(open.is_empty(), "open to others: {open}");
    let mut find = std::process::Command::new("find");
    let open = testing::program::output(find.arg(&state).args(["-type", "s", "-perm", "/077"]))?;
    ensure!(open.is_empty(), "sockets open to others: {open}");
    c.clean_up().await
}

async fn image_programs(c: &Context) -> Result<()> {
    let mut layer = LayerBuilder::new();
    let trap = b"#!/bin/sh\necho $0 >> /trapped\n";
    for name in ["tar", "ps", "nsenter", "mount", "ip", "id", "cat", "stat", "sh-real"] {
        layer.file(&format!("usr/bin/{name}"), 0o755, trap)?;
        layer.file(&format!("usr/sbin/{name}"), 0o755, trap)?;
    }
    for name in ["libnss_files.so.2", "libc.so.6", "ld-linux-x86-64.so.2"] {
        layer.file(&format!("lib/x86_64-linux-gnu/{name}"), 0o755, trap)?;
        layer.file(&format!("lib64/{name}"), 0o755, trap)?;
    }
    layer.file("etc/ld.so.preload", 0o644, b"/lib64/libnss_files.so.2\n")?;
    layer.file("etc/nsswitch.conf", 0o644, b"passwd: evil\nhosts: evil\n")?;
    let image = c.runtime.catalog.busybox.with_layer(layer.finish()?);
    let name = publish(c, "hostile-programs", &image).await?;
    for handler in HANDLERS {
        let pod = c.run_pod_by(handler, c.pod()?).await?;
        let mut config = of_image(c.waiting(), &name);
        security(&mut config)?.run_as_username = "default-user".to_owned();
        let id = c.run(&pod, &config).await?;
        equal("a command", c.sh(&id, "echo fine").await?, "fine")?;
        c.status(&id).await?;
        equal("the trap", c.sh(&id, "test -e /trapped && echo sprung || echo set").await?, "set")?;
        c.clean_up().await?;
    }
    c.remove_image(&name).await
}

async fn filter(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script(
        "exec 2> /dev/null; unshare -U true && echo user; unshare -m true && echo mounts; \
         mount -t tmpfs t /tmp && echo mount; umount /proc && echo umount; \
         chroot / true && echo chroot; pivot_root / /tmp && echo pivot; swapoff -a && echo swap; \
         date -s 2000-01-01 > /dev/null; [ $(date +%Y) = 2000 ] && echo clock; nsenter -t 1 -m true && echo setns; dmesg && echo log; \
         hostname other && echo name; echo end",
    );
    security(&mut config)?.seccomp = Some(SecurityProfile {
        profile_type: ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    });
    equal("what is let through", c.output(&pod, &config).await?, "chroot\nend")?;
    // A profile that is asked for by no name is none, and not a permission.
    let mut config = c.waiting();
    security(&mut config)?.seccomp = Some(SecurityProfile {
        profile_type: ProfileType::Localhost.into(),
        localhost_ref: String::new(),
    });
    equal("no name", code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    let annotations = map(&[("seccomp.security.alpha.kubernetes.io/pod", "unconfined")]);
    let mut config = c.script("grep Seccomp: /proc/self/status | cut -f 2");
    config.annotations = annotations;
    security(&mut config)?.seccomp = Some(SecurityProfile {
        profile_type: ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    });
    equal("an annotation", c.output(&pod, &config).await?, "2")?;
    c.clean_up().await
}
