//! Exec, attach and port-forward over HTTP: the server of the daemon, and a client of any
//! runtime's server.
//!
//! ```text
//! client ── GET /exec/<token>, Upgrade ──▶ server ──▶ session ──▶ Backend (pods)
//!            SPDY/3.1 or WebSocket          one address is good for one session
//! ```
//!
//! [`spdy`] is our own; WebSocket frames are tokio-tungstenite's, what is in them is
//! [`channel`]'s. The monitor knows nothing of all this: it has descriptors.
//!
//! What must never happen: an address that is good for two sessions; bytes of a client that make
//! the daemon panic or grow; a client that holds up a container.
//!
//! Called by `cri-server` for addresses, by the daemon to serve, and by the command line.
#![forbid(unsafe_code)]

mod activity;
pub mod channel;
pub mod client;
#[cfg(feature = "server")]
mod fd;
mod messages;
mod protocol;
#[cfg(feature = "server")]
pub mod server;
pub mod spdy;
mod task;
mod tunnel;

#[cfg(test)]
mod fuzz_tests;

pub use activity::Activity;
pub use protocol::{Outcome, Streams, TerminalSize};
