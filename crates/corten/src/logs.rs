//! Reading a container's log file, as the kubelet and crictl read it.
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F a whole line
//! 2026-01-02T03:04:05.678901234Z stderr P the beginning of a long one
//! ```
//!
//! The file may be renamed while it is read, and a new one put in its place: what
//! is left in the old one is shown before the new one. The end is the container's
//! end, not the file's, when following.

mod follow;
mod line;
mod sink;
mod source;
mod tail;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;

pub use follow::{Alive, CHECK_AFTER, follow};
pub use line::Stream;
pub use sink::{Filter, Sink};
pub use source::Source;
