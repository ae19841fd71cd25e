//! What Prometheus is told of the node, in which forms.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::{ContainerStatus, PullImageRequest, StatusRequest, VersionRequest};
use serde_json::{Value, json};
use streaming::Streams;
use streaming::client::Transport;
use testing::image::{LayerBuilder, digest};
use testing::{Answer, Liar, program};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::image_faults::{LAYER, MANIFEST};
use super::streaming::{begin, exec_address};
use crate::case;
use crate::case::{Case, Need};
use crate::catalog::BUSYBOX;
use crate::context::{Context, PATIENCE, code, equal, image_spec, refusal, resources, until};

pub(super) const CASES: &[Case] = &[
    case!("metrics.tell_a_pull_in_flight", pull).alone().ours(),
    case!("metrics.tell_calls_pods_and_containers", node).alone().ours(),
    case!("metrics.are_read_by_prometheus_own_parsers", judge)
        .alone()
        .ours()
        .needs(&[Need::Workshop]),
];

/// What the text format is called, and OpenMetrics.
pub(super) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// As long as Prometheus waits, less what a busy machine is not to be blamed for.
pub(super) const SCRAPE: Duration = Duration::from_secs(8);

/// Another daemon, with an endpoint there and further tables.
pub(super) async fn with(c: &Context, listen: &str, tables: &str) -> Result<Context> {
    let tables = format!("\n[metrics]\nlisten = {listen:?}\n{tables}");
    let runtime = Arc::new(super::builtin::another(c, false, tables).await?);
    Ok(Context::new(runtime, "metrics"))
}

/// What verbose Status has under a name.
pub(super) async fn told(c: &Context, name: &str) -> Result<Option<Value>> {
    let answer = c.runtime.pods.status(StatusRequest { verbose: true }).await?;
    Ok(answer.info.get(name).map(|text| serde_json::from_str(text)).transpose()?)
}

/// Where the endpoint is, as verbose Status says: a host and a port.
pub(super) async fn endpoint(c: &Context) -> Result<String> {
    let address = told(c, "metrics").await?.context("no address")?;
    let address = address.as_str().context("no text")?;
    let rest = address.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/metrics"));
    Ok(rest.with_context(|| address.to_owned())?.to_owned())
}

/// An answer of HTTP.
pub(super) struct Said {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Said {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Says something to the endpoint, by a port or a path, and hears it out.
pub(super) async fn say(endpoint: &str, request: &str) -> Result<Said> {
    let talk = async {
        let mut heard = Vec::new();
        if endpoint.starts_with('/') {
            let mut socket = UnixStream::connect(endpoint).await?;
            socket.write_all(request.as_bytes()).await?;
            socket.read_to_end(&mut heard).await?;
        } else {
            let mut socket = TcpStream::connect(endpoint).await?;
            socket.write_all(request.as_bytes()).await?;
            socket.read_to_end(&mut heard).await?;
        }
        anyhow::Ok(String::from_utf8(heard)?)
    };
    let heard = tokio::time::timeout(testing::wait::patient(SCRAPE), talk).await;
    let heard = heard.context("no answer in time")??;
    let (head, body) = heard.split_once("\r\n\r\n").with_context(|| format!("{heard:?}"))?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Said { status, head: head.to_owned(), body: body.to_owned() })
}

/// Asks for figures, with a header.
pub(super) async fn get(endpoint: &str, header: &str) -> Result<Said> {
    say(endpoint, &format!("GET /metrics HTTP/1.1\r\nHost: node\r\n{header}\r\n")).await
}

/// The figures, by their series.
pub(super) struct Figures(pub(super) BTreeMap<String, f64>);

impl Figures {
    pub(super) async fn get(endpoint: &str) -> Result<Self> {
        let said = get(endpoint, "").await?;
        equal("the status", said.status, 200)?;
        equal("the form", said.header("content-type"), Some(TEXT))?;
        let mut all = BTreeMap::new();
        for line in said.body.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            let twice = all.insert(series.to_owned(), value.parse()?);
            ensure!(twice.is_none(), "twice: {series}");
        }
        Ok(Self(all))
    }

