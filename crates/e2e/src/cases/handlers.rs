//! Runtime handlers that run a program, here Debian's runc.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::security_profile::ProfileType;
use cri_proto::v1::{
    Capability, ContainerConfig, ContainerState, ContainerStatusRequest, Int64Value, Mount,
    NamespaceMode, PodSandboxConfig, PodSandboxState, SecurityProfile, StatusRequest,
};
use testing::wait::patient;

use crate::case;
use crate::case::Case;
use crate::context::{
    Context, PATIENCE, Pod, code, equal, map, namespaces, refusal, resources, security, strings,
    until,
};
use crate::runtime::programs;

pub(super) const CASES: &[Case] = &[
    case!("handler.status_lists_them", listed).ours(),
    case!("handler.unknown_is_refused_by_name", unknown).ours(),
    case!("handler.missing_program_is_refused", missing_program).ours(),
    case!("handler.life", life).ours(),
    case!("handler.output_and_exit_codes", output).ours(),
    case!("handler.same_surroundings_as_native", same).ours(),
    case!("handler.each_program_of_the_machine", each_program).ours(),
    case!("handler.failure_says_why", failure).ours(),
    case!("handler.terminal", terminal).ours(),
    case!("handler.pid_namespace_of_the_pod", shared_pid).ours(),
    case!("handler.privileged", privileged).ours(),
    case!("handler.exec", exec).ours(),
    case!("handler.stop_signal_and_kill", stop).ours(),
    case!("handler.hanging_program_holds_nobody_up", hangs).ours(),
    case!("handler.sees_the_annotations_that_it_may", annotations).ours(),
    case!("handler.outlives_the_daemon", restart).alone().ours(),
    case!("handler.daemon_dies_while_a_program_hangs", dies_meanwhile).alone().ours(),
    case!("handler.dead_monitor_leaves_nothing", dead_monitor).alone().ours(),
];

async fn pod_of(c: &Context, handler: &str) -> Result<Pod> {
    c.run_pod_by(handler, c.pod()?).await
}

/// What the kernel has mounted below the pod's directory, but for what every pod has.
fn roots(c: &Context, pod: &Pod) -> Result<Vec<String>> {
    let dir = pod_dir(c, pod)?.join("containers").display().to_string();
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect())
}

fn pod_dir(c: &Context, pod: &Pod) -> Result<PathBuf> {
    c.runtime.with_daemon(|daemon| Ok(daemon.state().join("pods").join(&pod.id)))
}

async fn listed(c: &Context) -> Result<()> {
    let answer = c.runtime.pods.status(StatusRequest { verbose: false }).await?;
    let names: Vec<&str> = answer.runtime_handlers.iter().map(|h| h.name.as_str()).collect();
    let mut wanted = vec!["hangs", "missing"];
    wanted.extend(programs().iter().map(|(name, _)| *name));
    wanted.sort_unstable();
    equal("the handlers", names, [vec!["", "corten"], wanted].concat())?;
    for handler in &answer.runtime_handlers {
        let features = handler.features.with_context(|| format!("{} has none", handler.name))?;
        if let Some((name, program)) = programs().iter().find(|(name, _)| *name == handler.name) {
            let said = std::process::Command::new(program).arg("features").output()?.stdout;
            let can = |what: &str| String::from_utf8_lossy(&said).contains(what);
            let (told, said) = (features.recursive_read_only_mounts, can("\"rro\""));
            equal(&format!("recursive read-only of {name}"), told, said)?;
            equal(
                &format!("user namespaces of {name}"),
                features.user_namespaces,
                can("\"user\""),
            )?;
        }
        // These say nothing.
        if matches!(handler.name.as_str(), "hangs" | "missing") {
            let has = features.user_namespaces || features.recursive_read_only_mounts;
            ensure!(!has, "{} offers what it does not say", handler.name);
        }
    }
    Ok(())
}

async fn unknown(c: &Context) -> Result<()> {
    let result = c.run_pod_by("no-such-handler", c.pod()?).await;
    let error = refusal(result)?;
    ensure!(error.to_string().contains("no-such-handler"), "it does not say which: {error}");
    Ok(())
}

async fn missing_program(c: &Context) -> Result<()> {
    let result = c.run_pod_by("missing", c.pod()?).await;
    let error = refusal(result)?.to_string();
    ensure!(error.contains("missing") && error.contains("/no/such/program"), "{error}");
    Ok(())
}

