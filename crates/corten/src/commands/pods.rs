//! `corten pods`.

use std::io;

use clap::ValueEnum;
use cri_proto::v1::{
    ListPodSandboxResponse, PodSandbox, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
};

use super::details;
use crate::human;
use crate::json::{Style, from_message};
use crate::output::{Format, FormatArg, Output};
use crate::select::{Newest, Pattern, pairs};
use crate::session::Session;
use crate::table::Table;

/// Which pods are meant.
#[derive(clap::Args, Debug, Default)]
pub struct Filters {
    /// Only those whose name matches this regular expression
    #[arg(long, value_name = "REGEX")]
    name: Option<String>,
    /// Only those whose namespace matches this regular expression
    #[arg(long, value_name = "REGEX")]
    namespace: Option<String>,
    /// Only those in this state
    #[arg(long, short = 's', value_name = "STATE", ignore_case = true)]
    state: Option<State>,
    /// Only those with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    #[command(flatten)]
    newest: Newest,
}

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only the pod with this id, or the beginning of it
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    filters: Filters,
    /// Only ids
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Everything that the list has
    #[arg(long, short = 'v')]
    verbose: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    format: FormatArg,
}

/// A pod's state as it is given on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum State {
    Ready,
    NotReady,
}

impl From<State> for PodSandboxState {
    fn from(state: State) -> Self {
        match state {
            State::Ready => Self::SandboxReady,
            State::NotReady => Self::SandboxNotready,
        }
    }
}

impl Filters {
    /// The pods meant, the newest first.
    pub async fn list(
        &self,
        id: Option<&str>,
        session: &Session,
    ) -> anyhow::Result<Vec<PodSandbox>> {
        let name = Pattern::new("--name", self.name.as_deref())?;
        let namespace = Pattern::new("--namespace", self.namespace.as_deref())?;
        let state = self.state.map(PodSandboxState::from);
        let filter = PodSandboxFilter {
            id: id.unwrap_or_default().to_owned(),
            state: state.map(|state| PodSandboxStateValue { state: state.into() }),
            label_selector: pairs("--label", &self.label)?,
        };
        let mut list = session.runtime().await?.pod_sandboxes(Some(filter)).await?;
        list.retain(|pod| {
            let metadata = pod.metadata.as_ref();
            name.matches(metadata.map_or("", |m| &m.name))
                && namespace.matches(metadata.map_or("", |m| &m.namespace))
        });
        self.newest.apply(&mut list, |pod| pod.created_at);
        Ok(list)
    }
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let format = args.format.or(Format::Table)?;
    let list = args.filters.list(args.id.as_deref(), session).await?;
    if format != Format::Table {
        let list = ListPodSandboxResponse { items: list };
        return output.structured(&from_message(&list, Style::Whole)?, format);
    }
    if args.quiet {
        list.iter().try_for_each(|pod| writeln!(output.out, "{}", pod.id))?;
    } else if args.verbose {
        list.iter().try_for_each(|pod| long(pod, output))?;
    } else {
        table(&list, args.no_trunc, session).write(output.out)?;
    }
    Ok(())
}

fn table(list: &[PodSandbox], no_trunc: bool, session: &Session) -> Table {
    let mut table =
        Table::new(["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"]);
    for pod in list {
        let metadata = pod.metadata.clone().unwrap_or_default();
        table.row(vec![
            if no_trunc { &pod.id } else { human::short_id(&pod.id) }.to_owned(),
            human::ago(session.now(), pod.created_at),
            details::pod_state(pod.state()).to_owned(),
            metadata.name,
            metadata.namespace,
            metadata.attempt.to_string(),
            details::handler(&pod.runtime_handler).to_owned(),
        ]);
    }
    table
}

fn long(pod: &PodSandbox, output: &mut Output<'_>) -> io::Result<()> {
    let out = &mut *output.out;
    let metadata = pod.metadata.clone().unwrap_or_default();
    writeln!(out, "ID: {}", pod.id)?;
    writeln!(out, "Name: {}", metadata.name)?;
    writeln!(out, "UID: {}", metadata.uid)?;
    writeln!(out, "Namespace: {}", metadata.namespace)?;
    writeln!(out, "Attempt: {}", metadata.attempt)?;
    writeln!(out, "Status: {}", details::pod_state(pod.state()))?;
    writeln!(out, "Created: {}", human::time(pod.created_at))?;
    details::map(out, "Labels", &pod.labels)?;
    details::map(out, "Annotations", &pod.annotations)?;
    writeln!(out, "Runtime: {}", details::handler(&pod.runtime_handler))?;
    writeln!(out)
}
