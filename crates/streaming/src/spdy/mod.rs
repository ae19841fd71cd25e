//! SPDY/3.1, as far as Kubernetes speaks it: streams of bytes with headers on one connection.
//!
//! ```text
//! bytes ──▶ Decoder ──▶ frames ──▶ Connection ──▶ Stream (reader, writer)
//!           frame.rs               connection.rs   stream.rs
//! ```
//!
//! The source is the draft "SPDY Protocol, version 3.1". Kubernetes' own library knows neither
//! SETTINGS nor WINDOW_UPDATE: flow control is practised with peers that send SETTINGS, and with
//! others the connection's own back-pressure must do.
//!
//! What must never happen: a peer's number that sizes memory; a queue without an end; a header
//! block that inflates beyond its limit.

mod connection;
mod dictionary;
mod frame;
mod headers;
mod stream;

pub use connection::{Closed, Connection, ConnectionError, Limits, Role};
pub use frame::{Decoder, Encoder, Frame, FrameError, Status};
pub use headers::Headers;
pub use stream::{Stream, StreamError, StreamReader, StreamWriter};

/// Reads foreign bytes as a peer's, to the first error: what a fuzzer calls.
pub fn fuzz(bytes: &[u8]) {
    let (mut decoder, mut input) = (Decoder::default(), bytes::BytesMut::from(bytes));
    let mut left = bytes.len() + 1;
    // Each frame takes bytes; a decoder that gives frames for nothing would be caught here.
    while let Ok(Some(_)) = decoder.decode(&mut input) {
        assert!(left > 0, "frames without bytes");
        left -= 1;
    }
}

#[cfg(test)]
pub(crate) mod fuzz_tests;
#[cfg(test)]
mod tests;
