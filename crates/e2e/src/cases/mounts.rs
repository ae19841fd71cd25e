//! Mounts of the host into containers.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use cri_proto::v1::{Mount, MountPropagation};
use testing::program;

use crate::case;
use crate::case::Case;
use crate::context::{Context, Pod, equal, refusal, security};

pub(super) const CASES: &[Case] = &[
    case!("mount.directory_and_file", directory_and_file),
    case!("mount.read_only", read_only),
    case!("mount.through_a_symbolic_link", symlink),
    case!("mount.status_tells_them", status),
    case!("mount.over_what_the_runtime_mounts", over_own),
    case!("mount.order_is_by_path", nested),
    case!("mount.private_propagation", private),
    case!("mount.propagation_from_the_host", from_host),
    case!("mount.propagation_both_ways", both_ways),
    case!("mount.both_ways_on_a_private_mount_is_refused", not_shared),
    case!("mount.target_link_stays_inside", target_link),
];

fn mount(from: &Path, to: &str) -> Mount {
    Mount {
        host_path: from.display().to_string(),
        container_path: to.to_owned(),
        ..Mount::default()
    }
}

fn host(program: &str, arguments: &[&str], path: &Path) -> Result<()> {
    program::output(Command::new(program).args(arguments).arg(path)).map(|_| ())
}

async fn directory_and_file(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    fs::write(directory.join("file"), "from the host")?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("cat /mnt/made/file /one; echo back > /mnt/made/back");
    config.mounts = vec![mount(&directory, "/mnt/made"), mount(&directory.join("file"), "/one")];
    equal("the content", c.output(&pod, &config).await?, "from the hostfrom the host")?;
    equal("what came back", fs::read_to_string(directory.join("back"))?, "back\n")
}

async fn read_only(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("touch /mnt/x 2>&1");
    config.mounts = vec![Mount { readonly: true, ..mount(&directory, "/mnt") }];
    let id = c.run(&pod, &config).await?;
    equal("the code", c.exited(&id).await?.exit_code, 1)?;
    let text = crate::logs::read(&pod, &config)?.text();
    equal("the error", text.trim_end(), "touch: /mnt/x: Read-only file system")?;
    ensure!(fs::read_dir(&directory)?.next().is_none(), "a file was made");
    Ok(())
}

async fn symlink(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    fs::create_dir(directory.join("real"))?;
    fs::write(directory.join("real/file"), "through")?;
    std::os::unix::fs::symlink(directory.join("real"), directory.join("link"))?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("cat /mnt/file");
    config.mounts = vec![mount(&directory.join("link"), "/mnt")];
    equal("the content", c.output(&pod, &config).await?, "through")
}

async fn status(c: &Context) -> Result<()> {
    let (directory, shared) = (c.directory()?, Shared::new(c)?);
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    config.mounts = vec![
        Mount { readonly: true, ..mount(&directory, "/one") },
        Mount {
            propagation: MountPropagation::PropagationHostToContainer.into(),
            ..mount(&shared.0, "/two")
        },
    ];
    let id = c.run(&pod, &config).await?;
    let key = |mounts: &[Mount]| {
        let mut keys: Vec<_> = mounts
            .iter()
            .map(|m| (m.container_path.clone(), m.host_path.clone(), m.readonly, m.propagation))
            .collect();
        keys.sort();
        keys
    };
    let said = c.status(&id).await?.mounts;
    equal("the mounts", key(&said), key(&config.mounts))?;
    c.clean_up().await
}

async fn over_own(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    for (name, text) in [("hosts", "1.2.3.4 name\n"), ("termination", "")] {
        fs::write(directory.join(name), text)?;
    }
    fs::create_dir(directory.join("shm"))?;
    let pod = c.plain_pod().await?;
    // As the kubelet does: /etc/hosts, the termination log, sometimes /dev/shm.
    let mut config = c.script("cat /etc/hosts; echo bye > /dev/termination-log; touch /dev/shm/x");
    config.mounts = vec![
        mount(&directory.join("hosts"), "/etc/hosts"),
        mount(&directory.join("termination"), "/dev/termination-log"),
        mount(&directory.join("shm"), "/dev/shm"),
    ];
    equal("the hosts", c.output(&pod, &config).await?, "1.2.3.4 name")?;
    equal("the last words", fs::read_to_string(directory.join("termination"))?, "bye\n")?;
    ensure!(directory.join("shm/x").exists(), "the shared memory is another");
    Ok(())
}

async fn nested(c: &Context) -> Result<()> {
    let (outer, inner) = (c.directory()?, c.directory()?);
    fs::write(outer.join("outer"), "")?;
    fs::create_dir(outer.join("in"))?;
    fs::write(inner.join("inner"), "")?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("cd /mnt; find . | sort");
    // The inner first: it must not be hidden by the outer.
    config.mounts = vec![mount(&inner, "/mnt/in"), mount(&outer, "/mnt")];
    equal("the files", c.output(&pod, &config).await?, ".\n./in\n./in/inner\n./outer")
}

