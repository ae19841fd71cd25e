//! One connection, and the making of calls on it.

use std::future::Future;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::dial::Dialer;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::options::Options;

/// The authority that calls carry. A socket's path would be refused by many
/// HTTP/2 servers, and the kubelet and crictl send this one.
const AUTHORITY: &str = "http://localhost";

/// A connection to one endpoint. It is dialled by the first call, and again by
/// the next one after it is lost.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) endpoint: Endpoint,
    pub(crate) options: Options,
    pub(crate) channel: Channel,
}

impl Connection {
    pub(crate) fn new(endpoint: Endpoint, options: Options) -> Self {
        let dialer = Dialer::new(endpoint.path(), options.timeouts.read);
        let channel = tonic::transport::Endpoint::from_static(AUTHORITY)
            .user_agent(concat!("corten-cri-client/", env!("CARGO_PKG_VERSION")))
            .unwrap_or_else(|_| tonic::transport::Endpoint::from_static(AUTHORITY))
            .connect_with_connector_lazy(dialer);
        Self { endpoint, options, channel }
    }

    /// Awaits `call`, within `limit` if there is one.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the call on the wire; the runtime may still
    /// finish what it began.
    pub(crate) async fn unary<T>(
        &self,
        rpc: &'static str,
        limit: Option<Duration>,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        let answer = self.within(rpc, limit, call).await?;
        answer.map(Response::into_inner).map_err(|status| self.error(rpc, limit, &status))
    }

    /// Awaits all messages of the stream that `call` opens, within `limit`.
    pub(crate) async fn collect<T>(
        &self,
        rpc: &'static str,
        limit: Option<Duration>,
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    ) -> Result<Vec<T>> {
        let all = async {
            let mut stream = call.await?.into_inner();
            let mut messages = Vec::new();
            while let Some(message) = stream.message().await? {
                messages.push(message);
            }
            Ok(messages)
        };
        let answer: Result<_, Status> = self.within(rpc, limit, all).await?;
        answer.map_err(|status| self.error(rpc, limit, &status))
    }

    pub(crate) fn error(&self, rpc: &'static str, limit: Option<Duration>, s: &Status) -> Error {
        Error::from_status(&self.endpoint, rpc, limit, s)
    }

    async fn within<F: Future>(
        &self,
        rpc: &'static str,
        limit: Option<Duration>,
        work: F,
    ) -> Result<F::Output> {
        tracing::debug!(rpc, endpoint = %self.endpoint, ?limit, "calling");
        let Some(limit) = limit else { return Ok(work.await) };
        tokio::time::timeout(limit, work).await.map_err(|_| Error::Timeout {
            endpoint: self.endpoint.clone(),
            rpc,
            limit,
        })
    }
}

/// A request that tells the server its deadline.
pub(crate) fn request<T>(message: T, limit: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(limit) = limit {
        request.set_timeout(limit);
    }
    request
}

/// Writes the methods of a client that are one call each.
///
/// Each line gives the name, the request, the response, the method of the
/// generated client, the call's name, and its time limit from the client's
/// limits and the request.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $response:ident = $rpc:literal, $limit:expr;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            ///
            /// When the runtime cannot be reached, does not answer in time or
            /// answers with an error.
            pub async fn $name(&self, message: cri_proto::v1::$request) -> crate::Result<cri_proto::v1::$response> {
                let limit: fn(&crate::Timeouts, &cri_proto::v1::$request) -> Option<std::time::Duration> = $limit;
                let limit = limit(&self.connection.options.timeouts, &message);
                let mut client = self.client.clone();
                self.connection
                    .unary($rpc, limit, client.$name(crate::call::request(message, limit)))
                    .await
            }
        )*
    };
}
pub(crate) use calls;
