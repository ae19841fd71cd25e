//! `corten events`.

use cri_proto::v1::{ContainerEventResponse, PodSandboxMetadata};

use crate::human;
use crate::json::{Style, from_message};
use crate::output::{Format, FormatArg, Output};
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    format: FormatArg,
}

/// Shows events until the runtime closes the stream.
pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let format = args.format.or(Format::Json)?;
    let mut events = session.runtime().await?.container_events().await?;
    while let Some(event) = events.next().await? {
        match format {
            Format::Table => line(&event, output)?,
            _ => output.structured(&from_message(&event, Style::Whole)?, format)?,
        }
        output.out.flush()?;
    }
    Ok(())
}

fn line(event: &ContainerEventResponse, output: &mut Output<'_>) -> std::io::Result<()> {
    let pod = event.pod_sandbox_status.as_ref().and_then(|pod| pod.metadata.as_ref());
    let pod = pod.map_or_else(
        || "-".to_owned(),
        |PodSandboxMetadata { name, namespace, .. }| format!("{namespace}/{name}"),
    );
    let kind = event.container_event_type().as_str_name();
    let kind = kind.trim_start_matches("CONTAINER_").trim_end_matches("_EVENT");
    let time = human::time(event.created_at);
    writeln!(output.out, "{time} {kind:<8} {} {pod}", human::short_id(&event.container_id))
}
