//! The server and our client in one process, over a fake node whose containers are the host.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::*;
use crate::client::{ClientError, Ports, RemoteCommand, Transport, Trust};
use crate::{Outcome, Streams, TerminalSize};

/// A node on which every container is the host.
#[derive(Debug, Clone, Default)]
pub(super) struct Fake {
    /// How many processes run.
    running: Arc<AtomicUsize>,
}

pub(super) struct FakeProcess {
    child: Child,
    console: Option<OwnedFd>,
    running: Arc<AtomicUsize>,
}

impl Drop for FakeProcess {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Running for FakeProcess {
    async fn resize(&self, size: TerminalSize) {
        let (ws_row, ws_col) = (size.height, size.width);
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(self.console.as_ref().unwrap(), size).unwrap();
    }

    async fn ended(&mut self) -> Outcome {
        Outcome::Exited(self.child.wait().await.unwrap().code().unwrap_or(137))
    }
}

impl Backend for Fake {
    type Running = FakeProcess;

    async fn exec(
        &self,
        container: &str,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<Process<FakeProcess>, String> {
        if container != "known" {
            return Err(format!("no container {container}"));
        }
        let mut process = Command::new(&command[0]);
        process.args(&command[1..]).kill_on_drop(true);
        let pipe = |wanted: bool| wanted.then(Stdio::piped).unwrap_or_else(Stdio::null);
        let mut console = None;
        if streams.tty {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let master = rustix::pty::openpt(flags).unwrap();
            rustix::pty::grantpt(&master).unwrap();
            rustix::pty::unlockpt(&master).unwrap();
            let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
            process.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap());
            process.stderr(slave);
            console = Some(master);
        } else {
            process.stdin(pipe(streams.stdin)).stdout(pipe(streams.stdout));
            process.stderr(pipe(streams.stderr));
        }
        let mut child = process.spawn().map_err(|error| error.to_string())?;
        drop(process);
        self.running.fetch_add(1, Ordering::SeqCst);
        let copy = || console.as_ref().map(|console| console.try_clone().unwrap());
        let stdin = child.stdin.take().map(|end| end.into_owned_fd().unwrap());
        let stdout = child.stdout.take().map(|end| end.into_owned_fd().unwrap());
        let stderr = child.stderr.take().map(|end| end.into_owned_fd().unwrap());
        Ok(Process {
            stdin: stdin.or_else(copy),
            stdout: stdout.or_else(copy),
            stderr,
            running: FakeProcess { child, console, running: self.running.clone() },
        })
    }

    async fn attach(
        &self,
        container: &str,
        streams: Streams,
    ) -> Result<Process<FakeProcess>, String> {
        self.exec(container, vec!["cat".to_owned()], streams).await
    }

    async fn connect(&self, _: &str, port: u16) -> Result<TcpStream, String> {
        TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())
    }
}

pub(super) struct Ground {
    pub(super) addresses: Addresses,
    fake: Fake,
    pub(super) trust: Trust,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<Sessions>,
}

pub(super) fn options() -> ServerOptions {
    ServerOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        tls: None,
        idle_timeout: Duration::ZERO,
        session_timeout: Duration::ZERO,
        max_sessions: 64,
    }
}

pub(super) async fn ground(options: ServerOptions, trust: Trust) -> Ground {
    let server = StreamingServer::bind(options).await.unwrap();
    let (addresses, fake, stop) = (server.addresses(), Fake::default(), watch::Sender::new(false));
    let served = tokio::spawn(server.serve(fake.clone(), stop.subscribe()));
    Ground { addresses, fake, trust, stop, served }
}

pub(super) const PIPES: Streams = Streams { stdin: false, stdout: true, stderr: true, tty: false };
pub(super) const BOTH: [Transport; 2] = [Transport::Spdy, Transport::WebSocket];

impl Ground {
    pub(super) fn exec(&self, script: &str, streams: Streams) -> String {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        self.addresses
            .issue(Wanted::Exec { container: "known".to_owned(), command, streams })
            .unwrap()
    }

    async fn begin(&self, script: &str, streams: Streams, transport: Transport) -> RemoteCommand {
        let address = self.exec(script, streams);
        RemoteCommand::begin(&address, streams, transport, &self.trust).await.unwrap()
    }