async fn life(c: &Context) -> Result<()> {
    let pod = pod_of(c, "runc").await?;
    equal("the handler", c.pod_status(&pod.id).await?.runtime_handler, "runc")?;
    let id = c.create(&pod, &c.waiting()).await?;
    ensure!(roots(c, &pod)?.is_empty(), "the root is mounted before the start");
    c.start(&id).await?;
    let status = c.status(&id).await?;
    equal("the state", status.state(), ContainerState::ContainerRunning)?;
    ensure!(status.started_at >= status.created_at, "it began before it was made");
    equal("the roots", roots(c, &pod)?.len(), 1)?;
    let program = pod_dir(c, &pod)?.join("program");
    ensure!(program.join(&id).exists(), "the program knows nothing of it");
    // Another program has the same view of it.
    let listed = std::process::Command::new("/usr/sbin/runc")
        .args(["--root".into(), program.clone(), "state".into(), PathBuf::from(&id)])
        .output()?;
    let state: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    equal("what runc says", state["status"].as_str(), Some("running"))?;
    c.stop(&id, 10).await?;
    let status = c.status(&id).await?;
    equal("the state", status.state(), ContainerState::ContainerExited)?;
    equal("the code", status.exit_code, 0)?;
    equal("the roots", roots(c, &pod)?, Vec::<String>::new())?;
    ensure!(!program.join(&id).exists(), "the program still knows it");
    c.remove(&id).await?;
    equal("the code", code(c.status(&id).await)?, Code::NotFound)?;
    c.stop_pod(&pod.id).await?;
    equal("the pod", c.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxNotready)?;
    c.remove_pod(&pod.id).await?;
    ensure!(!pod_dir(c, &pod)?.exists(), "its directory is left");
    Ok(())
}

async fn output(c: &Context) -> Result<()> {
    for (name, _) in programs() {
        output_by(c, name).await.with_context(|| name.to_owned())?;
    }
    Ok(())
}

async fn output_by(c: &Context, handler: &str) -> Result<()> {
    let pod = pod_of(c, handler).await?;
    let config = c.script("echo out; echo err >&2; exit 42");
    let id = c.run(&pod, &config).await?;
    let status = c.exited(&id).await?;
    equal("the code", (status.exit_code, status.reason.as_str()), (42, "Error"))?;
    let log = crate::logs::read(&pod, &config)?;
    equal("standard output", log.of("stdout").trim(), "out")?;
    equal("standard error", log.of("stderr").trim(), "err")?;
    let mut config = c.command(&["dd", "if=/dev/zero", "of=/dev/null", "bs=200M"]);
    resources(&mut config)?.memory_limit_in_bytes = 15 << 20;
    let status = c.exited(&c.run(&pod, &config).await?).await?;
    equal("out of memory", (status.exit_code, status.reason.as_str()), (137, "OOMKilled"))
}

/// A container that asks for much, and says what it got.
fn demanding(c: &Context, directory: &std::path::Path) -> Result<ContainerConfig> {
    let script = "id; pwd; env | sort; umask; hostname; cat /proc/self/oom_score_adj; \
        grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; ulimit -n; ulimit -Hn; ulimit -c; \
        touch /x 2>&1; ls -l /dev | grep -v total | awk '{print $1,$3,$4,$NF}' | sort; \
        for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; \
        cat /mnt/file; touch /mnt/x 2>&1; cat /etc/hostname /etc/resolv.conf; \
        for n in net ipc uts; do readlink /proc/self/ns/$n; done; \
        touch /proc/sys/kernel/x 2>&1; wc -c < /proc/keys; awk '{print $5}' /proc/self/mountinfo | sort; \
        unshare -U true 2>/dev/null && echo made || echo blocked";
    let mut config = c.script(script);
    config.working_dir = "/made/for/it".to_owned();
    config.envs.push(cri_proto::v1::KeyValue { key: "A".to_owned(), value: "b c".into() });
    config.mounts.push(Mount {
        host_path: directory.display().to_string(),
        container_path: "/mnt".to_owned(),
        readonly: true,
        ..Mount::default()
    });
    resources(&mut config)?.oom_score_adj = 700;
    let security = security(&mut config)?;
    security.run_as_user = Some(Int64Value { value: 1000 });
    security.run_as_group = Some(Int64Value { value: 1001 });
    security.supplemental_groups = vec![1234];
    security.no_new_privs = true;
    security.readonly_rootfs = true;
    security.seccomp = Some(SecurityProfile {
        profile_type: ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    });
    security.capabilities = Some(Capability {
        add_capabilities: strings(&["NET_ADMIN"]),
        drop_capabilities: strings(&["MKNOD"]),
        add_ambient_capabilities: strings(&["NET_BIND_SERVICE"]),
    });
    Ok(config)
}