    /// One that must be there.
    pub(super) fn of(&self, series: &str) -> Result<f64> {
        self.0.get(series).copied().with_context(|| {
            let name = series.split('{').next().unwrap_or_default();
            let near: Vec<_> = self.0.keys().filter(|key| key.starts_with(name)).collect();
            format!("no {series}, but {near:?}")
        })
    }

    fn has(&self, part: &str) -> bool {
        self.0.keys().any(|series| series.contains(part))
    }
}

/// An image of two layers, the second large, as a registry has it.
struct TwoLayers {
    liar: Liar,
    large: Vec<u8>,
    small: usize,
}

impl TwoLayers {
    fn serve(c: &Context) -> Result<Self> {
        let mut small = LayerBuilder::new();
        small.file("small", 0o644, c.directory()?.as_os_str().as_encoded_bytes())?;
        let mut large = LayerBuilder::new();
        large.file("where", 0o644, c.directory()?.as_os_str().as_encoded_bytes())?;
        large.file("large", 0o644, &[7; 4 << 20])?;
        let (small, large) = (small.finish()?, large.finish()?);
        let config = json!({
            "os": "linux", "architecture": "amd64", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [digest(&small), digest(&large)] },
        });
        let config = config.to_string().into_bytes();
        let of = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": of("application/vnd.oci.image.config.v1+json", &config),
            "layers": [of(LAYER, &small), of(LAYER, &large)],
        });
        let manifest = manifest.to_string().into_bytes();
        let liar = Liar::start()?;
        for reference in ["1".to_owned(), digest(&manifest)] {
            let path = format!("/v2/slow/manifests/{reference}");
            liar.say(&path, Answer::ok(MANIFEST, &manifest));
        }
        for blob in [&config, &small, &large] {
            liar.say(&format!("/v2/slow/blobs/{}", digest(blob)), Answer::ok(LAYER, blob));
        }
        Ok(Self { liar, large, small: small.len() })
    }

    fn name(&self) -> String {
        format!("{}/slow:1", self.liar.address())
    }
}

