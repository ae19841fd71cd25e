//! `corten inspectp`.

use std::io;

use anyhow::{Context as _, bail};
use cri_proto::v1::{PodSandboxStatus, PodSandboxStatusRequest};

use super::{details, inspect, pods};
use crate::human;
use crate::json::{Json, Style, from_message, with_info};
use crate::output::{Format, FormatArg, Output};
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The pods; without any, those that the filters mean
    #[arg(value_name = "POD-ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filters: pods::Filters,
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
        ids = args.filters.list(None, session).await?.into_iter().map(|pod| pod.id).collect();
    }
    if ids.is_empty() {
        bail!("no pod is named and none matches the filters");
    }
    let runtime = session.runtime().await?;
    let mut shown = Vec::new();
    for pod_sandbox_id in ids {
        let request = PodSandboxStatusRequest { pod_sandbox_id, verbose: !args.quiet };
        let answer = runtime.pod_sandbox_status(request).await?;
        let status = answer.status.context("the runtime answered without a status")?;
        if format == Format::Table {
            table(&status, output)?;
            details::info(output.out, &answer.info)?;
        } else {
            let mut json = from_message(&status, Style::Whole)?;
            json.replace("createdAt", Json::text(human::time(status.created_at)));
            shown.push(with_info(vec![("status".to_owned(), json)], &answer.info));
        }
    }
    inspect::one_or_all(shown, format, output)
}

fn table(status: &PodSandboxStatus, output: &mut Output<'_>) -> io::Result<()> {
    let out = &mut *output.out;
    let metadata = status.metadata.clone().unwrap_or_default();
    writeln!(out, "ID: {}", status.id)?;
    writeln!(out, "Name: {}", metadata.name)?;
    writeln!(out, "UID: {}", metadata.uid)?;
    writeln!(out, "Namespace: {}", metadata.namespace)?;
    writeln!(out, "Attempt: {}", metadata.attempt)?;
    writeln!(out, "Status: {}", status.state().as_str_name())?;
    writeln!(out, "Created: {}", human::time(status.created_at))?;
    if let Some(network) = &status.network {
        writeln!(out, "IP Addresses: {}", network.ip)?;
        for address in &network.additional_ips {
            writeln!(out, "Additional IP: {}", address.ip)?;
        }
    }
    details::map(out, "Labels", &status.labels)?;
    details::map(out, "Annotations", &status.annotations)
}
