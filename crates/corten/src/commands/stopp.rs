//! `corten stopp`.

use cri_proto::v1::StopPodSandboxRequest;

use crate::many::each;
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The pods
    #[arg(value_name = "POD-ID", required = true)]
    ids: Vec<String>,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let runtime = session.runtime().await?;
    each(args.ids, output, |id| async move {
        runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
        Ok(format!("Stopped sandbox {id}"))
    })
    .await
}
