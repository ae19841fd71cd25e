//! The pod network: CNI plugins by the specification, and a built-in bridge network
//! where no CNI configuration exists.
#![forbid(unsafe_code)]

mod error;
mod network;
mod options;
mod request;
mod subnet;

pub use error::NetworkError;
pub use network::Network;
pub use options::{
    BuiltinOptions, DEFAULT_ADD_DEADLINE, DEFAULT_DEL_DEADLINE, DEFAULT_SUBNET, NetworkOptions,
};
pub use request::{AttachRequest, Attachment, DetachRequest, NetworkStatus, RecoverReport};
pub use subnet::{InvalidSubnet, Ipv4Subnet};
