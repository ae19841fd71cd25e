//! What Prometheus is told: the parts' own figures, under their names.
//!
//! All of it is in memory, or of `/proc/self`. The one lock that a disk can hold up is that of the
//! store of layers; it is waited for beside the scrape, and not for long.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use cri_server::RpcFigures;
use images::{FsUsage, ImageCounters, Images, PullOutcomes, PullProgress};
use metrics::{Exposition, Format, Kind, write_process};
use network::{Network, NetworkFigures};
use pods::{Census, EventFigures, HandlerCensus, Leaks, Pods, Recovered};
use streaming::server::SessionCounts;
use tokio::{sync::Semaphore, task::spawn_blocking};

use Kind::{Counter, Gauge, Histogram, Info};

/// How long the store of layers may take to say what it has; without an answer that is left out.
const STORE_PATIENCE: Duration = Duration::from_secs(1);

/// The most images whose pulls are told one by one: those that run for longest.
const MOST_PULLS: usize = 256;

/// Where figures come from.
pub(super) struct Figures {
    pub(super) pods: Pods,
    pub(super) images: Arc<Images>,
    pub(super) network: Arc<Network>,
    pub(super) rpcs: Arc<RpcFigures>,
    pub(super) sessions: Arc<SessionCounts>,
    /// What the start has found, once it is known.
    pub(super) recovered: OnceLock<Recovered>,
    /// The place of who asks the store of layers.
    pub(super) asking: Arc<Semaphore>,
}

/// What the store of layers has.
struct Stored {
    layers: usize,
    usage: FsUsage,
}

impl Figures {
    /// Writes them all as they are now.
    pub(super) async fn write(&self, format: Format) -> String {
        let stored = self.stored().await;
        let mut to = Exposition::new(format);
        let version = env!("CARGO_PKG_VERSION");
        to.family(Info, "corten_build", "The daemon's version.")
            .sample(&[("version", version)], 1_u64);
        write_process(&mut to);
        self.rpcs.write(&mut to);
        write_pods(&mut to, &self.pods.census());
        if let Some(recovered) = self.recovered.get() {
            write_recovered(&mut to, recovered);
        }
        write_events(&mut to, self.pods.event_figures());
        write_sessions(&mut to, &self.sessions);
        write_network(&mut to, &self.network.figures());
        // Before the pulls in flight: one that ends meanwhile is in neither rather than in both.
        let (counters, outcomes) = (self.images.counters(), self.images.outcomes());
        write_images(&mut to, counters, &outcomes);
        write_pulls(&mut to, self.images.pulls());
        to.single(Gauge, "corten_images", "Images.", self.images.list().len());
        if let Some(stored) = stored {
            write_stored(&mut to, &stored);
        }
        to.finish()
    }

    /// Asks the store of layers. One asks at a time: where the disk hangs, one thread does.
    async fn stored(&self) -> Option<Stored> {
        let asked = async {
            let place = self.asking.clone().acquire_owned().await.ok()?;
            let images = self.images.clone();
            let asked = spawn_blocking(move || {
                let _place = place;
                Stored { layers: images.layer_count(), usage: images.fs_usage() }
            });
            asked.await.ok()
        };
        tokio::time::timeout(STORE_PATIENCE, asked).await.ok()?
    }
}

fn write_pods(to: &mut Exposition, census: &Census) {
    let Census { handlers, damaged_sandboxes, damaged_containers, turnover } = census;
    let mut family = to.family(Gauge, "corten_pods", "Sandboxes, by state and runtime handler.");
    for (handler, HandlerCensus { ready, not_ready, .. }) in handlers {
        for (state, count) in [("ready", *ready), ("not_ready", *not_ready)] {
            family.sample(&[("state", state), ("handler", handler)], count);
        }
    }
    let help = "Containers, by state and runtime handler.";
    let mut family = to.family(Gauge, "corten_containers", help);
    for (handler, census) in handlers {
        let HandlerCensus { ready: _, not_ready: _, created, running, exited, unknown } = *census;
        for (state, count) in
            [("created", created), ("running", running), ("exited", exited), ("unknown", unknown)]
        {
            family.sample(&[("state", state), ("handler", handler)], count);
        }
    }
    let help = "Sandboxes and containers that are listed though their record cannot be read.";
    let mut family = to.family(Gauge, "corten_damaged_records", help);
    family.sample(&[("kind", "sandbox")], *damaged_sandboxes);
    family.sample(&[("kind", "container")], *damaged_containers);
    let help = "Sandboxes that got ready.";
    to.single(Counter, "corten_pod_starts", help, turnover.sandbox_starts);
    let help = "Containers whose first process was started.";
    to.single(Counter, "corten_container_starts", help, turnover.container_starts);
    let help = "Containers that ended, by the reason of their status; OOMKilled among them.";
    let mut family = to.family(Counter, "corten_container_exits", help);
    for (reason, count) in turnover.container_exits() {
        family.sample(&[("reason", reason)], count);
    }
}

