//! A request: its token redeemed, its protocol chosen, its connection handed to a session.

use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::backend::{Backend, Wanted};
use super::counts::SessionCounts;
use super::process::Times;
use super::tokens::Tokens;
use super::{port_forward, remote_command};
use crate::channel::Coding;
use crate::protocol::{
    self, ACCEPTED_HEADER, PORT_FORWARD, PROTOCOL_HEADER, SPDY_COMMAND, SPDY_UPGRADE, TUNNEL,
    Version, WS_COMMAND, WS_PORT_FORWARD,
};

/// The longest message of a WebSocket; Kubernetes' clients send at most some 32 KiB.
const MAX_MESSAGE: usize = 1 << 20;

/// The most protocols that a client may offer.
const MAX_OFFERED: usize = 32;

/// What answers requests.
pub(crate) struct Server<B> {
    pub(crate) tokens: Tokens,
    pub(crate) backend: B,
    pub(crate) times: Times,
    pub(crate) counts: Arc<SessionCounts>,
}

/// How a connection goes on.
enum Session {
    SpdyCommand(Version),
    SpdyPorts,
    WsCommand(Version, Coding),
    WsPorts(Coding),
    WsTunnel,
}

/// A request that is refused: the code, and one line.
type Refused = (StatusCode, String);

impl<B: Backend> Server<B> {
    /// Answers a request; the session goes on in a task of its own.
    pub(crate) fn answer(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        place: Arc<OwnedSemaphorePermit>,
    ) -> Response<String> {
        let prepared = self.wanted(&request).and_then(|wanted| {
            let (session, head) = negotiate(&wanted, request.headers())?;
            Ok((wanted, session, head))
        });
        match prepared {
            Ok((wanted, session, head)) => {
                let upgrade = hyper::upgrade::on(&mut request);
                let server = self.clone();
                tokio::spawn(async move {
                    let _counted = server.counts.begin(wanted.path());
                    server.run(wanted, session, upgrade).await;
                    drop(place);
                });
                head
            }
            Err(Refusal { status, text, accepted }) => {
                tracing::debug!(%status, "a streaming request is refused: {text}");
                let mut response = Response::new(text + "\n");
                *response.status_mut() = status;
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
                for name in accepted {
                    response.headers_mut().append(ACCEPTED_HEADER, HeaderValue::from_static(name));
                }
                response
            }
        }
    }

    /// What the address stands for.
    fn wanted(&self, request: &Request<Incoming>) -> Result<Wanted, Refusal> {
        if !matches!(*request.method(), Method::GET | Method::POST) {
            let text = format!("{} is neither GET nor POST", request.method());
            return Err((StatusCode::METHOD_NOT_ALLOWED, text).into());
        }
        let unknown = || {
            let text = "the address is not known, was used already, or waited for too long";
            Refusal::from((StatusCode::NOT_FOUND, text.to_owned()))
        };
        let path = request.uri().path().strip_prefix('/').ok_or_else(unknown)?;
        let (kind, token) = path.split_once('/').ok_or_else(unknown)?;
        let wanted = self.tokens.redeem(token, Instant::now()).ok_or_else(unknown)?;
        if wanted.path() == kind { Ok(wanted) } else { Err(unknown()) }
    }

    async fn run(&self, wanted: Wanted, session: Session, upgrade: OnUpgrade) {
        let io = match upgrade.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => return tracing::debug!(%error, "a streaming client left at the upgrade"),
        };
        let (backend, times) = (&self.backend, self.times);
        match (session, &wanted) {
            (
                Session::SpdyCommand(version),
                Wanted::Exec { streams, .. } | Wanted::Attach { streams, .. },
            ) => {
                let streams = *streams;
                remote_command::over_spdy(backend, &wanted, streams, io, version, times).await;
            }
            (
                Session::WsCommand(version, coding),
                Wanted::Exec { streams, .. } | Wanted::Attach { streams, .. },
            ) => {
                let (socket, how, streams) = (websocket(io).await, (version, coding), *streams);
                remote_command::over_websocket(backend, &wanted, streams, socket, how, times).await;
            }
            (Session::SpdyPorts, Wanted::PortForward { sandbox, .. }) => {
                port_forward::over_spdy(backend, sandbox, io, times).await;
            }
            (Session::WsTunnel, Wanted::PortForward { sandbox, .. }) => {
                let socket = websocket(io).await;
                port_forward::through_websocket(backend, sandbox, socket, times).await;
            }
            (Session::WsPorts(coding), Wanted::PortForward { sandbox, ports }) => {
                let socket = websocket(io).await;
                port_forward::over_websocket(backend, sandbox, ports, socket, coding, times).await;
            }
            // Negotiation gives no other pairs.
            _ => {}
        }
    }
}

