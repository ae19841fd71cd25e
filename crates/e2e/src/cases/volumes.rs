//! Volumes that images declare.

use std::fs;

use anyhow::{Result, ensure};
use cri_proto::v1::{IdMapping, Mount, NamespaceMode, NamespaceOption, UserNamespace};
use serde_json::json;
use testing::image::{LayerBuilder, Layout};

use crate::case;
use crate::case::Case;
use crate::context::{Context, equal, image_spec, namespaces, security};

pub(super) const CASES: &[Case] = &[
    case!("volume.of_the_image_has_its_content", content),
    case!("volume.of_the_image_gives_way_to_a_mount", gives_way),
    case!("volume.of_the_image_stays_inside", stays_inside).attack(),
    case!("volume.of_the_image_in_a_user_namespace", mapped).ours(),
];

const OWNED: (u64, u64) = (1000, 1001);

/// Pushes an image that declares volumes, and pulls it.
async fn image(
    c: &Context,
    name: &str,
    volumes: &[&str],
    links: &[(&str, &str)],
) -> Result<String> {
    let mut layer = LayerBuilder::new();
    layer.file("vol/plain", 0o640, b"content")?;
    layer.owned_file("vol/deep/owned", 0o4755, OWNED, b"owned")?;
    layer.symlink("vol/link", "plain")?;
    for (link, target) in links {
        layer.symlink(link, target)?;
    }
    let declared: serde_json::Map<_, _> =
        volumes.iter().map(|volume| ((*volume).to_owned(), json!({}))).collect();
    let catalog = &c.runtime.catalog;
    let image = catalog.busybox.with_layer(layer.finish()?).with("Volumes", declared.into());
    let mut layout = Layout::new(&c.directory()?)?;
    layout.add("volumes", &image)?;
    catalog.registry.push(layout.path(), "volumes", &format!("e2e/{name}:1"))?;
    let name = format!("docker.io/e2e/{name}:1");
    c.pull(&name).await?;
    Ok(name)
}

async fn content(c: &Context) -> Result<()> {
    let name = image(c, "volumes", &["/vol", "/empty"], &[]).await?;
    let pod = c.plain_pod().await?;
    let mut config = c.script(
        "stat -c '%n %a %u:%g' /vol/plain /vol/deep/owned; readlink /vol/link; ls /empty | wc -l; \
         grep -cE ' /(vol|empty) ' /proc/mounts; echo new > /vol/new && cat /vol/new",
    );
    config.image = Some(image_spec(&name));
    let wanted = "/vol/plain 640 0:0\n/vol/deep/owned 4755 1000:1001\nplain\n0\n2\nnew";
    equal("the volumes", c.output(&pod, &config).await?, wanted)?;
    // Each container has its own.
    let mut config = c.script("ls /vol");
    config.image = Some(image_spec(&name));
    equal("the next one's", c.output(&pod, &config).await?, "deep\nlink\nplain")?;
    c.clean_up().await
}

async fn gives_way(c: &Context) -> Result<()> {
    let name = image(c, "volumes-mounted", &["/vol"], &[]).await?;
    let directory = c.directory()?;
    fs::write(directory.join("the-clients"), "")?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("ls /vol");
    config.image = Some(image_spec(&name));
    config.mounts = vec![Mount {
        host_path: directory.display().to_string(),
        container_path: "/vol".to_owned(),
        ..Mount::default()
    }];
    equal("the files", c.output(&pod, &config).await?, "the-clients")?;
    c.clean_up().await
}

async fn stays_inside(c: &Context) -> Result<()> {
    let canary = c.canary();
    let outside = canary.display().to_string();
    let climbing = format!("/../../../../../../..{outside}");
    let name =
        image(c, "volumes-hostile", &[&climbing, "/linked"], &[("linked", &outside)]).await?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("find / -name secret -xdev 2>/dev/null; touch /linked/x; echo end");
    config.image = Some(image_spec(&name));
    // Refused or inside; nothing of the host is copied or written.
    if let Ok(id) = c.run(&pod, &config).await {
        c.exited(&id).await?;
        let text = crate::logs::read(&pod, &config)?.text();
        ensure!(!text.contains("secret"), "the host's file is seen: {text}");
    }
    c.clean_up().await
}

async fn mapped(c: &Context) -> Result<()> {
    let name = image(c, "volumes-mapped", &["/vol", "/empty"], &[]).await?;
    let ids = vec![IdMapping { host_id: 600_000, container_id: 0, length: 65_536 }];
    let option = NamespaceOption {
        pid: NamespaceMode::Container.into(),
        userns_options: Some(UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: ids.clone(),
            gids: ids,
        }),
        ..NamespaceOption::default()
    };
    let mut config = c.pod()?;
    *namespaces(&mut config)? = option.clone();
    let pod = c.run_pod(config).await?;
    let mut config = c.script(
        "stat -c %u:%g /vol /vol/plain /vol/deep/owned /vol/link /empty; touch /vol/x /empty/x",
    );
    config.image = Some(image_spec(&name));
    security(&mut config)?.namespace_options = Some(option);
    let wanted = "0:0\n0:0\n1000:1001\n0:0\n0:0";
    equal("the owners", c.output(&pod, &config).await?, wanted)?;
    c.clean_up().await
}
