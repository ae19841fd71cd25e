//! `corten info`.

use anyhow::Context as _;
use cri_proto::v1::StatusRequest;

use crate::json::{Json, Style, from_message, with_info};
use crate::output::{Format, FormatArg, Output};
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Leave out the runtime's configuration
    #[arg(long, short = 'q')]
    quiet: bool,
    #[command(flatten)]
    format: FormatArg,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let format = args.format.or(Format::Json)?;
    let runtime = session.runtime().await?;
    let answer = runtime.status(StatusRequest { verbose: !args.quiet }).await?;
    let status = answer.status.context("the runtime answered without a status")?;
    let handlers = answer.runtime_handlers.iter().map(|h| from_message(h, Style::Compact));
    let mut entries = vec![("status".to_owned(), from_message(&status, Style::Whole)?)];
    let handlers = handlers.collect::<Result<Vec<_>, _>>()?;
    if !handlers.is_empty() {
        entries.push(("runtimeHandlers".to_owned(), Json::Array(handlers)));
    }
    if let Some(features) = &answer.features {
        entries.push(("features".to_owned(), from_message(features, Style::Compact)?));
    }
    output.structured(&with_info(entries, &answer.info), format)
}
