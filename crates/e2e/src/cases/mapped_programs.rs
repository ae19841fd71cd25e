//! User namespaces and mapped owners for containers that a runtime program makes.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::{
    Capability, ContainerConfig, Int64Value, Mount, MountPropagation, NamespaceMode, StatusRequest,
};

use super::user_namespaces::{FIRST, of_usual, option, owner, pod_of, range, upper_of, usual};
use crate::case;
use crate::case::Case;
use crate::context::{Context, Pod, code, equal, refusal, security, strings};
use crate::runtime::programs;

pub(super) const CASES: &[Case] = &[
    case!("userns.by_a_program", ids).ours(),
    case!("userns.by_a_program_files", files).ours(),
    case!("userns.by_a_program_sessions", sessions).ours(),
    case!("userns.by_a_program_has_no_power_over_the_host", powerless).attack().ours(),
    case!("userns.by_a_program_volumes", volumes).ours(),
    case!("userns.by_a_program_node_network", node_network).ours(),
    case!("userns.by_a_program_outlives_the_daemon", restart).ours().alone(),
    case!("userns.what_programs_cannot_do_is_refused", refusals).ours(),
    case!("mount.owners_are_mapped_for_programs", owners).ours(),
];

async fn usual_pod(c: &Context, handler: &str) -> Result<Pod> {
    c.run_pod_by(handler, pod_of(c, &option(usual()))?).await
}

fn mount(from: &Path, to: &str) -> Mount {
    Mount {
        host_path: from.display().to_string(),
        container_path: to.to_owned(),
        ..Mount::default()
    }
}

fn mapped(mount: Mount) -> Mount {
    let ids = range(FIRST, 0, 65_536);
    Mount { uid_mappings: ids.clone(), gid_mappings: ids, ..mount }
}

/// What each program is told to offer is what works.
async fn ids(c: &Context) -> Result<()> {
    let told = c.runtime.pods.status(StatusRequest::default()).await?.runtime_handlers;
    for (name, _) in programs() {
        let features = told.iter().find(|h| h.name == name).and_then(|h| h.features);
        let offers = features.with_context(|| format!("{name} has no features"))?.user_namespaces;
        if !offers {
            let result = usual_pod(c, name).await;
            equal(name, code(result)?, Code::InvalidArgument)?;
            continue;
        }
        let pod = usual_pod(c, name).await?;
        let config = of_usual(c.script(
            "tr -s ' ' < /proc/self/uid_map; tr -s ' ' < /proc/self/gid_map; id -u; \
             readlink /proc/self/ns/user; stat -c %u:%g / /bin/sh /tmp /dev /etc/passwd | uniq; exit 3",
        ))?;
        let id = c.run(&pod, &config).await?;
        equal("the code", c.exited(&id).await?.exit_code, 3)?;
        let text = crate::logs::read(&pod, &config)?.of("stdout");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        ensure!(lines.len() == 5, "{name}: {text}");
        equal("the maps", &lines[..3], &["0 400000 65536", "0 400000 65536", "0"][..])?;
        let own = std::fs::read_link("/proc/self/ns/user")?;
        ensure!(lines[3] != own.display().to_string(), "it is ours");
        equal("the owners", lines[4], "0:0")?;
    }
    let runc = told.iter().find(|h| h.name == "runc").and_then(|h| h.features);
    ensure!(runc.is_some_and(|features| features.user_namespaces), "runc does not offer them");
    c.clean_up().await
}

async fn files(c: &Context) -> Result<()> {
    let pod = usual_pod(c, "runc").await?;
    let mut config = of_usual(c.waiting())?;
    security(&mut config)?.run_as_user = Some(Int64Value { value: 1234 });
    let id = c.run(&pod, &config).await?;
    c.sh(&id, "touch /tmp/mine").await?;
    let upper = upper_of(c, &id)?;
    equal("its file", owner(&upper.join("tmp/mine"))?, (FIRST + 1234, FIRST))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let seen = table.lines().find(|line| line.contains(&id));
    ensure!(seen.is_none(), "the host has a mount of it: {seen:?}");
    // The output can be opened again, by root and by others.
    for user in [0, 1234] {
        let mut config =
            of_usual(c.script("stat -c %u:%g /etc/hosts /dev/shm; echo out > /dev/stdout"))?;
        security(&mut config)?.run_as_user = Some(Int64Value { value: user });
        equal("the output", c.output(&pod, &config).await?, "0:0\n0:0\nout")?;
    }
    let mut config = of_usual(c.script("touch /x || echo none; echo x > /etc/hosts || echo none"))?;
    security(&mut config)?.readonly_rootfs = true;
    equal("a read-only root", c.output(&pod, &config).await?, "none\nnone")?;
    c.clean_up().await
}

async fn sessions(c: &Context) -> Result<()> {
    let pod = usual_pod(c, "runc").await?;
    let mut config = of_usual(c.script("tty; id -u; tail -f /dev/null"))?;
    config.tty = true;
    let id = c.run(&pod, &config).await?;
    let script = "test $(readlink /proc/self/ns/user) = $(readlink /proc/1/ns/user) && id -u; \
                  touch /by-exec && stat -c %u /by-exec; ps -o args | grep -c '[t]ail'";
    equal("the session", c.sh(&id, script).await?, "0\n0\n1")?;
    equal("its file", owner(&upper_of(c, &id)?.join("by-exec"))?, (FIRST, FIRST))?;
    c.stop(&id, 0).await?;
    let text = crate::logs::read(&pod, &config)?.text().replace('\r', "");
    ensure!(text.ends_with("\n0\n") && !text.contains("not a tty"), "the terminal: {text:?}");
    c.clean_up().await
}