    pub(super) async fn idle(&self) {
        let begun = Instant::now();
        while self.fake.running.load(Ordering::SeqCst) > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "processes are left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Reads both outputs and the end.
async fn all(mut session: RemoteCommand) -> (Vec<u8>, Vec<u8>, Outcome) {
    let (mut stdout, mut stderr) = (session.stdout.take(), session.stderr.take());
    let read = async |reader: &mut Option<crate::client::Reader>| {
        let mut bytes = Vec::new();
        while let Some(reader) = reader {
            let Some(piece) = reader.recv().await else { break };
            bytes.extend_from_slice(&piece);
        }
        bytes
    };
    tokio::join!(read(&mut stdout), read(&mut stderr), session.ended())
}

#[tokio::test]
async fn output_and_code_arrive() {
    let ground = ground(options(), Trust::default()).await;
    for transport in BOTH {
        let session = ground.begin("printf out; printf err >&2; exit 7", PIPES, transport).await;
        let expected = (b"out".to_vec(), b"err".to_vec(), Outcome::Exited(7));
        assert_eq!(all(session).await, expected, "{transport:?}");
        let session = ground.begin("true", PIPES, transport).await;
        assert_eq!(all(session).await.2, Outcome::Exited(0));
        // All of a large output, in order.
        let session = ground.begin("seq 1 300000", PIPES, transport).await;
        let wanted: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
        let (out, _, outcome) = all(session).await;
        assert!(out == wanted.as_bytes(), "{transport:?}: {} bytes", out.len());
        assert_eq!(outcome, Outcome::Exited(0));
    }
    ground.idle().await;
}

#[tokio::test]
async fn input_arrives_and_ends() {
    let ground = ground(options(), Trust::default()).await;
    for transport in BOTH {
        let streams = Streams { stdin: true, ..PIPES };
        let mut session = ground.begin("cat; echo end >&2", streams, transport).await;
        let stdin = session.stdin.take().unwrap();
        let sending = tokio::spawn(async move {
            for _ in 0..100 {
                assert!(stdin.send(vec![b'x'; 30_000].into()).await);
            }
            stdin.finish().await;
        });
        let (out, err, outcome) = all(session).await;
        sending.await.unwrap();
        assert_eq!((out.len(), err, outcome), (3_000_000, b"end\n".to_vec(), Outcome::Exited(0)));
    }
}

#[tokio::test]
async fn a_terminal_has_its_size() {
    let ground = ground(options(), Trust::default()).await;
    for transport in BOTH {
        let streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
        let script = "stty -echo; echo ready; read x; stty size; read x; stty size; echo bye";
        let mut session = ground.begin(script, streams, transport).await;
        let (resize, stdin) = (session.resize.take().unwrap(), session.stdin.take().unwrap());
        let (mut stdout, mut seen) = (session.stdout.take().unwrap(), String::new());
        let mut sizes = [(80, 24), (132, 50)].into_iter();
        while let Some(bytes) = stdout.recv().await {
            seen += &String::from_utf8_lossy(&bytes);
            if (seen.ends_with("ready\r\n") || seen.ends_with("24 80\r\n"))
                && let Some((width, height)) = sizes.next()
            {
                resize.send_size(TerminalSize { width, height }).await;
                // The size goes its own way: the input after it waits for it to be set.
                tokio::time::sleep(Duration::from_millis(100)).await;
                stdin.send(Bytes::from_static(b"\n")).await;
            }
        }
        assert_eq!(seen, "ready\r\n24 80\r\n50 132\r\nbye\r\n", "{transport:?}");
        assert_eq!(session.ended().await, Outcome::Exited(0));
    }
}

/// A child that holds the output, and one that writes without an end, do not hold up the end.
#[tokio::test]
async fn the_end_is_the_first_process_end() {
    let ground = ground(options(), Trust::default()).await;
    for transport in BOTH {
        for script in ["sleep 1000 & echo hi; exit 5", "yes & echo hi; exit 5"] {
            let session = ground.begin(script, PIPES, transport).await;
            let (out, _, outcome) =
                tokio::time::timeout(Duration::from_secs(20), all(session)).await.unwrap();
            assert_eq!(outcome, Outcome::Exited(5));
            assert!(out.windows(3).any(|window| window == b"hi\n"));
        }
    }
}

#[tokio::test]
async fn what_cannot_be_begun_is_said() {
    let ground = ground(options(), Trust::default()).await;
    for transport in BOTH {
        let wanted = Wanted::Attach { container: "unknown".to_owned(), streams: PIPES };
        let address = ground.addresses.issue(wanted).unwrap();
        let session = RemoteCommand::begin(&address, PIPES, transport, &ground.trust).await;
        let (_, _, outcome) = all(session.unwrap()).await;
        assert_eq!(outcome, Outcome::Failed("no container unknown".to_owned()));
    }
}

/// An address is good once; others are refused without a hint.
#[tokio::test]
async fn addresses_are_good_once() {
    let ground = ground(options(), Trust::default()).await;
    for transport in BOTH {
        let address = ground.exec("true", PIPES);
        assert!(address.starts_with("http://127.0.0.1:"), "{address}");
        let other = address.replace("/exec/", "/attach/");
        for (address, works) in [(&other, false), (&address, false)] {
            let begun = RemoteCommand::begin(address, PIPES, transport, &ground.trust).await;
            assert_eq!(begun.is_ok(), works);
            let refused = matches!(begun, Err(ClientError::Refused { status: 404, .. }));
            assert!(refused, "a token that was tried is used up");
        }
        let address = ground.exec("true", PIPES);
        let first = RemoteCommand::begin(&address, PIPES, transport, &ground.trust).await;
        all(first.unwrap()).await;
        let again = RemoteCommand::begin(&address, PIPES, transport, &ground.trust).await;
        assert!(matches!(again, Err(ClientError::Refused { status: 404, .. })));
    }
}

async fn raw(ground: &Ground, request: &str) -> String {
    let address = ground.exec("true", PIPES);
    let rest = address.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut socket = TcpStream::connect(host).await.unwrap();
    socket.write_all(request.replace("PATH", &format!("/{path}")).as_bytes()).await.unwrap();
    let mut head = [0; 4096];
    let count = socket.read(&mut head).await.unwrap();
    String::from_utf8_lossy(&head[..count]).into_owned()
}

#[tokio::test]
async fn requests_that_are_none_are_refused() {
    let ground = ground(options(), Trust::default()).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
    for (request, answer) in [
        ("GET PATH HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("DELETE PATH HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "HTTP/1.1 405"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "HTTP/1.1 404"),
        ("nonsense\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        (format!("POST PATH HTTP/1.1\r\nHost: x\r\n{upgrade}X-Stream-Protocol-Version: v9\r\n\r\n"), "HTTP/1.1 403"),
        (format!("POST PATH HTTP/1.1\r\nHost: x\r\n{upgrade}X-Stream-Protocol-Version: v9\r\nX-Stream-Protocol-Version: v2.channel.k8s.io\r\n\r\n"), "HTTP/1.1 101"),
        (format!("POST PATH HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n"), "HTTP/1.1 101"),
        ("GET PATH HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n".to_owned(), "HTTP/1.1 400"),
    ] {
        let got = raw(&ground, &request).await;
        assert!(got.starts_with(answer), "{request}: {got}");
        if answer.ends_with("403") {
            let got = got.to_lowercase();
            assert!(got.contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"), "{got}");
        }
    }
}

/// A client that vanishes takes its process with it, and leaves nothing.
#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing() {
    let ground = ground(options(), Trust::default()).await;
    for transport in BOTH {
        for script in ["sleep 1000", "yes", "cat"] {
            let streams = Streams { stdin: true, ..PIPES };
            let mut session = ground.begin(script, streams, transport).await;
            if script == "yes" {
                session.stdout.as_mut().unwrap().recv().await.unwrap();
            }
            drop(session);
        }
    }
    ground.idle().await;
}

#[tokio::test]
async fn sessions_end_by_their_times() {
    let idle = ServerOptions { idle_timeout: Duration::from_millis(300), ..options() };
    let whole = ServerOptions { session_timeout: Duration::from_millis(300), ..options() };
    let scripts = [(idle, "sleep 1000", "idle"), (whole, "while :; do echo x; done", "longer")];
    for (options, script, why) in scripts {
        let ground = ground(options, Trust::default()).await;
        for transport in BOTH {
            let (_, _, outcome) = all(ground.begin(script, PIPES, transport).await).await;
            let Outcome::Failed(text) = outcome else { panic!("{outcome:?}") };
            assert!(text.contains(why), "{text}");
        }
        ground.idle().await;
    }
}

#[tokio::test]
async fn no_more_sessions_than_allowed() {
    let ground = ground(ServerOptions { max_sessions: 1, ..options() }, Trust::default()).await;
    let first = ground.begin("sleep 1000", PIPES, Transport::Spdy).await;
    let address = ground.exec("true", PIPES);
    let second = RemoteCommand::begin(&address, PIPES, Transport::Spdy, &ground.trust).await;
    assert!(matches!(second, Err(ClientError::Http { .. })), "{second:?}");
    drop(first);
    ground.idle().await;
}

/// A stopped server takes nothing new, and what it has goes on.
#[tokio::test]
async fn a_stopped_server_keeps_its_sessions() {
    let ground = ground(options(), Trust::default()).await;
    let streams = Streams { stdin: true, ..PIPES };
    let mut session = ground.begin("cat", streams, Transport::Spdy).await;
    let late = ground.exec("true", PIPES);
    ground.stop.send_replace(true);
    let sessions = ground.served.await.unwrap();
    assert_eq!(sessions.count(), 1);
    let refused = RemoteCommand::begin(&late, PIPES, Transport::Spdy, &ground.trust).await;
    assert!(refused.is_err(), "{refused:?}");
    let stdin = session.stdin.take().unwrap();
    stdin.send(Bytes::from_static(b"still here")).await;
    stdin.finish().await;
    assert_eq!(all(session).await.0, b"still here");
    tokio::time::timeout(Duration::from_secs(20), sessions.ended()).await.unwrap();
}

async fn ports(ground: &Ground, transport: Transport, ports: Vec<u16>) -> Ports {
    let wanted = Wanted::PortForward { sandbox: "s".to_owned(), ports };
    let address = ground.addresses.issue(wanted).unwrap();
    Ports::connect(&address, transport, &ground.trust).await.unwrap()
}

/// A server that answers all it got, once the client has ended its half.
async fn echo_at_the_end() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                socket.read_to_end(&mut bytes).await.unwrap();
                socket.write_all(&bytes).await.unwrap();
            });
        }
    });
    port
}

