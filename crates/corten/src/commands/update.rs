//! `corten update`.

use anyhow::ensure;
use cri_proto::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};

use crate::many::each;
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The containers
    #[arg(value_name = "CONTAINER-ID", required = true)]
    ids: Vec<String>,
    /// The period of the CPU's quota, in microseconds
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    cpu_period: i64,
    /// The CPU time in each period, in microseconds; -1 is no limit
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, allow_negative_numbers = true)]
    cpu_quota: i64,
    /// The share of the CPU, relative to others
    #[arg(long, value_name = "SHARES", default_value_t = 0)]
    cpu_share: i64,
    /// The CPUs: 0-2,4
    #[arg(long, value_name = "LIST", default_value = "")]
    cpuset_cpus: String,
    /// The memory nodes: 0-2,4
    #[arg(long, value_name = "LIST", default_value = "")]
    cpuset_mems: String,
    /// The limit of memory, in bytes; -1 is none
    #[arg(long, value_name = "BYTES", default_value_t = 0, allow_negative_numbers = true)]
    memory: i64,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let Args { ids, cpu_period, cpu_quota, cpu_share, cpuset_cpus, cpuset_mems, memory } = args;
    let resources = LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares: cpu_share,
        cpuset_cpus,
        cpuset_mems,
        memory_limit_in_bytes: memory,
        ..LinuxContainerResources::default()
    };
    ensure!(resources != LinuxContainerResources::default(), "nothing is to be changed");
    let runtime = session.runtime().await?;
    let resources = &resources;
    each(ids, output, |id| async move {
        let request = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(resources.clone()),
            ..UpdateContainerResourcesRequest::default()
        };
        runtime.update_container_resources(request).await?;
        Ok(id)
    })
    .await
}
