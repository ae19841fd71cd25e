//! What the daemon and a pod's monitor say to each other, and how it is framed.
//!
//! ```text
//! daemon ── Request { id, op } (+ descriptors) ──▶ monitor
//! daemon ◀── Reply { id, result } (+ descriptors) ── monitor
//! daemon ◀── Notice ─────────────────────────────── monitor
//! ```
//!
//! One packet of a `SOCK_SEQPACKET` socket is one JSON frame of at most [`MAX_FRAME`] bytes. The
//! first request of a connection is [`Op::Hello`]; it settles the version of everything after it.
//!
//! A monitor outlives the daemon that started it, so fields are only ever added, each with a
//! default; what an older peer cannot do is behind a bit of [`Features`].
//!
//! Used by `corten-monitor` and `monitor-client`, and by nothing else.
#![forbid(unsafe_code)]

mod container;
mod error;
mod exec;
mod exit;
mod frame;
mod hello;
mod message;
mod sandbox;
mod socket;
mod state;

#[cfg(test)]
mod fuzz_tests;

pub use container::{
    CgroupPlacement, ContainerPid, KillCgroup, LogTarget, OomFile, OomFileKind, Program, Rootfs,
    StartContainer, Started,
};
pub use error::{Failure, FailureKind, FrameError};
pub use exec::{Exec, ExecCgroup, ExecId, ExecStarted, InvalidExecId};
pub use exit::{EXIT_RECORD_VERSION, Exit, ExitRecord, MAX_EXIT_RECORD};
pub use frame::{
    decode_message, decode_request, encode_message, encode_request, request_id, serialize,
};
pub use hello::{Features, Hello, HelloReply, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
pub use message::{Attach, AttachEnd, Message, Notice, Op, Reply, Request, ResizeTty, Signal};
pub use sandbox::{MakeSandbox, ReaperRequest, SandboxMade, UserRequest};
pub use socket::{Received, bind, connect, peer_uid, receive, send};
pub use state::{ContainerPhase, ContainerState, ReaperState, StatePage};

/// The longest frame. The longest honest one is a StartContainer with 500 layers, about 50 KiB.
pub const MAX_FRAME: usize = 64 * 1024;

/// The most descriptors that go with a frame: an exec's process, stdin, stdout and stderr.
pub const MAX_DESCRIPTORS: usize = 4;

/// The most daemons connected to one monitor: the running one, its successor during an upgrade,
/// and a tool that looks; one more for what has not noticed yet that it is dead.
pub const MAX_CONNECTIONS: usize = 4;

/// The longest line of a container's log that a monitor may be asked for: it holds an
/// unfinished line of each stream in memory.
pub const MAX_LOG_LINE: usize = 256 * 1024;

/// The monitor's socket in the sandbox's state directory.
pub const SOCKET_NAME: &str = "monitor.sock";

/// The directory of exit records in the sandbox's state directory.
pub const EXITS_DIR: &str = "exits";

/// What the monitor has to say about itself, in the sandbox's state directory.
pub const MONITOR_LOG_NAME: &str = "monitor.log";
