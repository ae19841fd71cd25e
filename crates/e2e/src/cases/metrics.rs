//! The endpoint for Prometheus: what it tells, in which forms, and who cannot hurt it.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
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
use super::streaming_settings::certificate;
use crate::case;
use crate::case::{Case, Need};
use crate::catalog::BUSYBOX;
use crate::context::{
    Context, PATIENCE, code, equal, image_spec, refusal, resources, until,
};

pub(super) const CASES: &[Case] = &[
    case!("metrics.off_by_default", off).alone().ours(),
    case!("metrics.tell_a_pull_in_flight", pull).alone().ours(),
    case!("metrics.tell_calls_pods_and_containers", node).alone().ours(),
    case!("metrics.are_read_by_prometheus_own_parsers", judge)
        .alone()
        .ours()
        .needs(&[Need::Workshop]),
    case!("metrics.on_a_socket", socket).alone().ours(),
    case!("metrics.hostile_clients_hurt_nobody", hostile).alone().ours(),
    case!("metrics.bad_settings_are_refused", settings).alone().ours(),
    case!("metrics.certificates", certificates).alone().ours(),
    case!("metrics.go_on_with_the_successor", successor).alone().ours(),
];

/// What the text format is called, and OpenMetrics.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// As long as Prometheus waits, less what a busy machine is not to be blamed for.
const SCRAPE: Duration = Duration::from_secs(8);

/// Another daemon, with an endpoint there and further tables.
async fn with(c: &Context, listen: &str, tables: &str) -> Result<Context> {
    let tables = format!("\n[metrics]\nlisten = {listen:?}\n{tables}");
    let runtime = Arc::new(super::builtin::another(c, false, tables).await?);
    Ok(Context::new(runtime, "metrics"))
}

/// What verbose Status has under a name.
async fn told(c: &Context, name: &str) -> Result<Option<Value>> {
    let answer = c.runtime.pods.status(StatusRequest { verbose: true }).await?;
    Ok(answer.info.get(name).map(|text| serde_json::from_str(text)).transpose()?)
}

/// Where the endpoint is, as verbose Status says: a host and a port.
async fn endpoint(c: &Context) -> Result<String> {
    let address = told(c, "metrics").await?.context("no address")?;
    let address = address.as_str().context("no text")?;
    let rest = address.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/metrics"));
    Ok(rest.with_context(|| address.to_owned())?.to_owned())
}

/// An answer of HTTP.
struct Said {
    status: u16,
    head: String,
    body: String,
}

