//! PodSandboxStats, ListPodSandboxStats and StreamPodSandboxStats.

use cri_proto::v1;
use pods::SandboxFilter;
use tonic::{Status, codegen::BoxStream};

use crate::{convert, error::status, service::Server, stream::batches};

impl Server {
    pub(crate) async fn on_pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
    ) -> Result<v1::PodSandboxStatsResponse, Status> {
        let v1::PodSandboxStatsRequest { pod_sandbox_id } = request;
        let figures = self.stats.pod(&pod_sandbox_id).await.map_err(|e| status(&e))?;
        let stats = convert::pod_stats(&figures, &self.layers_mountpoint());
        Ok(v1::PodSandboxStatsResponse { stats: Some(stats) })
    }

    /// Those of all pods.
    pub(crate) async fn on_list_pod_sandbox_stats(
        &self,
        request: v1::ListPodSandboxStatsRequest,
    ) -> Result<v1::ListPodSandboxStatsResponse, Status> {
        let v1::ListPodSandboxStatsRequest { filter } = request;
        let v1::PodSandboxStatsFilter { id, label_selector } = filter.unwrap_or_default();
        let filter = SandboxFilter { id, ready: None, labels: label_selector };
        let figures = self.stats.pods(&filter).await.map_err(|e| status(&e))?;
        let mountpoint = self.layers_mountpoint();
        let stats = figures.iter().map(|one| convert::pod_stats(one, &mountpoint)).collect();
        Ok(v1::ListPodSandboxStatsResponse { stats })
    }

    pub(crate) async fn on_stream_pod_sandbox_stats(
        &self,
        request: v1::StreamPodSandboxStatsRequest,
    ) -> Result<BoxStream<v1::StreamPodSandboxStatsResponse>, Status> {
        let v1::StreamPodSandboxStatsRequest { filter } = request;
        let v1::ListPodSandboxStatsResponse { stats } =
            self.on_list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest { filter }).await?;
        Ok(batches(stats, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse {
            pod_sandbox_stats,
        }))
    }
}
