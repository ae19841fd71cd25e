//! `corten stats`.

use cri_proto::v1::{ContainerStats, ContainerStatsFilter, ListContainerStatsResponse};

use crate::human;
use crate::json::{Style, from_message};
use crate::output::{Format, FormatArg, Output};
use crate::select::Counted;
use crate::session::Session;
use crate::table::Table;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    counted: Counted,
    /// Only those of this pod
    #[arg(long, short = 'p', value_name = "POD-ID")]
    pod: Option<String>,
    /// Those that do not run, too
    #[arg(long, short = 'a')]
    all: bool,
    #[command(flatten)]
    format: FormatArg,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let Args { counted, pod, all, format } = args;
    let format = format.or(Format::Table)?;
    let (id, label_selector) = counted.filter()?;
    let filter =
        ContainerStatsFilter { id, pod_sandbox_id: pod.unwrap_or_default(), label_selector };
    let mut stats = session.runtime().await?.all_container_stats(Some(filter)).await?;
    stats.retain(|stats| all || stats.cpu.is_some() || stats.memory.is_some());
    stats.sort_by(|a, b| id_of(a).cmp(id_of(b)));
    if format != Format::Table {
        let stats = ListContainerStatsResponse { stats };
        return output.structured(&from_message(&stats, Style::Whole)?, format);
    }
    let mut table = Table::new(["CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES"]);
    stats.iter().for_each(|stats| table.row(row(stats)));
    table.write(output.out)?;
    Ok(())
}

fn id_of(stats: &ContainerStats) -> &str {
    stats.attributes.as_ref().map_or("", |attributes| attributes.id.as_str())
}

fn row(stats: &ContainerStats) -> Vec<String> {
    let metadata = stats.attributes.as_ref().and_then(|attributes| attributes.metadata.as_ref());
    let memory = stats.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref());
    let disk = stats.writable_layer.as_ref();
    vec![
        human::short_id(id_of(stats)).to_owned(),
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