fn write_recovered(to: &mut Exposition, recovered: &Recovered) {
    let Recovered { ready, not_ready, undone, damaged, leaks } = recovered;
    let help = "What this daemon found of the one before at its start: sandboxes that are ready, \
                that are not, whose interrupted making was undone, and damaged records.";
    let mut family = to.family(Gauge, "corten_recovered", help);
    let outcomes =
        [("ready", ready), ("not_ready", not_ready), ("undone", undone), ("damaged", damaged)];
    for (outcome, count) in outcomes {
        family.sample(&[("outcome", outcome)], *count);
    }
    let help = "What this daemon found at its start that belonged to no sandbox, and whether it \
                could be removed.";
    let mut family = to.family(Gauge, "corten_recovered_leaks", help);
    for Leaks { kind, removed, left } in leaks {
        for (outcome, count) in [("removed", *removed), ("left", *left)] {
            family.sample(&[("kind", *kind), ("outcome", outcome)], count);
        }
    }
}

fn write_events(to: &mut Exposition, figures: EventFigures) {
    let EventFigures { listeners, told, overrun } = figures;
    let help = "Clients that listen to container events.";
    to.single(Gauge, "corten_event_listeners", help, listeners);
    let help = "Container events that were told to those who listened.";
    to.single(Counter, "corten_events_told", help, told);
    let help = "Clients that were let go because they took their events too slowly.";
    to.single(Counter, "corten_event_listeners_overrun", help, overrun);
}

fn write_sessions(to: &mut Exposition, sessions: &SessionCounts) {
    let sessions = sessions.read();
    let help = "Sessions of exec, attach and port-forward that are open.";
    let mut family = to.family(Gauge, "corten_streaming_sessions", help);
    for session in sessions {
        family.sample(&[("kind", session.kind)], session.open);
    }
    let help = "Sessions of exec, attach and port-forward that were begun.";
    let mut family = to.family(Counter, "corten_streaming_sessions_started", help);
    for session in sessions {
        family.sample(&[("kind", session.kind)], session.started);
    }
}

fn write_network(to: &mut Exposition, figures: &[NetworkFigures]) {
    let labels = |one: &NetworkFigures| [("operation", one.operation), ("way", one.way)];
    let help = "How long giving pods their network and taking it took, failures included, by who \
                did it, in seconds.";
    let mut family = to.family(Histogram, "corten_network_operation_duration_seconds", help);
    for one in figures.iter().filter(|one| one.way != "none") {
        family.histogram(&labels(one), &one.durations);
    }
    let help = "How often giving pods their network and taking it failed; by nobody where no \
                network was ready.";
    let mut family = to.family(Counter, "corten_network_operation_failures", help);
    for one in figures {
        family.sample(&labels(one), one.failures);
    }
}

fn write_images(to: &mut Exposition, counters: ImageCounters, outcomes: &PullOutcomes) {
    let ImageCounters {
        pulls_started,
        pulls_succeeded,
        // By reason below.
        pulls_failed: _,
        pulls_abandoned,
        layer_bytes_fetched,
        layers_unpacked,
        layer_bytes_unpacked,
        layers_reused,
        requests,
        retries,
        resumes,
        mirror_failures,
        layers_collected,
        layers_damaged,
    } = counters;
    for (name, help, value) in [
        ("corten_image_pulls_started", "Pulls that were begun.", pulls_started),
        ("corten_image_pulls_succeeded", "Pulls that ended with an image.", pulls_succeeded),
        (
            "corten_image_pulls_abandoned",
            "Pulls that were ended because nobody waited for them any more.",
            pulls_abandoned,
        ),
        (
            "corten_image_layer_fetched_bytes",
            "Bytes of layers that came from registries.",
            layer_bytes_fetched,
        ),
        ("corten_image_layers_unpacked", "Layers that were unpacked.", layers_unpacked),
        (
            "corten_image_layer_unpacked_bytes",
            "Bytes that layers unpacked to, as tar streams.",
            layer_bytes_unpacked,
        ),
        ("corten_image_layers_reused", "Layers that were wanted and there already.", layers_reused),
        ("corten_image_registry_requests", "Requests that were sent to registries.", requests),
        (
            "corten_image_registry_retries",
            "Requests that were sent to registries again after a failure.",
            retries,
        ),
        (
            "corten_image_download_resumes",
            "Downloads that went on from where they had broken.",
            resumes,
        ),
        ("corten_image_mirror_failures", "Mirrors that were found down.", mirror_failures),
        (
            "corten_image_layers_collected",
            "Layers that were removed because nothing needed them.",
            layers_collected,
        ),
        ("corten_image_layers_damaged", "Layers that were found damaged.", layers_damaged),
    ] {
        to.single(Counter, name, help, value);
    }
    let PullOutcomes { succeeded, failed, failures } = outcomes;
    let mut family =
        to.family(Counter, "corten_image_pulls_failed", "Pulls that ended with an error.");
    for (reason, count) in failures {
        family.sample(&[("reason", reason)], *count);
    }
    let help = "How long pulls took, in seconds.";
    let mut family = to.family(Histogram, "corten_image_pull_duration_seconds", help);
    for (result, durations) in [("succeeded", succeeded), ("failed", failed)] {
        family.histogram(&[("result", result)], durations);
    }
}

