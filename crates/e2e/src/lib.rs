//! End-to-end tests: what a client of the CRI sees of a runtime on a real kernel.
//!
//! A [`case::Case`] is a function that talks to a runtime by the CRI alone, so it
//! runs against any. The runner runs the same cases against ours and against
//! Debian's containerd, and prints both results side by side: a case that fails
//! on both is suspect itself. Where containerd is known to behave otherwise, the
//! case says how.
#![forbid(unsafe_code)]

pub mod canary;
pub mod case;
pub mod cases;
pub mod catalog;
pub mod context;
pub mod disk;
pub mod logs;
pub mod machine;
pub mod power;
pub mod process;
pub mod report;
pub mod runner;
pub mod runtime;