#[tokio::test]
async fn ports_are_forwarded_and_close_by_halves() {
    let ground = ground(options(), Trust::default()).await;
    let port = echo_at_the_end().await;
    for transport in BOTH {
        let ports = ports(&ground, transport, Vec::new()).await;
        let many = (0..50_usize).map(|number| {
            let ports = &ports;
            async move {
                let (ours, theirs) = tokio::io::duplex(1024);
                let (mut from, mut to) = tokio::io::split(ours);
                let sent = vec![u8::try_from(number).unwrap(); 100_000];
                let mut got = Vec::new();
                let writing = async {
                    to.write_all(&sent).await.unwrap();
                    to.shutdown().await.unwrap();
                };
                let reading = async { from.read_to_end(&mut got).await.unwrap() };
                let (forwarded, (), _) =
                    tokio::join!(ports.forward(port, theirs), writing, reading);
                forwarded.unwrap();
                assert!(got == sent, "{transport:?} {number}: {} bytes", got.len());
            }
        });
        futures_util::future::join_all(many).await;
    }
}

/// A port that nobody listens on, and one that resets, end their own connection alone.
#[tokio::test]
async fn a_broken_connection_is_one_connection() {
    let ground = ground(options(), Trust::default()).await;
    let good = echo_at_the_end().await;
    let resets = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bad = resets.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = resets.accept().await {
            socket.read_exact(&mut [0]).await.unwrap();
            rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        }
    });
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for transport in BOTH {
        let ports = ports(&ground, transport, Vec::new()).await;
        let (_keep, theirs) = tokio::io::duplex(1024);
        let error = ports.forward(closed, theirs).await.unwrap_err().to_string();
        assert!(error.contains(&format!("port {closed}")) && error.contains("refused"), "{error}");
        let (mut keep, theirs) = tokio::io::duplex(1024);
        keep.write_all(b"x").await.unwrap();
        ports.forward(bad, theirs).await.unwrap();
        let (mut ours, theirs) = tokio::io::duplex(1024);
        let talk = async {
            ours.write_all(b"fine").await.unwrap();
            ours.shutdown().await.unwrap();
            let mut got = String::new();
            ours.read_to_string(&mut got).await.unwrap();
            got
        };
        let (forwarded, got) = tokio::join!(ports.forward(good, theirs), talk);
        forwarded.unwrap();
        assert_eq!(got, "fine");
        assert!(!ports.closed().is_closed());
    }
}

