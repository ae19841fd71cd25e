//! Fields that have no subject of their own.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::security_profile::ProfileType;
use cri_proto::v1::{
    Capability, HugepageLimit, Int64Value, KeyValue, LinuxContainerResources, NamespaceMode,
    PodSandboxConfig, PodSandboxStatusRequest, SeLinuxOption, SecurityProfile, Signal,
};

use crate::case;
use crate::case::Case;
use crate::context::{
    Context, code, equal, map, namespaces, refusal, resources, security, strings,
};
use crate::process::group_value;

pub(super) const CASES: &[Case] = &[
    case!("field.pods_own_process_has_nothing", own_process).ours(),
    case!("field.pods_overhead_and_resources_are_told", pod_resources).ours(),
    case!("field.pods_profiles_and_users_are_checked", pod_checks).ours(),
    case!("field.sysctl_values_that_inject_are_refused", sysctl_values).attack().ours(),
    case!("field.sysctls_that_the_kernel_refuses", sysctls_of_no_kernel).ours(),
    case!("field.sysctls_of_the_node_are_refused", sysctls_of_the_node).attack().ours(),
    case!("field.selinux_is_refused_where_it_is_not_active", selinux).ours(),
    case!("field.apparmor_profile_that_is_not_loaded_is_refused", apparmor).ours(),
    case!("field.seccomp_in_its_deprecated_forms", deprecated_seccomp),
    case!("field.seccomp_profile_that_is_none_is_refused", broken_seccomp).ours(),
    case!("field.seccomp_holds_for_commands", seccomp_of_commands).ours(),
    case!("field.ambient_capability", ambient).ours(),
    case!("field.unknown_capability_is_refused", unknown_capability).ours(),
    case!("field.working_directory_is_made", working_directory),
    case!("field.working_directory_that_is_a_file_is_refused", bad_working_directory),
    case!("field.environment", environment),
    case!("field.environment_that_is_none_is_refused", bad_environment).ours(),
    case!("field.stdin_stays_open", stdin),
    case!("field.stop_signal", stop_signal).differs("1.6 has no such field"),
    case!("field.rlimits_by_default_and_by_annotation", rlimits).ours(),
    case!("field.memory_and_swap", swap),
    case!("field.huge_pages", huge_pages).ours(),
    case!("field.unified_keys", unified).ours(),
    case!("field.bad_resources_are_refused", bad_resources).ours(),
    case!("field.log_path_stays_in_its_directory", log_path).attack().ours(),
    case!("field.link_in_the_logs_place_is_not_followed", log_link).attack().ours(),
    case!("field.log_in_a_directory_below", deep_log),
    case!("field.unknown_values_are_refused", unknown_values).ours(),
    case!("field.image_spec_is_given_back", image_spec_back).ours(),
    case!("field.image_by_any_of_its_names", any_name),
    case!("field.default_paths_are_the_kubelets", default_paths).attack().ours(),
];

fn profile(kind: ProfileType, name: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() })
}

fn pod_security(
    config: &mut PodSandboxConfig,
) -> Result<&mut cri_proto::v1::LinuxSandboxSecurityContext> {
    let linux = config.linux.as_mut().context("no Linux part")?;
    linux.security_context.as_mut().context("no security context")
}

/// What a pod runs beside its containers has less than any field of the pod could leave it:
/// no user of the pod's, no privilege, nothing to write to, a filter that lets it wait.
async fn own_process(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    namespaces(&mut config)?.pid = NamespaceMode::Pod.into();
    let own = pod_security(&mut config)?;
    own.run_as_user = Some(Int64Value { value: 1000 });
    own.run_as_group = Some(Int64Value { value: 1000 });
    own.supplemental_groups = vec![5];
    own.readonly_rootfs = true;
    own.seccomp = profile(ProfileType::RuntimeDefault, "");
    own.apparmor = profile(ProfileType::Unconfined, "");
    let pod = c.run_pod(config).await?;
    let mut config = c.script(
        "grep -E '^(Uid|Groups|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp:)' /proc/1/status | tr -d ' \t'; \
         cat /proc/1/comm; ls /proc/1/root 2>&1 | wc -l",
    );
    let options = security(&mut config)?.namespace_options.as_mut().context("no namespaces")?;
    options.pid = NamespaceMode::Pod.into();
    let none = "0".repeat(16);
    let wanted = format!(
        "Uid:65534655346553465534\nGroups:\nCapEff:{none}\nCapBnd:{none}\nCapAmb:{none}\n\
         NoNewPrivs:1\nSeccomp:2\ncorten-reaper"
    );
    let text = c.output(&pod, &config).await?;
    ensure!(text.starts_with(&wanted), "the pod's own process is {text}");
    Ok(())
}

