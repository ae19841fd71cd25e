//! `corten fsck`: by the daemon, or without one (`serve::fsck`).

use std::io::Write;

use cri_proto::corten_v1::{CheckRequest, CheckResponse};

use super::image::only_corten;
use crate::output::{Exit, Output};
use crate::session::Session;

/// What is wrong was repaired, as fsck(8) has it.
const REPAIRED: u8 = 1;
/// What is wrong was left.
const LEFT: u8 = 4;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Read all files, and compare them with the images' digests
    #[arg(long)]
    pub read: bool,
    /// Forget what is damaged, so that the next pull fetches it anew
    #[arg(long)]
    pub repair: bool,
    /// Check without a daemon: none may be running on the root directory
    #[cfg(feature = "daemon")]
    #[arg(long)]
    pub offline: bool,
    #[cfg(feature = "daemon")]
    #[command(flatten)]
    pub place: Place,
}

/// Where images are that no daemon has.
#[cfg(feature = "daemon")]
#[derive(clap::Args, Debug)]
pub struct Place {
    /// The daemon's configuration file [default: /etc/corten/config.toml]
    #[arg(long, value_name = "FILE", requires = "offline")]
    pub config: Option<std::path::PathBuf>,
    /// The daemon's root directory [default: that of the configuration]
    #[arg(long, value_name = "DIR", requires = "offline")]
    pub root: Option<std::path::PathBuf>,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let Args { read, repair, .. } = args;
    let admin = session.admin();
    let call = admin.check(CheckRequest { read, repair });
    let report = call.await.map_err(|error| only_corten(error, session))?;
    tell(&report, read, repair, output.out)
}

/// Says what was found. What was wrong is in the exit code too.
///
/// # Errors
/// Fails with the exit code where something was wrong.
pub fn tell(
    report: &CheckResponse,
    read: bool,
    repair: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    for finding in &report.findings {
        writeln!(out, "{}: {} ({})", finding.what, finding.problem, finding.action)?;
    }
    let read_too = match read {
        true => format!(", {} layers and {} blobs read", report.layers_read, report.blobs),
        false => String::new(),
    };
    writeln!(
        out,
        "{} images and {} layers looked at{read_too}: {} damaged",
        report.images,
        report.layers,
        report.findings.len()
    )?;
    match (report.findings.is_empty(), repair) {
        (true, _) => Ok(()),
        (false, true) => Err(Exit(REPAIRED).into()),
        (false, false) => Err(Exit(LEFT).into()),
    }
}
