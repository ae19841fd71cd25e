//! `corten stats`.

use cri_proto::v1::{ContainerStats, ContainerStatsFilter, ListContainerStatsResponse};

use crate::human;
use crate::json::{Style, from_message};
use crate::output::{Format, FormatArg, Output};
use crate::select::pairs;
use crate::session::Session;
use crate::table::Table;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only the container with this id, or the beginning of it
    #[arg(value_name = "CONTAINER-ID")]
    container: Option<String>,
    /// Only the container with this id, as crictl writes it
    #[arg(long, value_name = "ID", conflicts_with = "container")]
    id: Option<String>,
    /// Only those of this pod
    #[arg(long, short = 'p', value_name = "POD-ID")]
    pod: Option<String>,
    /// Those that do not run, too
    #[arg(long, short = 'a')]
    all: bool,
    /// Only those with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    #[command(flatten)]
    format: FormatArg,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let format = args.format.or(Format::Table)?;
    let filter = ContainerStatsFilter {
        id: args.container.or(args.id).unwrap_or_default(),
        pod_sandbox_id: args.pod.unwrap_or_default(),
        label_selector: pairs("--label", &args.label)?,
    };
    let mut stats = session.runtime().await?.all_container_stats(Some(filter)).await?;
    stats.retain(|stats| args.all || stats.cpu.is_some() || stats.memory.is_some());
    stats.sort_by(|a, b| id(a).cmp(id(b)));
    if format != Format::Table {
        let stats = ListContainerStatsResponse { stats };
        return output.structured(&from_message(&stats, Style::Whole)?, format);
    }
    let mut table = Table::new(["CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES"]);
    stats.iter().for_each(|stats| table.row(row(stats)));
    table.write(output.out)?;
    Ok(())
}

fn id(stats: &ContainerStats) -> &str {
    stats.attributes.as_ref().map_or("", |attributes| attributes.id.as_str())
}

fn row(stats: &ContainerStats) -> Vec<String> {
    let metadata = stats.attributes.as_ref().and_then(|attributes| attributes.metadata.as_ref());
    let memory = stats.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref());
    let disk = stats.writable_layer.as_ref();
    vec![
        human::short_id(id(stats)).to_owned(),
        metadata.map_or_else(String::new, |metadata| metadata.name.clone()),
        stats
            .cpu
            .as_ref()
            .and_then(|cpu| cpu.usage_nano_cores.as_ref())
            .map_or_else(|| "-".to_owned(), |cores| percent(cores.value)),
        human::size(memory.map_or(0, |bytes| bytes.value)),
        human::size(disk.and_then(|disk| disk.used_bytes.as_ref()).map_or(0, |v| v.value)),
        disk.and_then(|disk| disk.inodes_used.as_ref()).map_or(0, |v| v.value).to_string(),
    ]
}

/// Billionths of one processor, as a percentage of it.
pub(super) fn percent(nano_cores: u64) -> String {
    let hundredths = nano_cores / 100_000;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}