/// What all pulls of one image together have done: with other credentials, it is pulled twice.
#[derive(Debug, Default, PartialEq)]
struct Pull {
    elapsed: Duration,
    layers: usize,
    layers_done: usize,
    bytes: u64,
    bytes_done: u64,
}

/// The pulls of each image, and how many there are in all.
fn by_image(pulls: Vec<PullProgress>) -> Vec<(String, Pull)> {
    let mut images = BTreeMap::<String, Pull>::new();
    for pull in pulls {
        let PullProgress { reference, elapsed, layers_total, layers_done, bytes_total, bytes_done } =
            pull;
        let image = images.entry(reference).or_default();
        image.elapsed = image.elapsed.max(elapsed);
        image.layers += layers_total;
        image.layers_done += layers_done;
        image.bytes = image.bytes.saturating_add(bytes_total);
        image.bytes_done = image.bytes_done.saturating_add(bytes_done);
    }
    let mut images: Vec<_> = images.into_iter().collect();
    images.sort_by_key(|(_, pull)| std::cmp::Reverse(pull.elapsed));
    images.truncate(MOST_PULLS);
    images
}

fn write_pulls(to: &mut Exposition, pulls: Vec<PullProgress>) {
    let help = "Pulls in flight.";
    to.single(Gauge, "corten_image_pulls_in_flight", help, pulls.len());
    let images = by_image(pulls);
    let mut family = |name, help, value: fn(&Pull) -> metrics::Value| {
        let mut family = to.family(Gauge, name, help);
        for (image, pull) in &images {
            family.sample(&[("image", image)], value(pull));
        }
    };
    family(
        "corten_image_pull_elapsed_seconds",
        "Since when an image is being pulled, in seconds.",
        |pull| pull.elapsed.as_secs_f64().into(),
    );
    family(
        "corten_image_pull_layers",
        "Layers of an image that is being pulled; 0 until its manifest is known.",
        |pull| pull.layers.into(),
    );
    family(
        "corten_image_pull_layers_done",
        "Layers of an image that is being pulled that are unpacked, or were there already.",
        |pull| pull.layers_done.into(),
    );
    family(
        "corten_image_pull_size_bytes",
        "Bytes of the layers of an image that is being pulled, as they are fetched; 0 until its \
         manifest is known.",
        |pull| pull.bytes.into(),
    );
    family(
        "corten_image_pull_done_bytes",
        "Bytes of the layers of an image that is being pulled that have come, or need not.",
        |pull| pull.bytes_done.into(),
    );
}

fn write_stored(to: &mut Exposition, stored: &Stored) {
    let Stored { layers, usage: FsUsage { mountpoint: _, bytes, inodes } } = stored;
    to.single(Gauge, "corten_image_layers", "Layers that are unpacked and whole.", *layers);
    let help = "What images take of the disk, in bytes, what is being pulled included.";
    to.single(Gauge, "corten_image_store_bytes", help, *bytes);
    let help = "Inodes that images take of the disk, what is being pulled included.";
    to.single(Gauge, "corten_image_store_inodes", help, *inodes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(reference: &str, seconds: u64) -> PullProgress {
        PullProgress {
            reference: reference.to_owned(),
            elapsed: Duration::from_secs(seconds),
            layers_total: 3,
            layers_done: 1,
            bytes_total: 10,
            bytes_done: 4,
        }
    }

    #[test]
    fn one_image_is_one_series_however_often_it_is_pulled() {
        let both = by_image(vec![pull("a", 1), pull("b", 5), pull("a", 2)]);
        let elapsed = Duration::from_secs(2);
        let sum = Pull { elapsed, layers: 6, layers_done: 2, bytes: 20, bytes_done: 8 };
        assert_eq!((both[0].0.as_str(), both[1].0.as_str(), &both[1].1), ("b", "a", &sum));
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn series_of_pulls_are_bounded_and_pulls_are_all_counted() {
        let pulls: Vec<_> = (0..1000).map(|n| pull(&format!("x.io/a:{n}"), n)).collect();
        let mut exposition = Exposition::new(Format::Text);
        write_pulls(&mut exposition, pulls);
        let text = exposition.finish();
        assert!(text.contains("\ncorten_image_pulls_in_flight 1000\n"));
        assert!(text.contains("corten_image_pull_layers{image=\"x.io/a:999\"} 3\n"));
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(series, 5 * MOST_PULLS + 1);
    }
}
