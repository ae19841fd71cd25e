//! A client of any Container Runtime Interface runtime on this machine.
//!
//! [`RuntimeClient`] and [`ImageClient`] each own one connection to one
//! [`Endpoint`], which may be the same or two different ones. Connecting agrees
//! on a version as the kubelet does, for each service on its own: v1 when
//! `Version` (or `ImageFsInfo`) answers there, v1alpha2 when it says
//! `Unimplemented`. The agreed version stays for the life of the client, also
//! when the connection is lost and dialled again.
//!
//! A connection that was lost is dialled again by the next call. While dialling
//! fails, calls fail at once, and a new attempt is made only after a growing
//! pause (from 100 ms to 3 s), so that a caller in a loop does
//! not turn into a storm on the socket.
//!
//! ```no_run
//! # async fn f() -> Result<(), cri_client::Error> {
//! use cri_client::{Endpoint, Options, RuntimeClient};
//!
//! let endpoint: Endpoint = "unix:///run/corten/corten.sock".parse()?;
//! let runtime = RuntimeClient::connect(endpoint, Options::default()).await?;
//! for pod in runtime.pod_sandboxes(None).await? {
//!     println!("{}", pod.id);
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod admin;
mod call;
mod dial;
mod endpoint;
mod error;
mod image;
mod lists;
mod options;
mod runtime;
mod version;

#[cfg(test)]
mod tests;

pub use admin::{AdminClient, Pieces};
pub use endpoint::Endpoint;
pub use error::{Error, Result};
pub use image::ImageClient;
pub use options::{Options, Timeouts};
pub use runtime::{ContainerEvents, RuntimeClient};
pub use tonic::Code;
pub use version::ApiVersion;
