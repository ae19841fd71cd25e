//! Pieces of the long forms that several commands print.

use std::collections::HashMap;
use std::io::{self, Write};

use cri_client::{ImageClient, RuntimeClient};
use cri_proto::v1::{
    Container, ContainerState, ImageSpec, ImageStatusRequest, PodSandbox, PodSandboxState,
};

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

/// The names of containers' pods: as the kubelet's labels say them, otherwise as
/// the runtime knows the pods.
pub struct PodNames(Vec<PodSandbox>);

impl PodNames {
    /// Asks for the pods if a container's labels do not name its pod.
    pub async fn load(
        containers: &[Container],
        runtime: &RuntimeClient,
    ) -> Result<Self, cri_client::Error> {
        if containers.iter().all(|container| labelled(container).is_some()) {
            return Ok(Self(Vec::new()));
        }
        runtime.pod_sandboxes(None).await.map(Self)
    }

    /// The name and namespace of a container's pod.
    pub fn of<'a>(&'a self, container: &'a Container) -> (&'a str, &'a str) {
        let known = || {
            let pod = self.0.iter().find(|pod| pod.id == container.pod_sandbox_id)?;
            let metadata = pod.metadata.as_ref()?;
            Some((metadata.name.as_str(), metadata.namespace.as_str()))
        };
        labelled(container).or_else(known).unwrap_or(("unknown", "unknown"))
    }
}

fn labelled(container: &Container) -> Option<(&str, &str)> {
    Some((container.labels.get(POD_NAME)?, container.labels.get(POD_NAMESPACE)?))
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
