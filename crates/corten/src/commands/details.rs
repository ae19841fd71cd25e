//! Pieces of the long forms that several commands print.

use std::collections::HashMap;
use std::io::{self, Write};

use cri_client::ImageClient;
use cri_proto::v1::{ContainerState, ImageSpec, ImageStatusRequest, PodSandboxState};

use crate::output::Output;

/// Labels of containers that the kubelet sets.
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// Writes a sorted map under its heading, unless it is empty.
pub fn map(out: &mut dyn Write, heading: &str, map: &HashMap<String, String>) -> io::Result<()> {
    if map.is_empty() {
        return Ok(());
    }
    writeln!(out, "{heading}:")?;
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort();
    for (key, value) in entries {
        writeln!(out, "\t{key} -> {value}")?;
    }
    Ok(())
}

/// Writes a verbose answer's extra information, sorted.
pub fn info(out: &mut dyn Write, info: &HashMap<String, String>) -> io::Result<()> {
    map(out, "Info", info)
}

/// The pod's name and namespace of a container; `unknown` where no label says it.
pub fn pod_of(labels: &HashMap<String, String>) -> (&str, &str) {
    let get = |key| labels.get(key).map_or("unknown", String::as_str);
    (get(POD_NAME), get(POD_NAMESPACE))
}

pub fn container_state(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "Created",
        ContainerState::ContainerRunning => "Running",
        ContainerState::ContainerExited => "Exited",
        ContainerState::ContainerUnknown => "Unknown",
    }
}

pub fn pod_state(state: PodSandboxState) -> &'static str {
    match state {
        PodSandboxState::SandboxReady => "Ready",
        PodSandboxState::SandboxNotready => "NotReady",
    }
}

/// The handler's name, or what stands for the default one.
pub fn handler(name: &str) -> &str {
    if name.is_empty() { "(default)" } else { name }
}

/// The id of the image that `name` means, if it exists.
pub async fn image_id(
    images: &ImageClient,
    name: &str,
) -> Result<Option<String>, cri_client::Error> {
    let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    let answer = images.image_status(ImageStatusRequest { image, verbose: false }).await?;
    Ok(answer.image.map(|image| image.id))
}

/// Says what was odd about the files that a command was given.
pub fn warnings(output: &mut Output<'_>, warnings: &[String]) -> io::Result<()> {
    warnings.iter().try_for_each(|warning| output.warn(warning))
}