/// Its bytes and layers are told while it runs and no longer, then its totals: all as in verbose
/// Status.
async fn pull(c: &Context) -> Result<()> {
    let other = with(c, "127.0.0.1:0", "").await?;
    let at = endpoint(&other).await?;
    let slow = TwoLayers::serve(&other)?;
    let (name, size) = (slow.name(), slow.large.len());
    let held = slow.liar.hold(&format!("/v2/slow/blobs/{}", digest(&slow.large)));
    let pulling = {
        let (images, image) = (other.runtime.images.clone(), Some(image_spec(&name)));
        let request = PullImageRequest { image, ..Default::default() };
        tokio::spawn(async move { images.pull_image(request).await })
    };
    let of = |figure: &str| format!("corten_image_pull_{figure}{{image=\"{name}\"}}");
    let all = slow.small + size;
    for bytes in [0, size / 4, size / 2] {
        held.let_through(bytes);
        let wanted = (slow.small + bytes) as f64;
        let figures = until(PATIENCE, "the bytes", || async {
            let figures = Figures::get(&at).await?;
            let is_it = figures.0.get(&of("done_bytes")) == Some(&wanted)
                && figures.of(&of("layers_done"))? == 1.0;
            Ok(is_it.then_some(figures))
        })
        .await
        .with_context(|| format!("{bytes} of the second layer"))?;
        equal("the size", figures.of(&of("size_bytes"))?, all as f64)?;
        equal("the layers", figures.of(&of("layers"))?, 2.0)?;
        ensure!(figures.of(&of("elapsed_seconds"))? > 0.0, "no time");
        equal("in flight", figures.of("corten_image_pulls_in_flight")?, 1.0)?;
        // Status is of the same source.
        let told = told(&other, "images").await?.context("no figures")?;
        let told = &told["pulls"][0];
        let wanted = [json!(2), json!(1), json!(all), json!(slow.small + bytes)];
        let keys = ["layersTotal", "layersDone", "bytesTotal", "bytesDone"];
        equal("Status", keys.map(|key| told[key].clone()), wanted)?;
    }
    drop(held);
    pulling.await??;
    // Those that fail, and whose names have what must not be told.
    let error = code(other.pull(&format!("{}/none:1", slow.liar.address())).await)?;
    equal("a missing image", error, Code::NotFound)?;
    let secret = format!("user:hunter2@{}/slow:1", slow.liar.address());
    equal("credentials in a name", code(other.pull(&secret).await)?, Code::InvalidArgument)?;

    let figures = Figures::get(&at).await?;
    ensure!(!figures.has(&name), "the pull is still told");
    ensure!(!figures.has("hunter2"), "a password");
    for (series, value) in [
        ("corten_image_pulls_in_flight", 0.0),
        ("corten_image_pulls_started_total", 2.0),
        ("corten_image_pulls_succeeded_total", 1.0),
        ("corten_image_pulls_failed_total{reason=\"not_found\"}", 1.0),
        ("corten_image_pulls_failed_total{reason=\"unauthorized\"}", 0.0),
        ("corten_image_pull_duration_seconds_count{result=\"succeeded\"}", 1.0),
        ("corten_image_pull_duration_seconds_count{result=\"failed\"}", 1.0),
        ("corten_image_layer_fetched_bytes_total", all as f64),
        ("corten_image_layers_unpacked_total", 2.0),
        ("corten_images", 1.0),
        ("corten_image_layers", 2.0),
    ] {
        equal(series, figures.of(series)?, value)?;
    }
    ensure!(figures.of("corten_image_store_bytes")? > size as f64, "the store is empty");
    let status = told(&other, "images").await?.context("no figures")?;
    for (series, key) in [
        ("corten_image_pulls_started_total", "pullsStarted"),
        ("corten_image_pulls_succeeded_total", "pullsSucceeded"),
        ("corten_image_pulls_failed_total{reason=\"not_found\"}", "pullsFailed"),
        ("corten_image_pulls_abandoned_total", "pullsAbandoned"),
        ("corten_image_layer_fetched_bytes_total", "layerBytesFetched"),
        ("corten_image_layers_unpacked_total", "layersUnpacked"),
        ("corten_image_layer_unpacked_bytes_total", "layerBytesUnpacked"),
        ("corten_image_layers_reused_total", "layersReused"),
        ("corten_image_registry_requests_total", "requests"),
        ("corten_image_registry_retries_total", "retries"),
        ("corten_image_download_resumes_total", "resumes"),
        ("corten_image_mirror_failures_total", "mirrorFailures"),
        ("corten_image_layers_collected_total", "layersCollected"),
        ("corten_image_layers_damaged_total", "layersDamaged"),
    ] {
        equal(key, status[key].as_f64(), Some(figures.of(series)?))?;
    }
    other.remove_image(&name).await?;
    let figures = Figures::get(&at).await?;
    equal("images", figures.of("corten_images")?, 0.0)?;
    equal("collected", figures.of("corten_image_layers_collected_total")?, 2.0)
}

/// A call's series.
fn call(figure: &str, version: &str, method: &str, more: &str) -> String {
    let kind = if figure.starts_with("grpc") { "grpc_type=\"unary\"," } else { "" };
    let service = format!("grpc_service=\"runtime.{version}.RuntimeService\"");
    format!("{figure}{{{kind}{service},grpc_method=\"{method}\"{more}}}")
}