/// The specification says what a container gets, whoever reads it.
async fn same(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    std::fs::write(directory.join("file"), "content\n")?;
    let mut found = Vec::new();
    // crun gives the null device on standard input to the container's user.
    for handler in ["", "runc"] {
        let mut config = c.pod()?;
        config.hostname = "same-name".to_owned();
        let pod = c.run_pod_by(handler, config).await?;
        let text = c.output(&pod, &demanding(c, &directory)?).await?;
        // Namespaces are each pod's own; runc of this age knows no unified tree beside others.
        let same = |line: &&str| !line.contains(":[") && !line.starts_with("/sys/fs/cgroup");
        found.push(text.lines().filter(same).map(str::to_owned).collect::<Vec<_>>());
    }
    for (native, program) in found[0].iter().zip(&found[1]) {
        equal("what it got", program, native)?;
    }
    equal("the number of lines", found[1].len(), found[0].len())
}

/// Each program of this machine's, where runc and crun agree.
async fn each_program(c: &Context) -> Result<()> {
    for (handler, _) in crate::runtime::programs() {
        let pod = pod_of(c, handler).await?;
        let ended = c.run(&pod, &c.script("exit 42")).await?;
        equal(&format!("{handler}'s code"), c.exited(&ended).await?.exit_code, 42)?;
        let mut config = c.waiting();
        crate::context::resources(&mut config)?.memory_limit_in_bytes = 64 << 20;
        let id = c.run(&pod, &config).await?;
        equal("a command's output", c.sh(&id, "echo inside").await?, "inside")?;
        // Where systemd makes the cgroup, crun limits one of its own below.
        let limit = match crate::process::group_value("memory", &id, "memory.limit_in_bytes") {
            Ok(limit) => limit,
            Err(_) => c.sh(&id, "cat /sys/fs/cgroup/memory.max").await?,
        };
        equal(&format!("{handler}'s limit"), limit, "67108864")?;
        c.stop(&id, 10).await?;
        equal("the state", c.status(&id).await?.state(), ContainerState::ContainerExited)?;
    }
    Ok(())
}

async fn failure(c: &Context) -> Result<()> {
    for (name, _) in programs() {
        failure_by(c, name).await.with_context(|| name.to_owned())?;
    }
    Ok(())
}

async fn failure_by(c: &Context, handler: &str) -> Result<()> {
    let pod = pod_of(c, handler).await?;
    let id = c.create(&pod, &c.command(&["/no/such/program"])).await?;
    let error = refusal(c.start(&id).await)?.to_string();
    ensure!(error.contains("/no/such/program") && !error.contains('\n'), "{error}");
    let status = c.status(&id).await?;
    equal("the state", status.state(), ContainerState::ContainerExited)?;
    equal("the reason", &status.reason, "StartError")?;
    equal("the roots", roots(c, &pod)?, Vec::<String>::new())?;
    ensure!(!pod_dir(c, &pod)?.join("program").join(&id).exists(), "the program still knows it");
    c.remove(&id).await
}

async fn terminal(c: &Context) -> Result<()> {
    for (name, _) in programs() {
        terminal_by(c, name).await.with_context(|| name.to_owned())?;
    }
    Ok(())
}

async fn terminal_by(c: &Context, handler: &str) -> Result<()> {
    let pod = pod_of(c, handler).await?;
    let mut config = c.script("tty; echo error >&2");
    config.tty = true;
    let id = c.run(&pod, &config).await?;
    equal("the code", c.exited(&id).await?.exit_code, 0)?;
    let text = crate::logs::read(&pod, &config)?.text().replace('\r', "");
    ensure!(text.contains("/dev/") && text.contains("error\n"), "the log is {text:?}");
    ensure!(!text.contains("not a tty"), "the log is {text:?}");
    Ok(())
}

