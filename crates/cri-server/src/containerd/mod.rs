//! What cAdvisor asks of containerd, answered from what is known of the pods.
//!
//! cAdvisor, which every kubelet contains, finds containers by their cgroups and asks
//! containerd whose they are: the labels of its figures come from there, and the process in
//! whose network namespace a pod's network is counted. It knows no runtime but containerd and
//! CRI-O. These are the three calls that it makes; all others of containerd's are
//! `Unimplemented`, and nothing can be changed here.

mod containers;
mod spec;
mod tasks;
mod version;

use cri_proto::containerd::services::{
    containers::v1::containers_server::ContainersServer, tasks::v1::tasks_server::TasksServer,
    version::v1::version_server::VersionServer,
};
use tonic::{Status, metadata::MetadataMap, service::Routes};

use crate::service::Server;

/// The only namespace of containerd's that is served: the kubelet's.
const NAMESPACE: &str = "k8s.io";

/// What names the namespace in a request.
const NAMESPACE_HEADER: &str = "containerd-namespace";

impl Server {
    /// The calls that cAdvisor makes of containerd.
    pub fn containerd_routes(&self, routes: Routes) -> Routes {
        routes
            .add_service(VersionServer::new(self.clone()))
            .add_service(ContainersServer::new(self.clone()))
            .add_service(TasksServer::new(self.clone()))
    }
}

/// Whether a request is for the kubelet's namespace.
///
/// # Errors
/// `FailedPrecondition` where it names none, as containerd says it.
fn is_ours(metadata: &MetadataMap) -> Result<bool, Status> {
    match metadata.get(NAMESPACE_HEADER) {
        Some(name) if !name.is_empty() => Ok(name == NAMESPACE),
        Some(_) | None => {
            Err(Status::failed_precondition("namespace is required: failed precondition"))
        }
    }
}

/// A time as containerd's messages have it.
fn timestamp(nanoseconds: i64) -> prost_types::Timestamp {
    const SECOND: i64 = 1_000_000_000;
    prost_types::Timestamp {
        seconds: nanoseconds.div_euclid(SECOND),
        // Below a second.
        nanos: i32::try_from(nanoseconds.rem_euclid(SECOND)).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_namespace() {
        let mut metadata = MetadataMap::new();
        assert_eq!(is_ours(&metadata).unwrap_err().code(), tonic::Code::FailedPrecondition);
        for (name, expected) in [("k8s.io", true), ("moby", false)] {
            metadata.insert(NAMESPACE_HEADER, name.parse().unwrap());
            assert_eq!(is_ours(&metadata).unwrap(), expected, "{name}");
        }
        metadata.insert(NAMESPACE_HEADER, "".parse().unwrap());
        assert!(is_ours(&metadata).is_err());
    }

    #[test]
    fn times_keep_their_nanoseconds() {
        let time = timestamp(1_500_000_000_000_000_007);
        assert_eq!((time.seconds, time.nanos), (1_500_000_000, 7));
        let time = timestamp(-1);
        assert_eq!((time.seconds, time.nanos), (-1, 999_999_999));
    }
}
