//! ExecSync.

use std::time::Duration;

use cri_proto::v1;
use tonic::Status;

use crate::{error::status, service::Server};

impl Server {
    pub(crate) async fn on_exec_sync(
        &self,
        request: v1::ExecSyncRequest,
    ) -> Result<v1::ExecSyncResponse, Status> {
        let v1::ExecSyncRequest { container_id, cmd, timeout } = request;
        let limit = Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
        let pods::ExecOutput { stdout, stderr, exit_code } =
            self.pods.exec_sync(&container_id, cmd, limit).await.map_err(|e| status(&e))?;
        Ok(v1::ExecSyncResponse { stdout, stderr, exit_code })
    }
}
