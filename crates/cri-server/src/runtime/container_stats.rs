//! ContainerStats, ListContainerStats and StreamContainerStats.

use cri_proto::v1;
use pods::ContainerFilter;
use tonic::{Status, codegen::BoxStream};

use crate::{convert, error::status, service::Server, stream::batches};

impl Server {
    pub(crate) async fn on_container_stats(
        &self,
        request: v1::ContainerStatsRequest,
    ) -> Result<v1::ContainerStatsResponse, Status> {
        let v1::ContainerStatsRequest { container_id } = request;
        let figures = self.stats.container(&container_id).await.map_err(|e| status(&e))?;
        let stats = convert::container_stats(&figures, &self.layers_mountpoint());
        Ok(v1::ContainerStatsResponse { stats: Some(stats) })
    }

    /// Those of all containers; of one that does not run, what it has written.
    pub(crate) async fn on_list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Status> {
        let v1::ListContainerStatsRequest { filter } = request;
        let v1::ContainerStatsFilter { id, pod_sandbox_id, label_selector } =
            filter.unwrap_or_default();
        let filter =
            ContainerFilter { id, sandbox_id: pod_sandbox_id, state: None, labels: label_selector };
        let figures = self.stats.containers(&filter).await.map_err(|e| status(&e))?;
        let mountpoint = self.layers_mountpoint();
        let stats = figures.iter().map(|one| convert::container_stats(one, &mountpoint)).collect();
        Ok(v1::ListContainerStatsResponse { stats })
    }

    pub(crate) async fn on_stream_container_stats(
        &self,
        request: v1::StreamContainerStatsRequest,
    ) -> Result<BoxStream<v1::StreamContainerStatsResponse>, Status> {
        let v1::StreamContainerStatsRequest { filter } = request;
        let v1::ListContainerStatsResponse { stats } =
            self.on_list_container_stats(v1::ListContainerStatsRequest { filter }).await?;
        Ok(batches(stats, |container_stats| v1::StreamContainerStatsResponse { container_stats }))
    }

    /// Where the file system of images and writable layers is, as ImageFsInfo says.
    pub(crate) fn layers_mountpoint(&self) -> String {
        self.images.fs_usage().mountpoint.to_string_lossy().into_owned()
    }
}
