//! Lets clients in that send something other than a host name as `:authority`.
//!
//! Over a unix socket, gRPC for Go in kubelets up to 1.30 and the defaults of
//! gRPC for Python and C++ send the socket's path as `:authority`
//! (`/run/x.sock` or `%2Frun%2Fx.sock`). The HTTP/2 implementation below our
//! server refuses that as malformed before any handler sees the call.
//! [`accept`] wraps the server's side of a connection and, on what the client
//! sends only, puts `localhost` in place of such a value:
//!
//! ```text
//!            first HEADERS has a good authority, or none
//! deciding ──────────────────────────────────────────────▶ passing (bytes as they come)
//!    │ it has a bad one
//!    └────▶ rewriting: every header block is decoded and encoded anew
//!               │ malformed or over a limit
//!               └────▶ a frame that ends the connection with the right code, then nothing
//! ```
//!
//! A client's authority belongs to its connection, so the first request decides.
//! Once one block was decoded here, the compression state lives here and every
//! later block must be decoded too; they leave as plain literals.
//!
//! What must never happen: a panic, or growth without bound, on any bytes; a
//! changed byte on the connection of a client that needs none of this.
//! The daemon's listener is the caller.
#![forbid(unsafe_code)]

mod frame;
mod hpack;
mod huffman;
mod rewriter;
mod stream;

pub use stream::{AuthorityStream, accept};
