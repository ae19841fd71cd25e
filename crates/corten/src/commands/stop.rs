//! `corten stop`.

use cri_proto::v1::StopContainerRequest;

use crate::many::each;
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The containers
    #[arg(value_name = "CONTAINER-ID", required_unless_present = "all")]
    ids: Vec<String>,
    /// How many seconds they have to end by themselves
    #[arg(long, short = 't', value_name = "SECONDS", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    timeout: i64,
    /// All running containers
    #[arg(long, short = 'a', conflicts_with = "ids")]
    all: bool,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let runtime = session.runtime().await?;
    let ids = if args.all {
        let running = super::ps::Filters::default().list(None, session).await?;
        running.into_iter().map(|container| container.id).collect()
    } else {
        args.ids
    };
    each(ids, output, |id| async move {
        let request = StopContainerRequest { container_id: id.clone(), timeout: args.timeout };
        runtime.stop_container(request).await?;
        Ok(id)
    })
    .await
}