async fn shared_pid(c: &Context) -> Result<()> {
    let mut config: PodSandboxConfig = c.pod()?;
    namespaces(&mut config)?.pid = NamespaceMode::Pod.into();
    let pod = c.run_pod_by("runc", config).await?;
    let shared = |mut config: ContainerConfig| -> Result<ContainerConfig> {
        let security = security(&mut config)?;
        let options = security.namespace_options.as_mut().context("no namespaces")?;
        options.pid = NamespaceMode::Pod.into();
        Ok(config)
    };
    let first = c.run(&pod, &shared(c.waiting())?).await?;
    let second = c.run(&pod, &shared(c.waiting())?).await?;
    let space = |id: String| async move { c.sh(&id, "readlink /proc/self/ns/pid").await };
    equal("the namespace", space(first.clone()).await?, space(second.clone()).await?)?;
    let first_process = c.sh(&second, "cat /proc/1/comm").await?;
    equal("its first process", first_process, "corten-reaper")?;
    let mut debug = c.waiting();
    let options = security(&mut debug)?.namespace_options.as_mut().context("no namespaces")?;
    options.pid = NamespaceMode::Target.into();
    options.target_id.clone_from(&second);
    let debug = c.run(&pod, &debug).await?;
    equal("the target's namespace", space(debug).await?, space(second.clone()).await?)?;
    c.stop(&first, 10).await?;
    equal("the other", c.sh(&second, "echo alive").await?, "alive")
}

async fn privileged(c: &Context) -> Result<()> {
    let mut found = Vec::new();
    for handler in ["corten", "runc"] {
        let mut config = c.pod()?;
        if let Some(own) = config.linux.as_mut().and_then(|l| l.security_context.as_mut()) {
            own.privileged = true;
        }
        let pod = c.run_pod_by(handler, config).await?;
        let script = "grep -E 'Cap(Eff|Bnd)|Seccomp:' /proc/self/status; ls /dev | sort | grep -v console; \
            mkdir /m && mount -t tmpfs t /m && echo mounted; grep ' /sys ' /proc/self/mountinfo | grep -c ' rw,'";
        let mut config = c.script(script);
        security(&mut config)?.privileged = true;
        found.push(c.output(&pod, &config).await?);
    }
    ensure!(found[0].contains("mounted"), "not privileged: {}", found[0]);
    equal("what runc gives", &found[1], &found[0])
}

async fn exec(c: &Context) -> Result<()> {
    for (name, _) in programs() {
        exec_by(c, name).await.with_context(|| name.to_owned())?;
    }
    Ok(())
}

async fn exec_by(c: &Context, handler: &str) -> Result<()> {
    let pod = pod_of(c, handler).await?;
    let id = c.run(&pod, &c.waiting()).await?;
    let answer = c.exec_for(&id, &["sh", "-c", "echo out; echo err >&2; exit 7"], 20).await?;
    equal("the code", answer.exit_code, 7)?;
    equal("standard output", String::from_utf8_lossy(&answer.stdout), "out\n")?;
    equal("standard error", String::from_utf8_lossy(&answer.stderr), "err\n")?;
    // One that ends before anybody looks is not lost.
    for _ in 0..20 {
        equal("the code", c.exec_for(&id, &["true"], 20).await?.exit_code, 0)?;
    }
    let error = refusal(c.exec_for(&id, &["/no/such/program"], 20).await)?.to_string();
    ensure!(error.contains("/no/such/program"), "{error}");
    let begun = Instant::now();
    equal("the code", code(c.exec_for(&id, &["sleep", "1000"], 1).await)?, Code::DeadlineExceeded)?;
    ensure!(begun.elapsed() < patient(Duration::from_secs(20)), "it took {:?}", begun.elapsed());
    equal("what is left", c.sh(&id, "pidof sleep || echo none").await?, "none")?;
    let left = std::fs::read_dir(pod_dir(c, &pod)?.join("containers").join(&id))?;
    let left = left.flatten().filter(|f| f.file_name().to_string_lossy().starts_with("exec-"));
    equal("files of sessions", left.count(), 0)
}

async fn stop(c: &Context) -> Result<()> {
    for (name, _) in programs() {
        stop_by(c, name).await.with_context(|| name.to_owned())?;
    }
    Ok(())
}

async fn stop_by(c: &Context, handler: &str) -> Result<()> {
    let pod = pod_of(c, handler).await?;
    let mut config = c.script("trap 'exit 9' USR1; tail -f /dev/null & wait");
    config.stop_signal = cri_proto::v1::Signal::Sigusr1.into();
    let id = c.run(&pod, &config).await?;
    c.stop(&id, 20).await?;
    equal("the code", c.status(&id).await?.exit_code, 9)?;
    let deaf = c.run(&pod, &c.script("trap '' TERM; tail -f /dev/null & wait")).await?;
    c.stop(&deaf, 1).await?;
    equal("the code", c.status(&deaf).await?.exit_code, 137)
}

