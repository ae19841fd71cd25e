//! Connecting and upgrading.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{ClientError, Trust, tls};
use crate::protocol::{PROTOCOL_HEADER, SPDY_UPGRADE};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most that is read of a refusal's text.
const MAX_TEXT: usize = 4096;

/// The longest message of a server.
const MAX_MESSAGE: usize = 4 << 20;

/// A connection.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Where an address leads.
struct Target {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

impl Target {
    fn parse(address: &str) -> Result<Self, ClientError> {
        let bad = |reason: String| ClientError::Address { address: address.to_owned(), reason };
        let uri: Uri = address.parse().map_err(|error| bad(format!("{error}")))?;
        let tls = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(bad("it is neither http nor https".to_owned())),
        };
        let host = uri.host().ok_or_else(|| bad("it has no host".to_owned()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { uri, host, port, tls })
    }

    fn name(&self) -> String {
        self.uri.authority().map(ToString::to_string).unwrap_or_default()
    }

    fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    async fn connect(&self, trust: &Trust) -> Result<Box<dyn Io>, ClientError> {
        let failed = |source| ClientError::Connect { host: self.name(), source };
        let dial = TcpStream::connect((self.host.as_str(), self.port));
        let socket = within(dial).await.and_then(|result| result).map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        if !self.tls {
            return Ok(Box::new(socket));
        }
        let name = tls::name(trust, &self.host)?;
        let connector = TlsConnector::from(Arc::new(tls::config(trust)?));
        let shaken = within(connector.connect(name, socket)).await.and_then(|result| result);
        let socket = shaken.map_err(|source| {
            let host = self.name();
            tls::sent_away(&source, trust, &host).unwrap_or(ClientError::Tls { host, source })
        })?;
        Ok(Box::new(socket))
    }

    /// Why there is no answer.
    fn unanswered(&self, trust: &Trust, error: &(dyn Error + 'static)) -> ClientError {
        let host = self.name();
        tls::sent_away(error, trust, &host)
            .unwrap_or_else(|| ClientError::Http { host, reason: error.to_string() })
    }
}

async fn within<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.map_err(Into::into)
}

/// Upgrades to SPDY; gives the connection, and the protocol that the server chose.
pub(super) async fn spdy(
    address: &str,
    protocols: &[&'static str],
    trust: &Trust,
) -> Result<(TokioIo<Upgraded>, Option<String>), ClientError> {
    let target = Target::parse(address)?;
    let io = target.connect(trust).await?;
    let failed = |reason: String| ClientError::Http { host: target.name(), reason };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| failed(error.to_string()))?;
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(target.path())
        .header(header::HOST, target.name())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, SPDY_UPGRADE);
    for protocol in protocols {
        request = request.header(PROTOCOL_HEADER, *protocol);
    }
    let request =
        request.body(Empty::<bytes::Bytes>::new()).map_err(|error| failed(error.to_string()))?;
    let answer = within(sender.send_request(request)).await.map_err(|e| failed(e.to_string()))?;
    let mut response = answer.map_err(|error| target.unanswered(trust, &error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    let chosen = response.headers().get(PROTOCOL_HEADER);
    let chosen = chosen.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let upgraded = hyper::upgrade::on(&mut response).await;
    Ok((TokioIo::new(upgraded.map_err(|error| failed(error.to_string()))?), chosen))
}

async fn refusal(response: Response<Incoming>) -> ClientError {
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_TEXT).collect();
    let bytes = within(body).await.ok().and_then(Result::ok).map(|body| body.to_bytes());
    let bytes = bytes.unwrap_or_default();
    ClientError::Refused { status, text: String::from_utf8_lossy(&bytes).trim().to_owned() }
}

/// Upgrades to WebSocket; gives the connection, and the protocol that the server chose.
pub(super) async fn websocket(
    address: &str,
    protocols: &str,
    trust: &Trust,
) -> Result<(WebSocketStream<Box<dyn Io>>, String), ClientError> {
    use tokio_tungstenite::tungstenite;
    let target = Target::parse(address)?;
    let io = target.connect(trust).await?;
    let failed = |reason: String| ClientError::Http { host: target.name(), reason };
    let scheme = if target.tls { "wss" } else { "ws" };
    let uri = format!("{scheme}://{}{}", target.name(), target.path());
    let mut request = uri.into_client_request().map_err(|error| failed(error.to_string()))?;
    let offer = HeaderValue::from_str(protocols).map_err(|error| failed(error.to_string()))?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, offer);
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let shaking = tokio_tungstenite::client_async_with_config(request, io, Some(config));
    let (socket, response) = match within(shaking).await.map_err(|e| failed(e.to_string()))? {
        Ok(shaken) => shaken,
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            let text = String::from_utf8_lossy(&body).trim().to_owned();
            return Err(ClientError::Refused { status: response.status().as_u16(), text });
        }
        Err(tungstenite::Error::Io(error)) => return Err(target.unanswered(trust, &error)),
        Err(error) => return Err(failed(error.to_string())),
    };
    let chosen = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
    let chosen = chosen.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    Ok((socket, chosen))
}
