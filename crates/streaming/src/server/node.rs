//! The real thing: pods of this node.

use pods::{Pods, RunningAttach, RunningExec, StreamEnds, StreamsWanted};
use telemetry::chain;
use tokio::net::TcpStream;

use super::backend::{Backend, Process, Running};
use crate::{Outcome, Streams, TerminalSize};

/// A process of a pod.
#[derive(Debug)]
pub enum PodProcess {
    /// A command.
    Exec(RunningExec),
    /// The first process of a container.
    Attach(RunningAttach),
}

impl Running for PodProcess {
    async fn resize(&self, TerminalSize { width, height }: TerminalSize) {
        match self {
            Self::Exec(exec) => exec.resize(width, height),
            Self::Attach(attach) => attach.resize(width, height).await,
        }
    }

    async fn ended(&mut self) -> Outcome {
        let ended = match self {
            Self::Exec(exec) => exec.ended().await,
            Self::Attach(attach) => attach.ended().await.map(|()| 0),
        };
        ended.map_or_else(|error| Outcome::Failed(chain(&error)), Outcome::Exited)
    }
}

impl Backend for Pods {
    type Running = PodProcess;

    async fn exec(
        &self,
        container: &str,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<Process<PodProcess>, String> {
        let started = Self::exec(self, container, command, wanted(streams)).await;
        let (ends, running) = started.map_err(|error| chain(&error))?;
        Ok(process(ends, PodProcess::Exec(running)))
    }

    async fn attach(
        &self,
        container: &str,
        streams: Streams,
    ) -> Result<Process<PodProcess>, String> {
        let attached = Self::attach(self, container, wanted(streams)).await;
        let (ends, running) = attached.map_err(|error| chain(&error))?;
        Ok(process(ends, PodProcess::Attach(running)))
    }

    async fn connect(&self, sandbox: &str, port: u16) -> Result<TcpStream, String> {
        self.connect_port(sandbox, port).await.map_err(|error| chain(&error))
    }
}

fn wanted(Streams { stdin, stdout, stderr, tty }: Streams) -> StreamsWanted {
    StreamsWanted { stdin, stdout, stderr, tty }
}

fn process(ends: StreamEnds, running: PodProcess) -> Process<PodProcess> {
    let StreamEnds { stdin, stdout, stderr } = ends;
    Process { stdin, stdout, stderr, running }
}
