//! `corten ps`.

use std::io;

use clap::ValueEnum;
use cri_proto::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ListContainersResponse,
};

use super::details::{self, PodNames};
use crate::human;
use crate::json::{Style, from_message};
use crate::output::{Format, FormatArg, Output};
use crate::select::{Newest, Pattern, pairs};
use crate::session::Session;
use crate::table::Table;

/// Which containers are meant.
#[derive(clap::Args, Debug, Default)]
pub struct Filters {
    /// All containers, not only running ones
    #[arg(long, short = 'a')]
    all: bool,
    /// Only those whose name matches this regular expression
    #[arg(long, value_name = "REGEX")]
    name: Option<String>,
    /// Only those whose pod's namespace matches this regular expression
    #[arg(long, value_name = "REGEX")]
    namespace: Option<String>,
    /// Only those of this pod
    #[arg(long, short = 'p', value_name = "POD-ID")]
    pod: Option<String>,
    /// Only those of this image
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
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
    /// Only the container with this id, or the beginning of it
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
    /// The image's name in place of its id
    #[arg(long, short = 'r')]
    resolve_image_path: bool,
    #[command(flatten)]
    format: FormatArg,
}

/// A container's state as it is given on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

impl From<State> for ContainerState {
    fn from(state: State) -> Self {
        match state {
            State::Created => Self::ContainerCreated,
            State::Running => Self::ContainerRunning,
            State::Exited => Self::ContainerExited,
            State::Unknown => Self::ContainerUnknown,
        }
    }
}

impl Filters {
    /// The containers meant, the newest first.
    pub async fn list(
        &self,
        id: Option<&str>,
        session: &Session,
    ) -> anyhow::Result<Vec<Container>> {
        let name = Pattern::new("--name", self.name.as_deref())?;
        let namespace = Pattern::new("--namespace", self.namespace.as_deref())?;
        let state = match (self.newest.is_set(), self.state) {
            (true, _) => None,
            (false, Some(state)) => Some(state.into()),
            (false, None) if self.all || id.is_some() => None,
            (false, None) => Some(ContainerState::ContainerRunning),
        };
        let filter = ContainerFilter {
            id: id.unwrap_or_default().to_owned(),
            state: state.map(|state| ContainerStateValue { state: state.into() }),
            pod_sandbox_id: self.pod.clone().unwrap_or_default(),
            label_selector: pairs("--label", &self.label)?,
        };
        let runtime = session.runtime().await?;
        let mut list = runtime.containers(Some(filter)).await?;
        list.retain(|container| {
            name.matches(container.metadata.as_ref().map_or("", |metadata| &metadata.name))
        });
        if self.namespace.is_some() {
            let pods = PodNames::load(&list, runtime).await?;
            list.retain(|container| namespace.matches(pods.of(container).1));
        }
        if let Some(image) = &self.image {
            retain_image(&mut list, image, session).await?;
        }
        self.newest.apply(&mut list, |container| container.created_at);
        Ok(list)
    }
}

/// Keeps the containers of an image, under whichever of its names they name it.
async fn retain_image(
    list: &mut Vec<Container>,
    image: &str,
    session: &Session,
) -> anyhow::Result<()> {
    let images = session.images().await?;
    let wanted = details::image_id(images, image).await?;
    let mut kept = Vec::new();
    for container in list.drain(..) {
        let name = image_name(&container);
        let same =
            name == image || (wanted.is_some() && details::image_id(images, name).await? == wanted);
        if same {
            kept.push(container);
        }
    }
    *list = kept;
    Ok(())
}

fn image_name(container: &Container) -> &str {
    container.image.as_ref().map_or("", |image| image.image.as_str())
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let format = args.format.or(Format::Table)?;
    let mut list = args.filters.list(args.id.as_deref(), session).await?;
    if args.resolve_image_path {
        resolve_images(&mut list, session).await?;
    }
    if format != Format::Table {
        let list = ListContainersResponse { containers: list };
        return output.structured(&from_message(&list, Style::Whole)?, format);
    }
    if args.quiet {
        list.iter().try_for_each(|container| writeln!(output.out, "{}", container.id))?;
    } else if args.verbose {
        let pods = PodNames::load(&list, session.runtime().await?).await?;
        list.iter().try_for_each(|container| long(container, &pods, session, output))?;
    } else {
        let pods = PodNames::load(&list, session.runtime().await?).await?;
        table(&list, &pods, &args, session).write(output.out)?;
    }
    Ok(())
}

/// Puts the first tag in place of each image's id.
async fn resolve_images(list: &mut [Container], session: &Session) -> anyhow::Result<()> {
    let images = session.images().await?.images(None).await?;
    for image in list.iter_mut().filter_map(|container| container.image.as_mut()) {
        let found = images.iter().find(|known| known.id == image.image);
        if let Some(tag) = found.and_then(|known| known.repo_tags.first()) {
            image.image.clone_from(tag);
        }
    }
    Ok(())
}

fn table(list: &[Container], pods: &PodNames, args: &Args, session: &Session) -> Table {
    let short = |id| if args.no_trunc { id } else { human::short_id(id) }.to_owned();
    let mut table = Table::new([
        "CONTAINER",
        "IMAGE",
        "CREATED",
        "STATE",
        "NAME",
        "ATTEMPT",
        "POD ID",
        "POD",
        "NAMESPACE",
    ]);
    for container in list {
        let image = image_name(container);
        let (pod, namespace) = pods.of(container);
        let metadata = container.metadata.clone().unwrap_or_default();
        table.row(vec![
            short(&container.id),
            if image.starts_with("sha256:") { short(image) } else { image.to_owned() },
            human::ago(session.now(), container.created_at),
            details::container_state(container.state()).to_owned(),
            metadata.name,
            metadata.attempt.to_string(),
            short(&container.pod_sandbox_id),
            pod.to_owned(),
            namespace.to_owned(),
        ]);
    }
    table
}

fn long(
    container: &Container,
    pods: &PodNames,
    session: &Session,
    output: &mut Output<'_>,
) -> io::Result<()> {
    let out = &mut *output.out;
    let metadata = container.metadata.clone().unwrap_or_default();
    writeln!(out, "ID: {}", container.id)?;
    writeln!(out, "PodID: {}", container.pod_sandbox_id)?;
    writeln!(out, "Namespace: {}", pods.of(container).1)?;
    writeln!(out, "Name: {}", metadata.name)?;
    writeln!(out, "Attempt: {}", metadata.attempt)?;
    writeln!(out, "State: {}", details::container_state(container.state()))?;
    writeln!(out, "Image: {}", image_name(container))?;
    writeln!(out, "Created: {}", human::ago(session.now(), container.created_at))?;
    details::map(out, "Labels", &container.labels)?;
    details::map(out, "Annotations", &container.annotations)?;
    writeln!(out)
}
