//! The endpoint for Prometheus itself: where it is, who gets in, and who cannot hurt it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cri_proto::v1::{RemoveImageRequest, VersionRequest};
use serde_json::json;
use streaming::Streams;
use streaming::client::Transport;
use testing::program;
use testing::wait::patient;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::disk_faults::Slow;
use super::metrics::{Figures, OPEN_METRICS, SCRAPE, TEXT, endpoint, get, say, told, with};
use super::streaming::{begin, exec_address};
use super::streaming_settings::certificate;
use crate::case;
use crate::case::Case;
use crate::catalog::BUSYBOX;
use crate::context::{Context, PATIENCE, equal, image_spec, until};

pub(super) const CASES: &[Case] = &[
    case!("metrics.off_by_default", off).alone().ours(),
    case!("metrics.on_a_socket", socket).alone().ours(),
    case!("metrics.hostile_clients_hurt_nobody", hostile).alone().ours(),
    case!("metrics.come_though_the_disk_does_not", hung).alone().ours(),
    case!("metrics.bad_settings_are_refused", settings).alone().ours(),
    case!("metrics.certificates", certificates).alone().ours(),
    case!("metrics.go_on_with_the_successor", successor).alone().ours(),
];

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
    let ours = rows
        .filter(|row| row.get(3) == Some(&"0A"))
        .filter(|row| row.get(9).is_some_and(|inode| files.contains(&format!("socket:[{inode}]"))));
    equal("the streaming server alone listens", ours.count(), 1)
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
    let owner = TcpListener::bind("127.0.0.1:0")?;
    let taken = owner.local_addr()?;
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
    drop(owner);
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
    let body = "GET /metrics HTTP/1.1\r\nHost: n\r\nContent-Length: 9999999\r\n\r\nmore";
    equal("a body", say(&at, body).await?.status, 200)?;
    ensure!(
        say(&at, "\0\u{1}\u{2} garbage\r\n\r\n").await.map_or(true, |said| said.status == 400),
        "garbage"
    );

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
            ensure!(begun.elapsed() < patient(SCRAPE), "a slow scrape");
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

/// While a removal waits for the disk and has the store of layers locked, what that would tell
/// is left out, and everything else is told.
async fn hung(c: &Context) -> Result<()> {
    const LAYERS: &str = "corten_image_layers";
    let other = with(c, "127.0.0.1:0", "").await?;
    let at = endpoint(&other).await?;
    other.pull(BUSYBOX).await?;
    equal("layers", Figures::get(&at).await?.of(LAYERS)?, 1.0)?;
    let pid = other.runtime.with_daemon(|daemon| daemon.pid())?;
    let hang = patient(Duration::from_secs(5));
    // What hides a layer, after its image's record is gone.
    let renames = "rename,renameat,renameat2";
    let slow = Slow::delay(&other.runtime.ground, pid, renames, hang)?;
    let removing = {
        let (images, image) = (other.runtime.images.clone(), Some(image_spec(BUSYBOX)));
        let request = RemoveImageRequest { image };
        tokio::spawn(async move { images.remove_image(request).await })
    };
    let (mut without, mut longest) = (0, Duration::ZERO);
    while !removing.is_finished() {
        let begun = Instant::now();
        let figures = Figures::get(&at).await?;
        longest = longest.max(begun.elapsed());
        without += usize::from(!figures.0.contains_key(LAYERS));
        figures.of("corten_images")?;
        figures.of("corten_pod_starts_total")?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    removing.await??;
    slow.detach(pid)?;
    c.figure(&format!("{without} scrapes without the store's figures, the longest {longest:?}"));
    ensure!(without > 1, "the store was never locked");
    ensure!(longest < hang * 2 / 3, "a scrape took {longest:?}");
    equal("layers", Figures::get(&at).await?.of(LAYERS)?, 0.0)
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
