//! The server: an HTTP listener whose addresses are good for one session each.
//!
//! ```text
//! Addresses::exec(..) ─▶ https://host:port/exec/<token> ─▶ kubelet ─▶ upgrade ─▶ session
//! ```

mod backend;
mod counts;
mod http1;
mod node;
mod port_forward;
mod process;
mod remote_command;
mod session;
mod tls;
mod tokens;
mod upgrade;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

pub use backend::{Backend, Process, Running, Wanted};
pub use counts::{SessionCount, SessionCounts};
pub use http1::{Answering, Client, converse};
pub use node::PodProcess;
pub use tls::{TlsError, TlsFiles, server_config};
pub use tokens::AddressError;
pub use tokio_rustls::TlsAcceptor;

use process::Times;
use tokens::Tokens;

/// How long the listener rests when a connection could not be accepted.
const REST: Duration = Duration::from_millis(100);

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where it listens; port 0 is any.
    pub listen: SocketAddr,
    /// The host in its addresses, where that is another than it listens on.
    pub advertise: Option<String>,
    /// Its certificates; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// How long a session may be without a movement; zero is for ever.
    pub idle_timeout: Duration,
    /// How long a session may be in all; zero is for ever.
    pub session_timeout: Duration,
    /// The most connections at a time.
    pub max_sessions: usize,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address that others reach needs certificates.
    #[error(
        "the streaming server would listen on {0} without TLS: give it a certificate and a key, \
         or let it listen on 127.0.0.1"
    )]
    Open(SocketAddr),
    /// Nobody can connect to an address that stands for all.
    #[error("the streaming server listens on {0}: say by which host its clients reach it")]
    Unspecified(SocketAddr),
    /// The listener could not be made.
    #[error("the streaming server cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Its certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A server that listens and does not serve yet.
#[derive(Debug)]
pub struct StreamingServer {
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    addresses: Addresses,
    options: ServerOptions,
    counts: Arc<SessionCounts>,
}

/// Makes addresses, each good for one session within a minute.
#[derive(Debug, Clone)]
pub struct Addresses {
    tokens: Tokens,
    base: Arc<str>,
}

impl Addresses {
    /// An address for what is wanted.
    ///
    /// # Errors
    /// When too many wait for their clients.
    pub fn issue(&self, wanted: Wanted) -> Result<String, AddressError> {
        let path = wanted.path();
        let token = self.tokens.issue(wanted, Instant::now())?;
        Ok(format!("{}/{path}/{token}", self.base))
    }
}

impl StreamingServer {
    /// Listens.
    ///
    /// # Errors
    /// When it cannot, or should not.
    pub async fn bind(options: ServerOptions) -> Result<Self, ServerError> {
        let asked = options.listen;
        if options.tls.is_none() && !asked.ip().is_loopback() {
            return Err(ServerError::Open(asked));
        }
        if asked.ip().is_unspecified() && options.advertise.is_none() {
            return Err(ServerError::Unspecified(asked));
        }
        let tls = options.tls.as_ref().map(tls::server_config).transpose()?;
        let failed = |source| ServerError::Listen { address: asked, source };
        let listener = TcpListener::bind(asked).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let host = options.advertise.as_deref().map_or_else(|| show(bound.ip()), bracketed);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{host}:{}", bound.port()).into();
        let addresses = Addresses { tokens: Tokens::default(), base };
        Ok(Self { listener, tls, addresses, options, counts: Arc::default() })
    }

    /// What makes its addresses.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// The sessions that it has and had, by kind.
    #[must_use]
    pub fn counts(&self) -> Arc<SessionCounts> {
        self.counts.clone()
    }

    /// Serves until told to stop; then returns what waits for the sessions that are left.
    pub async fn serve<B: Backend>(self, backend: B, mut stop: watch::Receiver<bool>) -> Sessions {
        let Self { listener, tls, addresses, options, counts } = self;
        let times = Times { idle: options.idle_timeout, whole: options.session_timeout };
        let limit = Arc::new(Semaphore::new(options.max_sessions));
        let server = Arc::new(upgrade::Server { tokens: addresses.tokens, backend, times, counts });
        let acceptor = tls.map(TlsAcceptor::from);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let (socket, _) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Without descriptors the next one fails as well.
                    tracing::warn!(%error, "a streaming connection was not accepted");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let Ok(place) = limit.clone().try_acquire_owned() else {
                tracing::warn!("a streaming connection more than there may be was refused");
                continue;
            };
            tokio::spawn(connection(server.clone(), acceptor.clone(), socket, place));
        }
        Sessions { limit, most: options.max_sessions }
    }
}

/// The sessions of a server that takes no more.
#[derive(Debug)]
pub struct Sessions {
    limit: Arc<Semaphore>,
    most: usize,
}

impl Sessions {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.most.saturating_sub(self.limit.available_permits())
    }

    /// Waits until none is left.
    pub async fn ended(&self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        let _ = self.limit.acquire_many(all).await;
    }
}

/// One connection: TLS, a request, and the session that it is upgraded to. The place is held to
/// the session's end.
async fn connection<B: Backend>(
    server: Arc<upgrade::Server<B>>,
    acceptor: Option<TlsAcceptor>,
    socket: TcpStream,
    place: tokio::sync::OwnedSemaphorePermit,
) {
    keep_alive(&socket);
    let place = Arc::new(place);
    let answering = Arc::new(move |request| {
        let answer = server.answer(request, place.clone());
        Box::pin(std::future::ready(answer)) as BoxFuture<'static, _>
    });
    http1::converse(Box::new(socket), acceptor, true, answering).await;
}

/// A client that vanished is noticed by the kernel.
fn keep_alive(socket: &TcpStream) {
    use rustix::net::sockopt;
    let set = sockopt::set_socket_keepalive(socket, true)
        .and_then(|()| sockopt::set_tcp_keepidle(socket, Duration::from_secs(30)))
        .and_then(|()| sockopt::set_tcp_keepintvl(socket, Duration::from_secs(10)))
        .and_then(|()| sockopt::set_tcp_nodelay(socket, true));
    if let Err(error) = set {
        tracing::debug!(%error, "a streaming connection is not watched for life");
    }
}

fn show(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn bracketed(host: &str) -> String {
    host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), show)
}

#[cfg(test)]
mod broken_tests;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
