//! The testing ground: what tests on a real kernel stand on.
//!
//! [`Ground`] is a place of one test run: a directory, names and an address range
//! that nothing else uses. On it stand a [`Registry`] with images made of
//! Debian's packages ([`image`]), a [`Daemon`] of ours or a [`Containerd`] as
//! judge, and [`Between`] a client and its server. The leak audit ([`audit`]) compares the
//! machine before and after.
//!
//! Everything here ends its processes and removes what it made when it is dropped.
#![forbid(unsafe_code)]

pub mod audit;
mod between;
pub mod cgroup;
mod containerd;
mod daemon;
pub mod fuzz;
mod ground;
pub mod image;
mod liar;
mod network;
pub mod program;
mod registry;
pub mod wait;

pub use between::Between;
pub use containerd::{Containerd, write_network};
pub use daemon::{Daemon, DaemonOptions, Driver};
pub use ground::Ground;
pub use liar::{Answer, Held, Liar};
pub use registry::Registry;
