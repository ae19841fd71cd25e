//! The image service: names, identities, removal.

use anyhow::{Result, ensure};
use cri_client::Code;
use cri_proto::v1::{ImageFilter, ImageFsInfoRequest, PodSandboxConfig};

use crate::case;
use crate::case::Case;
use crate::context::{Context, code, equal, image_spec};

pub(super) const CASES: &[Case] = &[
    case!("image.pull_by_tag", pull_by_tag),
    case!("image.pull_without_tag_means_latest", pull_without_tag),
    case!("image.pull_by_digest_has_no_tag", pull_by_digest),
    case!("image.status_by_id_tag_and_digest_is_the_same", status_by_any_name),
    case!("image.status_of_absent_is_ok_and_empty", status_of_absent),
    case!("image.three_tags_are_one_image", three_tags),
    case!("image.remove_by_one_tag_removes_all", remove_all_tags),
    case!("image.remove_by_digest", remove_by_digest),
    case!("image.remove_of_absent_is_ok", remove_of_absent),
    case!("image.same_id_from_two_registries", two_registries),
    case!("image.list_and_filter", list_and_filter).differs("1.6 heeds no filter"),
    case!("image.five_removals_at_once", parallel_removals),
    case!("image.five_pulls_at_once", parallel_pulls),
    case!("image.list_follows_pull_and_removal", list_follows),
    case!("image.moved_tag_leaves_the_old_image", moved_tag),
    case!("image.one_id_everywhere", one_id),
    case!("image.file_system_is_reported", file_system),
    case!("image.bad_names_are_refused", bad_names)
        .differs("1.6 takes an empty name for an unknown error"),
];

async fn pull_by_tag(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/tag:test";
    let id = c.pull(name).await?;
    let image = c.present(name).await?;
    equal("the tags", image.repo_tags.clone(), vec![name])?;
    let digest = c.runtime.catalog.registry.digest("e2e/tag:test")?;
    equal("the digests", image.repo_digests.clone(), vec![format!("docker.io/e2e/tag@{digest}")])?;
    equal("the pulled reference", &id, &image.id)?;
    ensure!(image.size > 0, "the image has no size");
    ensure!(!image.pinned, "the image is pinned");
    Ok(())
}

async fn pull_without_tag(c: &Context) -> Result<()> {
    c.pull("docker.io/e2e/latest").await?;
    let image = c.present("docker.io/e2e/latest").await?;
    equal("the tags", image.repo_tags.clone(), vec!["docker.io/e2e/latest:latest"])
}

async fn pull_by_digest(c: &Context) -> Result<()> {
    let digest = c.runtime.catalog.registry.digest("e2e/digest:unused")?;
    let name = format!("docker.io/e2e/digest@{digest}");
    c.pull(&name).await?;
    let image = c.present(&name).await?;
    ensure!(image.repo_tags.is_empty(), "tags: {:?}", image.repo_tags);
    equal("the digests", image.repo_digests.clone(), vec![name])
}

async fn status_by_any_name(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/status:1";
    let id = c.pull(name).await?;
    let image = c.present(name).await?;
    let digest = image.repo_digests.first().cloned().unwrap_or_default();
    let short = id.trim_start_matches("sha256:")[..16].to_owned();
    for other in [id, digest, short] {
        let mut found = c.present(&other).await?;
        // The specification repeats what was asked for.
        found.spec.clone_from(&image.spec);
        equal(&other, &found, &image)?;
    }
    Ok(())
}

async fn status_of_absent(c: &Context) -> Result<()> {
    let unknown = format!("sha256:{}", "0".repeat(64));
    for name in ["docker.io/e2e/none:1", "none", unknown.as_str()] {
        equal(name, c.image(name).await?.is_some(), false)?;
    }
    Ok(())
}

