//! Seccomp: profiles, and the compiler that makes kernel filters of them.
//!
//! Owns the meaning of an OCI `linux.seccomp` (which rule wins, what an unknown call
//! gets), the runtime's default profile, and the reading of profiles from files. It never
//! touches the kernel: who installs a [`Program`] is crate `launch`.
#![forbid(unsafe_code)]

mod arch;
mod bpf;
mod bytes;
mod compile;
mod error;
mod profile;
mod rules;
mod runtime_default;

pub use arch::Machine;
pub use bpf::{MAX_INSTRUCTIONS, SockFilter};
pub use compile::{FLAG_LOG, FLAG_SPEC_ALLOW, FLAG_TSYNC, Program, compile, compile_for};
pub use error::Error;
pub use profile::{Host, MAX_PROFILE_BYTES, MAX_RULES, read_profile};
pub use rules::{MAX_CONDITIONS, MAX_NAMES};
pub use runtime_default::{runtime_default, runtime_default_for};
