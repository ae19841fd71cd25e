//! Mounts of the host into containers.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use cri_client::Code;
use cri_proto::v1::{IdMapping, Mount, MountPropagation, StatusRequest};
use testing::program;

use crate::case;
use crate::case::Case;
use crate::context::{Context, Pod, code, equal, refusal, security, strings};

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
    case!("mount.target_link_stays_inside", target_link).attack(),
    case!("mount.missing_source_is_made", missing),
    case!("mount.tmpfs_over_tmpfs", tmpfs_over_tmpfs),
    case!("mount.read_only_leaves_what_is_below", read_only_top),
    case!("mount.recursive_read_only", recursive_read_only).ours(),
    case!("mount.wrong_recursive_read_only_is_refused", wrong_recursive).ours(),
    case!("mount.recursive_read_only_where_it_cannot_be", cannot_recursive).ours(),
    case!("mount.options", options).ours(),
    case!("mount.unknown_options_are_refused", unknown_options).ours(),
    case!("mount.owners_are_mapped", owners).ours(),
    case!("mount.ids_beyond_the_length_are_nobodys", beyond).ours(),
    case!("mount.relabelling_changes_nothing_without_selinux", relabel).attack().ours(),
    case!("mount.owners_that_cannot_be_mapped_name_the_file_system", unmappable).ours(),
    case!("mount.pods_files_over_links_stay_inside", over_links).attack(),
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
    let target = c.canary().join("below");
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
    equal("inside", c.output(&pod, &config).await?, "secret")
}

async fn missing(c: &Context) -> Result<()> {
    let source = c.directory()?.join("not/there");
    let pod = c.plain_pod().await?;
    let mut config = c.script("test -d /mnt && echo made");
    config.mounts = vec![mount(&source, "/mnt")];
    equal("the target", c.output(&pod, &config).await?, "made")?;
    ensure!(source.is_dir(), "the source is not there");
    Ok(())
}

async fn tmpfs_over_tmpfs(c: &Context) -> Result<()> {
    let shared = Shared::new(c)?;
    let other = Shared::new(c)?;
    fs::write(other.0.join("other"), "")?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("ls /dev/shm /dev/shm/after; grep -c ' /dev/shm' /proc/mounts");
    // On the pod's own tmpfs, and one of them in the other.
    config.mounts = vec![mount(&shared.0, "/dev/shm"), mount(&other.0, "/dev/shm/after")];
    let seen = c.output(&pod, &config).await?;
    let wanted = "/dev/shm:\nafter\nback\nbefore\n\n/dev/shm/after:\nafter\nback\nbefore\nother\n4";
    equal("the files", seen, wanted)
}

async fn read_only_top(c: &Context) -> Result<()> {
    let (pod, shared) = (c.plain_pod().await?, Shared::new(c)?);
    let mut config = c.script("touch /mnt/x; touch /mnt/before/x && echo below");
    config.mounts = vec![Mount { readonly: true, ..mount(&shared.0, "/mnt") }];
    equal("what is written", c.output(&pod, &config).await?, "below")?;
    ensure!(!shared.0.join("x").exists(), "it was not read-only");
    Ok(())
}

async fn recursive_read_only(c: &Context) -> Result<()> {
    let (pod, shared) = (c.plain_pod().await?, Shared::new(c)?);
    let mut config = c.script("touch /mnt/x || touch /mnt/before/x || ls /mnt/before");
    config.mounts =
        vec![Mount { readonly: true, recursive_read_only: true, ..mount(&shared.0, "/mnt") }];
    equal("the files", c.output(&pod, &config).await?, "file")?;
    fs::write(shared.0.join("before/x"), "the host still writes")?;
    Ok(())
}

