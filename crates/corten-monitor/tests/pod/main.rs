//! The monitor as a real process with real containers, through the client that the daemon uses.
//!
//! Needs root, cgroups (v1, hybrid or v2) and a static busybox. Each case has its own directory,
//! monitor and cgroups.

mod attach;
mod containers;
mod execs;
mod ground;
mod life;
mod logs;
mod processes;
mod users;
