//! What the configuration says of sessions and logs: a daemon of its own for each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::ContainerConfig;
use streaming::Streams;
use streaming::client::Transport;
use testing::program;

use super::cli_streams::{BOTH, Forwarding, corten, run, text};
use super::streaming::{begin, exec_address, served};
use crate::case;
use crate::case::Case;
use crate::catalog::BUSYBOX;
use crate::context::{Context, PATIENCE, equal, until};
use crate::logs;

pub(super) const CASES: &[Case] = &[
    case!("setting.max_log_bytes", max_log_bytes).alone().ours(),
    case!("setting.max_log_line_bytes", max_log_line_bytes).alone().ours(),
    case!("setting.orphaned_execs", orphaned_execs).alone().ours(),
    case!("setting.certificates_of_both_sides", certificates).alone().ours(),
    case!("setting.certificate_of_the_command_line", command_line).alone().ours(),
];

const OUTPUTS: Streams = Streams { stdin: false, stdout: true, stderr: true, tty: false };

/// Another daemon, with these tables in its configuration.
async fn with(c: &Context, tables: String) -> Result<Context> {
    let runtime = Arc::new(super::builtin::another(c, false, tables).await?);
    let other = Context::new(runtime, "settings");
    other.pull(BUSYBOX).await?;
    Ok(other)
}

/// The monitor rotates by itself, with or without a daemon: few files, none too large, and the
/// last lines are in them, each once and in order.
async fn max_log_bytes(c: &Context) -> Result<()> {
    const CAP: u64 = 64 << 10;
    const LINES: usize = 20_000;
    let tables = format!("\n[containers]\nmax_log_bytes = {CAP}\nmax_log_files = 3\n");
    let other = with(c, tables).await?;
    let pod = other.plain_pod().await?;
    let (half, next) = (LINES / 2, LINES / 2 + 1);
    let mut config = other.script(&format!("seq 1 {half}; cat /go; seq {next} {LINES}"));
    let fifo = other.directory()?.join("go");
    program::output(Command::new("mkfifo").arg(&fifo))?;
    config.mounts.push(cri_proto::v1::Mount {
        host_path: fifo.display().to_string(),
        container_path: "/go".to_owned(),
        ..cri_proto::v1::Mount::default()
    });
    let id = other.run(&pod, &config).await?;
    let path = logs::path(&pod, &config);
    let aside = |number: usize| PathBuf::from(format!("{}.{number}", path.display()));
    until(PATIENCE, "the first rotation", || async { Ok(aside(1).exists().then_some(())) }).await?;
    other.runtime.kill()?;
    // Opening it for writing waits for the reader, which is there.
    tokio::task::spawn_blocking(move || fs::write(fifo, "")).await??;
    until(PATIENCE, "the last line", || async {
        // Between two files there may be none of the name.
        let text = fs::read_to_string(&path).unwrap_or_default();
        Ok(text.ends_with(&format!(" F {LINES}\n")).then_some(()))
    })
    .await?;
    other.runtime.launch().await?;
    equal("the code", other.exited(&id).await?.exit_code, 0)?;
    let mut text = String::new();
    for file in [aside(2), aside(1), path.clone()] {
        let part = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        ensure!(part.len() as u64 <= CAP, "{} has {} bytes", file.display(), part.len());
        text += &logs::Log::parse(&part)?.text();
    }
    ensure!(!aside(3).exists(), "more than three files");
    let lines: Vec<&str> = text.lines().collect();
    let wanted: Vec<String> = (LINES - lines.len() + 1..=LINES).map(|n| n.to_string()).collect();
    ensure!(lines.len() > 1500, "only {} lines are kept", lines.len());
    equal("the kept lines", lines, wanted)?;
    other.clean_up().await
}

/// Lines are split where that is said, and not before.
async fn max_log_line_bytes(c: &Context) -> Result<()> {
    const MOST: usize = 1000;
    let other = with(c, format!("\n[containers]\nmax_log_line_bytes = {MOST}\n")).await?;
    let pod = other.plain_pod().await?;
    let script = format!(
        "for n in {} {MOST} {}; do head -c $n /dev/zero | tr '\\0' x; echo; done",
        MOST - 1,
        MOST * 2 + 1
    );
    let config = other.script(&script);
    let id = other.run(&pod, &config).await?;
    other.exited(&id).await?;
    let log = logs::read(&pod, &config)?;
    let lines: Vec<_> = log.0.iter().map(|line| (line.text.len(), line.partial)).collect();
    let wanted = [(MOST - 1, false), (MOST, false), (MOST, true), (MOST, true), (1, false)];
    equal("the lines", lines, wanted)?;
    other.clean_up().await
}

