//! Exec, attach and port-forward, by our client over both transports.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use cri_client::Code;
use cri_proto::v1::{
    AttachRequest, ContainerConfig, ExecRequest, NamespaceMode, PortForwardRequest,
};
use streaming::client::{Ports, Reader, RemoteCommand, Transport, Trust};
use streaming::{Outcome, Streams, TerminalSize};
use testing::wait::patient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::case;
use crate::case::Case;
use crate::context::{
    Context, PATIENCE, Pod, code, equal, namespaces, refusal, security, strings, until,
};
use crate::logs;
use crate::runtime::Kind;

const OLD: &str = "1.6 waits for all that holds the output";

pub(super) const CASES: &[Case] = &[
    case!("streaming.exec_output_and_code", exec_output),
    case!("streaming.exec_input_and_its_end", exec_input),
    case!("streaming.exec_with_a_terminal", exec_terminal),
    case!("streaming.exec_much_output", exec_much),
    case!("streaming.exec_child_holds_the_output", exec_held).differs(OLD),
    case!("streaming.exec_sees_what_the_container_sees", exec_surroundings),
    case!("streaming.exec_leaks_no_descriptor", exec_descriptors),
    case!("streaming.exec_missing_command", exec_missing),
    case!("streaming.exec_client_that_vanishes", exec_vanishes)
        .differs("1.6 leaves the command running"),
    case!("streaming.exec_in_the_grace_period", exec_grace),
    case!("streaming.requests_are_checked", checked).differs("1.6 checks later, with other codes"),
    case!("streaming.addresses_are_good_once", once),
    case!("streaming.attach_shows_what_comes", attach_output),
    case!("streaming.attach_input_once", attach_once),
    case!("streaming.attach_input_again", attach_again),
    case!("streaming.attach_to_a_terminal", attach_terminal),
    case!("streaming.attach_many_readers", attach_many),
    case!("streaming.attach_slow_reader_blocks_nobody", attach_slow)
        .differs("1.6 holds the container up"),
    case!("streaming.ports_of_a_pod", ports_of_pod),
    case!("streaming.ports_of_the_node", ports_of_node),
    case!("streaming.ports_over_ipv6", ports_over_ipv6)
        .differs("1.6 asks the resolver of the node for localhost"),
    case!("streaming.a_broken_port_is_one_connection", broken_port),
];

/// What the runtime serves: Debian's containerd knows no v5 and no tunnel.
fn transports(c: &Context) -> &'static [Transport] {
    match c.runtime.kind {
        Kind::Corten => &[Transport::Spdy, Transport::WebSocket],
        Kind::Containerd => &[Transport::Spdy],
    }
}

const OUTPUTS: Streams = Streams { stdin: false, stdout: true, stderr: true, tty: false };
const ALL: Streams = Streams { stdin: true, ..OUTPUTS };
const TERMINAL: Streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };

pub(super) async fn exec_address(
    c: &Context,
    id: &str,
    command: &[&str],
    streams: Streams,
) -> Result<String> {
    let Streams { stdin, stdout, stderr, tty } = streams;
    let (container_id, cmd) = (id.to_owned(), strings(command));
    let request = ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
    Ok(c.runtime.pods.exec(request).await?.url)
}

pub(super) async fn attach_address(c: &Context, id: &str, streams: Streams) -> Result<String> {
    let Streams { stdin, stdout, stderr, tty } = streams;
    let request = AttachRequest { container_id: id.to_owned(), stdin, tty, stdout, stderr };
    Ok(c.runtime.pods.attach(request).await?.url)
}

pub(super) async fn begin(
    address: &str,
    streams: Streams,
    transport: Transport,
) -> Result<RemoteCommand> {
    Ok(RemoteCommand::begin(address, streams, transport, &Trust::default()).await?)
}

async fn exec(
    c: &Context,
    id: &str,
    script: &str,
    streams: Streams,
    transport: Transport,
) -> Result<RemoteCommand> {
    let address = exec_address(c, id, &["sh", "-c", script], streams).await?;
    begin(&address, streams, transport).await
}

async fn attach(
    c: &Context,
    id: &str,
    streams: Streams,
    transport: Transport,
) -> Result<RemoteCommand> {
    begin(&attach_address(c, id, streams).await?, streams, transport).await
}

