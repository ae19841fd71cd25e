//! `corten create`.

use std::path::PathBuf;

use cri_proto::v1::CreateContainerRequest;

use super::{details, pull};
use crate::input;
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The pod
    #[arg(value_name = "POD-ID")]
    pod: String,
    /// The container's configuration, JSON or YAML
    #[arg(value_name = "CONTAINER-CONFIG")]
    container_config: PathBuf,
    /// The pod's configuration, as it was given to runp
    #[arg(value_name = "POD-CONFIG")]
    pod_config: PathBuf,
    /// Pull the image first
    #[arg(long, conflicts_with = "no_pull")]
    with_pull: bool,
    /// Do not pull the image, also where the settings file says so
    #[arg(long)]
    no_pull: bool,
    #[command(flatten)]
    credentials: pull::Credentials,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let container = input::container(&args.container_config)?;
    let pod = input::pod(&args.pod_config)?;
    details::warnings(output, &container.warnings)?;
    details::warnings(output, &pod.warnings)?;
    if args.with_pull || (session.settings.pull_on_create && !args.no_pull) {
        pull::for_container(&container.message, &pod.message, &args.credentials, session).await?;
    }
    let request = CreateContainerRequest {
        pod_sandbox_id: args.pod,
        config: Some(container.message),
        sandbox_config: Some(pod.message),
    };
    let answer = session.runtime().await?.create_container(request).await?;
    writeln!(output.out, "{}", answer.container_id)?;
    Ok(())
}
