//! `corten statsp`.

use cri_proto::v1::{
    ListPodSandboxStatsResponse, NetworkInterfaceUsage, PodSandboxStats, PodSandboxStatsFilter,
    UInt64Value,
};

use super::stats::percent;
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
    #[command(flatten)]
    format: FormatArg,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let Args { counted, format } = args;
    let format = format.or(Format::Table)?;
    let (id, label_selector) = counted.filter()?;
    let filter = PodSandboxStatsFilter { id, label_selector };
    let mut stats = session.runtime().await?.all_pod_sandbox_stats(Some(filter)).await?;
    stats.sort_by(|a, b| id_of(a).cmp(id_of(b)));
    if format != Format::Table {
        let stats = ListPodSandboxStatsResponse { stats };
        return output.structured(&from_message(&stats, Style::Whole)?, format);
    }
    let mut table =
        Table::new(["POD", "NAMESPACE", "NAME", "CPU %", "MEM", "PROCESSES", "RX", "TX"]);
    stats.iter().for_each(|stats| table.row(row(stats)));
    table.write(output.out)?;
    Ok(())
}

fn id_of(stats: &PodSandboxStats) -> &str {
    stats.attributes.as_ref().map_or("", |attributes| attributes.id.as_str())
}

fn row(stats: &PodSandboxStats) -> Vec<String> {
    const UNKNOWN: &str = "-";
    let metadata = stats.attributes.as_ref().and_then(|attributes| attributes.metadata.clone());
    let metadata = metadata.unwrap_or_default();
    let linux = stats.linux.clone().unwrap_or_default();
    let interface = linux.network.and_then(|network| network.default_interface);
    let shown = |value: Option<UInt64Value>, form: &dyn Fn(u64) -> String| {
        value.map_or_else(|| UNKNOWN.to_owned(), |value| form(value.value))
    };
    let carried = |of: fn(&NetworkInterfaceUsage) -> Option<UInt64Value>| {
        shown(interface.as_ref().and_then(of), &human::size)
    };
    vec![
        human::short_id(id_of(stats)).to_owned(),
        metadata.namespace,
        metadata.name,
        shown(linux.cpu.and_then(|cpu| cpu.usage_nano_cores), &percent),
        shown(linux.memory.and_then(|memory| memory.working_set_bytes), &human::size),
        shown(linux.process.and_then(|process| process.process_count), &|count| count.to_string()),
        carried(|interface| interface.rx_bytes),
        carried(|interface| interface.tx_bytes),
    ]
}