async fn pod_resources(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    let linux = config.linux.as_mut().context("no Linux part")?;
    linux.overhead = Some(LinuxContainerResources { cpu_shares: 33, ..Default::default() });
    linux.resources =
        Some(LinuxContainerResources { memory_limit_in_bytes: 777, ..Default::default() });
    let pod = c.run_pod(config).await?;
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id, verbose: true };
    let answer = c.runtime.pods.pod_sandbox_status(request).await?;
    let info: serde_json::Value =
        serde_json::from_str(answer.info.get("info").context("no information")?)?;
    equal("the overhead", info["config"]["overhead"]["cpu_shares"].as_i64(), Some(33))?;
    let memory = info["config"]["resources"]["memory_limit_bytes"].as_i64();
    equal("the resources", memory, Some(777))
}

async fn pod_checks(c: &Context) -> Result<()> {
    type Break = fn(&mut cri_proto::v1::LinuxSandboxSecurityContext);
    let breaks: [(&str, Break); 5] = [
        ("a group alone", |s| s.run_as_group = Some(Int64Value { value: 1 })),
        ("a profile's type", |s| {
            s.seccomp = Some(SecurityProfile { profile_type: 9, localhost_ref: String::new() })
        }),
        ("a local profile without a name", |s| {
            s.seccomp = profile(ProfileType::Localhost, "");
        }),
        ("a deprecated profile", |s| {
            #[allow(deprecated, reason = "it still counts")]
            {
                s.seccomp_profile_path = "nonsense".to_owned();
            }
        }),
        ("a policy", |s| s.supplemental_groups_policy = 9),
    ];
    for (what, break_it) in breaks {
        let mut config = c.pod()?;
        break_it(pod_security(&mut config)?);
        equal(what, code(c.run_pod(config).await)?, Code::InvalidArgument)?;
    }
    Ok(())
}

async fn with_sysctl(c: &Context, name: &str, value: &str) -> Result<Code> {
    let mut config = c.pod()?;
    let linux = config.linux.as_mut().context("no Linux part")?;
    linux.sysctls = map(&[(name, value)]);
    code(c.run_pod(config).await)
}

async fn sysctl_values(c: &Context) -> Result<()> {
    for value in ["1+kernel.core_pattern=|/bin/sh", "1=2", "1\n2", "", " ", "\u{7f}"] {
        let refused = with_sysctl(c, "net.ipv4.ip_forward", value).await?;
        equal(value, refused, Code::InvalidArgument)?;
    }
    for name in ["net/../kernel/core_pattern", "net.//.kernel.core_pattern", "net.ipv4.x=1", ""] {
        equal(name, with_sysctl(c, name, "1").await?, Code::InvalidArgument)?;
    }
    Ok(())
}

/// What the kernel alone knows: there is no such one, or it does not take the value.
async fn sysctls_of_no_kernel(c: &Context) -> Result<()> {
    for (name, value, why) in [
        ("net.ipv4.no_such_thing", "1", "\"net.ipv4.no_such_thing\" does not exist"),
        ("net.ipv4.tcp_syncookies", "many", "\"net.ipv4.tcp_syncookies\" does not take the value"),
    ] {
        let mut config = c.pod()?;
        config.linux.as_mut().context("no Linux part")?.sysctls = map(&[(name, value)]);
        let error = refusal(c.run_pod(config).await)?;
        ensure!(error.to_string().contains(why), "{error}");
        equal(name, code::<()>(Err(error))?, Code::InvalidArgument)?;
    }
    Ok(())
}

