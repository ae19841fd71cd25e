//! `corten rmi`.

use std::collections::BTreeSet;

use anyhow::bail;
use cri_client::ImageClient;
use cri_proto::v1::{Image, ImageSpec, ImageStatusRequest, RemoveImageRequest};

use super::details;
use crate::many::each;
use crate::output::Output;
use crate::session::Session;

/// Removes images with all their names
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The images, by id or name
    #[arg(value_name = "IMAGE", required_unless_present_any = ["all", "prune"])]
    images: Vec<String>,
    /// All images
    #[arg(long, short = 'a', conflicts_with_all = ["images", "prune"])]
    all: bool,
    /// All images that no container uses and that are not pinned
    #[arg(long, short = 'q', conflicts_with = "images")]
    prune: bool,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let images = session.images().await?;
    let names: Vec<String> = if args.prune {
        unused(session).await?
    } else if args.all {
        images.images(None).await?.into_iter().map(|image| image.id).collect()
    } else {
        args.images.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
    };
    // On pruning an image may go, or come into use, at any moment.
    let tolerant = args.prune;
    each(names, output, |name| async move {
        match remove(images, &name).await {
            Err(_) if tolerant => Ok(String::new()),
            result => result,
        }
    })
    .await
}

async fn unused(session: &Session) -> anyhow::Result<Vec<String>> {
    let images = session.images().await?;
    let mut used = BTreeSet::new();
    for container in session.runtime().await?.containers(None).await? {
        used.insert(container.image_id.clone());
        let name = container.image.map(|image| image.image).unwrap_or_default();
        if !name.is_empty() {
            used.extend(details::image_id(images, &name).await?);
        }
    }
    let unused = |image: &Image| !image.pinned && !used.contains(&image.id);
    Ok(images.images(None).await?.into_iter().filter(unused).map(|image| image.id).collect())
}

/// Removes an image and gives a line for each of its names.
async fn remove(images: &ImageClient, name: &str) -> anyhow::Result<String> {
    let spec = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    let request = ImageStatusRequest { image: spec.clone(), verbose: false };
    let Some(image) = images.image_status(request).await?.image else {
        bail!("no such image: {name}");
    };
    images.remove_image(RemoveImageRequest { image: spec }).await?;
    let names = match (image.repo_tags.is_empty(), image.repo_digests.is_empty()) {
        (false, _) => image.repo_tags,
        (true, false) => image.repo_digests,
        (true, true) => vec![image.id],
    };
    let lines: Vec<_> = names.iter().map(|name| format!("Deleted: {name}")).collect();
    Ok(lines.join("\n"))
}