/// Reads both outputs and the end.
async fn all(mut session: RemoteCommand) -> Result<(String, String, Outcome)> {
    let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
    let read = async |reader: Option<Reader>| {
        let Some(mut reader) = reader else { return String::new() };
        let mut bytes = Vec::new();
        while let Some(piece) = reader.recv().await {
            bytes.extend_from_slice(&piece);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let everything = async { tokio::join!(read(stdout), read(stderr), session.ended()) };
    tokio::time::timeout(patient(PATIENCE), everything).await.context("the session does not end")
}

/// Reads until a text has come.
async fn expect(reader: &mut Reader, text: &str) -> Result<String> {
    let mut seen = String::new();
    let reading = async {
        while let Some(bytes) = reader.recv().await {
            seen += &String::from_utf8_lossy(&bytes);
            if seen.contains(text) {
                return true;
            }
        }
        false
    };
    match tokio::time::timeout(patient(PATIENCE), reading).await {
        Ok(true) => Ok(seen),
        Ok(false) => bail!("the stream ends without {text:?}: {seen:?}"),
        Err(_) => bail!("waited in vain for {text:?}: {seen:?}"),
    }
}

async fn exec_output(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    for transport in transports(c) {
        let session = exec(c, &id, "printf hello; printf error >&2; exit 7", OUTPUTS, *transport);
        let (out, err, outcome) = all(session.await?).await?;
        equal("the output", (&*out, &*err), ("hello", "error"))?;
        equal("the end", outcome, Outcome::Exited(7))?;
        let session = exec(c, &id, "true", OUTPUTS, *transport).await?;
        equal("nothing", all(session).await?, (String::new(), String::new(), Outcome::Exited(0)))?;
        let session = exec(c, &id, "kill -9 $$", OUTPUTS, *transport).await?;
        equal("a killed one", all(session).await?.2, Outcome::Exited(137))?;
    }
    Ok(())
}

async fn exec_input(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    for transport in transports(c) {
        let mut session = exec(c, &id, "wc -c; echo end >&2", ALL, *transport).await?;
        let stdin = session.stdin.take().context("no input")?;
        let sending = async {
            for _ in 0..64 {
                ensure!(stdin.send(vec![b'x'; 32 << 10].into()).await, "the input is not taken");
            }
            stdin.finish().await;
            Ok(())
        };
        let (sent, got) = tokio::join!(sending, all(session));
        sent?;
        let (out, err, outcome) = got?;
        equal("what arrived", (out.trim(), err.trim()), ("2097152", "end"))?;
        equal("the end", outcome, Outcome::Exited(0))?;
    }
    Ok(())
}

async fn exec_terminal(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    for transport in transports(c) {
        let mut session = exec(
            c,
            &id,
            "test -t 0 && test -t 1 && test -t 2 && echo is; exec sh",
            TERMINAL,
            *transport,
        )
        .await?;
        let stdin = session.stdin.take().context("no input")?;
        let resize = session.resize.take().context("no sizes")?;
        let mut stdout = session.stdout.take().context("no output")?;
        expect(&mut stdout, "is\r\n").await?;
        for (width, height) in [(80, 24), (132, 50)] {
            resize.send_size(TerminalSize { width, height }).await;
            // The size goes its own way: it is asked for until it is there.
            let begun = Instant::now();
            loop {
                stdin.send(Bytes::from_static(b"stty size; echo -n ask; echo ed\n")).await;
                let seen = expect(&mut stdout, "asked").await?;
                if seen.contains(&format!("{height} {width}")) {
                    break;
                }
                ensure!(
                    begun.elapsed() < patient(PATIENCE),
                    "the size is not {width} by {height}: {seen}"
                );
            }
        }
        stdin.send(Bytes::from_static(b"exit 3\n")).await;
        while stdout.recv().await.is_some() {}
        equal("the end", session.ended().await, Outcome::Exited(3))?;
    }
    Ok(())
}

async fn exec_much(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let wanted: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    for transport in transports(c) {
        let (out, _, outcome) =
            all(exec(c, &id, "seq 1 300000", OUTPUTS, *transport).await?).await?;
        ensure!(out == wanted, "{} of {} bytes, or out of order", out.len(), wanted.len());
        equal("the end", outcome, Outcome::Exited(0))?;
    }
    Ok(())
}

async fn exec_held(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    for transport in transports(c) {
        let begun = Instant::now();
        let session = exec(c, &id, "sleep 610 & echo hi; exit 5", OUTPUTS, *transport).await?;
        let (out, _, outcome) = all(session).await?;
        equal("the output", &*out, "hi\n")?;
        equal("the end", outcome, Outcome::Exited(5))?;
        ensure!(
            begun.elapsed() < patient(Duration::from_secs(20)),
            "it took {:?}",
            begun.elapsed()
        );
    }
    Ok(())
}

async fn exec_surroundings(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    config.envs.push(cri_proto::v1::KeyValue { key: "OWN".to_owned(), value: "yes".into() });
    config.working_dir = "/var/www".to_owned();
    let secured = security(&mut config)?;
    secured.run_as_user = Some(cri_proto::v1::Int64Value { value: 33 });
    secured.supplemental_groups = vec![1234];
    secured.no_new_privs = true;
    let id = c.run(&pod, &config).await?;
    let own = "grep -E 'Cap|Seccomp:|NoNewPrivs|Groups' /proc/self/status";
    let by_call = c.sh(&id, own).await?;
    for transport in transports(c) {
        let script = format!("echo $OWN $(pwd) $(id -u) $(id -G); {own}");
        let (out, err, _) = all(exec(c, &id, &script, OUTPUTS, *transport).await?).await?;
        equal(
            "who, where and what",
            (out.trim(), &*err),
            (&*format!("yes /var/www 33 33 1234\n{by_call}"), ""),
        )?;
        ensure!(by_call.contains("CapInh:\t0000000000000000"), "inheritable: {by_call}");
        ensure!(by_call.contains("NoNewPrivs:\t1"), "new privileges: {by_call}");
    }
    Ok(())
}

/// 0, 1, 2, and the one with which `ls` reads the directory.
async fn exec_descriptors(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    for transport in transports(c) {
        for streams in [OUTPUTS, ALL, TERMINAL] {
            let mut session = exec(c, &id, "ls /proc/self/fd", streams, *transport).await?;
            session.stdin.take();
            let (out, _, _) = all(session).await?;
            let listed: Vec<&str> = out.split_whitespace().collect();
            equal("the descriptors", listed, ["0", "1", "2", "3"])?;
        }
    }
    Ok(())
}

async fn exec_missing(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    for transport in transports(c) {
        for streams in [OUTPUTS, TERMINAL] {
            let address = exec_address(c, &id, &["/no/such/program"], streams).await?;
            let session = begin(&address, streams, *transport).await?;
            match all(session).await?.2 {
                Outcome::Failed(text) if text.contains("/no/such/program") => {}
                other => bail!("it does not say what: {other:?}"),
            }
        }
    }
    Ok(())
}

async fn exec_vanishes(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    for transport in transports(c) {
        for streams in [ALL, TERMINAL] {
            let mut session = exec(c, &id, "echo here; sleep 4325", streams, *transport).await?;
            expect(session.stdout.as_mut().context("no output")?, "here").await?;
            drop(session);
            until(PATIENCE, "the command's end", || async {
                let found = c.sh(&id, "ps -o args | grep '[s]leep 4325' || true").await?;
                Ok(found.is_empty().then_some(()))
            })
            .await?;
        }
    }
    Ok(())
}

/// Commands can be executed while a container has its grace period; they end with it.
async fn exec_grace(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id =
        c.run(&pod, &c.script("trap '' TERM; tail -f /dev/null & while :; do wait; done")).await?;
    let mut early = exec(c, &id, "echo early; sleep 1000", OUTPUTS, Transport::Spdy).await?;
    expect(early.stdout.as_mut().context("no output")?, "early").await?;
    let stopping = c.stop(&id, 3);
    let within = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let session = exec(c, &id, "echo within", OUTPUTS, Transport::Spdy).await?;
        equal("in the grace period", &*all(session).await?.0, "within\n")
    };
    let (stopped, within) = tokio::join!(stopping, within);
    stopped?;
    within?;
    // Killed with the container, or the end was not told any more: it ends.
    let outcome = all(early).await?.2;
    ensure!(outcome != Outcome::Exited(0), "{outcome:?}");
    refusal(exec_address(c, &id, &["true"], OUTPUTS).await)?;
    Ok(())
}

async fn checked(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let nothing = Streams::default();
    let both = Streams { stderr: true, ..TERMINAL };
    for streams in [nothing, both] {
        let exec = exec_address(c, &id, &["true"], streams).await;
        equal("exec", code(exec)?, Code::InvalidArgument)?;
        equal("attach", code(attach_address(c, &id, streams).await)?, Code::InvalidArgument)?;
    }
    let empty = exec_address(c, &id, &[], OUTPUTS).await;
    equal("no command", code(empty)?, Code::InvalidArgument)?;
    let none = "0".repeat(64);
    let unknown = exec_address(c, &none, &["true"], OUTPUTS).await;
    equal("an unknown one", code(unknown)?, Code::NotFound)?;
    equal("the same", code(attach_address(c, &none, OUTPUTS).await)?, Code::NotFound)?;
    let forward = |pod: &str, port| {
        let request = PortForwardRequest { pod_sandbox_id: pod.to_owned(), port };
        async { Ok(c.runtime.pods.port_forward(request).await?) }
    };
    equal("an unknown pod", code(forward(&none, vec![]).await)?, Code::NotFound)?;
    equal("no port", code(forward(&pod.id, vec![0]).await)?, Code::InvalidArgument)?;
    let created = c.create(&pod, &c.waiting()).await?;
    let early = exec_address(c, &created, &["true"], OUTPUTS).await;
    equal("one that does not run", code(early)?, Code::FailedPrecondition)?;
    c.stop_pod(&pod.id).await?;
    equal("a stopped pod", code(forward(&pod.id, vec![]).await)?, Code::FailedPrecondition)
}

async fn once(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    for transport in transports(c) {
        let address = exec_address(c, &id, &["true"], OUTPUTS).await?;
        ensure!(address.starts_with("http://127.0.0.1:"), "{address}");
        all(begin(&address, OUTPUTS, *transport).await?).await?;
        refusal(begin(&address, OUTPUTS, *transport).await)?;
        let forged = address.get(..address.len() - 4).unwrap_or_default().to_owned() + "AAAA";
        refusal(begin(&forged, OUTPUTS, *transport).await)?;
    }
    Ok(())
}

/// A container that says each line twice that it is given, until its input ends.
fn parrot(c: &Context, tty: bool, once: bool) -> ContainerConfig {
    let script = "while read line; do echo out $line; echo err $line >&2; done; echo bye";
    ContainerConfig { stdin: true, stdin_once: once, tty, ..c.script(script) }
}

async fn attach_output(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for transport in transports(c) {
        let config = c.script("i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; echo e$i >&2; sleep 0.1; done; exit 3");
        let id = c.run(&pod, &config).await?;
        let session = attach(c, &id, OUTPUTS, *transport).await?;
        let (out, err, outcome) = all(session).await?;
        let lines: Vec<&str> = out.lines().collect();
        ensure!(lines.len() > 5 && out.ends_with("\n60\n"), "not to the end: {out:?}");
        ensure!(err.ends_with("\ne60\n"), "not to the end: {err:?}");
        // From some line on, every one.
        let first: usize = lines[0].parse()?;
        let wanted: Vec<String> = (first..=60).map(|number| number.to_string()).collect();
        equal("the lines", &lines, &wanted)?;
        equal("the end", outcome, Outcome::Exited(0))?;
        let log = logs::read(&pod, &config)?;
        equal("the log", log.of("stdout").lines().count(), 60)?;
    }
    Ok(())
}

async fn attach_once(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for transport in transports(c) {
        let config = parrot(c, false, true);
        let id = c.run(&pod, &config).await?;
        let mut session = attach(c, &id, ALL, *transport).await?;
        let stdin = session.stdin.take().context("no input")?;
        stdin.send(Bytes::from_static(b"one\ntwo\n")).await;
        expect(session.stdout.as_mut().context("no output")?, "out two").await?;
        stdin.finish().await;
        let (out, _, outcome) = all(session).await?;
        ensure!(out.ends_with("bye\n"), "{out:?}");
        equal("the end", outcome, Outcome::Exited(0))?;
        equal("the container's code", c.exited(&id).await?.exit_code, 0)?;
        equal("the log", logs::read(&pod, &config)?.of("stdout"), "out one\nout two\nbye\n")?;
    }
    Ok(())
}

/// Without `stdin_once` the input outlives its clients, however they leave.
async fn attach_again(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id = c.run(&pod, &parrot(c, false, false)).await?;
    for (number, transport) in transports(c).iter().cycle().take(4).enumerate() {
        let mut session = attach(c, &id, ALL, *transport).await?;
        let stdin = session.stdin.take().context("no input")?;
        stdin.send(format!("line {number}\n").into()).await;
        let stdout = session.stdout.as_mut().context("no output")?;
        expect(stdout, &format!("out line {number}\n")).await?;
        if number % 2 == 0 {
            stdin.finish().await;
        }
        drop(session);
    }
    equal("it still runs", c.sh(&id, "echo yes").await?, "yes")
}

async fn attach_terminal(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for transport in transports(c) {
        let config = ContainerConfig {
            stdin: true,
            tty: true,
            ..c.script("stty -echo; echo ready; read x; stty size; read x")
        };
        let id = c.run(&pod, &config).await?;
        until(PATIENCE, "its readiness", || async {
            let log = logs::read(&pod, &config).map_or_else(|_| String::new(), |log| log.text());
            Ok(log.contains("ready").then_some(()))
        })
        .await?;
        let mut session = attach(c, &id, TERMINAL, *transport).await?;
        let resize = session.resize.take().context("no sizes")?;
        let stdin = session.stdin.take().context("no input")?;
        resize.send_size(TerminalSize { width: 101, height: 43 }).await;
        until(PATIENCE, "the size", || async {
            let size = c.sh(&id, "stty -F /dev/console size || stty size < /dev/console").await;
            Ok(size.is_ok_and(|size| size == "43 101").then_some(()))
        })
        .await?;
        stdin.send(Bytes::from_static(b"\n")).await;
        let stdout = session.stdout.as_mut().context("no output")?;
        expect(stdout, "43 101\r\n").await?;
        stdin.send(Bytes::from_static(b"\n")).await;
        equal("the end", all(session).await?.2, Outcome::Exited(0))?;
    }
    Ok(())
}

async fn attach_many(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = parrot(c, false, false);
    let id = c.run(&pod, &config).await?;
    let mut sessions = Vec::new();
    for transport in transports(c).iter().cycle().take(6) {
        sessions.push(attach(c, &id, ALL, *transport).await?);
    }
    // Each stream is attached once its own words have come back.
    for (number, session) in sessions.iter_mut().enumerate() {
        let words = Bytes::from(format!("from {number}\n"));
        session.stdin.as_ref().context("no input")?.send(words).await;
        let (out, err) = (format!("out from {number}\n"), format!("err from {number}\n"));
        expect(session.stdout.as_mut().context("no output")?, &out).await?;
        expect(session.stderr.as_mut().context("no errors")?, &err).await?;
    }
    let first = sessions.first_mut().context("no session")?;
    first.stdin.as_ref().context("no input")?.send(Bytes::from_static(b"to all\n")).await;
    for session in &mut sessions {
        expect(session.stdout.as_mut().context("no output")?, "out to all\n").await?;
        expect(session.stderr.as_mut().context("no errors")?, "err to all\n").await?;
    }
    let own: String = (0..sessions.len()).map(|number| format!("out from {number}\n")).collect();
    equal("the log", logs::read(&pod, &config)?.of("stdout"), format!("{own}out to all\n"))
}

/// More than pipes, sockets and the daemon hold for a client, in lines long enough that making and
/// logging them is no work: 32 MB.
const MUCH: &str = "read x; yes $(printf %0999d 0) | head -n 32000; echo the last line";

/// One that reads nothing is let go; the log and the container have not waited for it.
async fn attach_slow(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for transport in transports(c) {
        let config = ContainerConfig { stdin: true, ..c.script(MUCH) };
        let id = c.run(&pod, &config).await?;
        let mut session = attach(c, &id, ALL, *transport).await?;
        let stdin = session.stdin.take().context("no input")?;
        stdin.send(Bytes::from_static(b"go\n")).await;
        // Nothing is read meanwhile.
        c.exited(&id).await?;
        let log = std::fs::read(logs::path(&pod, &config))?;
        ensure!(log.ends_with(b" F the last line\n"), "the last line is not there");
        let lines = log.iter().filter(|byte| **byte == b'\n').count();
        equal("the lines", lines, 32_001)?;
        let (_, _, outcome) = all(session).await?;
        ensure!(
            matches!(&outcome, Outcome::Failed(text) if text.contains("slow")),
            "it was not told: {outcome:?}"
        );
    }
    Ok(())
}

async fn ports(c: &Context, pod: &Pod, transport: Transport) -> Result<Ports> {
    let request = PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: Vec::new() };
    let address = c.runtime.pods.port_forward(request).await?.url;
    Ok(Ports::connect(&address, transport, &Trust::default()).await?)
}