async fn hangs(c: &Context) -> Result<()> {
    let pod = pod_of(c, "hangs").await?;
    let id = c.create(&pod, &c.waiting()).await?;
    let other = c.plain_pod().await?;
    let begun = Instant::now();
    let config = c.waiting();
    let (start, native) = tokio::join!(c.start(&id), c.run(&other, &config));
    native.context("another pod was held up")?;
    let error = refusal(start)?.to_string();
    ensure!(error.contains("did not end within 1 s"), "{error}");
    ensure!(begun.elapsed() < patient(Duration::from_secs(40)), "it took {:?}", begun.elapsed());
    equal("the reason", &c.status(&id).await?.reason, "StartError")?;
    equal("the roots", roots(c, &pod)?, Vec::<String>::new())?;
    c.remove(&id).await?;
    c.stop_pod(&pod.id).await?;
    c.remove_pod(&pod.id).await
}

async fn annotations(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    config.annotations = map(&[("allowed.pod", "1"), ("org.systemd.property.X", "'y'")]);
    let pod = c.run_pod_by("runc", config).await?;
    let mut config = c.waiting();
    config.annotations = map(&[("allowed.container", "2"), ("run.oci.x", "3")]);
    let id = c.create(&pod, &config).await?;
    let request = ContainerStatusRequest { container_id: id, verbose: true };
    let answer = c.runtime.pods.container_status(request).await?;
    let info: serde_json::Value =
        serde_json::from_str(answer.info.get("info").context("no information")?)?;
    equal("the handler", info["runtimeHandler"].as_str(), Some("runc"))?;
    let seen = info["runtimeSpec"]["annotations"].as_object().context("no annotations")?;
    let foreign: Vec<&String> =
        seen.keys().filter(|key| !key.starts_with("io.kubernetes.cri.")).collect();
    equal("the annotations", foreign, ["allowed.container", "allowed.pod"])
}

async fn restart(c: &Context) -> Result<()> {
    let pod = pod_of(c, "runc").await?;
    let gate = c.directory()?;
    let mut config = c.script("while [ ! -e /gate/open ]; do sleep 0.05; done; exit 7");
    config.mounts.push(Mount {
        host_path: gate.display().to_string(),
        container_path: "/gate".to_owned(),
        ..Mount::default()
    });
    let ends = c.run(&pod, &config).await?;
    let stays = c.run(&pod, &c.waiting()).await?;
    c.runtime.kill()?;
    std::fs::write(gate.join("open"), "")?;
    c.runtime.launch().await?;
    equal("the code", c.exited(&ends).await?.exit_code, 7)?;
    equal("the other", c.sh(&stays, "echo alive").await?, "alive")?;
    equal("the roots", roots(c, &pod)?.len(), 1)?;
    c.stop(&stays, 10).await?;
    equal("the code", c.status(&stays).await?.exit_code, 0)
}

async fn dead_monitor(c: &Context) -> Result<()> {
    let pod = pod_of(c, "runc").await?;
    let id = c.run(&pod, &c.waiting()).await?;
    super::restart::kill(super::restart::monitor_of(&pod.id)?)?;
    let status = c.exited(&id).await?;
    equal("the code", status.exit_code, 255)?;
    equal("the roots", roots(c, &pod)?, Vec::<String>::new())?;
    c.remove(&id).await?;
    ensure!(!pod_dir(c, &pod)?.join("program").join(&id).exists(), "what the program knew is left");
    Ok(())
}

/// The next daemon finds it being started, and learns that it never was.
async fn dies_meanwhile(c: &Context) -> Result<()> {
    let pod = pod_of(c, "hangs").await?;
    let id = c.create(&pod, &c.waiting()).await?;
    let kill = async {
        let hangs = || async {
            let programs = crate::process::all_with_argument("--pid-file")?;
            Ok((!programs.is_empty()).then_some(()))
        };
        until(PATIENCE, "the program", hangs).await?;
        c.runtime.kill()
    };
    let (start, killed) = tokio::join!(c.start(&id), kill);
    killed?;
    refusal(start)?;
    c.runtime.launch().await?;
    let status = c.exited(&id).await?;
    ensure!(status.exit_code != 0, "the code is 0");
    equal("the roots", roots(c, &pod)?, Vec::<String>::new())?;
    c.remove(&id).await
}