async fn wrong_recursive(c: &Context) -> Result<()> {
    let (pod, directory) = (c.plain_pod().await?, c.directory()?);
    let recursive = || Mount { recursive_read_only: true, ..mount(&directory, "/mnt") };
    let spread = |propagation: MountPropagation| Mount {
        readonly: true,
        propagation: propagation.into(),
        ..recursive()
    };
    for wrong in [
        recursive(),
        spread(MountPropagation::PropagationHostToContainer),
        spread(MountPropagation::PropagationBidirectional),
    ] {
        let mut config = c.waiting();
        config.mounts = vec![wrong];
        equal("the code", code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    }
    Ok(())
}

/// A handler whose program does not say that it can is told so, in the word of the interface, and
/// is not offered by the status; the others are.
async fn cannot_recursive(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    let told = c.runtime.pods.status(StatusRequest::default()).await?.runtime_handlers;
    for (handler, can) in [("", true), ("runc", true), ("hangs", false)] {
        let features = told.iter().find(|h| h.name == handler).and_then(|h| h.features);
        let offered = features.is_some_and(|features| features.recursive_read_only_mounts);
        equal(&format!("what {handler:?} offers"), offered, can)?;
        let pod = c.run_pod_by(handler, c.pod()?).await?;
        let mut config = c.script("touch /mnt/x 2> /dev/null || echo none");
        config.mounts =
            vec![Mount { readonly: true, recursive_read_only: true, ..mount(&directory, "/mnt") }];
        if can {
            equal("what is written", c.output(&pod, &config).await?, "none")?;
            continue;
        }
        let error = refusal(c.create(&pod, &config).await)?;
        ensure!(error.to_string().contains("RROUnsupported"), "{error}");
        equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)?;
        // Without it the same is made.
        if let Some(mount) = config.mounts.first_mut() {
            mount.recursive_read_only = false;
        }
        c.create(&pod, &config).await?;
    }
    c.clean_up().await
}

async fn options(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    fs::write(directory.join("program"), "#!/bin/sh\necho runs\n")?;
    host("chmod", &["755"], &directory.join("program"))?;
    let pod = c.plain_pod().await?;
    let mut config = c.script(
        "/with/program; /without/program; grep -E ' /with(out)? ' /proc/self/mounts | cut -d' ' -f2,4",
    );
    let asked = ["exec", "noexec", "nosuid", "nodev", "noatime"];
    config.mounts = vec![
        Mount { mount_options: strings(&asked), ..mount(&directory, "/with") },
        Mount { mount_options: strings(&["noexec", "exec"]), ..mount(&directory, "/without") },
    ];
    let text = c.output(&pod, &config).await?;
    let lines: Vec<&str> = text.lines().collect();
    equal("what is executed", lines[0], "runs")?;
    let options = |target: &str| {
        let found = lines.iter().find_map(|line| line.strip_prefix(target)?.strip_prefix(' '));
        found.unwrap_or_default().split(',').map(str::to_owned).collect::<Vec<_>>()
    };
    let with = options("/with");
    for option in ["rw", "noexec", "nosuid", "nodev", "noatime"] {
        ensure!(with.iter().any(|o| o == option), "{option} is not among {with:?}");
    }
    ensure!(!options("/without").iter().any(|o| o == "noexec"), "the last one does not count");
    let mut again = c.waiting();
    again.mounts = config.mounts;
    let id = c.run(&pod, &again).await?;
    let said = c.status(&id).await?.mounts;
    equal("the options told", said[0].mount_options.clone(), strings(&asked))
}

async fn unknown_options(c: &Context) -> Result<()> {
    let (pod, directory) = (c.plain_pod().await?, c.directory()?);
    for option in ["sync", "bind", "rshared", "idmap", "size=1k", "", "noexec,nosuid"] {
        let mut config = c.waiting();
        config.mounts =
            vec![Mount { mount_options: strings(&[option]), ..mount(&directory, "/mnt") }];
        let error = refusal(c.create(&pod, &config).await)?.to_string();
        ensure!(error.contains(&format!("\"{option}\"")), "it does not name {option}: {error}");
    }
    Ok(())
}

