//! The wire types of the Container Runtime Interface.
//!
//! [`v1`] is generated from this crate's own text, `proto/runtime/v1/api.proto`.
//! The deprecated v1alpha2 has the same messages with the same field numbers, so
//! it has no types of its own: a server maps its paths onto v1's handlers and a
//! client maps v1's calls onto its paths.
#![forbid(unsafe_code)]

/// CRI v1: messages, enumerations, clients and servers.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
    #![allow(rustdoc::all)]
    tonic::include_proto!("runtime.v1");
}

/// Corten's own calls beside the CRI: loading images from archives.
pub mod corten_v1 {
    #![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
    #![allow(rustdoc::all)]
    tonic::include_proto!("corten.v1");
}

/// The few calls of containerd's own interface that cAdvisor makes, with containerd's numbers.
pub mod containerd {
    #![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
    #![allow(rustdoc::all)]
    pub mod services {
        pub mod version {
            pub mod v1 {
                tonic::include_proto!("containerd.services.version.v1");
            }
        }
        pub mod containers {
            pub mod v1 {
                tonic::include_proto!("containerd.services.containers.v1");
            }
        }
        pub mod tasks {
            pub mod v1 {
                tonic::include_proto!("containerd.services.tasks.v1");
            }
        }
    }
    pub mod v1 {
        pub mod types {
            tonic::include_proto!("containerd.v1.types");
        }
    }
}

/// The compiled descriptors of [`v1`], as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