/// Says something to a port and reads the answer to its end.
async fn ask(ports: &Ports, port: u16, question: &str) -> Result<String> {
    let (mut ours, theirs) = tokio::io::duplex(4096);
    let talk = async move {
        ours.write_all(question.as_bytes()).await?;
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await?;
        Ok::<_, anyhow::Error>(answer)
    };
    let both = async { tokio::join!(ports.forward(port, theirs), talk) };
    let (forwarded, answer) = tokio::time::timeout(patient(PATIENCE), both).await?;
    forwarded?;
    answer
}

const GET: &str = "GET / HTTP/1.0\r\nHost: pod\r\n\r\n";

/// A pod that serves a page on a port.
pub(super) async fn served(c: &Context, pod: &Pod, host: &str, port: u16) -> Result<()> {
    let script = format!(
        "mkdir /www; echo page of {port} > /www/index.html; exec httpd -f -p {host}:{port} -h /www"
    );
    let id = c.run(pod, &c.script(&script)).await?;
    let url = format!("wget -q -O - http://{host}:{port}/");
    until(PATIENCE, "the server", || async { Ok(c.sh(&id, &url).await.is_ok().then_some(())) })
        .await
}

async fn ports_of_pod(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    // On the loopback of the pod alone: nothing else reaches it.
    served(c, &pod, "127.0.0.1", 8081).await?;
    for transport in transports(c) {
        let ports = ports(c, &pod, *transport).await?;
        let many = (0..30).map(|_| ask(&ports, 8081, GET));
        for answer in futures_util::future::try_join_all(many).await? {
            ensure!(answer.ends_with("page of 8081\n"), "{answer}");
        }
    }
    Ok(())
}

