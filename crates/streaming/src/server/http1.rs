//! HTTP/1.1 with a client whom nobody knows: this server's, and the daemon's other one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// How long a client may take for TLS and for the head of its request.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// The largest head of a request.
const MAX_HEAD: usize = 32 << 10;

/// A client's connection, whatever it is: all of HTTP is compiled for this one kind.
pub trait Client: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Client for T {}

/// What answers requests.
pub type Answering =
    dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<String>> + Send + Sync;

/// Speaks TLS, where there is a certificate, and then answers requests: several on a connection
/// if that is kept, or one.
pub async fn converse(
    client: Box<dyn Client>,
    tls: Option<TlsAcceptor>,
    keep_alive: bool,
    answering: Arc<Answering>,
) {
    let client: Box<dyn Client> = match tls {
        None => client,
        Some(tls) => match tokio::time::timeout(HEAD_PATIENCE, tls.accept(client)).await {
            Ok(Ok(client)) => Box::new(client),
            Ok(Err(error)) => return tracing::debug!(%error, "a client failed at TLS"),
            Err(_) => return tracing::debug!("a client did not speak TLS in time"),
        },
    };
    let service = service_fn(move |request| {
        let answer = answering(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD)
        .keep_alive(keep_alive)
        .serve_connection(TokioIo::new(client), service)
        .with_upgrades();
    if let Err(error) = served.await {
        tracing::debug!(%error, "a client's connection failed");
    }
}
