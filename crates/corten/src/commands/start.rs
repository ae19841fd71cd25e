//! `corten start`.

use cri_proto::v1::StartContainerRequest;

use crate::many::each;
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The containers
    #[arg(value_name = "CONTAINER-ID", required = true)]
    ids: Vec<String>,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let runtime = session.runtime().await?;
    each(args.ids, output, |id| async move {
        runtime.start_container(StartContainerRequest { container_id: id.clone() }).await?;
        Ok(id)
    })
    .await
}
