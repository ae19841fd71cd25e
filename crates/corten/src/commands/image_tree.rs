//! `corten image tree`.

use std::collections::HashMap;

use cri_proto::v1::{ImageSpec, ImageStatusRequest};
use serde::Deserialize;

use crate::human;
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The images, by id or name [default: all]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

/// The part of an image's verbose status that is shown.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    layers: Vec<String>,
    #[serde(default)]
    layer_bytes: Vec<u64>,
}

struct Tree {
    id: String,
    names: Vec<String>,
    layers: Vec<(String, u64)>,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let images = session.images().await?;
    let all = images.images(None).await?;
    let mut trees = Vec::new();
    for image in &all {
        let spec = ImageSpec { image: image.id.clone(), ..ImageSpec::default() };
        let request = ImageStatusRequest { image: Some(spec), verbose: true };
        let answer = images.image_status(request).await?;
        // It may have been removed meanwhile; other runtimes tell no layers.
        let Some(info) = answer.info.get("info") else { continue };
        let Ok(info) = serde_json::from_str::<Info>(info) else {
            anyhow::bail!("the runtime at {} tells no layers", session.settings.image_endpoint);
        };
        let bytes = info.layer_bytes.into_iter().chain(std::iter::repeat(0));
        trees.push(Tree {
            id: image.id.clone(),
            names: image.repo_tags.iter().chain(&image.repo_digests).cloned().collect(),
            layers: info.layers.into_iter().zip(bytes).collect(),
        });
    }
    let users = users(&trees);
    if args.images.is_empty() {
        return trees.iter().try_for_each(|tree| show(tree, &users, output));
    }
    for name in &args.images {
        let spec = ImageSpec { image: name.clone(), ..ImageSpec::default() };
        let request = ImageStatusRequest { image: Some(spec), verbose: false };
        let found = images.image_status(request).await?.image.map(|image| image.id);
        let tree = trees.iter().find(|tree| Some(&tree.id) == found.as_ref());
        match tree {
            Some(tree) => show(tree, &users, output)?,
            None => anyhow::bail!("no such image: {name}"),
        }
    }
    Ok(())
}

/// How many images need each layer.
fn users(trees: &[Tree]) -> HashMap<String, usize> {
    let mut users = HashMap::new();
    for tree in trees {
        let mut own: Vec<_> = tree.layers.iter().map(|(layer, _)| layer).collect();
        own.sort();
        own.dedup();
        own.into_iter().for_each(|layer| *users.entry(layer.clone()).or_default() += 1);
    }
    users
}

fn show(
    tree: &Tree,
    users: &HashMap<String, usize>,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let name = tree.names.first().map_or("<none>", String::as_str);
    writeln!(output.out, "{name} ({})", human::short_id(&tree.id))?;
    for (at, (layer, bytes)) in tree.layers.iter().enumerate() {
        let branch = if at + 1 == tree.layers.len() { "└──" } else { "├──" };
        let shared = match users.get(layer) {
            Some(count) if *count > 1 => format!(", in {count} images"),
            _ => String::new(),
        };
        writeln!(
            output.out,
            "{branch} {} {}{shared}",
            human::short_id(layer),
            human::size(*bytes)
        )?;
    }
    Ok(())
}
