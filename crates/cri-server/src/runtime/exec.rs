//! Exec.

use cri_proto::v1;
use streaming::Streams;
use streaming::server::Wanted;
use tonic::Status;

use crate::{error::status, service::Server};

impl Server {
    pub(crate) fn on_exec(&self, request: v1::ExecRequest) -> Result<v1::ExecResponse, Status> {
        let v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
        if cmd.is_empty() {
            return Err(Status::invalid_argument("the command is empty"));
        }
        let streams = Streams { stdin, stdout, stderr, tty };
        check(streams)?;
        let container = self.pods.running_container(&container_id).map_err(|e| status(&e))?;
        let container = container.to_string();
        let url = self.address(Wanted::Exec { container, command: cmd, streams })?;
        Ok(v1::ExecResponse { url })
    }

    /// An address at which the streaming server does what is wanted, once.
    pub(crate) fn address(&self, wanted: Wanted) -> Result<String, Status> {
        let full = |error| Status::resource_exhausted(telemetry::chain(&error));
        self.addresses.issue(wanted).map_err(full)
    }
}

/// Refuses streams that cannot be, as the interface has it.
pub(crate) fn check(streams: Streams) -> Result<(), Status> {
    if !streams.stdin && !streams.stdout && !streams.stderr {
        return Err(Status::invalid_argument("one of stdin, stdout and stderr must be set"));
    }
    if streams.tty && streams.stderr {
        return Err(Status::invalid_argument(
            "tty and stderr exclude each other: a terminal has one output",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_cannot_be_are_refused() {
        let streams =
            |[stdin, stdout, stderr, tty]: [bool; 4]| Streams { stdin, stdout, stderr, tty };
        for bad in [[false; 4], [false, false, false, true], [true, true, true, true]] {
            let error = check(streams(bad)).unwrap_err();
            assert_eq!(error.code(), tonic::Code::InvalidArgument);
        }
        for good in
            [[true, false, false, false], [true, true, false, true], [false, true, true, false]]
        {
            check(streams(good)).unwrap();
        }
    }
}