/// A tmpfs of our own that propagates; the machine's mounts do not.
struct Shared(std::path::PathBuf);

impl Shared {
    fn new(c: &Context) -> Result<Self> {
        let path = c.directory()?;
        host("mount", &["-t", "tmpfs", "tmpfs"], &path)?;
        host("mount", &["--make-rshared"], &path)?;
        for name in ["before", "after", "back"] {
            fs::create_dir(path.join(name))?;
        }
        host("mount", &["-t", "tmpfs", "tmpfs"], &path.join("before"))?;
        fs::write(path.join("before/file"), "")?;
        Ok(Self(path))
    }

    /// A mount after the container began.
    fn mount_after(&self) -> Result<()> {
        host("mount", &["-t", "tmpfs", "tmpfs"], &self.0.join("after"))?;
        Ok(fs::write(self.0.join("after/file"), "")?)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = host("umount", &["--recursive", "--lazy"], &self.0);
    }
}

const SEEN: &str = "cd /mnt; ls before after";

async fn propagating(
    c: &Context,
    pod: &Pod,
    shared: &Shared,
    propagation: MountPropagation,
) -> Result<String> {
    let mut config = c.waiting();
    config.mounts = vec![Mount { propagation: propagation.into(), ..mount(&shared.0, "/mnt") }];
    security(&mut config)?.privileged = propagation == MountPropagation::PropagationBidirectional;
    let id = c.run(pod, &config).await?;
    shared.mount_after()?;
    Ok(id)
}

async fn private(c: &Context) -> Result<()> {
    let (pod, shared) = (c.plain_pod().await?, Shared::new(c)?);
    let id = propagating(c, &pod, &shared, MountPropagation::PropagationPrivate).await?;
    // What was there is there (mounts are recursive), what comes later is not.
    equal("the files", c.sh(&id, SEEN).await?, "after:\n\nbefore:\nfile")?;
    c.clean_up().await
}

async fn from_host(c: &Context) -> Result<()> {
    let (pod, shared) = (c.plain_pod().await?, Shared::new(c)?);
    let id = propagating(c, &pod, &shared, MountPropagation::PropagationHostToContainer).await?;
    equal("the files", c.sh(&id, SEEN).await?, "after:\nfile\n\nbefore:\nfile")?;
    c.clean_up().await
}

async fn both_ways(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    if let Some(security) = config.linux.as_mut().and_then(|l| l.security_context.as_mut()) {
        security.privileged = true;
    }
    let (pod, shared) = (c.run_pod(config).await?, Shared::new(c)?);
    let id = propagating(c, &pod, &shared, MountPropagation::PropagationBidirectional).await?;
    equal("the files", c.sh(&id, SEEN).await?, "after:\nfile\n\nbefore:\nfile")?;
    c.sh(&id, "mount -t tmpfs tmpfs /mnt/back && touch /mnt/back/file").await?;
    ensure!(shared.0.join("back/file").exists(), "the container's mount does not come back");
    c.sh(&id, "umount /mnt/back").await?;
    c.clean_up().await
}

async fn not_shared(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    host("mount", &["-t", "tmpfs", "tmpfs"], &directory)?;
    host("mount", &["--make-rprivate"], &directory)?;
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    config.mounts = vec![Mount {
        propagation: MountPropagation::PropagationBidirectional.into(),
        ..mount(&directory, "/mnt")
    }];
    let result = c.run(&pod, &config).await;
    host("umount", &[], &directory)?;
    let error = refusal(result)?.to_string();
    ensure!(error.contains(&directory.display().to_string()), "it does not say which: {error}");
    Ok(())
}

async fn target_link(c: &Context) -> Result<()> {
    // The image's own link points to a host path: the mount must not go there.
    let outside = c.directory()?;
    let target = outside.join("target");
    fs::create_dir(&target)?;
    let catalog = &c.runtime.catalog;
    let mut layer = testing::image::LayerBuilder::new();
    layer.symlink("escape", &target.display().to_string())?;
    let image = catalog.busybox.with_layer(layer.finish()?);
    let mut layout = testing::image::Layout::new(&c.directory()?)?;
    layout.add("escape", &image)?;
    catalog.registry.push(layout.path(), "escape", "e2e/escape:1")?;
    c.pull("docker.io/e2e/escape:1").await?;
    let source = c.directory()?;
    fs::write(source.join("secret"), "")?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("ls /escape/");
    config.image = Some(crate::context::image_spec("docker.io/e2e/escape:1"));
    config.mounts = vec![mount(&source, "/escape")];
    equal("inside", c.output(&pod, &config).await?, "secret")?;
    ensure!(fs::read_dir(&target)?.next().is_none(), "the mount is outside");
    Ok(())
}
