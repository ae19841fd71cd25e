//! Version.

use cri_proto::v1;

use crate::service::Server;

impl Server {
    /// The kubelet demands the version `0.1.0` exactly, and that no field is empty. The
    /// API's version is that of the path that the call came by.
    pub(crate) fn on_version(&self, legacy: bool) -> v1::VersionResponse {
        v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "corten".to_owned(),
            runtime_version: self.info.version.clone(),
            runtime_api_version: if legacy { "v1alpha2" } else { "v1" }.to_owned(),
        }
    }
}
