//! `corten inspecti`.

use std::io;

use anyhow::bail;
use cri_proto::v1::{Image, ImageSpec, ImageStatusRequest};

use super::{details, inspect};
use crate::human;
use crate::json::{Style, from_message, with_info};
use crate::output::{Format, FormatArg, Output};
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The images, by id or name
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Leave out the runtime's own information
    #[arg(long, short = 'q')]
    quiet: bool,
    #[command(flatten)]
    format: FormatArg,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let format = args.format.or(Format::Json)?;
    let images = session.images().await?;
    let mut shown = Vec::new();
    for name in args.images {
        let spec = ImageSpec { image: name.clone(), ..ImageSpec::default() };
        let request = ImageStatusRequest { image: Some(spec), verbose: !args.quiet };
        let answer = images.image_status(request).await?;
        let Some(image) = answer.image else { bail!("no such image: {name}") };
        if format == Format::Table {
            table(&image, output)?;
            details::info(output.out, &answer.info)?;
        } else {
            let entries = vec![("status".to_owned(), from_message(&image, Style::Whole)?)];
            shown.push(with_info(entries, &answer.info));
        }
    }
    inspect::one_or_all(shown, format, output)
}

fn table(image: &Image, output: &mut Output<'_>) -> io::Result<()> {
    let out = &mut *output.out;
    writeln!(out, "ID: {}", image.id)?;
    for tag in &image.repo_tags {
        writeln!(out, "Tag: {tag}")?;
    }
    for digest in &image.repo_digests {
        writeln!(out, "Digest: {digest}")?;
    }
    writeln!(out, "Size: {}", human::size(image.size))
}