async fn sysctls_of_the_node(c: &Context) -> Result<()> {
    for (name, network, ipc) in [
        ("net.ipv4.ip_forward", NamespaceMode::Node, NamespaceMode::Pod),
        ("kernel.shmmax", NamespaceMode::Pod, NamespaceMode::Node),
        ("vm.swappiness", NamespaceMode::Pod, NamespaceMode::Pod),
        ("kernel.core_pattern", NamespaceMode::Pod, NamespaceMode::Pod),
    ] {
        let mut config = c.pod()?;
        let spaces = namespaces(&mut config)?;
        (spaces.network, spaces.ipc) = (network.into(), ipc.into());
        let linux = config.linux.as_mut().context("no Linux part")?;
        linux.sysctls = map(&[(name, "1")]);
        equal(name, code(c.run_pod(config).await)?, Code::InvalidArgument)?;
    }
    Ok(())
}

async fn selinux(c: &Context) -> Result<()> {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return Ok(()); // it is active: labels are then tested as values
    }
    let options = || Some(SeLinuxOption { level: "s0:c1,c2".to_owned(), ..Default::default() });
    let mut config = c.pod()?;
    pod_security(&mut config)?.selinux_options = options();
    let error = refusal(c.run_pod(config).await)?;
    ensure!(error.to_string().contains("SELinux"), "{error}");
    equal("a pod", code::<()>(Err(error))?, Code::InvalidArgument)?;
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    security(&mut config)?.selinux_options = options();
    let error = refusal(c.create(&pod, &config).await)?;
    ensure!(error.to_string().contains("SELinux"), "{error}");
    // What asks for nothing is not refused.
    let mut config = c.script("true");
    security(&mut config)?.selinux_options = Some(SeLinuxOption::default());
    c.output(&pod, &config).await?;
    Ok(())
}

