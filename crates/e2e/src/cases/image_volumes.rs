//! Images that containers mount.

use anyhow::{Result, ensure};
use cri_proto::v1::{
    ContainerConfig, IdMapping, ImageSpec, Mount, MountPropagation, NamespaceMode, NamespaceOption,
    UserNamespace,
};

use crate::case;
use crate::case::Case;
use crate::catalog::BUSYBOX;
use crate::context::{Context, Pod, equal, image_spec, namespaces, refusal, security};

pub(super) const CASES: &[Case] = &[
    case!("image_volume.content_is_there_and_read_only", content).ours(),
    case!("image_volume.nothing_is_executed_from_it", not_executed).ours(),
    case!("image_volume.sub_path", sub_path).ours(),
    case!("image_volume.sub_path_stays_inside", hostile_sub_path).attack().ours(),
    case!("image_volume.failures_have_the_kubelets_word", failures).ours(),
    case!("image_volume.status_tells_the_image", status).ours(),
    case!("image_volume.image_may_go_meanwhile", removed_meanwhile).ours(),
    case!("image_volume.by_a_handlers_program", by_program).ours(),
    case!("image_volume.in_a_user_namespace", mapped).ours(),
    case!("image_volume.a_new_daemon_goes_on", restart).ours().alone(),
];

/// An image of several layers that take away from each other.
const LAYERED: &str = "docker.io/e2e/layered:1";

fn volume(image: &str, to: &str) -> Mount {
    Mount {
        container_path: to.to_owned(),
        readonly: true,
        image: Some(image_spec(image)),
        ..Mount::default()
    }
}

fn with(mut config: ContainerConfig, mounts: Vec<Mount>) -> ContainerConfig {
    config.mounts = mounts;
    config
}

async fn pod(c: &Context) -> Result<Pod> {
    c.pull(LAYERED).await?;
    c.plain_pod().await
}

async fn content(c: &Context) -> Result<()> {
    let pod = pod(c).await?;
    let script = "cat /v/data/kept /v/data/changed; ls /v/data/opaque; stat -c %u:%g /v/data/owned; \
                  touch /v/x 2>&1; echo x 2>&1 > /v/data/kept; test ! -e /v/data/gone && echo end";
    let config = with(c.script(script), vec![volume(LAYERED, "/v")]);
    equal(
        "the content",
        c.output(&pod, &config).await?,
        "lowerupper\nnew\n1000:50000\ntouch: /v/x: Read-only file system\nend",
    )
    .or_else(|_| {
        let text = crate::logs::read(&pod, &config)?.text();
        ensure!(text.contains("lowerupper"), "the content is {text}");
        ensure!(text.matches("Read-only file system").count() == 2, "it was written: {text}");
        ensure!(text.trim_end().ends_with("end"), "the deleted file is there: {text}");
        Ok(())
    })?;
    c.clean_up().await
}

async fn not_executed(c: &Context) -> Result<()> {
    let pod = pod(c).await?;
    let config = with(
        c.script("/v/bin/busybox true 2>/dev/null || grep ' /v ' /proc/self/mounts"),
        vec![volume(BUSYBOX, "/v")],
    );
    let text = c.output(&pod, &config).await?;
    for option in ["ro,", "nosuid", "nodev", "noexec"] {
        ensure!(text.contains(option), "{option} is not among {text}");
    }
    c.clean_up().await
}

async fn sub_path(c: &Context) -> Result<()> {
    let pod = pod(c).await?;
    let part =
        |path: &str, to: &str| Mount { image_sub_path: path.to_owned(), ..volume(LAYERED, to) };
    let config = with(
        c.script("ls /directory; cat /file /link; grep -c ' /directory ' /proc/mounts"),
        vec![
            part("data/opaque", "/directory"),
            part("data/changed", "/file"),
            // A link of the image's, absolute, leads inside the image.
            part("data/link", "/link"),
        ],
    );
    equal("the parts", c.output(&pod, &config).await?, "new\nupperlower1")?;
    c.clean_up().await
}

async fn hostile_sub_path(c: &Context) -> Result<()> {
    let canary = c.canary();
    let mut layer = testing::image::LayerBuilder::new();
    layer.symlink("absolute", &canary.display().to_string())?;
    layer.symlink("relative", "../../../../../../../../../etc")?;
    layer.symlink("magic", "/proc/self/root")?;
    layer.symlink("loop", "loop")?;
    layer.file("etc/only-here", 0o644, b"")?;
    let catalog = &c.runtime.catalog;
    let image = catalog.busybox.with_layer(layer.finish()?);
    let mut layout = testing::image::Layout::new(&c.directory()?)?;
    layout.add("sub", &image)?;
    catalog.registry.push(layout.path(), "sub", "e2e/sub:1")?;
    let name = "docker.io/e2e/sub:1";
    c.pull(name).await?;
    let pod = c.plain_pod().await?;
    let part = |path: &str| Mount { image_sub_path: path.to_owned(), ..volume(name, "/v") };
    for path in ["absolute", "magic", "loop", "../../etc", "etc/../..", "not/there", "a\0b"] {
        let error = refusal(c.create(&pod, &with(c.waiting(), vec![part(path)])).await)?;
        let text = error.to_string();
        ensure!(text.contains("ImageVolumeMountFailed: "), "{path:?}: {text}");
    }
    let config = with(c.script("test -e /v/only-here && ls /v | wc -l"), vec![part("relative")]);
    c.output(&pod, &config).await?;
    c.clean_up().await
}

