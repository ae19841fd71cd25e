//! Against servers in this process, on unix sockets.

mod calls;
mod negotiation;
mod server;