/// A command whose client vanishes, or whose daemon is killed, goes on where that is asked for.
/// What happens otherwise is `streaming.sessions_end_with_a_killed_daemon`.
async fn orphaned_execs(c: &Context) -> Result<()> {
    for (word, stays) in [("leave", true), ("kill", false)] {
        let other = with(c, format!("\n[streaming]\norphaned_execs = {word:?}\n")).await?;
        let (_, id) = other.waiting_container().await?;
        let looked = "ps -o args | grep -c '[s]leep 433[01]' || true";
        let running = |wanted: &'static str| {
            let (other, id) = (&other, id.clone());
            until(PATIENCE, "the commands", move || {
                let id = id.clone();
                async move { Ok((other.sh(&id, looked).await? == wanted).then_some(())) }
            })
        };
        let vanishes = ["sleep", "4330"];
        let session = exec_address(&other, &id, &vanishes, OUTPUTS).await?;
        let session = begin(&session, OUTPUTS, Transport::Spdy).await?;
        running("1").await?;
        drop(session);
        let address = exec_address(&other, &id, &["sleep", "4331"], OUTPUTS).await?;
        let killed = begin(&address, OUTPUTS, Transport::WebSocket).await?;
        running(if stays { "2" } else { "1" }).await?;
        other.runtime.kill()?;
        killed.ended().await;
        other.runtime.launch().await?;
        if stays {
            // Had something ended them, it would have by the time that a new one runs.
            other.sh(&id, "true").await?;
            equal("the commands", other.sh(&id, looked).await?, "2")?;
        } else {
            running("0").await?;
        }
        other.clean_up().await?;
    }
    Ok(())
}

/// Makes a key and a certificate; signed by `by`, or by itself.
pub(super) fn certificate(dir: &Path, name: &str, by: Option<&Path>) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    openssl.args(["-days", "2", "-subj", &format!("/CN={name}")]);
    openssl.args(["-addext", &format!("subjectAltName=IP:127.0.0.1,DNS:{name}.example")]);
    if let Some(by) = by {
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl
            .arg("-CA")
            .arg(by.with_extension("pem"))
            .arg("-CAkey")
            .arg(by.with_extension("key"));
    }
    openssl.arg("-keyout").arg(dir.join(name).with_extension("key"));
    openssl.arg("-out").arg(dir.join(name).with_extension("pem"));
    program::output(&mut openssl).map(drop)
}

/// A client of Python's: tells the server's name and what it answers to an upgrade.
const CLIENT: &str = r#"
import socket, ssl, sys, urllib.parse
address, root = urllib.parse.urlsplit(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=root)
if len(sys.argv) > 3:
    context.load_cert_chain(sys.argv[3] + ".pem", sys.argv[3] + ".key")
try:
    with socket.create_connection((address.hostname, address.port), 20) as plain:
        with context.wrap_socket(plain, server_hostname=address.hostname) as client:
            name = dict(pair for part in client.getpeercert()["subject"] for pair in part)["commonName"]
            client.sendall((f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
                "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
                "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n").encode())
            answer = client.recv(4096).decode(errors="replace").split("\r\n")[0]
            print(name, answer or "nothing")
except (ssl.SSLError, ConnectionError) as error:
    print("refused")
"#;

/// A directory with roots and what they have signed, and a daemon that lets in whom one of them
/// knows.
async fn guarded(c: &Context) -> Result<(PathBuf, Context)> {
    let dir = c.directory()?;
    for root in ["root", "stranger"] {
        certificate(&dir, root, None)?;
    }
    let root = dir.join("root");
    certificate(&dir, "server", Some(&root))?;
    certificate(&dir, "friend", Some(&root))?;
    certificate(&dir, "enemy", Some(&dir.join("stranger")))?;
    let file = |name: &str| dir.join(name).display().to_string();
    let tables = format!(
        "\n[streaming]\ncert_file = {:?}\nkey_file = {:?}\nclient_ca_file = {:?}\n",
        file("server.pem"),
        file("server.key"),
        file("root.pem"),
    );
    let other = with(c, tables).await?;
    Ok((dir, other))
}

