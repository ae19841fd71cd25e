//! Whole lists, of any length.
//!
//! A list in one message fails when it is larger than the receive limit. Newer
//! runtimes also send lists as streams; a client asks for the stream first and
//! remembers, for each list, that a runtime answered `Unimplemented`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cri_proto::v1::{
    Container, ContainerFilter, ContainerStats, ContainerStatsFilter, Image, ImageFilter,
    ListContainerStatsRequest, ListContainersRequest, ListImagesRequest,
    ListPodSandboxMetricsRequest, ListPodSandboxRequest, ListPodSandboxStatsRequest, PodSandbox,
    PodSandboxFilter, PodSandboxMetrics, PodSandboxStats, PodSandboxStatsFilter,
    StreamContainerStatsRequest, StreamContainersRequest, StreamImagesRequest,
    StreamPodSandboxMetricsRequest, StreamPodSandboxStatsRequest, StreamPodSandboxesRequest,
};
use tonic::Code;

use crate::call::request;
use crate::error::Result;
use crate::image::ImageClient;
use crate::runtime::RuntimeClient;
use crate::version::ApiVersion;

/// Which lists of one service are known to have no stream.
#[derive(Clone, Debug)]
pub(crate) struct Streams(Arc<[AtomicBool; List::COUNT]>);

#[derive(Clone, Copy, Debug)]
enum List {
    Containers,
    ContainerStats,
    PodSandboxes,
    PodSandboxStats,
    PodSandboxMetrics,
    Images,
}

impl List {
    const COUNT: usize = 6;
}

impl Streams {
    /// v1alpha2 has no streams of lists, so none is asked for.
    pub(crate) fn new(version: ApiVersion) -> Self {
        let unary = version == ApiVersion::V1Alpha2;
        Self(Arc::new(std::array::from_fn(|_| AtomicBool::new(unary))))
    }

    fn wanted(&self, list: List) -> bool {
        !self.0[list as usize].load(Ordering::Relaxed)
    }

    /// Whether `answer` is that the runtime has no such stream, which is kept.
    fn absent<T>(&self, list: List, answer: &Result<T>) -> bool {
        let absent = matches!(answer, Err(error) if error.code() == Code::Unimplemented);
        if absent {
            self.0[list as usize].store(true, Ordering::Relaxed);
        }
        absent
    }
}

/// Writes the methods that ask for a stream and fall back to one message.
macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident($($filter:ident: $filter_type:ty)?) -> $item:ident,
        $list:ident, $rpc:literal,
        $stream:ident($stream_request:ident).$stream_field:ident,
        $unary:ident($unary_request:ident).$unary_field:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            ///
            /// When the runtime cannot be reached, does not answer in time or
            /// answers with an error.
            pub async fn $name(&self $(, $filter: Option<$filter_type>)?) -> Result<Vec<$item>> {
                if self.streams.wanted(List::$list) {
                    let limit = Some(self.connection.options.timeouts.read);
                    let mut client = self.client.clone();
                    let call = client.$stream(request($stream_request { $($filter: $filter.clone())? }, limit));
                    let answer = self.connection.collect($rpc, limit, call).await;
                    if !self.streams.absent(List::$list, &answer) {
                        return Ok(answer?.into_iter().flat_map(|part| part.$stream_field).collect());
                    }
                }
                Ok(self.$unary($unary_request { $($filter)? }).await?.$unary_field)
            }
        )*
    };
}

impl RuntimeClient {
    lists! {
        /// The containers that match `filter`, all without one.
        containers(filter: ContainerFilter) -> Container, Containers, "StreamContainers",
            stream_containers(StreamContainersRequest).containers,
            list_containers(ListContainersRequest).containers;
        /// The figures of the containers that match `filter`, all without one.
        all_container_stats(filter: ContainerStatsFilter) -> ContainerStats, ContainerStats, "StreamContainerStats",
            stream_container_stats(StreamContainerStatsRequest).container_stats,
            list_container_stats(ListContainerStatsRequest).stats;
        /// The sandboxes that match `filter`, all without one.
        pod_sandboxes(filter: PodSandboxFilter) -> PodSandbox, PodSandboxes, "StreamPodSandboxes",
            stream_pod_sandboxes(StreamPodSandboxesRequest).pod_sandboxes,
            list_pod_sandbox(ListPodSandboxRequest).items;
        /// The figures of the sandboxes that match `filter`, all without one.
        all_pod_sandbox_stats(filter: PodSandboxStatsFilter) -> PodSandboxStats, PodSandboxStats, "StreamPodSandboxStats",
            stream_pod_sandbox_stats(StreamPodSandboxStatsRequest).pod_sandbox_stats,
            list_pod_sandbox_stats(ListPodSandboxStatsRequest).stats;
        /// The metrics of all sandboxes.
        all_pod_sandbox_metrics() -> PodSandboxMetrics, PodSandboxMetrics, "StreamPodSandboxMetrics",
            stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest).pod_sandbox_metrics,
            list_pod_sandbox_metrics(ListPodSandboxMetricsRequest).pod_metrics;
    }
}

impl ImageClient {
    lists! {
        /// The images that match `filter`, all without one.
        images(filter: ImageFilter) -> Image, Images, "StreamImages",
            stream_images(StreamImagesRequest).images,
            list_images(ListImagesRequest).images;
    }
}