fn ids(host_id: u32) -> Vec<IdMapping> {
    vec![IdMapping { host_id, container_id: 0, length: 1000 }]
}

async fn owners(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    fs::write(directory.join("file"), "")?;
    std::os::unix::fs::chown(directory.join("file"), Some(3), Some(4))?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("stat -c %u:%g /mnt /mnt/file; chown 7005 /mnt/file");
    config.mounts = vec![Mount {
        uid_mappings: ids(7000),
        gid_mappings: ids(8000),
        ..mount(&directory, "/mnt")
    }];
    equal("the owners", c.output(&pod, &config).await?, "7000:8000\n7003:8004")?;
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(directory.join("file"))?);
    equal("the owner on the host", owner, 5)
}

async fn beyond(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    for id in [9, 10] {
        fs::write(directory.join(id.to_string()), "")?;
        std::os::unix::fs::chown(directory.join(id.to_string()), Some(id), Some(id))?;
    }
    let pod = c.plain_pod().await?;
    let mut config = c.script("stat -c %u:%g /mnt/9 /mnt/10");
    let ids = |host_id| vec![IdMapping { host_id, container_id: 0, length: 10 }];
    let mount =
        Mount { uid_mappings: ids(7000), gid_mappings: ids(8000), ..mount(&directory, "/mnt") };
    config.mounts = vec![mount];
    equal("the owners", c.output(&pod, &config).await?, "7009:8009\n65534:65534")
}

/// A volume of the host's own files keeps its attributes: nothing is relabelled or given away.
async fn relabel(c: &Context) -> Result<()> {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return Ok(()); // there it has an effect
    }
    let directory = c.directory()?;
    fs::write(directory.join("file"), "content")?;
    let facts = || -> Result<String> {
        let stat =
            |path: &str| program::output(Command::new("stat").args(["-c", "%u:%g:%a:%Z:%Y", path]));
        let file = directory.join("file").display().to_string();
        Ok(format!("{:?} {:?}", stat("/etc/hosts")?, stat(&file)?))
    };
    let before = facts()?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("cat /mnt/file; test -s /host-hosts && echo there");
    config.mounts = vec![
        Mount { selinux_relabel: true, ..mount(&directory, "/mnt") },
        Mount { selinux_relabel: true, readonly: true, ..mount(&c.canary(), "/canary") },
        Mount { selinux_relabel: true, ..mount(Path::new("/etc/hosts"), "/host-hosts") },
    ];
    equal("the content", c.output(&pod, &config).await?, "contentthere")?;
    equal("the attributes", facts()?, before)
}

async fn unmappable(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    config.mounts = vec![Mount {
        uid_mappings: ids(7000),
        gid_mappings: ids(7000),
        readonly: true,
        ..mount(Path::new("/proc/sys/kernel"), "/mnt")
    }];
    let error = refusal(c.run(&pod, &config).await)?.to_string();
    ensure!(
        error.contains("the file system proc mounted on /proc does not support it"),
        "it does not say which: {error}"
    );
    c.clean_up().await
}

async fn over_links(c: &Context) -> Result<()> {
    let canary = c.canary();
    let catalog = &c.runtime.catalog;
    let mut layer = testing::image::LayerBuilder::new();
    for name in ["resolv.conf", "hosts", "hostname", "mtab"] {
        layer.symlink(&format!("etc/{name}"), &canary.join(name).display().to_string())?;
    }
    let image = catalog.busybox.with_layer(layer.finish()?);
    let mut layout = testing::image::Layout::new(&c.directory()?)?;
    layout.add("links", &image)?;
    catalog.registry.push(layout.path(), "links", "e2e/links:1")?;
    c.pull("docker.io/e2e/links:1").await?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("grep -c localhost /etc/hosts; echo x >> /etc/hosts");
    config.image = Some(crate::context::image_spec("docker.io/e2e/links:1"));
    let id = c.run(&pod, &config).await?;
    c.exited(&id).await?;
    c.clean_up().await
}
