//! Attach.

use cri_proto::v1;
use streaming::Streams;
use streaming::server::Wanted;
use tonic::Status;

use super::exec::check;
use crate::{error::status, service::Server};

impl Server {
    pub(crate) fn on_attach(
        &self,
        request: v1::AttachRequest,
    ) -> Result<v1::AttachResponse, Status> {
        let v1::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
        let streams = Streams { stdin, stdout, stderr, tty };
        check(streams)?;
        let container = self.pods.running_container(&container_id).map_err(|e| status(&e))?;
        let url = self.address(Wanted::Attach { container: container.to_string(), streams })?;
        Ok(v1::AttachResponse { url })
    }
}
