//! The endpoint for Prometheus: `GET /metrics`, on a port or a socket.
//!
//! It is one more place where the daemon listens, and the least important one: no client of it may
//! cost the daemon anything. A connection is good for one request and a few seconds. There are
//! few at a time; one more takes the place of the oldest, so that clients who say nothing keep no
//! scrape out.

use std::{collections::VecDeque, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use cri_server::Endpoint;
use metrics::Format;
use streaming::server::{Answering, Client, TlsAcceptor, converse, server_config};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::AbortHandle,
};
use tonic::codegen::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tracing::{debug, info, warn};

use super::{figures::Figures, wire::tls_files};

/// How long a client may take in all. Prometheus gives up after 10 seconds by default.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most connections at a time: of a few scrapers, and a person or two.
const MAX_CONNECTIONS: usize = 32;

/// How long the listener rests when a connection could not be accepted.
const REST: Duration = Duration::from_millis(100);

/// Where figures are read.
const PATH: &str = "/metrics";

/// The endpoint, which listens and does not answer yet.
pub(super) struct MetricsServer {
    listener: Listener,
    tls: Option<TlsAcceptor>,
    /// As a client has it.
    address: String,
}

enum Listener {
    Tcp(TcpListener),
    /// The socket's file goes with its endpoint.
    Unix {
        listener: UnixListener,
        _file: Endpoint,
    },
}

impl MetricsServer {
    /// Listens where the settings say; nowhere by default.
    pub(super) async fn bind(settings: &config::Metrics) -> anyhow::Result<Option<Self>> {
        let address = settings.address().map_err(anyhow::Error::msg);
        let Some(address) = address.context("the configuration's metrics.listen is not valid")?
        else {
            return Ok(None);
        };
        let config::Metrics { listen: _, cert_file, key_file, client_ca_file } = settings;
        let files = tls_files("metrics", [cert_file, key_file, client_ca_file])?;
        let tls = files.as_ref().map(server_config).transpose()?.map(TlsAcceptor::from);
        let (listener, address) = match address {
            config::MetricsAddress::Unix(text) => {
                let mut endpoint = Endpoint::parse(&text)?;
                let listener = endpoint.listen().context("choose another metrics.listen")?;
                (Listener::Unix { listener, _file: endpoint }, text)
            }
            config::MetricsAddress::Tcp(asked) => {
                let listener = TcpListener::bind(asked).await.map_err(|e| refusal(asked, e))?;
                let scheme = if tls.is_some() { "https" } else { "http" };
                let bound = listener.local_addr().context("the port has no address")?;
                if !bound.ip().is_loopback() && *client_ca_file == Path::new("") {
                    warn!("metrics are told to anybody who reaches {bound}");
                }
                (Listener::Tcp(listener), format!("{scheme}://{bound}{PATH}"))
            }
        };
        info!(%address, "serving metrics");
        Ok(Some(Self { listener, tls, address }))
    }

    /// Where clients find it.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Answers until told to stop. Then the address is free for a successor.
    pub(super) async fn serve(self, figures: Arc<Figures>, mut stop: watch::Receiver<bool>) {
        let answering: Arc<Answering> = Arc::new(move |request| {
            let figures = figures.clone();
            Box::pin(async move { answer(&figures, &request).await })
        });
        let mut connections = VecDeque::<AbortHandle>::with_capacity(MAX_CONNECTIONS);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let client = match accepted {
                Ok(client) => client,
                Err(error) => {
                    // Without descriptors the next one fails as well.
                    warn!(%error, "a connection of a metrics client was not accepted");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            connections.retain(|connection| !connection.is_finished());
            if connections.len() == MAX_CONNECTIONS
                && let Some(oldest) = connections.pop_front()
            {
                debug!("a metrics client makes room for another one");
                oldest.abort();
            }
            // One that waited for its next request would have another one's place.
            let connection = converse(client, self.tls.clone(), false, answering.clone());
            let connection = async move {
                if tokio::time::timeout(PATIENCE, connection).await.is_err() {
                    debug!("a metrics client took too long");
                }
            };
            connections.push_back(tokio::spawn(connection).abort_handle());
        }
    }
}

/// Why a port cannot be had, and what to do.
fn refusal(asked: SocketAddr, error: io::Error) -> anyhow::Error {
    let what = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there: end it, or change metrics.listen"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address: change metrics.listen"
        }
        _ => "change metrics.listen",
    };
    anyhow::Error::new(error).context(format!("metrics cannot be served on {asked}: {what}"))
}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Client>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix { listener, .. } => Box::new(listener.accept().await?.0),
        })
    }
}

async fn answer<B>(figures: &Figures, request: &Request<B>) -> Response<String> {
    let refuse = |status, text: &str| {
        let mut response = Response::new(format!("{text}\n"));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != PATH {
        return refuse(StatusCode::NOT_FOUND, "there is /metrics alone");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "figures are read: GET or HEAD");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let accept = request.headers().get_all(header::ACCEPT).iter();
    let format = Format::accepted(accept.filter_map(|value| value.to_str().ok()));
    let mut response = Response::new(figures.write(format).await);
    let kind = HeaderValue::from_static(format.content_type());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
