//! RuntimeConfig.

use cri_proto::v1;
use pods::CgroupDriver;
use tonic::Status;

use crate::service::Server;

impl Server {
    /// The driver in use: a kubelet with another one would put its pods where nobody looks.
    pub(crate) async fn on_runtime_config(
        &self,
        request: v1::RuntimeConfigRequest,
    ) -> Result<v1::RuntimeConfigResponse, Status> {
        let v1::RuntimeConfigRequest {} = request;
        let driver = match self.pods.cgroup_driver() {
            CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
            CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
        };
        Ok(v1::RuntimeConfigResponse {
            linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver: driver.into() }),
        })
    }
}
