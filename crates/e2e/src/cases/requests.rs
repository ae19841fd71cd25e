//! Requests as a whole: as the kubelet writes them, with nothing, with all zeros, at the limits.

use anyhow::{Result, ensure};
use cri_client::Code;
use cri_proto::v1::security_profile::ProfileType;
use cri_proto::v1::{
    Capability, ContainerConfig, ContainerMetadata, DnsConfig, HugepageLimit, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, PortMapping, SeLinuxOption, SecurityProfile,
};

use crate::case;
use crate::case::Case;
use crate::context::{Context, code, equal, refusal, resources, security, strings};

pub(super) const CASES: &[Case] = &[
    case!("request.of_the_kubelet", kubelet).ours(),
    case!("request.with_nothing_but_names", nothing).ours(),
    case!("request.with_zeros", zeros).ours(),
    case!("request.numbers_that_mean_no_limit", no_limit).ours(),
    case!("request.texts_in_other_forms", forms).ours(),
    case!("request.numbers_out_of_range", out_of_range).ours(),
];

fn runtime_default() -> Option<SecurityProfile> {
    let profile_type = ProfileType::RuntimeDefault.into();
    Some(SecurityProfile { profile_type, localhost_ref: String::new() })
}

/// What kubelets of our time send for a BestEffort pod with defaults, field by field.
async fn kubelet(c: &Context) -> Result<()> {
    let namespaces = || NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..NamespaceOption::default()
    };
    let mut pod = c.pod()?;
    pod.dns_config = Some(DnsConfig {
        servers: strings(&["10.96.0.10"]),
        searches: strings(&["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]),
        options: strings(&["ndots:5"]),
    });
    // Ports that are not the node's are told, too.
    pod.port_mappings = vec![PortMapping { container_port: 80, ..PortMapping::default() }];
    let linux = pod.linux.get_or_insert_default();
    linux.overhead = Some(LinuxContainerResources::default());
    linux.resources = Some(LinuxContainerResources { cpu_shares: 2, ..Default::default() });
    linux.security_context = Some(LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces()),
        seccomp: runtime_default(),
        ..LinuxSandboxSecurityContext::default()
    });
    let pod = c.run_pod(pod).await?;
    let files = c.directory()?;
    for name in ["etc-hosts", "termination-log"] {
        std::fs::write(files.join(name), "")?;
    }
    std::fs::create_dir(files.join("token"))?;
    let mount = |from: &str, to: &str, readonly| Mount {
        host_path: files.join(from).display().to_string(),
        container_path: to.to_owned(),
        readonly,
        ..Mount::default()
    };
    let mut config = c.script("echo end > /dev/termination-log; cat /proc/self/oom_score_adj; grep Seccomp: /proc/self/status | cut -f 2");
    config.log_path = "name/0.log".to_owned();
    std::fs::create_dir_all(std::path::Path::new(&pod.config.log_directory).join("name"))?;
    config.envs =
        vec![KeyValue { key: "KUBERNETES_PORT".to_owned(), value: "tcp://10.96.0.1:443".into() }];
    config.mounts = vec![
        mount("token", "/var/run/secrets/kubernetes.io/serviceaccount", true),
        mount("etc-hosts", "/etc/hosts", false),
        mount("termination-log", "/dev/termination-log", false),
    ];
    config.linux = Some(LinuxContainerConfig {
        resources: Some(LinuxContainerResources {
            cpu_period: 100_000,
            cpu_shares: 2,
            oom_score_adj: 1000,
            hugepage_limits: ["1GB", "2MB"]
                .map(|size| HugepageLimit { page_size: size.to_owned(), limit: 0 })
                .to_vec(),
            ..LinuxContainerResources::default()
        }),
        security_context: Some(LinuxContainerSecurityContext {
            capabilities: Some(Capability::default()),
            namespace_options: Some(namespaces()),
            run_as_user: Some(Int64Value { value: 0 }),
            seccomp: runtime_default(),
            masked_paths: strings(&["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys"]),
            readonly_paths: strings(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]),
            ..LinuxContainerSecurityContext::default()
        }),
    });
    equal("the output", c.output(&pod, &config).await?, "1000\n2")?;
    equal("its last word", std::fs::read_to_string(files.join("termination-log"))?, "end\n")?;
    c.clean_up().await
}

fn bare_pod(c: &Context) -> Result<PodSandboxConfig> {
    let metadata = c.pod()?.metadata;
    Ok(PodSandboxConfig { metadata, ..PodSandboxConfig::default() })
}

fn bare(c: &Context) -> ContainerConfig {
    let ContainerConfig { image, .. } = c.waiting();
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "bare".to_owned(), attempt: c.next() }),
        image,
        command: strings(&["tail", "-f", "/dev/null"]),
        ..ContainerConfig::default()
    }
}

async fn nothing(c: &Context) -> Result<()> {
    let pod = c.run_pod(bare_pod(c)?).await?;
    let id = c.run(&pod, &bare(c)).await?;
    equal("a command", c.sh(&id, "echo runs").await?, "runs")?;
    let text = c.sh(&id, "cat /proc/self/oom_score_adj; ls /sys/class/net").await?;
    equal("what it has", text, "0\neth0\nlo")?;
    let status = c.status(&id).await?;
    equal("where its log is", status.log_path, "")?;
    // No label says whose it is.
    c.remove_pod(&pod.id).await
}

