//! `corten runp`.

use std::path::PathBuf;

use cri_client::{Options, RuntimeClient, Timeouts};
use cri_proto::v1::RunPodSandboxRequest;

use super::details;
use crate::duration::Limit;
use crate::input;
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The pod's configuration, JSON or YAML
    #[arg(value_name = "POD-CONFIG")]
    config: PathBuf,
    /// The runtime handler
    #[arg(long, short = 'r', value_name = "HANDLER", default_value = "")]
    runtime: String,
    /// How long to wait for the pod
    #[arg(long, short = 'T', value_name = "TIME")]
    cancel_timeout: Option<Limit>,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let pod = input::pod(&args.config)?;
    details::warnings(output, &pod.warnings)?;
    let request = RunPodSandboxRequest { config: Some(pod.message), runtime_handler: args.runtime };
    let answer = match args.cancel_timeout.filter(|limit| !limit.0.is_zero()) {
        None => session.runtime().await?.run_pod_sandbox(request).await?,
        Some(Limit(limit)) => {
            // The client gives this call twice its limit for changes.
            let timeouts = Timeouts { change: limit / 2, ..session.settings.options.timeouts };
            let options = Options { timeouts, ..session.settings.options };
            let endpoint = session.settings.runtime_endpoint.clone();
            RuntimeClient::connect(endpoint, options).await?.run_pod_sandbox(request).await?
        }
    };
    writeln!(output.out, "{}", answer.pod_sandbox_id)?;
    Ok(())
}