/// The old way over a WebSocket: two channels a port, each marked with the port.
#[tokio::test]
async fn ports_have_channels() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let ground = ground(options(), Trust::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut byte = [0];
        socket.read_exact(&mut byte).await.unwrap();
        socket.write_all(b"got it").await.unwrap();
    });
    let wanted = Wanted::PortForward { sandbox: "s".to_owned(), ports: vec![port] };
    let address = ground.addresses.issue(wanted).unwrap();
    let uri = address.replace("http", "ws");
    let mut request = uri.clone().into_client_request().unwrap();
    let name = http::HeaderValue::from_static("v4.channel.k8s.io");
    request.headers_mut().insert("sec-websocket-protocol", name);
    let host = uri.strip_prefix("ws://").unwrap().split('/').next().unwrap();
    let socket = TcpStream::connect(host).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, socket).await.unwrap();
    let next = async |socket: &mut tokio_tungstenite::WebSocketStream<TcpStream>| {
        socket.next().await.unwrap().unwrap().into_data()
    };
    let [low, high] = port.to_le_bytes();
    assert_eq!(next(&mut socket).await, [0, low, high][..]);
    assert_eq!(next(&mut socket).await, [1, low, high][..]);
    socket.send(Message::Binary(Bytes::from_static(b"\0x"))).await.unwrap();
    assert_eq!(next(&mut socket).await, &b"\0got it"[..]);
}

