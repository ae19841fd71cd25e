//! The deprecated v1alpha2, on the same sockets.
//!
//! Each of its messages is a subset of v1's with the same field numbers, so a call
//! of it is v1's call by another path; only Version says another version. A call
//! that v1alpha2 does not have is `Unimplemented` there.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use http::{Request, Uri, uri::PathAndQuery};
use tonic::{Status, body::Body, codegen::Service, server::NamedService};

/// What a request carries when it came by a path of v1alpha2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Legacy;

/// The calls of v1alpha2's RuntimeService.
const RUNTIME_CALLS: [&str; 24] = [
    "Attach",
    "ContainerStats",
    "ContainerStatus",
    "CreateContainer",
    "Exec",
    "ExecSync",
    "ListContainerStats",
    "ListContainers",
    "ListPodSandbox",
    "ListPodSandboxStats",
    "PodSandboxStats",
    "PodSandboxStatus",
    "PortForward",
    "RemoveContainer",
    "RemovePodSandbox",
    "ReopenContainerLog",
    "RunPodSandbox",
    "StartContainer",
    "Status",
    "StopContainer",
    "StopPodSandbox",
    "UpdateContainerResources",
    "UpdateRuntimeConfig",
    "Version",
];

/// Serves a service of v1 under its name in v1alpha2.
#[derive(Debug, Clone)]
pub(crate) struct LegacyService<S, const IMAGE: bool>(pub(crate) S);

impl<S> NamedService for LegacyService<S, false> {
    const NAME: &'static str = "runtime.v1alpha2.RuntimeService";
}

impl<S> NamedService for LegacyService<S, true> {
    const NAME: &'static str = "runtime.v1alpha2.ImageService";
}

impl<S, const IMAGE: bool> Service<Request<Body>> for LegacyService<S, IMAGE>
where
    S: Service<Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = tonic::codegen::BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match mapped(request.uri()) {
            Some(uri) => {
                *request.uri_mut() = uri;
                request.extensions_mut().insert(Legacy);
                let inner = self.0.call(request);
                Box::pin(inner)
            }
            None => {
                let text = format!("v1alpha2 has no call {}", request.uri().path());
                Box::pin(async move { Ok(Status::unimplemented(text).into_http()) })
            }
        }
    }
}

/// Whether v1alpha2 has a call of v1.
pub(crate) fn has_call(service: &str, call: &str) -> bool {
    match service {
        "RuntimeService" => RUNTIME_CALLS.contains(&call),
        _ => call != "StreamImages",
    }
}

/// Maps a path of v1alpha2 to v1's.
fn mapped(uri: &Uri) -> Option<Uri> {
    let (service, call) = uri.path().strip_prefix("/runtime.v1alpha2.")?.split_once('/')?;
    if !has_call(service, call) {
        return None;
    }
    let path: PathAndQuery = format!("/runtime.v1.{service}/{call}").parse().ok()?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table that the interface was published with.
    const TABLE: &str = include_str!("../../cri-proto/wire/v1alpha2.tsv");

    #[test]
    fn the_calls_are_those_of_the_published_table() {
        let mut listed: Vec<&str> = TABLE
            .lines()
            .filter_map(|l| l.strip_prefix("service\tRuntimeService\t"))
            .filter_map(|l| l.split('\t').next())
            .collect();
        listed.sort_unstable();
        let mut served = RUNTIME_CALLS.to_vec();
        served.sort_unstable();
        assert_eq!(served, listed);
    }

    #[test]
    fn only_calls_of_v1alpha2_are_mapped() {
        let map = |path: &str| mapped(&path.parse().unwrap()).map(|u| u.path().to_owned());
        assert_eq!(
            map("/runtime.v1alpha2.RuntimeService/Version").as_deref(),
            Some("/runtime.v1.RuntimeService/Version")
        );
        assert_eq!(
            map("/runtime.v1alpha2.ImageService/PullImage").as_deref(),
            Some("/runtime.v1.ImageService/PullImage")
        );
        assert_eq!(map("/runtime.v1alpha2.RuntimeService/RuntimeConfig"), None);
        assert_eq!(map("/runtime.v1alpha2.ImageService/StreamImages"), None);
        assert_eq!(map("/runtime.v1.RuntimeService/Version"), None);
    }
}
