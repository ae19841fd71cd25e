//! `corten rmp`.

use anyhow::bail;
use cri_client::RuntimeClient;
use cri_proto::v1::{
    PodSandboxState, PodSandboxStatusRequest, RemovePodSandboxRequest, StopPodSandboxRequest,
};

use crate::many::each;
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The pods
    #[arg(value_name = "POD-ID", required_unless_present = "all")]
    ids: Vec<String>,
    /// All pods
    #[arg(long, short = 'a', conflicts_with = "ids")]
    all: bool,
    /// Stop them first if they are ready
    #[arg(long, short = 'f')]
    force: bool,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let runtime = session.runtime().await?;
    let ids = if args.all {
        runtime.pod_sandboxes(None).await?.into_iter().map(|pod| pod.id).collect()
    } else {
        args.ids
    };
    each(ids, output, |id| async move {
        remove(runtime, &id, args.force).await?;
        Ok(format!("Removed sandbox {id}"))
    })
    .await
}

async fn remove(runtime: &RuntimeClient, id: &str, force: bool) -> anyhow::Result<()> {
    let pod_sandbox_id = id.to_owned();
    let request =
        PodSandboxStatusRequest { pod_sandbox_id: pod_sandbox_id.clone(), verbose: false };
    let status = runtime.pod_sandbox_status(request).await?.status.unwrap_or_default();
    if status.state() == PodSandboxState::SandboxReady {
        if !force {
            bail!("pod {id} is ready, stop it first or use --force");
        }
        let request = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        runtime.stop_pod_sandbox(request).await?;
    }
    runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await?;
    Ok(())
}