async fn zeros(c: &Context) -> Result<()> {
    let mut config = bare_pod(c)?;
    config.metadata = config.metadata.map(|m| PodSandboxMetadata { attempt: 0, ..m });
    config.dns_config = Some(DnsConfig::default());
    config.port_mappings = vec![PortMapping::default()];
    config.linux = Some(LinuxPodSandboxConfig {
        security_context: Some(LinuxSandboxSecurityContext {
            namespace_options: Some(NamespaceOption::default()),
            selinux_options: Some(SeLinuxOption::default()),
            seccomp: Some(SecurityProfile::default()),
            apparmor: Some(SecurityProfile::default()),
            ..LinuxSandboxSecurityContext::default()
        }),
        overhead: Some(LinuxContainerResources::default()),
        resources: Some(LinuxContainerResources::default()),
        ..LinuxPodSandboxConfig::default()
    });
    let pod = c.run_pod(config).await?;
    let mut config = bare(c);
    config.linux = Some(LinuxContainerConfig {
        resources: Some(LinuxContainerResources::default()),
        security_context: Some(LinuxContainerSecurityContext {
            capabilities: Some(Capability::default()),
            namespace_options: Some(NamespaceOption::default()),
            selinux_options: Some(SeLinuxOption::default()),
            seccomp: Some(SecurityProfile::default()),
            apparmor: Some(SecurityProfile::default()),
            ..LinuxContainerSecurityContext::default()
        }),
    });
    let id = c.run(&pod, &config).await?;
    // Zero is RuntimeDefault, and the pod's namespaces.
    let seen = c.sh(&id, "grep Seccomp: /proc/1/status | cut -f 2; cat /proc/1/comm").await?;
    equal("what it has", seen, "2\ncorten-reaper")?;
    let own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    equal("the resolver", c.sh(&id, "cat /etc/resolv.conf").await?.trim(), own.trim())?;
    c.remove_pod(&pod.id).await
}

async fn no_limit(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    *resources(&mut config)? = LinuxContainerResources {
        cpu_quota: -1,
        cpu_period: 100_000,
        memory_limit_in_bytes: -1,
        memory_swap_limit_in_bytes: -1,
        oom_score_adj: -999,
        ..LinuxContainerResources::default()
    };
    let id = c.run(&pod, &config).await?;
    equal("a command", c.sh(&id, "echo runs").await?, "runs")?;
    let mut config = c.waiting();
    // More shares and less than the kernel takes are what it takes.
    resources(&mut config)?.cpu_shares = 1;
    c.run(&pod, &config).await?;
    let mut config = c.waiting();
    resources(&mut config)?.cpu_shares = 1_000_000;
    c.run(&pod, &config).await?;
    c.clean_up().await
}

async fn forms(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let directory = c.directory()?;
    std::fs::write(directory.join("file"), "content")?;
    let mut config = c.script("cat /mnt/file /a/b/file; id -G; grep CapEff /proc/self/status | cut -f 2; pwd; echo $EMPTY.");
    let mount = |to: &str| Mount {
        host_path: format!("{}/", directory.display()),
        container_path: to.to_owned(),
        ..Mount::default()
    };
    config.mounts = vec![mount("//mnt/"), mount("/a/x/../b")];
    config.working_dir = "/tmp/../etc/".to_owned();
    config.envs = vec![KeyValue { key: "EMPTY".to_owned(), value: Vec::new() }];
    let asked = security(&mut config)?;
    asked.supplemental_groups = vec![7, 7, 0];
    asked.capabilities = Some(Capability {
        add_capabilities: strings(&["cap_net_raw", "NET_RAW", "Net_Raw"]),
        drop_capabilities: strings(&["all"]),
        ..Capability::default()
    });
    let text = c.output(&pod, &config).await?;
    equal("what it sees", text, "contentcontent0 7\n0000000000002000\n/etc\n.")?;
    c.clean_up().await
}

async fn out_of_range(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    for (container_port, host_port) in [(-1, 8080), (80, -1), (65_536, 8080), (80, 65_536)] {
        config.port_mappings =
            vec![PortMapping { container_port, host_port, ..PortMapping::default() }];
        let result = c.run_pod(config.clone()).await;
        equal("a port", code(result)?, Code::InvalidArgument)?;
    }
    let mut config = c.pod()?;
    config.hostname = "h".repeat(65);
    let error = refusal(c.run_pod(config).await)?;
    ensure!(error.to_string().contains("name"), "{error}");
    equal("a long name", code::<()>(Err(error))?, Code::InvalidArgument)?;
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    resources(&mut config)?.hugepage_limits =
        vec![HugepageLimit { page_size: "2MB".to_owned(), limit: u64::MAX }];
    // A limit that no group can have is one that none has.
    if let Err(error) = c.run(&pod, &config).await {
        equal("a limit", code::<()>(Err(error))?, Code::InvalidArgument)?;
    }
    for path in ["relative", ".", "../x"] {
        let mut config = c.waiting();
        config.working_dir = path.to_owned();
        let error = refusal(c.create(&pod, &config).await)?;
        equal(path, code::<()>(Err(error))?, Code::InvalidArgument)?;
    }
    let id = c.run(&pod, &c.waiting()).await?;
    // Times that are none: no limit of a command, no grace of a stop.
    for none in [0, -1, i64::MIN] {
        equal("no limit", c.exec_for(&id, &["true"], none).await?.exit_code, 0)?;
    }
    c.stop(&id, -1).await?;
    c.clean_up().await
}
