//! `corten update-runtime-config`.

use cri_proto::v1::{NetworkConfig, RuntimeConfig, UpdateRuntimeConfigRequest};

use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The range of pod addresses, such as 10.88.0.0/16
    #[arg(long, value_name = "CIDR", required = true)]
    pod_cidr: String,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let network_config = Some(NetworkConfig { pod_cidr: args.pod_cidr });
    let runtime_config = Some(RuntimeConfig { network_config });
    let request = UpdateRuntimeConfigRequest { runtime_config };
    session.runtime().await?.update_runtime_config(request).await?;
    writeln!(output.out, "Runtime config successfully updated")?;
    Ok(())
}
