//! PortForward.

use cri_proto::v1;
use streaming::server::Wanted;
use tonic::Status;

use crate::{error::status, service::Server};

/// The most ports of a request: each has two channels of the 256 that a WebSocket has.
const MAX_PORTS: usize = 127;

impl Server {
    pub(crate) fn on_port_forward(
        &self,
        request: v1::PortForwardRequest,
    ) -> Result<v1::PortForwardResponse, Status> {
        let v1::PortForwardRequest { pod_sandbox_id, port } = request;
        let ports = ports(&port)?;
        let sandbox = self.pods.sandbox_ready(&pod_sandbox_id).map_err(|e| status(&e))?;
        let sandbox = sandbox.id.to_string();
        let url = self.address(Wanted::PortForward { sandbox, ports })?;
        Ok(v1::PortForwardResponse { url })
    }
}

fn ports(asked: &[i32]) -> Result<Vec<u16>, Status> {
    if asked.len() > MAX_PORTS {
        let text = format!("{} ports are more than {MAX_PORTS}", asked.len());
        return Err(Status::invalid_argument(text));
    }
    let port = |port: &i32| u16::try_from(*port).ok().filter(|port| *port > 0);
    let bad = |port: &i32| Status::invalid_argument(format!("{port} is not a port"));
    asked.iter().map(|asked| port(asked).ok_or_else(|| bad(asked))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_that_a_port_has() {
        assert_eq!(ports(&[80, 65_535]).unwrap(), [80, 65_535]);
        for bad in [&[0][..], &[-1], &[65_536], &[80; 128]] {
            assert_eq!(ports(bad).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
