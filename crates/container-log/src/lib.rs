//! Container logs in the CRI's format, as the kubelet reads them.
//!
//! ```text
//! 2026-11-23T10:11:12.000000001Z stdout F a whole line
//! 2026-11-23T10:11:12.000000002Z stderr P a part of a line: of one longer than the limit, or without an end
//! ```
//!
//! What must never happen: a line is lost or out of order while the disk takes it; a
//! full disk blocks or ends the container; a path leads out of the log directory.
//!
//! Called by the monitor, on its one thread.
#![forbid(unsafe_code)]

mod line;
mod place;
mod time;
mod writer;

pub use line::Stream;
pub use writer::{Cap, LogError, LogWriter, Scratch, Trouble};