/// What a kubelet's clients do, seen by the figures.
async fn node(c: &Context) -> Result<()> {
    let handler = "\n[handlers.runc]\nprogram = \"/usr/sbin/runc\"\n";
    let other = with(c, "127.0.0.1:0", handler).await?;
    other.pull(BUSYBOX).await?;
    let at = endpoint(&other).await?;
    let before = Figures::get(&at).await?;
    let handled = |version: &str, method: &str, code: &str| {
        let code = format!(",grpc_code=\"{code}\"");
        call("grpc_server_handled_total", version, method, &code)
    };

    let pod = other.plain_pod().await?;
    let by_runc = other.run_pod_by("runc", other.pod()?).await?;
    let stopped = other.plain_pod().await?;
    other.stop_pod(&stopped.id).await?;
    other.create(&pod, &other.waiting()).await?;
    let running = other.run(&pod, &other.waiting()).await?;
    other.run(&by_runc, &other.waiting()).await?;
    ended(&other, &other.run(&pod, &other.script("exit 0")).await?, "Completed").await?;
    ended(&other, &other.run(&pod, &other.script("exit 3")).await?, "Error").await?;
    let mut greedy = other.command(&["dd", "if=/dev/zero", "of=/dev/null", "bs=200M"]);
    resources(&mut greedy)?.memory_limit_in_bytes = 15 << 20;
    ended(&other, &other.run(&pod, &greedy).await?, "OOMKilled").await?;
    let absent = other.create(&pod, &other.command(&["/no/such/program"])).await?;
    refusal(other.start(&absent).await)?;
    ended(&other, &absent, "StartError").await?;

    // A call that fails, one of the old version, one that nobody serves, one in flight.
    equal("a status", code(other.status(&"0".repeat(64)).await)?, Code::NotFound)?;
    let old = "/runtime.v1alpha2.RuntimeService/Version";
    let _: cri_proto::v1::VersionResponse =
        super::protocol::call(&other, old, VersionRequest::default()).await?;
    let refused: Result<VersionRequest, _> =
        super::protocol::call(&other, "/no.Service/Call", VersionRequest::default()).await;
    ensure!(refused.is_err(), "an unknown call is answered");
    let executing = {
        let (pods, container_id) = (other.runtime.pods.clone(), running.clone());
        let cmd = crate::context::strings(&["sleep", "1000"]);
        let request = cri_proto::v1::ExecSyncRequest { container_id, cmd, timeout: 0 };
        tokio::spawn(async move { pods.exec_sync(request).await })
    };
    let streams = Streams { stdin: false, stdout: true, stderr: false, tty: false };
    let address = exec_address(&other, &running, &["sleep", "1000"], streams).await?;
    let session = begin(&address, streams, Transport::Spdy).await?;
    let in_flight = call("corten_rpc_in_flight", "v1", "ExecSync", "");
    let figures = until(PATIENCE, "the command and the session", || async {
        let figures = Figures::get(&at).await?;
        let executing = figures.0.get(&in_flight) == Some(&1.0);
        let open = figures.of("corten_streaming_sessions{kind=\"exec\"}")? == 1.0;
        Ok((executing && open).then_some(figures))
    })
    .await?;

    let count = |handler: &str, state: &str| format!("{{state={state:?},handler={handler:?}}}");
    for (family, handler, state, value) in [
        ("corten_pods", "corten", "ready", 1.0),
        ("corten_pods", "corten", "not_ready", 1.0),
        ("corten_pods", "runc", "ready", 1.0),
        ("corten_pods", "runc", "not_ready", 0.0),
        ("corten_containers", "corten", "created", 1.0),
        ("corten_containers", "corten", "running", 1.0),
        ("corten_containers", "corten", "exited", 4.0),
        ("corten_containers", "corten", "unknown", 0.0),
        ("corten_containers", "runc", "running", 1.0),
    ] {
        let series = format!("{family}{}", count(handler, state));
        equal(&series, figures.of(&series)?, value)?;
    }
    for (series, value) in [
        ("corten_pod_starts_total", 3.0),
        ("corten_container_starts_total", 5.0),
        ("corten_container_exits_total{reason=\"Completed\"}", 1.0),
        ("corten_container_exits_total{reason=\"Error\"}", 1.0),
        ("corten_container_exits_total{reason=\"OOMKilled\"}", 1.0),
        ("corten_container_exits_total{reason=\"StartError\"}", 1.0),
        ("corten_container_exits_total{reason=\"other\"}", 0.0),
        ("corten_streaming_sessions_started_total{kind=\"exec\"}", 1.0),
        ("corten_streaming_sessions{kind=\"attach\"}", 0.0),
        ("corten_damaged_records{kind=\"container\"}", 0.0),
        ("corten_recovered{outcome=\"ready\"}", 0.0),
        ("corten_build_info{version=\"0.1.0\"}", 1.0),
        ("corten_network_operation_failures_total{operation=\"add\",way=\"none\"}", 0.0),
    ] {
        equal(series, figures.of(series)?, value)?;
    }
    let network = |operation: &str| {
        format!(
            "corten_network_operation_duration_seconds_count\
             {{operation=\"{operation}\",way=\"in_process\"}}"
        )
    };
    equal("networks given", figures.of(&network("add"))?, 3.0)?;
    equal("networks taken", figures.of(&network("del"))?, 1.0)?;
    for (series, value) in [
        (handled("v1", "RunPodSandbox", "OK"), 3.0),
        (handled("v1", "StartContainer", "OK"), 5.0),
        (handled("v1", "ContainerStatus", "NotFound"), 1.0),
        (handled("v1alpha2", "Version", "OK"), 1.0),
        (call("corten_rpc_duration_seconds_count", "v1", "RunPodSandbox", ""), 3.0),
        (call("grpc_server_started_total", "v1", "ExecSync", ""), 1.0),
    ] {
        equal(&series, figures.of(&series)?, value)?;
    }
    ensure!(figures.has("grpc_method=\"StartContainer\",grpc_code=\"Unknown\""), "no failed start");
    let unknown = "grpc_service=\"unknown\",grpc_method=\"unknown\",grpc_code=\"Unimplemented\"";
    equal("unknown calls", figures.0.keys().filter(|key| key.contains(unknown)).count(), 1)?;
    process(&other, &before, &figures)?;

    // Who leaves has cancelled; the session's end is seen too.
    executing.abort();
    drop(session);
    until(PATIENCE, "their ends", || async {
        let figures = Figures::get(&at).await?;
        let cancelled = figures.0.get(&handled("v1", "ExecSync", "Canceled")) == Some(&1.0);
        let left = figures.of(&in_flight)? == 0.0
            && figures.of("corten_streaming_sessions{kind=\"exec\"}")? == 0.0;
        Ok((cancelled && left).then_some(()))
    })
    .await?;

    // A new daemon tells what it has found, and begins to count anew.
    // One record is spoilt meanwhile, and something is there that is nobody's.
    other.runtime.kill()?;
    let (root, state) = other.runtime.with_daemon(|daemon| Ok((daemon.root(), daemon.state())))?;
    fs::write(root.join("sandboxes").join(&stopped.id), "junk")?;
    fs::create_dir(state.join("pods").join("e2".repeat(32)))?;
    other.runtime.launch().await?;
    let at = endpoint(&other).await?;
    let figures = Figures::get(&at).await?;
    for (series, value) in [
        ("corten_damaged_records{kind=\"sandbox\"}", 1.0),
        ("corten_recovered{outcome=\"damaged\"}", 1.0),
        ("corten_recovered_leaks{kind=\"directory\",outcome=\"removed\"}", 1.0),
        ("corten_recovered_leaks{kind=\"directory\",outcome=\"left\"}", 0.0),
        ("corten_recovered_leaks{kind=\"root\",outcome=\"removed\"}", 0.0),
        ("corten_recovered{outcome=\"ready\"}", 2.0),
        ("corten_recovered{outcome=\"not_ready\"}", 1.0),
        ("corten_containers{state=\"running\",handler=\"corten\"}", 1.0),
        ("corten_container_starts_total", 0.0),
    ] {
        equal(series, figures.of(series)?, value)?;
    }
    other.clean_up().await?;
    let figures = Figures::get(&at).await?;
    for handler in ["corten", "runc"] {
        let series = format!("corten_containers{}", count(handler, "running"));
        let value = figures.0.get(&series).copied().unwrap_or_default();
        equal(&series, value, 0.0)?;
    }
    Ok(())
}