async fn apparmor(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    security(&mut config)?.apparmor = profile(ProfileType::Localhost, "no-such-profile");
    equal("the field", code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    let mut config = c.waiting();
    #[allow(deprecated, reason = "it still counts")]
    {
        security(&mut config)?.apparmor_profile = "localhost/no-such-profile".to_owned();
    }
    equal("the deprecated one", code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    let mut config = c.script("true");
    security(&mut config)?.apparmor = profile(ProfileType::Unconfined, "");
    c.output(&pod, &config).await?;
    Ok(())
}

async fn deprecated_seccomp(c: &Context) -> Result<()> {
    let file = c.directory()?.join("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
        "syscalls":[{"names":["chmod","fchmodat","fchmodat2","fchmod"],"action":"SCMP_ACT_ERRNO"}]}"#;
    fs::write(&file, text)?;
    let pod = c.plain_pod().await?;
    let script = "grep Seccomp: /proc/self/status | cut -f 2; touch /a; chmod 600 /a 2>/dev/null && echo yes || echo no";
    let local = format!("localhost/{}", file.display());
    for (text, wanted) in [
        ("runtime/default", "2\nyes"),
        ("docker/default", "2\nyes"),
        ("unconfined", "0\nyes"),
        ("", "0\nyes"),
        (&local, "2\nno"),
    ] {
        let mut config = c.script(script);
        #[allow(deprecated, reason = "it still counts")]
        {
            security(&mut config)?.seccomp_profile_path = text.to_owned();
        }
        equal(text, c.output(&pod, &config).await?, wanted)?;
    }
    // Where both are given the new one counts.
    let mut config = c.script(script);
    let both = security(&mut config)?;
    both.seccomp = profile(ProfileType::Unconfined, "");
    #[allow(deprecated, reason = "it still counts")]
    {
        both.seccomp_profile_path = "runtime/default".to_owned();
    }
    equal("both", c.output(&pod, &config).await?, "0\nyes")
}

async fn broken_seccomp(c: &Context) -> Result<()> {
    let dir = c.directory()?;
    let pod = c.plain_pod().await?;
    for (name, text) in
        [("nonsense", "{"), ("action", r#"{"defaultAction":"SCMP_ACT_WHATEVER"}"#), ("empty", "")]
    {
        fs::write(dir.join(name), text)?;
        let mut config = c.waiting();
        let path = dir.join(name).display().to_string();
        security(&mut config)?.seccomp = profile(ProfileType::Localhost, &path);
        let error = refusal(c.create(&pod, &config).await)?;
        ensure!(error.to_string().contains(&path), "it does not say which: {error}");
        equal(name, code::<()>(Err(error))?, Code::InvalidArgument)?;
    }
    let directory = dir.display().to_string();
    for wrong in ["relative/profile.json", directory.as_str()] {
        let mut config = c.waiting();
        security(&mut config)?.seccomp = profile(ProfileType::Localhost, wrong);
        equal(wrong, code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    }
    Ok(())
}

async fn seccomp_of_commands(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    security(&mut config)?.seccomp = profile(ProfileType::RuntimeDefault, "");
    let id = c.run(&pod, &config).await?;
    let script = "grep Seccomp: /proc/self/status | cut -f 2; unshare -U true 2> /dev/null && echo made || echo blocked";
    equal("a command", c.sh(&id, script).await?, "2\nblocked")
}

/// Neither a privileged program nor root: the user's own process has it.
async fn ambient(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | cut -f 2; id -u");
    let asked = security(&mut config)?;
    asked.run_as_user = Some(Int64Value { value: 1000 });
    asked.no_new_privs = true;
    asked.capabilities = Some(Capability {
        add_ambient_capabilities: strings(&["NET_BIND_SERVICE", "CAP_NET_RAW"]),
        drop_capabilities: strings(&["ALL"]),
        ..Capability::default()
    });
    let both = format!("{:016x}", (1_u64 << 10) | (1 << 13));
    let wanted = [&both; 4].map(String::as_str).join("\n") + "\n1000";
    equal("the capabilities", c.output(&pod, &config).await?, wanted)?;
    let id = c
        .run(&pod, &{
            let mut waiting = c.waiting();
            *security(&mut waiting)? = security(&mut config)?.clone();
            waiting
        })
        .await?;
    let said = c.sh(&id, "grep CapAmb /proc/self/status | cut -f 2").await?;
    equal("a command's", said, both)
}

async fn unknown_capability(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    type Break = fn(&mut Capability);
    let breaks: [Break; 3] = [
        |asked| asked.add_capabilities = strings(&["NO_SUCH_THING"]),
        |asked| asked.drop_capabilities = strings(&["NO_SUCH_THING"]),
        |asked| asked.add_ambient_capabilities = strings(&["NO_SUCH_THING"]),
    ];
    for break_it in breaks {
        let mut config = c.waiting();
        let mut asked = Capability::default();
        break_it(&mut asked);
        security(&mut config)?.capabilities = Some(asked);
        let error = refusal(c.create(&pod, &config).await)?;
        ensure!(error.to_string().contains("NO_SUCH_THING"), "{error}");
        equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)?;
    }
    Ok(())
}

async fn working_directory(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("pwd; touch here && stat -c %U:%a /made/for/it");
    config.working_dir = "/made/for/it".to_owned();
    equal("the directory", c.output(&pod, &config).await?, "/made/for/it\nroot:755")?;
    equal("without one", c.output(&pod, &c.script("pwd")).await?, "/")
}

async fn bad_working_directory(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for path in ["/etc/passwd", "/etc/passwd/x"] {
        let mut config = c.waiting();
        config.working_dir = path.to_owned();
        let error = refusal(c.run(&pod, &config).await)?.to_string();
        ensure!(!error.contains('\n'), "more than a line: {error}");
    }
    Ok(())
}

async fn environment(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("env | grep -E '^(A|B|PATH|HOME)=' | sort");
    let set = |key: &str, value: &str| KeyValue { key: key.to_owned(), value: value.into() };
    config.envs =
        vec![set("A", "1"), set("B", "two words=x"), set("A", "last"), set("PATH", "/bin")];
    let wanted = "A=last\nB=two words=x\nHOME=/root\nPATH=/bin";
    equal("the environment", c.output(&pod, &config).await?, wanted)
}

async fn bad_environment(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for (key, value) in
        [("", &b"x"[..]), ("A=B", b"x"), ("A\0B", b"x"), ("A", b"x\0y"), ("A", b"\xff\xfe")]
    {
        let mut config = c.waiting();
        config.envs = vec![KeyValue { key: key.to_owned(), value: value.to_vec() }];
        equal(key, code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    }
    Ok(())
}

/// Without `stdin` a program reads the end at once; with it, nothing until somebody attaches.
async fn stdin(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script = "timeout 1 cat; echo $?";
    equal("without", c.output(&pod, &c.script(script)).await?, "0")?;
    let mut config = c.script(script);
    config.stdin = true;
    // Killed by the time's end: 128 and SIGTERM.
    equal("with", c.output(&pod, &config).await?, "143")
}

async fn stop_signal(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config =
        c.script("trap 'exit 5' USR2; trap 'exit 6' TERM; echo ready; tail -f /dev/null & wait");
    config.stop_signal = Signal::Sigusr2.into();
    let id = c.run(&pod, &config).await?;
    equal("what is told", c.status(&id).await?.stop_signal(), Signal::Sigusr2)?;
    crate::context::until(crate::context::PATIENCE, "the trap", || async {
        let text = crate::logs::read(&pod, &config).map(|log| log.text()).unwrap_or_default();
        Ok(text.contains("ready").then_some(()))
    })
    .await?;
    c.stop(&id, 20).await?;
    equal("the code", c.status(&id).await?.exit_code, 5)?;
    let plain = c.create(&pod, &c.waiting()).await?;
    equal("the default", c.status(&plain).await?.stop_signal(), Signal::Sigterm)
}

async fn rlimits(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    config.annotations = map(&[("io.corten.rlimits/second", "nofile=512:600,core=0")]);
    let pod = c.run_pod(config).await?;
    let script = "ulimit -n; ulimit -Hn; ulimit -c";
    let plain = c.output(&pod, &c.script(script)).await?;
    let lines: Vec<&str> = plain.lines().collect();
    equal("the soft limit of files", lines.first().copied(), Some("1024"))?;
    let hard: u64 = lines.get(1).copied().unwrap_or_default().parse()?;
    ensure!((1024..=524_288).contains(&hard), "the hard limit of files is {hard}");
    equal("that of cores", lines.get(2).copied(), Some("0"))?;
    let mut config = c.script(script);
    if let Some(metadata) = &mut config.metadata {
        metadata.name = "second".to_owned();
    }
    equal("by annotation", c.output(&pod, &config).await?, "512\n600\n0")?;
    // A command of the container's has the same.
    let mut config = c.waiting();
    config.annotations = map(&[("io.corten.rlimits", "nofile=300")]);
    let id = c.run(&pod, &config).await?;
    equal("a command's", c.sh(&id, "ulimit -n; ulimit -Hn").await?, "300\n300")?;
    let mut config = c.waiting();
    config.annotations = map(&[("io.corten.rlimits", "rtprio=99")]);
    equal("a bad one", code(c.create(&pod, &config).await)?, Code::InvalidArgument)
}

async fn swap(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let asked = resources(&mut config)?;
    asked.memory_limit_in_bytes = 64 << 20;
    asked.memory_swap_limit_in_bytes = 96 << 20;
    let id = c.run(&pod, &config).await?;
    match group_value("memory", &id, "memory.memsw.limit_in_bytes") {
        Ok(both) => equal("both", both, (96 << 20).to_string()),
        Err(_) => equal("swap", group_value("", &id, "memory.swap.max")?, (32 << 20).to_string()),
    }
}

/// Where the kernel has no huge pages of a size, that is logged, and the container runs.
async fn huge_pages(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let limit = HugepageLimit { page_size: "2MB".to_owned(), limit: 4 << 20 };
    resources(&mut config)?.hugepage_limits = vec![limit];
    let id = c.run(&pod, &config).await?;
    let mut limits = Vec::new();
    for file in ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"] {
        for group in testing::cgroup::find(|path| path.contains(&id))? {
            limits.extend(fs::read_to_string(std::path::Path::new(&group).join(file)));
        }
    }
    ensure!(limits.iter().all(|limit| limit.trim() == "4194304"), "the limits are {limits:?}");
    ensure!(!limits.is_empty() || !has_huge_pages(), "the kernel has them, but no limit is set");
    let told = c.status(&id).await?.resources.and_then(|all| all.linux).context("no resources")?;
    equal("what is told", told.hugepage_limits.first().map(|page| page.limit), Some(4 << 20))?;
    let mut config = c.waiting();
    let limit = HugepageLimit { page_size: "2MB/../x".to_owned(), limit: 1 };
    resources(&mut config)?.hugepage_limits = vec![limit];
    equal("a bad size", code(c.create(&pod, &config).await)?, Code::InvalidArgument)
}

/// Whether groups of version 2 can limit huge pages of 2 MiB.
fn has_huge_pages() -> bool {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    controllers.split_whitespace().any(|controller| controller == "hugetlb")
        && std::path::Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists()
}

/// Files of version 2: applied there, refused where there is none.
async fn unified(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let ask = |file: &str, value: &str| -> Result<_> {
        let mut config = c.waiting();
        resources(&mut config)?.unified = map(&[(file, value)]);
        Ok(config)
    };
    let version_2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let result = c.run(&pod, &ask("memory.high", "67108864")?).await;
    if version_2 {
        equal("the file", group_value("", &result?, "memory.high")?, "67108864")?;
    } else {
        let error = refusal(result)?;
        ensure!(error.to_string().contains("cgroup v2"), "{error}");
        equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)?;
    }
    for file in ["cgroup.procs", "../memory.high", "memory/high", "cgroup.kill", "memory"] {
        let refused = code(c.create(&pod, &ask(file, "1")?).await)?;
        equal(file, refused, Code::InvalidArgument)?;
    }
    Ok(())
}

async fn bad_resources(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    type Break = fn(&mut LinuxContainerResources);
    let breaks: [(&str, Break); 10] = [
        ("less with swap than without", |r| {
            (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (64 << 20, 32 << 20);
        }),
        ("a period", |r| r.cpu_period = -1),
        ("a quota", |r| r.cpu_quota = -2),
        ("shares", |r| r.cpu_shares = -1),
        ("memory", |r| r.memory_limit_in_bytes = -2),
        ("memory and swap", |r| r.memory_swap_limit_in_bytes = i64::MIN),
        ("a score", |r| r.oom_score_adj = 1001),
        ("processors", |r| r.cpuset_cpus = "0;1".to_owned()),
        ("nodes", |r| r.cpuset_mems = "a".to_owned()),
        ("a size", |r| {
            r.hugepage_limits = vec![HugepageLimit { page_size: "big".to_owned(), limit: 1 }]
        }),
    ];
    for (what, break_it) in breaks {
        let mut config = c.waiting();
        break_it(resources(&mut config)?);
        equal(what, code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    }
    Ok(())
}

async fn log_path(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for path in ["../../x.log", "/tmp/x.log", "a/../../x.log", "..", "a\0b"] {
        let mut config = c.waiting();
        config.log_path = path.to_owned();
        equal(path, code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    }
    let mut config = c.pod()?;
    config.log_directory = "relative/logs".to_owned();
    equal("a relative directory", code(c.run_pod(config).await)?, Code::InvalidArgument)
}

async fn log_link(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let canary = c.canary();
    let directory = std::path::Path::new(&pod.config.log_directory);
    // The file itself is a link, then a directory on the way to it.
    let file = c.script("echo attack");
    std::os::unix::fs::symlink(canary.join("keep"), directory.join(&file.log_path))?;
    let mut below = c.script("echo attack");
    below.log_path = "way/0.log".to_owned();
    std::os::unix::fs::symlink(canary.join("below"), directory.join("way"))?;
    for config in [file, below] {
        let error = refusal(c.run(&pod, &config).await)?.to_string();
        ensure!(error.contains("log") && !error.contains('\n'), "{error}");
    }
    Ok(())
}

async fn deep_log(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("echo deep");
    config.log_path = "name/0.log".to_owned();
    // The kubelet makes it; who does not gets it made.
    fs::create_dir_all(std::path::Path::new(&pod.config.log_directory).join("name"))?;
    equal("the log", c.output(&pod, &config).await?, "deep")
}

async fn unknown_values(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    type Break = fn(&mut cri_proto::v1::ContainerConfig) -> Result<()>;
    let breaks: [(&str, Break); 4] = [
        ("a signal", |config| {
            config.stop_signal = 999;
            Ok(())
        }),
        ("a profile", |config| {
            security(config)?.seccomp =
                Some(SecurityProfile { profile_type: 9, localhost_ref: String::new() });
            Ok(())
        }),
        ("a namespace's mode", |config| {
            let options = security(config)?.namespace_options.as_mut().context("none")?;
            options.pid = 9;
            Ok(())
        }),
        ("a path that is not absolute", |config| {
            security(config)?.masked_paths = strings(&["etc"]);
            Ok(())
        }),
    ];
    for (what, break_it) in breaks {
        let mut config = c.waiting();
        break_it(&mut config)?;
        equal(what, code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    }
    Ok(())
}

async fn image_spec_back(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let asked = config.image.as_mut().context("no image")?;
    asked.annotations = map(&[("of", "the image")]);
    asked.user_specified_image = "busybox:mine".to_owned();
    asked.runtime_handler = "any".to_owned();
    asked.image_ref = "sha256:mine".to_owned();
    let id = c.run(&pod, &config).await?;
    let told = c.status(&id).await?.image.context("no image is told")?;
    equal("the annotations", told.annotations, map(&[("of", "the image")]))?;
    equal("the user's word", told.user_specified_image, "busybox:mine")?;
    equal("the handler", told.runtime_handler, "any")?;
    equal("the reference", told.image_ref, "sha256:mine")
}

async fn any_name(c: &Context) -> Result<()> {
    let name = c.script("true").image.context("no image")?.image;
    let image = c.present(&name).await?;
    let digest = image.repo_digests.first().context("no digest")?;
    let pod = c.plain_pod().await?;
    for name in [&name, &image.id, digest] {
        let mut config = c.script("echo it runs");
        config.image = Some(crate::context::image_spec(name));
        equal(name, c.output(&pod, &config).await?, "it runs")?;
    }
    Ok(())
}

/// What the kubelet masks by default, and what it makes read-only (its `DefaultMaskedPaths` and
/// `DefaultReadonlyPaths`).
const MASKED: &str = "/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats \
    /proc/timer_list /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware \
    /sys/devices/virtual/powercap";
const READ_ONLY: &str = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger";

/// A request without any paths has them, and one with the kubelet's own list does not differ.
async fn default_paths(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script = format!(
        "for p in {MASKED}; do [ -d $p ] && [ -n \"$(ls $p)\" ] && echo shows $p; \
         [ -f $p ] && [ -n \"$(head -c 1 $p)\" ] && echo shows $p; done; \
         for p in {READ_ONLY}; do [ -e $p ] || continue; \
         grep -q \" $p ro,\" /proc/self/mountinfo || echo writable $p; done; echo end"
    );
    equal("without any", c.output(&pod, &c.script(&script)).await?, "end")?;
    let mut config = c.script(&script);
    let asked = security(&mut config)?;
    asked.masked_paths = MASKED.split_whitespace().map(str::to_owned).collect();
    asked.readonly_paths = READ_ONLY.split_whitespace().map(str::to_owned).collect();
    equal("with the kubelet's", c.output(&pod, &config).await?, "end")
}