async fn three_tags(c: &Context) -> Result<()> {
    let mut ids = Vec::new();
    for tag in ["1", "2", "3"] {
        ids.push(c.pull(&format!("docker.io/e2e/tags:{tag}")).await?);
    }
    ids.dedup();
    equal("the number of ids", ids.len(), 1)?;
    let mut image = c.present("docker.io/e2e/tags:2").await?;
    image.repo_tags.sort();
    let wanted = ["1", "2", "3"].map(|tag| format!("docker.io/e2e/tags:{tag}"));
    equal("the tags", &image.repo_tags[..], &wanted[..])?;
    let listed = c.runtime.images.images(None).await?;
    equal("the entries", listed.iter().filter(|listed| listed.id == image.id).count(), 1)
}

async fn remove_all_tags(c: &Context) -> Result<()> {
    let names = ["docker.io/e2e/many:1", "ghcr.io/e2e/many:1"];
    for name in names {
        c.pull(name).await?;
    }
    c.remove_image(names[1]).await?;
    for name in names {
        ensure!(c.image(name).await?.is_none(), "{name} is still there");
    }
    Ok(())
}

async fn remove_by_digest(c: &Context) -> Result<()> {
    c.pull("docker.io/e2e/three:latest").await?;
    let image = c.present("docker.io/e2e/three:latest").await?;
    c.remove_image(&image.repo_digests[0]).await?;
    ensure!(c.image("docker.io/e2e/three:latest").await?.is_none(), "it is still there");
    ensure!(c.image(&image.id).await?.is_none(), "its id is still there");
    Ok(())
}

async fn remove_of_absent(c: &Context) -> Result<()> {
    c.remove_image("docker.io/e2e/none:1").await?;
    c.remove_image(&format!("sha256:{}", "0".repeat(64))).await
}

async fn two_registries(c: &Context) -> Result<()> {
    let first = c.pull("docker.io/e2e/shared:1").await?;
    let second = c.pull("ghcr.io/e2e/shared:1").await?;
    equal("the second id", &second, &first)?;
    let mut tags = c.present(&first).await?.repo_tags;
    tags.sort();
    equal("the tags", tags, vec!["docker.io/e2e/shared:1", "ghcr.io/e2e/shared:1"])
}

async fn list_and_filter(c: &Context) -> Result<()> {
    let names = ["docker.io/e2e/one:latest", "docker.io/e2e/two:latest"];
    for name in names {
        c.pull(name).await?;
    }
    let listed = c.runtime.images.images(None).await?;
    for name in names {
        let count = listed.iter().filter(|i| i.repo_tags.iter().any(|tag| tag == name)).count();
        equal(name, count, 1)?;
    }
    let filter = ImageFilter { image: Some(image_spec(names[0])) };
    let filtered = c.runtime.images.images(Some(filter)).await?;
    equal("the filtered", filtered.len(), 1)?;
    equal("the tags", filtered[0].repo_tags.clone(), vec![names[0]])?;
    let filter = ImageFilter { image: Some(image_spec("docker.io/e2e/none:1")) };
    equal("the filtered", c.runtime.images.images(Some(filter)).await?.len(), 0)
}

async fn parallel_removals(c: &Context) -> Result<()> {
    let id = c.pull("docker.io/e2e/parallel:1").await?;
    let removals = (0..5).map(|_| async {
        c.remove_image(&id).await?;
        ensure!(c.image(&id).await?.is_none(), "it is there after its removal");
        Ok(())
    });
    futures_util::future::try_join_all(removals).await?;
    Ok(())
}

async fn parallel_pulls(c: &Context) -> Result<()> {
    let pulls = (0..5).map(|_| c.pull("docker.io/e2e/again:1"));
    let ids = futures_util::future::try_join_all(pulls).await?;
    ensure!(ids.iter().all(|id| *id == ids[0]), "different ids: {ids:?}");
    let image = c.present("docker.io/e2e/again:1").await?;
    equal("the tags", image.repo_tags.clone(), vec!["docker.io/e2e/again:1"])
}