async fn powerless(c: &Context) -> Result<()> {
    let pod = usual_pod(c, "runc").await?;
    let secret = c.directory()?.join("secret");
    std::fs::write(&secret, "secret")?;
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let mut config = of_usual(c.script(
        "cat /secret; echo x > /secret; chown 0 /secret; mknod /tmp/sda b 8 0; \
         mount -o remount,rw,bind /secret; echo x > /secret; \
         echo 1 > /proc/sys/vm/drop_caches; stat -c %u /secret",
    ))?;
    security(&mut config)?.capabilities =
        Some(Capability { add_capabilities: strings(&["ALL"]), ..Capability::default() });
    config.mounts = vec![Mount { readonly: true, ..mount(&secret, "/secret") }];
    equal("the output", c.output(&pod, &config).await?, "65534")?;
    equal("the secret", std::fs::read_to_string(&secret)?, "secret")?;
    c.clean_up().await
}

async fn volumes(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    std::fs::create_dir(directory.join("below"))?;
    std::fs::write(directory.join("file"), "content")?;
    std::os::unix::fs::chown(directory.join("below"), Some(55), Some(66))?;
    let pod = usual_pod(c, "runc").await?;
    let mut config = of_usual(c.script(
        "stat -c %u:%g /mapped /mapped/below /plain; touch /mapped/new; chown 9:9 /mapped/new; \
         cat /file; touch /ro/x 2> /dev/null || echo none; touch /rro/x 2> /dev/null || echo none",
    ))?;
    config.mounts = vec![
        mapped(mount(&directory, "/mapped")),
        mount(&directory, "/plain"),
        mapped(mount(&directory.join("file"), "/file")),
        mapped(Mount { readonly: true, ..mount(&directory, "/ro") }),
        mapped(Mount { readonly: true, recursive_read_only: true, ..mount(&directory, "/rro") }),
    ];
    let wanted = "0:0\n55:66\n65534:65534\ncontentnone\nnone";
    equal("what it sees", c.output(&pod, &config).await?, wanted)?;
    equal("the new file's on the host", owner(&directory.join("new"))?, (9, 9))?;
    c.clean_up().await
}

async fn node_network(c: &Context) -> Result<()> {
    let mut option = option(usual());
    option.network = NamespaceMode::Node.into();
    let pod = c.run_pod_by("runc", pod_of(c, &option)?).await?;
    let mut config =
        c.script("readlink /proc/self/ns/net; id -u; test -d /sys/class/net/lo && echo sys");
    security(&mut config)?.namespace_options = Some(option);
    let own = std::fs::read_link("/proc/self/ns/net")?.display().to_string();
    equal("the namespace", c.output(&pod, &config).await?, format!("{own}\n0\nsys"))?;
    c.clean_up().await
}

async fn restart(c: &Context) -> Result<()> {
    let pod = usual_pod(c, "runc").await?;
    let id = c.run(&pod, &of_usual(c.waiting())?).await?;
    c.runtime.kill()?;
    c.runtime.launch().await?;
    equal("the old one", c.sh(&id, "id -u").await?, "0")?;
    let text = c.output(&pod, &of_usual(c.script("cut -c 12-21 /proc/self/uid_map"))?).await?;
    equal("the new one's map", text.trim(), "400000")?;
    c.stop(&id, 10).await?;
    c.clean_up().await
}

async fn refusals(c: &Context) -> Result<()> {
    // This program does not say that it can.
    let error = refusal(usual_pod(c, "hangs").await)?.to_string();
    ensure!(error.contains("\"hangs\" does not support user namespaces"), "{error}");
    let pod = usual_pod(c, "runc").await?;
    let mut shared = of_usual(c.waiting())?;
    let options = security(&mut shared)?.namespace_options.as_mut().context("no namespaces")?;
    options.pid = NamespaceMode::Pod.into();
    let error = refusal(c.create(&pod, &shared).await)?;
    ensure!(error.to_string().contains("the pod's PID namespace in a user namespace"), "{error}");
    equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)?;
    let plain = c.run_pod_by("runc", c.pod()?).await?;
    let (one, other) = (c.directory()?, c.directory()?);
    let mut spreading: ContainerConfig = c.waiting();
    let both = MountPropagation::PropagationBidirectional.into();
    spreading.mounts =
        vec![mapped(mount(&one, "/one")), Mount { propagation: both, ..mount(&other, "/other") }];
    let error = refusal(c.create(&plain, &spreading).await)?;
    ensure!(error.to_string().contains("/one") && error.to_string().contains("/other"), "{error}");
    equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)?;
    c.clean_up().await
}

async fn owners(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    std::fs::write(directory.join("file"), "")?;
    std::os::unix::fs::chown(directory.join("file"), Some(3), Some(4))?;
    let pod = c.run_pod_by("runc", c.pod()?).await?;
    let mut config = c.script("stat -c %u:%g /mnt /mnt/file /plain/file; chown 7005 /mnt/file");
    config.mounts = vec![
        Mount {
            uid_mappings: range(7000, 0, 1000),
            gid_mappings: range(8000, 0, 1000),
            ..mount(&directory, "/mnt")
        },
        mount(&directory, "/plain"),
    ];
    equal("the owners", c.output(&pod, &config).await?, "7000:8000\n7003:8004\n3:4")?;
    equal("the owner on the host", owner(&directory.join("file"))?, (5, 4))?;
    c.clean_up().await
}
