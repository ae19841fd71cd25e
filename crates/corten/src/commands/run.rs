//! `corten run`: a pod and a container in one step.

use std::path::PathBuf;

use anyhow::Context as _;
use cri_client::RuntimeClient;
use cri_proto::v1::{
    ContainerConfig, CreateContainerRequest, PodSandboxConfig, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
};

use super::{details, pull};
use crate::input;
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The container's configuration, JSON or YAML
    #[arg(value_name = "CONTAINER-CONFIG")]
    container_config: PathBuf,
    /// The pod's configuration, JSON or YAML
    #[arg(value_name = "POD-CONFIG")]
    pod_config: PathBuf,
    /// The runtime handler
    #[arg(long, short = 'r', value_name = "HANDLER", default_value = "")]
    runtime: String,
    /// Pull the image first, also where the settings file says not to
    #[arg(long, conflicts_with = "no_pull")]
    with_pull: bool,
    /// Do not pull the image
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
    if args.with_pull || !(args.no_pull || session.settings.no_pull_on_run) {
        pull::for_container(&container.message, &pod.message, &args.credentials, session).await?;
    }
    let runtime = session.runtime().await?;
    let config = pod.message;
    let request =
        RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: args.runtime };
    let pod_id = runtime.run_pod_sandbox(request).await?.pod_sandbox_id;
    match start(runtime, &pod_id, container.message, config).await {
        Ok(id) => writeln!(output.out, "{id}")?,
        Err(error) => {
            // The pod was made for this container alone.
            return match remove(runtime, &pod_id).await {
                Ok(()) => Err(error.into()),
                Err(undo) => Err(anyhow::Error::from(undo))
                    .with_context(|| format!("pod {pod_id} is left: failed to remove it"))
                    .with_context(|| error.to_string()),
            };
        }
    }
    Ok(())
}

async fn start(
    runtime: &RuntimeClient,
    pod: &str,
    config: ContainerConfig,
    sandbox_config: PodSandboxConfig,
) -> Result<String, cri_client::Error> {
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(config),
        sandbox_config: Some(sandbox_config),
    };
    let id = runtime.create_container(request).await?.container_id;
    runtime.start_container(StartContainerRequest { container_id: id.clone() }).await?;
    Ok(id)
}

async fn remove(runtime: &RuntimeClient, pod: &str) -> Result<(), cri_client::Error> {
    let pod_sandbox_id = pod.to_owned();
    runtime
        .stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() })
        .await?;
    runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await?;
    Ok(())
}