async fn failures(c: &Context) -> Result<()> {
    let pod = pod(c).await?;
    let good = || volume(LAYERED, "/v");
    for (what, wrong) in [
        ("an image that is not here", volume("docker.io/e2e/never-pulled:1", "/v")),
        ("writable", Mount { readonly: false, ..good() }),
        ("a host path too", Mount { host_path: "/tmp".to_owned(), ..good() }),
        ("a part of nothing", Mount { image: None, image_sub_path: "x".to_owned(), ..good() }),
        (
            "spreading",
            Mount { propagation: MountPropagation::PropagationHostToContainer.into(), ..good() },
        ),
    ] {
        let result = c.create(&pod, &with(c.waiting(), vec![wrong])).await;
        let error = refusal(result)?;
        let known = error.downcast_ref::<cri_client::Error>();
        let text = known.map(ToString::to_string).unwrap_or_default();
        ensure!(text.contains("ImageVolumeMountFailed: mount on /v: "), "{what}: {text}");
    }
    c.clean_up().await
}

async fn status(c: &Context) -> Result<()> {
    let reference = c.pull(LAYERED).await?;
    let pod = c.plain_pod().await?;
    let asked = Mount { image_sub_path: "data".to_owned(), ..volume(LAYERED, "/v") };
    let config = with(c.waiting(), vec![asked.clone()]);
    let id = c.create(&pod, &config).await?;
    equal("asked again", &c.create(&pod, &config).await?, &id)?;
    c.start(&id).await?;
    let told =
        Mount { image: Some(ImageSpec { image_ref: reference, ..image_spec(LAYERED) }), ..asked };
    equal("the mounts", c.status(&id).await?.mounts, vec![told])?;
    c.clean_up().await
}

async fn removed_meanwhile(c: &Context) -> Result<()> {
    let catalog = &c.runtime.catalog;
    let mut layer = testing::image::LayerBuilder::new();
    layer.file("only/in/this", 0o644, b"still here")?;
    let image = catalog.busybox.with_layer(layer.finish()?);
    let mut layout = testing::image::Layout::new(&c.directory()?)?;
    layout.add("held", &image)?;
    catalog.registry.push(layout.path(), "held", "e2e/held:1")?;
    let name = "docker.io/e2e/held:1";
    c.pull(name).await?;
    let pod = c.plain_pod().await?;
    let id = c.run(&pod, &with(c.waiting(), vec![volume(name, "/v")])).await?;
    c.remove_image(name).await?;
    ensure!(c.image(name).await?.is_none(), "the image is still shown");
    equal("the file", c.sh(&id, "cat /v/only/in/this").await?, "still here")?;
    // The image is gone for the next one.
    refusal(c.create(&pod, &with(c.waiting(), vec![volume(name, "/v")])).await)?;
    c.clean_up().await
}

async fn by_program(c: &Context) -> Result<()> {
    c.pull(LAYERED).await?;
    let pod = c.run_pod_by("runc", c.pod()?).await?;
    let part = Mount { image_sub_path: "data/opaque".to_owned(), ..volume(LAYERED, "/part") };
    let config = with(
        c.script("cat /v/data/kept; ls /part; touch /v/x /part/x 2>/dev/null || echo end"),
        vec![volume(LAYERED, "/v"), part],
    );
    equal("the content", c.output(&pod, &config).await?, "lowernew\nend")?;
    c.clean_up().await
}

async fn mapped(c: &Context) -> Result<()> {
    c.pull(LAYERED).await?;
    let ids = vec![IdMapping { host_id: 500_000, container_id: 0, length: 65_536 }];
    let option = NamespaceOption {
        pid: NamespaceMode::Container.into(),
        userns_options: Some(UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: ids.clone(),
            gids: ids.clone(),
        }),
        ..NamespaceOption::default()
    };
    let mut config = c.pod()?;
    *namespaces(&mut config)? = option.clone();
    let pod = c.run_pod(config).await?;
    let mapped = Mount { uid_mappings: ids.clone(), gid_mappings: ids, ..volume(LAYERED, "/m") };
    let mut config = with(
        c.script("stat -c %u:%g /v /v/data/owned /m/data/owned; cat /v/data/kept"),
        vec![volume(LAYERED, "/v"), mapped],
    );
    security(&mut config)?.namespace_options = Some(option);
    let wanted = "0:0\n1000:50000\n1000:50000\nlower";
    equal("the owners", c.output(&pod, &config).await?, wanted)?;
    c.clean_up().await
}

async fn restart(c: &Context) -> Result<()> {
    let pod = pod(c).await?;
    let config = with(c.script("cat /v/data/kept"), vec![volume(LAYERED, "/v")]);
    let created = c.create(&pod, &config).await?;
    let running = c.run(&pod, &with(c.waiting(), vec![volume(LAYERED, "/v")])).await?;
    c.runtime.kill()?;
    c.runtime.launch().await?;
    c.start(&created).await?;
    equal("the code", c.exited(&created).await?.exit_code, 0)?;
    equal("the content", c.sh(&running, "cat /v/data/kept").await?, "lower")?;
    c.clean_up().await
}
