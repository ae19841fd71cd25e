//! `corten runtime-config`.

use cri_proto::v1::RuntimeConfigRequest;

use crate::json::{Style, from_message};
use crate::output::{Format, FormatArg, Output};
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    format: FormatArg,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let format = args.format.or(Format::Json)?;
    let answer = session.runtime().await?.runtime_config(RuntimeConfigRequest {}).await?;
    output.structured(&from_message(&answer, Style::Whole)?, format)
}