async fn list_follows(c: &Context) -> Result<()> {
    let name = "ghcr.io/e2e/latest:latest";
    for _ in 0..3 {
        let id = c.pull(name).await?;
        let listed = |images: Vec<cri_proto::v1::Image>| images.iter().any(|i| i.id == id);
        ensure!(listed(c.runtime.images.images(None).await?), "not listed after the pull");
        c.present(name).await?;
        c.remove_image(name).await?;
        let left = c.image(name).await?;
        ensure!(left.is_none(), "there after the removal");
    }
    Ok(())
}

async fn moved_tag(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/moving:1";
    let old = c.pull(name).await?;
    let pod = c.plain_pod().await?;
    let container = c.run(&pod, &config_named(c, name)).await?;
    let of_old = c.status(&container).await?.image_ref;
    let catalog = &c.runtime.catalog;
    let other = catalog.busybox.with("Labels", serde_json::json!({ "of": "moved" }));
    let mut layout = testing::image::Layout::new(&c.directory()?)?;
    layout.add("moved", &other)?;
    catalog.registry.push(layout.path(), "moved", "e2e/moving:1")?;
    let new = c.pull(name).await?;
    ensure!(new != old, "the tag still means the old image");
    equal("the image", c.present(name).await?.id, new)?;
    let left = c.present(&old).await?;
    ensure!(left.repo_tags.is_empty(), "the old image has tags: {:?}", left.repo_tags);
    // What was made of it is still of it; what is made under the name now is of the new one.
    equal("the container's image", &c.status(&container).await?.image_ref, &of_old)?;
    let another = c.run(&pod, &config_named(c, name)).await?;
    let of_new = c.status(&another).await?.image_ref;
    ensure!(of_new != of_old, "a new container is of the old image");
    c.sh(&container, "true").await?;
    for id in [&container, &another] {
        c.stop(id, 0).await?;
        c.remove(id).await?;
    }
    c.remove_image(&old).await?;
    c.present(name).await?;
    c.remove_image(name).await
}

fn config_named(c: &Context, image: &str) -> cri_proto::v1::ContainerConfig {
    let mut config = c.waiting();
    config.image = Some(image_spec(image));
    config
}

async fn one_id(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/reference:1";
    let pulled = c.pull(name).await?;
    let image = c.present(name).await?;
    equal("the id", &image.id, &pulled)?;
    let pod = c.run_pod(PodSandboxConfig { ..c.pod()? }).await?;
    for asked in [name, pulled.as_str(), image.repo_digests[0].as_str()] {
        let mut config = c.command(&["true"]);
        config.image = Some(image_spec(asked));
        let id = c.create(&pod, &config).await?;
        let status = c.status(&id).await?;
        equal("the digest", &status.image_ref, &image.repo_digests[0])?;
        if !status.image_id.is_empty() {
            equal("the status's image", &status.image_id, &pulled)?;
        }
        ensure!(status.image.is_some_and(|spec| !spec.image.is_empty()), "no image in the status");
        c.remove(&id).await?;
    }
    Ok(())
}

async fn file_system(c: &Context) -> Result<()> {
    let answer = c.runtime.images.image_fs_info(ImageFsInfoRequest {}).await?;
    let Some(used) = answer.image_filesystems.first() else {
        anyhow::bail!("no file system is reported");
    };
    ensure!(used.timestamp > 0, "no time");
    let mount = used.fs_id.as_ref().map(|id| id.mountpoint.clone()).unwrap_or_default();
    ensure!(std::path::Path::new(&mount).is_dir(), "no mount point: {mount:?}");
    ensure!(used.inodes_used.is_some_and(|inodes| inodes.value > 0), "no inodes");
    let bytes = used.used_bytes.map_or(0, |bytes| bytes.value);
    ensure!(bytes > 1 << 20, "only {bytes} bytes are used");
    Ok(())
}

async fn bad_names(c: &Context) -> Result<()> {
    for name in
        ["", "docker.io/UPPER/case:1", "docker.io/e2e/x:bad tag", "docker.io/e2e/x@sha256:1"]
    {
        equal(name, code(c.pull(name).await)?, Code::InvalidArgument)?;
    }
    Ok(())
}