/// Waits for a container's end, which has a reason.
async fn ended(c: &Context, id: &str, reason: &str) -> Result<()> {
    let ContainerStatus { reason: told, .. } = c.exited(id).await?;
    equal("the reason", &told, reason)
}

/// The daemon's own figures are what the kernel says to others.
fn process(c: &Context, before: &Figures, after: &Figures) -> Result<()> {
    let pid = c.runtime.with_daemon(|daemon| daemon.pid())?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no field")?;
        Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
    };
    let resident = after.of("process_resident_memory_bytes")? / 1024.0;
    let now = field("VmRSS")?;
    ensure!((resident - now).abs() < now / 2.0, "{resident} KiB resident, not {now}");
    ensure!((after.of("process_threads")? - field("Threads")?).abs() < 100.0, "threads");
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64;
    let told = after.of("process_open_fds")?;
    ensure!((open - told).abs() < 20.0, "{told} files are open, not {open}");
    let started = "process_start_time_seconds";
    equal(started, before.of(started)?, after.of(started)?)?;
    let age = std::time::UNIX_EPOCH.elapsed()?.as_secs_f64() - after.of(started)?;
    ensure!((0.0..3600.0).contains(&age), "it started {age} s ago");
    let cpu = "process_cpu_seconds_total";
    ensure!(after.of(cpu)? > before.of(cpu)?, "no processor time");
    ensure!(after.of("process_max_fds")? >= told, "too many files");
    Ok(())
}

