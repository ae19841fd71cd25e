//! What sessions are made of: the pods of this node, or a fake.

use std::future::Future;
use std::os::fd::OwnedFd;

use tokio::net::TcpStream;

use crate::{Outcome, Streams, TerminalSize};

/// What an address is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A command in a container.
    Exec {
        /// The container.
        container: String,
        /// The program and its arguments.
        command: Vec<String>,
        /// Its streams.
        streams: Streams,
    },
    /// The streams of a container's first process.
    Attach {
        /// The container.
        container: String,
        /// The streams.
        streams: Streams,
    },
    /// Connections to ports of a sandbox.
    PortForward {
        /// The sandbox.
        sandbox: String,
        /// The ports, where the protocol cannot name them.
        ports: Vec<u16>,
    },
}

impl Wanted {
    /// The path's first part.
    pub(crate) fn path(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }
}

/// A process whose streams a client has.
#[derive(Debug)]
pub struct Process<R> {
    /// Where its input is written.
    pub stdin: Option<OwnedFd>,
    /// Where its output is read; a terminal's too.
    pub stdout: Option<OwnedFd>,
    /// Where its errors are read.
    pub stderr: Option<OwnedFd>,
    /// The process itself.
    pub running: R,
}

/// A process that runs. Dropped before its end, it meets its configured fate.
pub trait Running: Send + Sync + 'static {
    /// Changes its terminal's size.
    fn resize(&self, size: TerminalSize) -> impl Future<Output = ()> + Send;

    /// Waits for its end. What it wrote is in its streams then.
    fn ended(&mut self) -> impl Future<Output = Outcome> + Send;
}

/// Where sessions come from. Errors are one line.
pub trait Backend: Clone + Send + Sync + 'static {
    /// A process.
    type Running: Running;

    /// Starts a command.
    fn exec(
        &self,
        container: &str,
        command: Vec<String>,
        streams: Streams,
    ) -> impl Future<Output = Result<Process<Self::Running>, String>> + Send;

    /// Takes part in a container's streams.
    fn attach(
        &self,
        container: &str,
        streams: Streams,
    ) -> impl Future<Output = Result<Process<Self::Running>, String>> + Send;

    /// Connects to a port of a sandbox.
    fn connect(
        &self,
        sandbox: &str,
        port: u16,
    ) -> impl Future<Output = Result<TcpStream, String>> + Send;
}
