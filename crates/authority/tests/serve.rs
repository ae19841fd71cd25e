//! A real gRPC server behind a unix socket, dialled by what old clients send.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cri_proto::v1::runtime_service_client::RuntimeServiceClient;
use cri_proto::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use cri_proto::v1::{VersionRequest, VersionResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "behind-the-socket";

struct Service;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(
        &self,
        request: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        peer.ok_or_else(|| Status::internal("the peer's credentials are lost"))?;
        Ok(Response::new(VersionResponse {
            runtime_name: NAME.to_owned(),
            runtime_version: request.into_inner().version,
            ..VersionResponse::default()
        }))
    }
}

/// A server on a socket in a directory of its own.
struct Server {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("x.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let incoming = UnixListenerStream::new(listener).map(|s| s.map(authority::accept));
        let task = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(RuntimeServiceServer::new(Service))
                .serve_with_incoming(incoming)
                .await
                .expect("the server ends only with the test");
        });
        Self { _directory: directory, socket, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).expect("a short text");
    [&[0x40, length(name)][..], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small payload").to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The bytes of one call of Version with this `:authority`.
fn call(stream: u8, authority: Option<&str>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", Some("POST")),
        (":scheme", Some("http")),
        (":path", Some("/runtime.v1.RuntimeService/Version")),
        (":authority", authority),
        ("content-type", Some("application/grpc")),
        ("te", Some("trailers")),
    ] {
        block.extend(value.map(|value| literal(name, value)).unwrap_or_default());
    }
    [frame(1, 4, stream, &block), frame(0, 1, stream, &[0; 5])].concat()
}

/// What the server sends as answer to these bytes until the last of the streams ends.
async fn exchange(socket: &Path, bytes: &[u8], last: u8) -> Result<Vec<u8>, String> {
    let mut connection = UnixStream::connect(socket).await.expect("a connection");
    connection.write_all(bytes).await.expect("sent");
    let mut data = Vec::new();
    loop {
        let mut header = [0; 9];
        let read = tokio::time::timeout(PATIENCE, connection.read_exact(&mut header)).await;
        read.expect("an answer in time").map_err(|error| format!("closed: {error}"))?;
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        connection.read_exact(&mut payload).await.map_err(|error| error.to_string())?;
        match header[3] {
            0 => data.extend(payload),
            1 if header[4] & 1 != 0 && header[8] == last => return Ok(data),
            3 => return Err(format!("stream {} was reset: {payload:?}", header[8])),
            7 => return Err(format!("going away: {payload:?}")),
            _ => {}
        }
    }
}

fn count(data: &[u8]) -> usize {
    data.windows(NAME.len()).filter(|window| *window == NAME.as_bytes()).count()
}

#[tokio::test]
async fn every_form_of_authority_is_served() {
    let server = Server::start();
    let path = server.socket.to_str().expect("a plain path").to_owned();
    let encoded = path.replace('/', "%2F");
    for authority in
        [Some(path.as_str()), Some(&encoded), Some(""), None, Some("localhost"), Some("[::1]:1")]
    {
        let bytes = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, &[]),
            call(1, authority),
            call(3, authority),
        ];
        let data = exchange(&server.socket, &bytes.concat(), 3).await;
        let data = data.unwrap_or_else(|error| panic!("{authority:?}: {error}"));
        assert_eq!(count(&data), 2, "{authority:?}");
    }
}

#[tokio::test]
async fn malformed_headers_get_the_servers_own_answer() {
    let server = Server::start();
    for broken in [frame(1, 4, 3, &[0x80]), frame(9, 4, 3, &[]), frame(1, 0x0c, 3, &[1])] {
        let bytes = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, &[]),
            call(1, Some("/x")),
            broken,
        ];
        let answer = exchange(&server.socket, &bytes.concat(), 3).await.expect_err("refused");
        // The last stream that was served, and PROTOCOL_ERROR.
        assert_eq!(answer, "going away: [0, 0, 0, 1, 0, 0, 0, 1]");
    }
}

#[tokio::test]
async fn a_current_client_is_served() {
    let server = Server::start();
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    let socket = server.socket.clone();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(connector).await.expect("a channel");
    let mut client = RuntimeServiceClient::new(channel);
    let version = "x".repeat(100_000);
    for _ in 0..3 {
        let answer = client.version(VersionRequest { version: version.clone() }).await;
        assert_eq!(answer.expect("served").into_inner().runtime_version, version);
    }
}

/// The real thing: gRPC for Python sends the percent-encoded path.
#[tokio::test]
async fn grpc_for_python_is_served_with_its_defaults() {
    const PROGRAM: &str = r#"
import sys, grpc
channel = grpc.insecure_channel("unix:" + sys.argv[1])
call = channel.unary_unary("/runtime.v1.RuntimeService/Version")
body = b"\x0a\xc0\x9a\x0c" + b"x" * 200000
for _ in range(3):
    answer = call(body, timeout=60, metadata=[("x-" + str(i), "v" * 100) for i in range(20)])
    assert b"behind-the-socket" in answer and b"x" * 200000 in answer
"#;
    let server = Server::start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/python-env");
    let python = tokio::process::Command::new(script).output().await.expect("the script runs");
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let python = String::from_utf8(python.stdout).expect("a path");
    let output = tokio::process::Command::new(python.trim())
        .args(["-c", PROGRAM])
        .arg(&server.socket)
        .output()
        .await
        .expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
