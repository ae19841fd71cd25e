//! `corten rm`.

use anyhow::bail;
use cri_client::RuntimeClient;
use cri_proto::v1::{
    ContainerState, ContainerStatusRequest, RemoveContainerRequest, StopContainerRequest,
};

use crate::many::each;
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The containers
    #[arg(value_name = "CONTAINER-ID", required_unless_present = "all")]
    ids: Vec<String>,
    /// All containers
    #[arg(long, short = 'a', conflicts_with = "ids")]
    all: bool,
    /// Stop them first if they run
    #[arg(long, short = 'f')]
    force: bool,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let runtime = session.runtime().await?;
    let ids = if args.all {
        runtime.containers(None).await?.into_iter().map(|container| container.id).collect()
    } else {
        args.ids
    };
    each(ids, output, |id| async move {
        remove(runtime, &id, args.force).await?;
        Ok(id)
    })
    .await
}

async fn remove(runtime: &RuntimeClient, id: &str, force: bool) -> anyhow::Result<()> {
    let container_id = id.to_owned();
    let request = ContainerStatusRequest { container_id: container_id.clone(), verbose: false };
    let status = runtime.container_status(request).await?.status.unwrap_or_default();
    if status.state() == ContainerState::ContainerRunning {
        if !force {
            bail!("container {id} is running, stop it first or use --force");
        }
        let request = StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
        runtime.stop_container(request).await?;
    }
    runtime.remove_container(RemoveContainerRequest { container_id }).await?;
    Ok(())
}