/// Who connects must have a certificate of the configured root; the server's own is the one that
/// its file has now.
async fn certificates(c: &Context) -> Result<()> {
    let (dir, other) = guarded(c).await?;
    let file = |name: &str| dir.join(name).display().to_string();
    let (_, id) = other.waiting_container().await?;
    let asks = async |who: Option<&str>| -> Result<String> {
        let address = exec_address(&other, &id, &["true"], OUTPUTS).await?;
        ensure!(address.starts_with("https://127.0.0.1:"), "{address}");
        let mut client = Command::new("python3");
        client.args(["-c", CLIENT, &address, &file("root.pem")]).args(who.map(&file));
        let said = tokio::task::spawn_blocking(move || program::output(&mut client)).await??;
        Ok(said.trim().to_owned())
    };
    let upgraded = |name: &str| format!("{name} HTTP/1.1 101 Switching Protocols");
    equal("a friend", asks(Some("friend")).await?, upgraded("server"))?;
    equal("an enemy", asks(Some("enemy")).await?, "refused")?;
    equal("one without a certificate", asks(None).await?, "refused")?;

    certificate(&dir, "newer", Some(&dir.join("root")))?;
    for ending in ["key", "pem"] {
        fs::rename(dir.join(format!("newer.{ending}")), dir.join(format!("server.{ending}")))?;
    }
    until(PATIENCE, "the new certificate", || async {
        Ok((asks(Some("friend")).await? == upgraded("newer")).then_some(()))
    })
    .await?;
    equal("an enemy", asks(Some("enemy")).await?, "refused")?;
    other.clean_up().await
}

/// `corten` shows a certificate where it is given one, and says what is wrong otherwise.
async fn command_line(c: &Context) -> Result<()> {
    let (dir, other) = guarded(c).await?;
    let file = |name: &str| dir.join(name).display().to_string();
    let (root, key) = (file("root.pem"), file("friend.key"));
    let (friend, enemy) = (file("friend.pem"), file("enemy.pem"));
    let pod = other.plain_pod().await?;
    let id = other.run(&pod, &other.waiting()).await?;
    served(&other, &pod, "127.0.0.1", 8088).await?;
    let known = ["--tls-ca", &root, "--tls-cert", &friend, "--tls-key", &key];
    let exec = async |options: &[&str]| {
        let arguments = [&["exec"], options, &[&id, "sh", "-c", "echo let in; exit 7"]].concat();
        let output = run(corten(&other, &arguments)?, "").await?;
        Ok::<_, anyhow::Error>((text(&output.stdout), text(&output.stderr), output.status.code()))
    };
    let let_in = || ("let in\n".to_owned(), String::new(), Some(7));
    let refused = async |options: &[&str], why: &str| {
        let (out, error, code) = exec(options).await?;
        equal("a refused one", (out.as_str(), code), ("", Some(1)))?;
        ensure!(error.contains(why) && error.lines().count() == 1, "{options:?}: {error}");
        Ok::<_, anyhow::Error>(())
    };
    for transport in BOTH {
        let by = ["--transport", transport];
        equal("a friend", exec(&[&by[..], &known].concat()).await?, let_in())?;
        let named = [&by[..], &known, &["--tls-server-name", "server.example"]].concat();
        equal("by the other name", exec(&named).await?, let_in())?;
        let misnamed = [&by[..], &known, &["--tls-sni", "other.example"]].concat();
        refused(&misnamed, "is not trusted").await?;
        refused(&[&by[..], &["--tls-ca", &root]].concat(), "asks for a client's certificate")
            .await?;
        let key = file("enemy.key");
        let strange = ["--tls-ca", &root, "--tls-cert", &enemy, "--tls-key", &key];
        refused(&[&by[..], &strange].concat(), "refuses the client's certificate").await?;

        let parrot = ContainerConfig {
            stdin: true,
            stdin_once: true,
            ..other.script("while read line; do echo got $line; done")
        };
        let attached = other.run(&pod, &parrot).await?;
        let arguments = [&["attach", "-i"], &by[..], &known, &[&attached]].concat();
        let output = run(corten(&other, &arguments)?, "one\n").await?;
        equal("attached", text(&output.stdout), "got one\n")?;
        let arguments = [&["port-forward"], &by[..], &known, &[&pod.id, ":8088"]].concat();
        let forwarding = Forwarding::start(corten(&other, &arguments)?).await?;
        let page = super::network::get(&forwarding.address).await?;
        ensure!(page.contains("page of 8088"), "{page}");
    }
    let other_key = file("enemy.key");
    let mixed = ["--tls-ca", &root, "--tls-cert", &friend, "--tls-key", &other_key];
    refused(&mixed, &friend).await?;
    let absent = ["--tls-ca", &root, "--tls-cert", &friend, "--tls-key", "/no/such/key"];
    refused(&absent, "/no/such/key").await?;
    let (_, error, code) = exec(&["--tls-cert", &friend]).await?;
    equal("half of a pair", code, Some(2))?;
    ensure!(error.contains("--tls-key"), "{error}");
    other.clean_up().await
}
