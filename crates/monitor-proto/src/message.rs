//! The frames.

use serde::{Deserialize, Serialize};
use types::ContainerId;

use crate::{
    Exec, ExecId, ExecStarted, Exit, Failure, Hello, HelloReply, MakeSandbox, ReaperRequest,
    SandboxMade, StartContainer, Started, StatePage,
};

/// What a daemon sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the daemon; the answer bears it.
    pub id: u64,
    /// What is asked.
    pub op: Op,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Settles the version; the first request of a connection. Answered by [`Reply::Hello`].
    Hello(Hello),
    /// Answered by [`Reply::SandboxMade`].
    MakeSandbox(MakeSandbox),
    /// Starts the reaper of a sandbox that was made without one. Needs
    /// [`crate::Features::LATE_REAPER`]. Answered by [`Reply::SandboxMade`].
    StartReaper(ReaperRequest),
    /// Answered by [`Reply::Started`].
    StartContainer(Box<StartContainer>),
    /// Answered by [`Reply::ExecStarted`].
    Exec(Exec),
    /// Answered by [`Reply::Done`].
    Signal(Signal),
    /// Kills an exec session and all that it started. Answered by [`Reply::Done`].
    KillExec {
        /// The container.
        container: ContainerId,
        /// The session.
        exec: ExecId,
    },
    /// Opens the log file anew after it was renamed. Answered by [`Reply::Done`].
    ReopenLog {
        /// The container.
        container: ContainerId,
    },
    /// Answered by [`Reply::Done`].
    ResizeTty(ResizeTty),
    /// Needs [`crate::Features::ATTACH`]. Answered by [`Reply::Done`]; the end is a
    /// [`Notice::AttachEnded`] on the connection that asked.
    Attach(Attach),
    /// Answered by [`Reply::State`].
    State {
        /// Only containers whose ids come after this one.
        #[serde(default)]
        after: Option<ContainerId>,
    },
    /// Forgets a container whose exit the daemon has recorded. Answered by [`Reply::Done`], also
    /// when the container is not known.
    AckExit {
        /// The container.
        container: ContainerId,
    },
    /// Ends the monitor and the reaper; refused while a container lives. Answered by
    /// [`Reply::Done`].
    Shutdown,
}

/// A signal to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// The container.
    pub container: ContainerId,
    /// The number of Linux.
    pub signal: i32,
    /// To every process of the container in place of the first one.
    #[serde(default)]
    pub all: bool,
}

/// A new size of a container's terminal. An exec session's terminal is the daemon's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeTty {
    /// The container.
    pub container: ContainerId,
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Attaches descriptors to a container's streams; they go with it in the order of the fields.
///
/// What is read from the first goes to the container; its end closes the container's standard
/// input where that was asked for at its start. The others get what the container writes from now
/// on. One that does not take it at once is let go: the container waits for nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The container.
    pub container: ContainerId,
    /// The session, in the notice of its end.
    pub session: ExecId,
    /// Whether a descriptor is there from which standard input is taken.
    #[serde(default)]
    pub stdin: bool,
    /// Whether a descriptor is there to which standard output is copied.
    #[serde(default)]
    pub stdout: bool,
    /// Whether a descriptor is there to which standard error is copied.
    #[serde(default)]
    pub stderr: bool,
}

/// Why an attached session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachEnd {
    /// The container ended.
    ContainerEnded,
    /// The other ends of all its descriptors are closed.
    StreamsEnded,
    /// A descriptor was full: what the container wrote could not be given to it.
    TooSlow,
    /// A reason that this build does not know.
    #[serde(other)]
    Unknown,
}

/// What a monitor sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The answer to a request.
    Reply {
        /// The request's id.
        id: u64,
        /// What came of it.
        result: Result<Reply, Failure>,
    },
    /// News.
    Notice(Notice),
}

/// A request that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Op::Hello`]; a pidfd of the monitor goes with it.
    Hello(HelloReply),
    /// To [`Op::MakeSandbox`] and [`Op::StartReaper`].
    SandboxMade(SandboxMade),
    /// To [`Op::StartContainer`].
    Started(Started),
    /// To [`Op::Exec`]; the terminal's master goes with it where one was asked for.
    ExecStarted(ExecStarted),
    /// To [`Op::State`].
    State(StatePage),
    /// To everything else.
    Done,
}

/// News from a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A container ended and its log is complete. Sent to every daemon, on every connection, and
    /// again until [`Op::AckExit`].
    ContainerExited {
        /// The container.
        container: ContainerId,
        /// How.
        exit: Exit,
    },
    /// An exec session's command ended; what it started may still run. Sent once, to the
    /// connection that started it.
    ExecExited {
        /// The container.
        container: ContainerId,
        /// The session.
        exec: ExecId,
        /// How; `None` when it was killed and did not end in time.
        exit: Option<Exit>,
        /// Whether its time was over.
        #[serde(default)]
        timed_out: bool,
    },
    /// The first process of the pod's PID namespace ended, and with it all others in there.
    ReaperExited {
        /// How.
        exit: Exit,
    },
    /// A session that was attached to a container is over. Sent once, to the connection that
    /// attached it.
    AttachEnded {
        /// The container.
        container: ContainerId,
        /// The session.
        session: ExecId,
        /// Why.
        why: AttachEnd,
    },
    /// Output of a container does not reach its log; sent when that begins.
    LogTrouble {
        /// The container.
        container: ContainerId,
        /// Why.
        message: String,
    },
}
