//! `corten images`.

use std::io;

use cri_proto::v1::{Image, ImageFilter, ImageSpec, ListImagesResponse};

use crate::human;
use crate::json::{Style, from_message};
use crate::output::{Format, FormatArg, Output};
use crate::session::Session;
use crate::table::Table;

/// What stands for a name or tag that there is none of.
const NONE: &str = "<none>";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only the image of this name or id
    #[arg(value_name = "IMAGE")]
    name: Option<String>,
    /// Only ids
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Everything that the list has
    #[arg(long, short = 'v')]
    verbose: bool,
    /// Digests, too
    #[arg(long)]
    digests: bool,
    /// Whether the image is never removed by itself, too
    #[arg(long)]
    pinned: bool,
    /// Whole ids and digests
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    format: FormatArg,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let format = args.format.or(Format::Table)?;
    let filter = args.name.as_ref().map(|name| ImageFilter {
        image: Some(ImageSpec { image: name.clone(), ..ImageSpec::default() }),
    });
    let mut list = session.images().await?.images(filter).await?;
    list.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));
    if format != Format::Table {
        let list = ListImagesResponse { images: list };
        return output.structured(&from_message(&list, Style::Whole)?, format);
    }
    if args.quiet {
        list.iter().try_for_each(|image| writeln!(output.out, "{}", image.id))?;
    } else if args.verbose {
        list.iter().try_for_each(|image| long(image, output))?;
    } else {
        table(&list, &args).write(output.out)?;
    }
    Ok(())
}

/// By tag, those without one by digest, the rest by id.
fn sort_key(image: &Image) -> (&str, &str) {
    let name = image.repo_tags.first().or(image.repo_digests.first());
    (name.map_or("", String::as_str), &image.id)
}

fn table(list: &[Image], args: &Args) -> Table {
    let short = |id| if args.no_trunc { id } else { human::short_id(id) }.to_owned();
    let columns = [
        ("IMAGE", true),
        ("TAG", true),
        ("DIGEST", args.digests),
        ("IMAGE ID", true),
        ("SIZE", true),
        ("PINNED", args.pinned),
    ];
    let shown = columns.iter().filter(|(_, shown)| *shown);
    let mut table = Table::with_heading(shown.map(|(name, _)| *name).collect());
    for image in list {
        let (repository, digest) = repository_and_digest(image);
        for (name, tag) in names_and_tags(image, repository) {
            let cells = [
                name.to_owned(),
                tag.to_owned(),
                short(digest),
                short(&image.id),
                human::size(image.size),
                image.pinned.to_string(),
            ];
            let shown = cells.into_iter().zip(&columns).filter(|(_, (_, shown))| *shown);
            table.row(shown.map(|(cell, _)| cell).collect());
        }
    }
    table
}

/// A row for each tag; one for an image that has none.
fn names_and_tags<'a>(image: &'a Image, repository: &'a str) -> Vec<(&'a str, &'a str)> {
    if image.repo_tags.is_empty() {
        return vec![(repository, NONE)];
    }
    let split = |tag: &'a String| tag.rsplit_once(':').unwrap_or((tag, NONE));
    image.repo_tags.iter().map(split).collect()
}

fn repository_and_digest(image: &Image) -> (&str, &str) {
    let first = image.repo_digests.first();
    first.and_then(|digest| digest.split_once('@')).unwrap_or((NONE, NONE))
}

fn long(image: &Image, output: &mut Output<'_>) -> io::Result<()> {
    let out = &mut *output.out;
    writeln!(out, "ID: {}", image.id)?;
    for tag in &image.repo_tags {
        writeln!(out, "RepoTags: {tag}")?;
    }
    for digest in &image.repo_digests {
        writeln!(out, "RepoDigests: {digest}")?;
    }
    writeln!(out, "Size: {}", image.size)?;
    if let Some(uid) = &image.uid {
        writeln!(out, "Uid: {}", uid.value)?;
    }
    if !image.username.is_empty() {
        writeln!(out, "Username: {}", image.username)?;
    }
    if image.pinned {
        writeln!(out, "Pinned: true")?;
    }
    writeln!(out)
}