async fn ports_of_node(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    namespaces(&mut config)?.network = NamespaceMode::Node.into();
    let pod = c.run_pod(config).await?;
    let port = 18_000 + u16::try_from(c.next() % 100)?;
    let mut container = c.script(&format!(
        "mkdir /www; echo node > /www/index.html; exec httpd -f -p 127.0.0.1:{port} -h /www"
    ));
    let secured = security(&mut container)?;
    secured.namespace_options.get_or_insert_default().network = NamespaceMode::Node.into();
    let id = c.run(&pod, &container).await?;
    let url = format!("wget -q -O - http://127.0.0.1:{port}/");
    until(PATIENCE, "the server", || async { Ok(c.sh(&id, &url).await.is_ok().then_some(())) })
        .await?;
    for transport in transports(c) {
        let answer = ask(&ports(c, &pod, *transport).await?, port, GET).await?;
        ensure!(answer.ends_with("node\n"), "{answer}");
    }
    Ok(())
}

async fn ports_over_ipv6(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    served(c, &pod, "[::1]", 8082).await?;
    for transport in transports(c) {
        let answer = ask(&ports(c, &pod, *transport).await?, 8082, GET).await?;
        ensure!(answer.ends_with("page of 8082\n"), "{answer}");
    }
    Ok(())
}

async fn broken_port(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    served(c, &pod, "127.0.0.1", 8083).await?;
    for transport in transports(c) {
        let ports = ports(c, &pod, *transport).await?;
        let error = refusal(ask(&ports, 4444, GET).await)?.to_string();
        ensure!(error.contains("4444") && error.contains("refused"), "{error}");
        let answer = ask(&ports, 8083, GET).await?;
        ensure!(answer.ends_with("page of 8083\n"), "{answer}");
    }
    Ok(())
}
