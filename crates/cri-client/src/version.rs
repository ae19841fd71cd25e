//! The two versions of the interface, which differ on the wire only in the path.
//!
//! Every v1alpha2 message is a subset of the v1 message with the same numbers, so
//! the client has v1's types alone and a v1alpha2 runtime is reached by rewriting
//! `/runtime.v1.Service/Call` to `/runtime.v1alpha2.Service/Call`.

use std::fmt;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use tower_service::Service;

const V1_PREFIX: &str = "/runtime.v1.";
const V1ALPHA2_PREFIX: &str = "/runtime.v1alpha2.";

/// A version of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// `runtime.v1`.
    V1,
    /// `runtime.v1alpha2`, deprecated: runtimes before 2022.
    V1Alpha2,
}

impl ApiVersion {
    /// As the interface itself writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Alpha2 => "v1alpha2",
        }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Sends v1's calls in one version of the interface.
#[derive(Clone, Debug)]
pub(crate) struct Versioned<S> {
    inner: S,
    version: ApiVersion,
}

impl<S> Versioned<S> {
    pub(crate) fn new(inner: S, version: ApiVersion) -> Self {
        Self { inner, version }
    }
}

impl<S, B> Service<http::Request<B>> for Versioned<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        if self.version == ApiVersion::V1Alpha2 {
            to_v1alpha2(&mut request);
        }
        self.inner.call(request)
    }
}

fn to_v1alpha2<B>(request: &mut http::Request<B>) {
    let Some(call) = request.uri().path().strip_prefix(V1_PREFIX) else { return };
    let Ok(path) = format!("{V1ALPHA2_PREFIX}{call}").parse::<PathAndQuery>() else { return };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(path);
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_service_changes() {
        for (from, to) in [
            ("/runtime.v1.RuntimeService/Version", "/runtime.v1alpha2.RuntimeService/Version"),
            ("http://localhost/runtime.v1.ImageService/X", "/runtime.v1alpha2.ImageService/X"),
            ("/corten.v1.ImageAdmin/Load", "/corten.v1.ImageAdmin/Load"),
        ] {
            let mut request = http::Request::builder().uri(from).body(()).expect("a request");
            to_v1alpha2(&mut request);
            assert_eq!(request.uri().path(), to);
        }
    }
}
