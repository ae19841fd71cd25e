//! `corten fsck --offline`: the images are looked at by this process, which holds the root
//! directory as a daemon would. For a daemon that does not start, or must not yet.

use std::io::Write;

use anyhow::Context as _;
use images::{FsckOptions, Images};
use snapshots::Snapshots;
use state::RootLock;

use super::wire::image_options;
use crate::commands::fsck::{Args, Place, tell};

/// What else is told, on standard error: records that could not be read.
const LOG: &str = "warn";

/// Looks, and says what was found.
///
/// # Errors
/// Fails where a daemon runs, where nothing can be looked at, and with the exit code
/// where something is wrong.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let Args { read, repair, offline: _, place: Place { config: file, root } } = args;
    let mut settings = match file {
        Some(path) => config::load(path, true)?,
        None => config::load(config::DEFAULT_PATH.as_ref(), false)?,
    };
    if let Some(root) = root {
        settings.root = std::path::absolute(root).context("--root is not a path")?;
    }
    telemetry::init(LOG, false)?;
    let place = settings.root.join("snapshots");
    anyhow::ensure!(place.is_dir(), "there are no images in {}", settings.root.display());
    let _lock = RootLock::take(&settings.root)?;
    let snapshots = Snapshots::open(&place).context("failed to open the root file systems")?;
    let images =
        Images::open(image_options(&settings), snapshots).context("failed to open the images")?;
    let report = images
        .fsck(FsckOptions { read: *read, repair: *repair })
        .context("failed to check the images")?;
    tell(&cri_server::check_response(report), *read, *repair, out)
}