pub(super) async fn websocket<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Why a request gets no session.
struct Refusal {
    status: StatusCode,
    text: String,
    accepted: Vec<&'static str>,
}

impl From<Refused> for Refusal {
    fn from((status, text): Refused) -> Self {
        Self { status, text, accepted: Vec::new() }
    }
}

/// Chooses how to go on, and makes the answer that says so.
fn negotiate(wanted: &Wanted, headers: &HeaderMap) -> Result<(Session, Response<String>), Refusal> {
    let upgrade = words(headers, &header::UPGRADE);
    let upgrades =
        words(headers, &header::CONNECTION).iter().any(|word| word.eq_ignore_ascii_case("upgrade"));
    let asks = |name: &str| upgrades && upgrade.iter().any(|word| word.eq_ignore_ascii_case(name));
    if asks("websocket") {
        return negotiate_websocket(wanted, headers);
    }
    if asks(SPDY_UPGRADE) {
        return negotiate_spdy(wanted, headers);
    }
    let text = "this address is for a client that asks for an upgrade to SPDY/3.1 or websocket";
    Err((StatusCode::BAD_REQUEST, text.to_owned()).into())
}

fn negotiate_spdy(
    wanted: &Wanted,
    headers: &HeaderMap,
) -> Result<(Session, Response<String>), Refusal> {
    let offered = words(headers, &HeaderName::from_static(PROTOCOL_HEADER));
    let (session, chosen) = match wanted {
        Wanted::PortForward { .. } => {
            // Kubernetes' first clients named none.
            let known = [(PORT_FORWARD, ())];
            let chosen = choose(&offered, &known)?.map(|(name, ())| name);
            (Session::SpdyPorts, chosen)
        }
        Wanted::Exec { .. } | Wanted::Attach { .. } => match choose(&offered, &SPDY_COMMAND)? {
            Some((name, version)) => (Session::SpdyCommand(version), Some(name)),
            None => (Session::SpdyCommand(Version::V1), None),
        },
    };
    let mut response = switching(SPDY_UPGRADE);
    if let Some(value) = chosen.and_then(|name| HeaderValue::from_str(name).ok()) {
        response.headers_mut().insert(PROTOCOL_HEADER, value);
    }
    Ok((session, response))
}

/// Chooses a protocol; none where the client offers none.
fn choose<'a, T: Copy>(
    offered: &[&'a str],
    known: &[(&'static str, T)],
) -> Result<Option<(&'a str, T)>, Refusal> {
    if offered.is_empty() {
        return Ok(None);
    }
    protocol::choose(offered, known).map(Some).ok_or_else(|| {
        let names: Vec<&'static str> = known.iter().map(|(name, _)| *name).collect();
        let known: Vec<&str> = names.iter().copied().filter(|name| !name.is_empty()).collect();
        let text = format!(
            "the client offers the protocols {}, the server has {}",
            offered.join(", "),
            known.join(", ")
        );
        Refusal { status: StatusCode::FORBIDDEN, text, accepted: names }
    })
}

fn negotiate_websocket(
    wanted: &Wanted,
    headers: &HeaderMap,
) -> Result<(Session, Response<String>), Refusal> {
    let bad = |text: &str| Refusal::from((StatusCode::BAD_REQUEST, text.to_owned()));
    if words(headers, &header::SEC_WEBSOCKET_VERSION) != ["13"] {
        return Err(bad("the WebSocket's version is not 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| bad("the WebSocket's key is missing"))?;
    let offered = words(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    let (session, chosen) = match wanted {
        Wanted::PortForward { .. } if offered.contains(&TUNNEL) => {
            (Session::WsTunnel, Some(TUNNEL))
        }
        Wanted::PortForward { .. } => match choose(&offered, &WS_PORT_FORWARD)? {
            Some((name, coding)) => (Session::WsPorts(coding), Some(name)),
            None => (Session::WsPorts(Coding::Binary), None),
        },
        Wanted::Exec { .. } | Wanted::Attach { .. } => match choose(&offered, &WS_COMMAND)? {
            Some((name, (version, coding))) => (Session::WsCommand(version, coding), Some(name)),
            None => (Session::WsCommand(Version::V1, Coding::Binary), None),
        },
    };
    let mut response = switching("websocket");
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let accept = accept.map_err(|_| bad("the WebSocket's key cannot be used"))?;
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(value) = chosen.and_then(|name| HeaderValue::from_str(name).ok()) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok((session, response))
}

fn switching(to: &'static str) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(to));
    response
}

/// The words of a header that is a list, or comes several times.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .take(MAX_OFFERED)
        .collect()
}