/// The parsers of Prometheus' own library take both forms, and find the same in both.
async fn judge(c: &Context) -> Result<()> {
    const PROGRAM: &str = r#"
import sys, urllib.request
from prometheus_client.parser import text_string_to_metric_families as text
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

def read(accept, kind, parse):
    request = urllib.request.Request(sys.argv[1], headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["Content-Type"] == kind, answer.headers["Content-Type"]
        families = list(parse(answer.read().decode()))
    series = {}
    for family in families:
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram", "info"), (family.name, family.type)
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in series, key
            series[key] = sample.value
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}, series

old, old_series = read(None, sys.argv[2], text)
new, new_series = read("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", sys.argv[3], openmetrics)
# The text format has no type for facts.
assert set(old) == {name + "_info" if family.type == "info" else name for name, family in new.items()}, set(old) ^ set(new)
assert set(old_series) == set(new_series), set(old_series) ^ set(new_series)
for name, family in new.items():
    assert family.unit == next((unit for unit in ("seconds", "bytes") if name.endswith("_" + unit)), ""), name
    if family.type != "info":
        assert old[name].type == family.type, name
image = [sample for sample in new["corten_image_pull_layers"].samples]
assert [sample.labels["image"] for sample in image] == [sys.argv[4]], image
print(len(new), len(new_series))
"#;
    let other = with(c, "127.0.0.1:0", "").await?;
    other.pull(BUSYBOX).await?;
    let pod = other.plain_pod().await?;
    let id = other.run(&pod, &other.waiting()).await?;
    other.sh(&id, "true").await?;
    let slow = TwoLayers::serve(&other)?;
    let name = slow.name();
    let held = slow.liar.hold(&format!("/v2/slow/blobs/{}", digest(&slow.large)));
    let pulling = {
        let (images, image) = (other.runtime.images.clone(), Some(image_spec(&name)));
        let request = PullImageRequest { image, ..Default::default() };
        tokio::spawn(async move { images.pull_image(request).await })
    };
    let at = endpoint(&other).await?;
    until(PATIENCE, "the pull", || async { Ok(Figures::get(&at).await?.has(&name).then_some(())) })
        .await?;
    listed(&get(&at, "").await?.body)?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/python-env");
    let python = program::output(&mut Command::new(script))?;
    let mut command = Command::new(python.trim());
    let address = format!("http://{at}/metrics");
    command.args(["-c", PROGRAM, &address, TEXT, OPEN_METRICS, &name]);
    let ran = tokio::task::spawn_blocking(move || program::output(&mut command)).await??;
    c.figure(&format!("families and series: {}", ran.trim()));
    drop(held);
    pulling.await??;
    other.clean_up().await?;
    other.remove_image(&name).await
}

/// README's table has each name, and no other.
fn listed(scrape: &str) -> Result<()> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md"))?;
    let section = readme.split("\n### Metrics\n").nth(1).context("no section")?;
    let section = section.split("\n### ").next().context("no section")?;
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let families =
        scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let (mut listed, mut told): (Vec<_>, Vec<_>) = (rows.collect(), families.collect());
    listed.sort_unstable();
    told.sort_unstable();
    equal("the names in README.md", listed, told)
}
