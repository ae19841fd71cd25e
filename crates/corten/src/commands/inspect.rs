//! `corten inspect`.

use std::io;

use anyhow::{Context as _, bail};
use cri_proto::v1::{ContainerState, ContainerStatus, ContainerStatusRequest};

use super::{details, ps};
use crate::human;
use crate::json::{Json, Style, from_message, with_info};
use crate::output::{Format, FormatArg, Output};
use crate::session::Session;

/// What Go prints for a time that is not set, as crictl does.
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The containers; without any, those that the filters mean
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filters: ps::Filters,
    /// Leave out the runtime's own information
    #[arg(long, short = 'q')]
    quiet: bool,
    #[command(flatten)]
    format: FormatArg,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let format = args.format.or(Format::Json)?;
    let mut ids = args.ids;
    if ids.is_empty() {
        ids = args.filters.list(None, session).await?.into_iter().map(|c| c.id).collect();
    }
    if ids.is_empty() {
        bail!("no container is named and none matches the filters");
    }
    let runtime = session.runtime().await?;
    let mut shown = Vec::new();
    for container_id in ids {
        let request = ContainerStatusRequest { container_id, verbose: !args.quiet };
        let answer = runtime.container_status(request).await?;
        let status = answer.status.context("the runtime answered without a status")?;
        if format == Format::Table {
            table(&status, session, output)?;
            details::info(output.out, &answer.info)?;
        } else {
            let entries = vec![("status".to_owned(), json(&status)?)];
            shown.push(with_info(entries, &answer.info));
        }
    }
    one_or_all(shown, format, output)
}

/// Prints one object as it is and several as a list, as crictl does.
pub fn one_or_all(
    mut shown: Vec<Json>,
    format: Format,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    match shown.len() {
        0 => Ok(()),
        1 => output.structured(&shown.remove(0), format),
        _ => output.structured(&Json::Array(shown), format),
    }
}

/// The status with its times as text.
fn json(status: &ContainerStatus) -> anyhow::Result<Json> {
    let mut json = from_message(status, Style::Whole)?;
    let (started, finished) = times(status);
    let text = |time: Option<i64>| Json::text(time.map_or_else(|| NEVER.to_owned(), human::time));
    json.replace("createdAt", text(Some(status.created_at)));
    json.replace("startedAt", text(started));
    json.replace("finishedAt", text(finished));
    Ok(json)
}

/// When it started and ended, as far as its state says that it did.
fn times(status: &ContainerStatus) -> (Option<i64>, Option<i64>) {
    let ContainerStatus { started_at, finished_at, .. } = *status;
    match status.state() {
        ContainerState::ContainerCreated => (None, None),
        ContainerState::ContainerRunning => (Some(started_at), None),
        ContainerState::ContainerExited => (Some(started_at), Some(finished_at)),
        ContainerState::ContainerUnknown => {
            (Some(started_at), (finished_at > 0).then_some(finished_at))
        }
    }
}

fn table(status: &ContainerStatus, session: &Session, output: &mut Output<'_>) -> io::Result<()> {
    let out = &mut *output.out;
    let metadata = status.metadata.clone().unwrap_or_default();
    let (started, finished) = times(status);
    let ago = |then| human::ago(session.now(), then);
    writeln!(out, "ID: {}", status.id)?;
    writeln!(out, "Name: {}", metadata.name)?;
    writeln!(out, "Attempt: {}", metadata.attempt)?;
    writeln!(out, "State: {}", status.state().as_str_name())?;
    writeln!(out, "Created: {}", ago(status.created_at))?;
    if let Some(started) = started {
        writeln!(out, "Started: {}", ago(started))?;
    }
    if let Some(finished) = finished {
        writeln!(out, "Finished: {}", ago(finished))?;
        writeln!(out, "Exit Code: {}", status.exit_code)?;
    }
    for (name, text) in [("Reason", &status.reason), ("Message", &status.message)] {
        if !text.is_empty() {
            writeln!(out, "{name}: {text}")?;
        }
    }
    details::map(out, "Labels", &status.labels)?;
    details::map(out, "Annotations", &status.annotations)
}
