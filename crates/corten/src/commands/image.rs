//! `corten image …`: loading and saving archives, and looking at images.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use cri_client::Code;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_stream::wrappers::ReceiverStream;

use crate::archive;
use crate::containerd;
use crate::output::Output;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load images from an OCI layout, an OCI archive, a `docker save` archive, or
    /// containerd's content store
    Load(LoadArgs),
    /// Write images to an archive that Corten, docker, podman and skopeo read
    Save(SaveArgs),
    /// List images
    #[command(visible_alias = "ls")]
    List(super::images::Args),
    /// Show images
    Inspect(super::inspecti::Args),
    /// Show images with their layers, and which of them they share
    Tree(super::image_tree::Args),
}

#[derive(clap::Args, Debug)]
pub struct LoadArgs {
    /// An archive, a layout's directory, or `-` for standard input; with
    /// --containerd the images' names, all if there are none
    #[arg(value_name = "ARCHIVE|DIR", required_unless_present = "containerd")]
    paths: Vec<PathBuf>,
    /// Take the images from containerd's directory, such as /var/lib/containerd;
    /// containerd should not be running
    #[arg(long, value_name = "DIR")]
    containerd: Option<PathBuf>,
    /// The namespace of the images there
    #[arg(long, value_name = "NAME", default_value = "k8s.io", requires = "containerd")]
    namespace: String,
}

#[derive(clap::Args, Debug)]
pub struct SaveArgs {
    /// The images, by name or id
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Where the archive goes [default: standard output]
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(
    command: Command,
    session: &Session,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    match command {
        Command::Load(args) => match args.containerd {
            Some(dir) => {
                let names = args.paths.iter().map(|p| p.display().to_string()).collect();
                let store = containerd::Store { dir, namespace: args.namespace, names };
                load(
                    archive::Source::Containerd(store),
                    Path::new("containerd's images"),
                    session,
                    output,
                )
                .await
            }
            None => {
                for path in &args.paths {
                    load(archive::Source::open(path)?, path, session, output).await?;
                }
                Ok(())
            }
        },
        Command::Save(args) => save(args, session, output).await,
        Command::List(args) => super::images::run(args, session, output).await,
        Command::Inspect(args) => super::inspecti::run(args, session, output).await,
        Command::Tree(args) => super::image_tree::run(args, session, output).await,
    }
}

async fn save(args: SaveArgs, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let SaveArgs { images, output: path } = args;
    if path.is_none() && std::io::stdout().is_terminal() {
        bail!("an archive is not for a terminal: use --output");
    }
    let mut pieces = session.admin().save(images).await.map_err(|e| only_corten(e, session))?;
    let Some(path) = path else {
        while let Some(piece) = pieces.next().await? {
            output.out.write_all(&piece)?;
        }
        output.out.flush()?;
        return Ok(());
    };
    let failed = || format!("failed to write {}", path.display());
    // Aside first: a part is never taken for the whole.
    let dir = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    let name = path.file_name().with_context(failed)?.to_string_lossy().into_owned();
    let aside = dir.join(format!(".{name}.{}", std::process::id()));
    let mut file = std::fs::File::create(&aside).with_context(failed)?;
    let written = async {
        while let Some(piece) = pieces.next().await? {
            file.write_all(&piece).with_context(failed)?;
        }
        file.sync_all().with_context(failed)?;
        std::fs::rename(&aside, &path).with_context(failed)
    };
    let written: anyhow::Result<()> = written.await;
    if written.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    written
}

/// Says it where the runtime is another one.
pub fn only_corten(error: cri_client::Error, session: &Session) -> anyhow::Error {
    match error.code() {
        Code::Unimplemented => anyhow::anyhow!(
            "the runtime at {} cannot do that, only Corten can",
            session.settings.image_endpoint,
        ),
        _ => error.into(),
    }
}

async fn load(
    source: archive::Source,
    path: &Path,
    session: &Session,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let progress = progress_line(path);
    let archive::Pieces { receiver, mut reader } = archive::send(source, path, progress.clone());
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
