//! ImageFsInfo.

use cri_proto::v1;
use tonic::Status;

use crate::service::Server;

impl Server {
    /// Asked when the kubelet connects: answers from memory, on an empty store too.
    pub(crate) fn on_image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, Status> {
        let usage = self.images.fs_usage();
        let filesystem = v1::FilesystemUsage {
            timestamp: self.pods.now_ns(),
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: usage.mountpoint.to_string_lossy().into_owned(),
            }),
            used_bytes: Some(v1::UInt64Value { value: usage.bytes }),
            inodes_used: Some(v1::UInt64Value { value: usage.inodes }),
        };
        // Layers and writable roots share one file system.
        Ok(v1::ImageFsInfoResponse {
            image_filesystems: vec![filesystem.clone()],
            container_filesystems: vec![filesystem],
        })
    }
}