/// A certificate of its own, made by the tool that is on every machine.
fn certificate(dir: &std::path::Path, name: &str) -> TlsFiles {
    let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", &format!("/CN={name}")])
        .args([
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    TlsFiles { certificate: cert, key, client_roots: None }
}

#[tokio::test]
async fn certificates_are_read_again_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let files = certificate(dir.path(), "first");
    let first = dir.path().join("first.pem");
    std::fs::copy(&files.certificate, &first).unwrap();
    let trust = Trust { roots: Some(first), ..Trust::default() };
    let ground = ground(ServerOptions { tls: Some(files.clone()), ..options() }, trust).await;
    for transport in BOTH {
        let session = ground.begin("echo safe", PIPES, transport).await;
        assert_eq!(all(session).await.0, b"safe\n");
    }
    // A pair that is broken is not taken: what was is kept.
    std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&files.key)
        .unwrap()
        .write_all(b"broken")
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    all(ground.begin("true", PIPES, Transport::Spdy).await).await;
    certificate(dir.path(), "second");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let address = ground.exec("true", PIPES);
    assert!(address.starts_with("https://"), "{address}");
    let old = RemoteCommand::begin(&address, PIPES, Transport::Spdy, &ground.trust).await;
    assert!(matches!(old, Err(ClientError::Tls { .. })), "{old:?}");
    let trust = Trust { roots: Some(files.certificate), ..Trust::default() };
    let address = ground.exec("exit 4", PIPES);
    let session = RemoteCommand::begin(&address, PIPES, Transport::WebSocket, &trust).await;
    assert_eq!(all(session.unwrap()).await.2, Outcome::Exited(4));
}

/// Others must not reach the server without TLS, and must be told by which name.
#[tokio::test]
async fn an_open_address_needs_certificates() {
    let open = ServerOptions { listen: "0.0.0.0:0".parse().unwrap(), ..options() };
    let error = StreamingServer::bind(open.clone()).await.unwrap_err();
    assert!(matches!(error, ServerError::Open(_)), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let open = ServerOptions { tls: Some(certificate(dir.path(), "x")), ..open };
    let error = StreamingServer::bind(open.clone()).await.unwrap_err();
    assert!(matches!(error, ServerError::Unspecified(_)), "{error}");
    let named = ServerOptions { advertise: Some("::1".to_owned()), ..open };
    let server = StreamingServer::bind(named).await.unwrap();
    let wanted = Wanted::PortForward { sandbox: "s".to_owned(), ports: Vec::new() };
    let address = server.addresses().issue(wanted).unwrap();
    assert!(address.starts_with("https://[::1]:"), "{address}");
}
