//! `corten fsck`.

use cri_proto::corten_v1::CheckRequest;

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
    read: bool,
    /// Forget what is damaged, so that the next pull fetches it anew
    #[arg(long)]
    repair: bool,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let Args { read, repair } = args;
    let admin = session.admin();
    let call = admin.check(CheckRequest { read, repair });
    let report = call.await.map_err(|error| only_corten(error, session))?;
    for finding in &report.findings {
        writeln!(output.out, "{}: {} ({})", finding.what, finding.problem, finding.action)?;
    }
    let read_too = match read {
        true => format!(", {} layers and {} blobs read", report.layers_read, report.blobs),
        false => String::new(),
    };
    writeln!(
        output.out,
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
