//! `corten image load`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use cri_client::Code;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_stream::wrappers::ReceiverStream;

use crate::archive;
use crate::output::Output;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load images from an OCI layout, an OCI archive or a `docker save` archive
    Load(LoadArgs),
}

#[derive(clap::Args, Debug)]
pub struct LoadArgs {
    /// An archive, a layout's directory, or `-` for standard input
    #[arg(value_name = "ARCHIVE|DIR")]
    path: PathBuf,
}

pub async fn run(
    command: Command,
    session: &Session,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    match command {
        Command::Load(args) => load(&args.path, session, output).await,
    }
}

async fn load(path: &Path, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let progress = progress_line(path);
    let archive::Pieces { receiver, mut reader } = archive::read(path, progress.clone())?;
    let admin = session.admin();
    let mut call = std::pin::pin!(admin.load(ReceiverStream::new(receiver)));
    // The call is dropped where reading fails, so that the runtime does not take
    // the part for the whole.
    let answer = tokio::select! {
        biased;
        answer = &mut call => answer,
        read = &mut reader => {
            read.context("failed to read the archive")?.map_err(|failed| failed.error)?;
            call.await
        }
    };
    progress.finish_and_clear();
    match answer {
        Ok(names) => {
            names.iter().try_for_each(|name| writeln!(output.out, "Loaded: {name}"))?;
            Ok(())
        }
        Err(error) if error.code() == Code::Unimplemented => bail!(
            "the runtime at {} cannot load archives, only Corten can",
            session.settings.image_endpoint,
        ),
        Err(error) => Err(error.into()),
    }
}

fn progress_line(path: &Path) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let size = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
    let (progress, template) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "Loading {prefix} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {elapsed_precise}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} Loading {prefix} {decimal_bytes} {elapsed_precise}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
    progress.set_prefix(path.display().to_string());
    progress
}
