//! Which of our crates may use which: calls go down only (ARCHITECTURE.md).

use anyhow::{Result, bail};

use crate::metadata::{Metadata, Package};

/// The layers, from the top down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    Bin,
    Api,
    Core,
    Service,
    Base,
    /// Tests and automation: may use all, is used by none but tests.
    Dev,
}

const LAYERS: [(Layer, &[&str]); 6] = [
    (Layer::Bin, &["corten", "corten-monitor"]),
    (Layer::Api, &["cri-client", "cri-server", "streaming"]),
    (Layer::Core, &["pods", "stats"]),
    (Layer::Service, &["container-spec", "images", "monitor-client", "network", "snapshots"]),
    (
        Layer::Base,
        &[
            "authority",
            "cdi",
            "cgroups",
            "config",
            "container-log",
            "cri-proto",
            "launch",
            "layers",
            "metrics",
            "monitor-proto",
            "seccomp",
            "state",
            "sys",
            "telemetry",
            "types",
        ],
    ),
    (Layer::Dev, &["bench", "e2e", "testing", "xtask"]),
];

/// The one edge between services.
const SIDEWAYS: [(&str, &str); 1] = [("images", "snapshots")];

/// The pod's parent process stays small.
const BASE_ONLY: [&str; 1] = ["corten-monitor"];

/// The CRI's types stop at the door.
const CRI_TYPES: &str = "cri-proto";

/// Fails with a line for each edge that is not allowed.
pub fn check() -> Result<()> {
    let metadata = Metadata::load()?;
    let mut wrong: Vec<String> = metadata.own().flat_map(wrong_edges).collect();
    wrong.sort();
    if !wrong.is_empty() {
        bail!("{} edges are not allowed\n{}", wrong.len(), wrong.join("\n"));
    }
    Ok(())
}

fn wrong_edges(package: &Package) -> Vec<String> {
    let Some(from) = layer_of(&package.name) else {
        return vec![format!("{} is in no layer: add it to xtask/src/edges.rs", package.name)];
    };
    let ours = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
    ours.filter_map(|dependency| {
        let (name, test) = (&dependency.name, dependency.kind.as_deref() == Some("dev"));
        let why = refusal((&package.name, from), (name, layer_of(name)?), test)?;
        Some(format!("{} -> {name}: {why}", package.name))
    })
    .collect()
}

/// Why an edge is not allowed, if it is not.
fn refusal(from: (&str, Layer), to: (&str, Layer), test: bool) -> Option<&'static str> {
    if from.1 == Layer::Dev {
        return None;
    }
    if to.1 == Layer::Dev {
        return (!test).then_some("a product crate uses a crate for tests");
    }
    if to.0 == CRI_TYPES && !test && !matches!(from.1, Layer::Bin | Layer::Api) {
        return Some("only the layers bin and api name the CRI's types");
    }
    if BASE_ONLY.contains(&from.0) && to.1 != Layer::Base && !test {
        return Some("it may use base crates only");
    }
    let allowed = match (from.1, to.1) {
        (Layer::Bin, Layer::Bin) => false,
        (Layer::Service, Layer::Service) => SIDEWAYS.contains(&(from.0, to.0)),
        (upper, lower) => upper as u8 <= lower as u8,
    };
    (!allowed).then_some("calls go down only")
}

fn layer_of(name: &str) -> Option<Layer> {
    LAYERS.iter().find(|(_, crates)| crates.contains(&name)).map(|(layer, _)| *layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_judged_by_layer() {
        let allowed = |from: &'static str, to: &'static str, test| {
            let layer = |name| layer_of(name).expect("a known crate");
            refusal((from, layer(from)), (to, layer(to)), test).is_none()
        };
        for (from, to, test, expected) in [
            ("corten", "cri-server", false, true),
            ("cri-server", "images", false, true),
            ("cri-server", "corten", false, false),
            ("pods", "cri-server", false, false),
            ("pods", "cri-proto", false, false),
            ("pods", "launch", false, true),
            ("images", "snapshots", false, true),
            ("snapshots", "images", false, false),
            ("network", "snapshots", false, false),
            ("launch", "sys", false, true),
            ("sys", "network", false, false),
            ("corten-monitor", "launch", false, true),
            ("corten-monitor", "images", false, false),
            ("corten-monitor", "monitor-client", true, true),
            ("corten", "corten-monitor", false, false),
            ("authority", "cri-proto", true, true),
            ("images", "testing", true, true),
            ("images", "testing", false, false),
            ("e2e", "cri-client", false, true),
        ] {
            assert_eq!(allowed(from, to, test), expected, "{from} -> {to}, test: {test}");
        }
    }
}