impl Said {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Says something to the endpoint, by a port or a path, and hears it out.
async fn say(endpoint: &str, request: &str) -> Result<Said> {
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
async fn get(endpoint: &str, header: &str) -> Result<Said> {
    say(endpoint, &format!("GET /metrics HTTP/1.1\r\nHost: node\r\n{header}\r\n")).await
}

/// The figures, by their series.
struct Figures(BTreeMap<String, f64>);

impl Figures {
    async fn get(endpoint: &str) -> Result<Self> {
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
    fn of(&self, series: &str) -> Result<f64> {
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

/// Who does not ask for it gets no listener.
async fn off(c: &Context) -> Result<()> {
    equal("the address", told(c, "metrics").await?, None)?;
    let config = told(c, "config").await?.context("no settings")?;
    equal("the setting", &config["metrics"]["listen"], "")?;
    let pid = c.runtime.with_daemon(|daemon| daemon.pid())?;
    let mut files = Vec::new();
    for file in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        files.extend(fs::read_link(file.path()).map(|to| to.display().to_string()));
    }
    // Field 3 is the state, of which 0A is listening; field 9 the inode.
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = rows.filter(|row| row.get(3) == Some(&"0A")).filter(|row| {
        row.get(9).is_some_and(|inode| files.contains(&format!("socket:[{inode}]")))
    });
    equal("the streaming server alone listens", ours.count(), 1)
}

/// An image of two layers, the second large, as a registry has it.
struct Slow {
    liar: Liar,
    large: Vec<u8>,
    small: usize,
}

impl Slow {
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
        let of = |kind: &str, bytes: &[u8]| {
            json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
        };
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
    let slow = Slow::serve(&other)?;
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
    other.runtime.kill()?;
    other.runtime.launch().await?;
    let at = endpoint(&other).await?;
    let figures = Figures::get(&at).await?;
    for (series, value) in [
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
    let slow = Slow::serve(&other)?;
    let name = slow.name();
    let held = slow.liar.hold(&format!("/v2/slow/blobs/{}", digest(&slow.large)));
    let pulling = {
        let (images, image) = (other.runtime.images.clone(), Some(image_spec(&name)));
        let request = PullImageRequest { image, ..Default::default() };
        tokio::spawn(async move { images.pull_image(request).await })
    };
    let at = endpoint(&other).await?;
    until(PATIENCE, "the pull", || async {
        Ok(Figures::get(&at).await?.has(&name).then_some(()))
    })
    .await?;
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

/// For root alone; one that a killed daemon left is replaced, and a living one's is not taken.
async fn socket(c: &Context) -> Result<()> {
    let path = c.directory()?.join("metrics.sock");
    let at = path.display().to_string();
    let listen = format!("unix://{at}");
    let other = with(c, &listen, "").await?;
    equal("the address", told(&other, "metrics").await?, Some(json!(listen)))?;
    equal("the mode", fs::metadata(&path)?.permissions().mode() & 0o777, 0o600)?;
    ensure!(Figures::get(&at).await?.of("process_threads")? >= 1.0, "no threads");
    let open = get(&at, "Accept: application/openmetrics-text\r\n").await?;
    equal("the form", open.header("content-type"), Some(OPEN_METRICS))?;
    ensure!(open.body.ends_with("\n# EOF\n"), "no end: {}", open.body);

    let error = refused(c, &format!("listen = {listen:?}"))?;
    for word in [&at, "in use", "metrics.listen"] {
        ensure!(error.contains(word), "it does not say {word}: {error}");
    }
    Figures::get(&at).await?;
    other.runtime.kill()?;
    ensure!(path.exists(), "a killed daemon has cleaned up");
    other.runtime.launch().await?;
    Figures::get(&at).await?;
    other.runtime.end()?;
    ensure!(!path.exists(), "the socket is there after the daemon's end");
    other.runtime.launch().await?;
    Figures::get(&at).await.map(drop)
}

/// Starts a daemon with these lines in its section of metrics, which must not start; returns what
/// it says.
fn refused(c: &Context, lines: &str) -> Result<String> {
    let directory = c.directory()?;
    let file = directory.join("config.toml");
    let quoted = |name: &str| format!("{:?}", directory.join(name).display().to_string());
    let text = format!(
        "root = {}\nstate = {}\n[server]\nlisten = {}\ncontainerd_socket = \"\"\n\
         [network]\nnetns_dir = {}\nconf_dir = {}\n[images]\nreserve_bytes = 0\n[metrics]\n{lines}\n",
        quoted("root"),
        quoted("state"),
        quoted("corten.sock"),
        quoted("netns"),
        quoted("cni"),
    );
    fs::write(&file, text)?;
    let program = c.runtime.with_daemon(|daemon| Ok(daemon.program().to_owned()))?;
    let output = tokio::task::block_in_place(|| {
        Command::new(program).args(["serve", "--config"]).arg(&file).output()
    })?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "it runs: {error}");
    ensure!(!directory.join("corten.sock").exists(), "it has listened: {error}");
    // What it says last is why it does not start.
    error.lines().last().map(str::to_owned).context("it says nothing")
}

async fn settings(c: &Context) -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?;
    let held = TcpListener::bind(taken)?;
    for (lines, words) in [
        ("listen = \"localhost:9090\"".to_owned(), &["metrics.listen", "127.0.0.1:9090"][..]),
        ("listen = \":9090\"".to_owned(), &["metrics.listen", "neither an IP and a port"]),
        ("listen = \"unix://run/m.sock\"".to_owned(), &["metrics.listen", "absolute"]),
        ("listen = \"127.0.0.1:0\"\nport = 9090".to_owned(), &["port", "line"]),
        ("listen = \"127.0.0.1:0\"\ncert_file = \"/c\"".to_owned(), &["metrics.key_file"]),
        (
            "listen = \"unix:///m.sock\"\ncert_file = \"/c\"\nkey_file = \"/k\"".to_owned(),
            &["metrics.cert_file", "no TLS"],
        ),
        (
            "listen = \"127.0.0.1:0\"\ncert_file = \"/no/c\"\nkey_file = \"/no/k\"".to_owned(),
            &["metrics", "/no/c"],
        ),
        (
            format!("listen = \"{taken}\""),
            &["another process listens there", "change metrics.listen"],
        ),
        (
            "listen = \"203.0.113.7:9090\"".to_owned(),
            &["does not have that address", "change metrics.listen"],
        ),
    ] {
        let error = refused(c, &lines)?;
        for word in words {
            ensure!(error.contains(word), "{lines} does not say {word}: {error}");
        }
    }
    drop(held);
    Ok(())
}

/// Who says nothing, too much, too slowly or something else gets no figures, and keeps nobody
/// from them.
async fn hostile(c: &Context) -> Result<()> {
    const MANY: usize = 400;
    let other = with(c, "127.0.0.1:0", "").await?;
    let at = endpoint(&other).await?;
    let pid = other.runtime.with_daemon(|daemon| daemon.pid())?;
    let files = || anyhow::Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count());
    let before = files()?;

    // What is asked wrongly.
    let request = |line: &str| format!("{line} HTTP/1.1\r\nHost: node\r\n\r\n");
    for (line, status) in [
        ("GET /", 404),
        ("GET /metrics/", 404),
        ("GET /metricsx", 404),
        ("GET /debug/pprof/heap", 404),
        ("POST /metrics", 405),
        ("DELETE /metrics", 405),
        ("OPTIONS /metrics", 405),
        ("PRI /metrics", 405),
        ("GET /metrics?name[]=x", 200),
        ("GET", 400),
    ] {
        equal(line, say(&at, &request(line)).await?.status, status)?;
    }
    equal("methods", say(&at, &request("PUT /metrics")).await?.header("allow"), Some("GET, HEAD"))?;
    let head = say(&at, &request("HEAD /metrics")).await?;
    equal("HEAD", (head.status, head.body.as_str()), (200, ""))?;
    equal("HEAD's form", head.header("content-type"), Some(TEXT))?;
    let long = say(&at, &request(&format!("GET /metrics?{}", "x".repeat(100_000)))).await;
    let refused = long.map_or(true, |said| said.status >= 400);
    ensure!(refused, "a request of 100,000 bytes is answered");
    let headers: String = (0..3000).map(|n| format!("X-{n}: {}\r\n", "y".repeat(50))).collect();
    let refused = get(&at, &headers).await.map_or(true, |said| said.status >= 400);
    ensure!(refused, "3,000 headers are answered");
    let body = format!("GET /metrics HTTP/1.1\r\nHost: n\r\nContent-Length: 9999999\r\n\r\nmore");
    equal("a body", say(&at, &body).await?.status, 200)?;
    ensure!(say(&at, "\0\u{1}\u{2} garbage\r\n\r\n").await.map_or(true, |said| said.status == 400), "garbage");

    // Many who say nothing, many who say it slowly, and some who do not read.
    let mut silent = Vec::new();
    for number in 0..MANY {
        let mut socket = TcpStream::connect(&at).await?;
        match number % 4 {
            0 => {}
            1 => socket.write_all(b"GET /metr").await?,
            2 => socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").await?,
            _ => socket.write_all(request("GET /metrics").as_bytes()).await?,
        }
        silent.push(socket);
        if number % 40 == 0 {
            let begun = Instant::now();
            Figures::get(&at).await?;
            ensure!(begun.elapsed() < testing::wait::patient(SCRAPE), "a slow scrape");
        }
    }
    let flood = async {
        // One more all the time: each takes the place of the oldest.
        loop {
            let socket = TcpStream::connect(&at).await;
            silent.extend(socket);
            if silent.len() > 2 * MANY {
                silent.drain(..MANY);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let scrapes = async {
        for _ in 0..50 {
            Figures::get(&at).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        other.runtime.pods.version(VersionRequest::default()).await?;
        anyhow::Ok(())
    };
    tokio::select! {
        () = flood => bail!("it has no end"),
        scraped = scrapes => scraped.context("beside a flood")?,
    }
    let open = files()?;
    ensure!(open < before + 64, "{open} files are open, {before} were");
    // All are let go, without their doing.
    until(Duration::from_secs(30), "the places", || async {
        Ok((files()? <= before).then_some(()))
    })
    .await?;
    drop(silent);
    equal("the daemon", other.runtime.with_daemon(|daemon| daemon.pid())?, pid)
}

/// A client of Python's: tells how many lines of figures it gets, or that it is refused.
const CLIENT: &str = r#"
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[2])
if len(sys.argv) > 3:
    context.load_cert_chain(sys.argv[3] + ".pem", sys.argv[3] + ".key")
try:
    with urllib.request.urlopen(sys.argv[1], context=context, timeout=60) as answer:
        print(answer.status, "process_start_time_seconds" in answer.read().decode())
except (OSError, ssl.SSLError) as error:
    print("refused")
"#;

/// The streaming server's certificates, of its own files.
async fn certificates(c: &Context) -> Result<()> {
    let dir = c.directory()?;
    certificate(&dir, "root", None)?;
    certificate(&dir, "stranger", None)?;
    let root = dir.join("root");
    for name in ["server", "friend"] {
        certificate(&dir, name, Some(&root))?;
    }
    certificate(&dir, "enemy", Some(&dir.join("stranger")))?;
    let file = |name: &str| dir.join(name).display().to_string();
    let tables = format!(
        "cert_file = {:?}\nkey_file = {:?}\nclient_ca_file = {:?}\n",
        file("server.pem"),
        file("server.key"),
        file("root.pem"),
    );
    let other = with(c, "127.0.0.1:0", &tables).await?;
    let address = told(&other, "metrics").await?.context("no address")?;
    let address = address.as_str().context("no text")?.to_owned();
    ensure!(address.starts_with("https://127.0.0.1:"), "{address}");
    let asks = async |who: Option<&str>| -> Result<String> {
        let mut client = Command::new("python3");
        client.args(["-c", CLIENT, &address, &file("root.pem")]).args(who.map(&file));
        let said = tokio::task::spawn_blocking(move || program::output(&mut client)).await??;
        Ok(said.trim().to_owned())
    };
    equal("a friend", asks(Some("friend")).await?, "200 True")?;
    equal("an enemy", asks(Some("enemy")).await?, "refused")?;
    equal("one without a certificate", asks(None).await?, "refused")?;
    let plain = address.trim_start_matches("https://").trim_end_matches("/metrics");
    ensure!(get(plain, "").await.is_err(), "plain HTTP is answered");
    equal("a friend", asks(Some("friend")).await?, "200 True")
}

/// A port that a daemon leaves is its successor's at once, also while the old one has sessions.
async fn successor(c: &Context) -> Result<()> {
    let free = TcpListener::bind("127.0.0.1:0")?;
    let at = free.local_addr()?.to_string();
    drop(free);
    let other = with(c, &at, "").await?;
    other.pull(BUSYBOX).await?;
    let (_, id) = other.waiting_container().await?;
    let streams = Streams { stdin: false, stdout: true, stderr: false, tty: false };
    let address = exec_address(&other, &id, &["sleep", "1000"], streams).await?;
    let session = begin(&address, streams, Transport::Spdy).await?;
    let started = "process_start_time_seconds";
    let open = "corten_streaming_sessions{kind=\"exec\"}";
    let before = until(PATIENCE, "the session", || async {
        let figures = Figures::get(&at).await?;
        Ok((figures.of(open)? == 1.0).then_some(figures))
    })
    .await?;
    let mut old = other.runtime.with_daemon(testing::Daemon::succeed)?;
    other.runtime.settle().await?;
    let after = Figures::get(&at).await?;
    ensure!(after.of(started)? > before.of(started)?, "the old one answers");
    equal("sessions", after.of(open)?, 0.0)?;
    drop(session);
    let ended = tokio::task::spawn_blocking(move || old.wait(Duration::from_secs(60))).await??;
    ensure!(ended.success(), "the old one ended with {ended}");
    Figures::get(&at).await?;
    other.clean_up().await
}
