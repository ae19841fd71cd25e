//! The API: both services of the CRI, in both versions, on unix sockets, and the few calls of
//! containerd's own that cAdvisor makes ([`containerd`]).
//!
//! One file a call. A call is converted at the door ([`convert`]), given to the
//! core or a service, and its error becomes a gRPC status in one place
//! ([`error`]). The calls that later versions bring answer `Unimplemented`.
//!
//! Called by the daemon; calls `pods`, `stats`, `images` and `network`.
#![forbid(unsafe_code)]

mod admin;
mod containerd;
mod convert;
mod deadline;
mod disks;
mod error;
mod gate;
mod image;
mod legacy;
mod listen;
mod rpc;
mod runtime;
mod service;
mod stream;

pub use admin::check_response;
pub use gate::{Gate, GateKeeper};
pub use listen::{Endpoint, ListenError};
pub use rpc::{RpcFigures, RpcInFlight};
pub use service::{CALLS, Call, Info, Server};
