//! `corten logs`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use cri_client::RuntimeClient;
use cri_proto::v1::{
    ContainerState, ContainerStatus, ContainerStatusRequest, ReopenContainerLogRequest,
};
use jiff::{SignedDuration, Timestamp};

use crate::duration;
use crate::logs::{Alive, CHECK_AFTER, Filter, Sink, Source, Stream, follow};
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Show what is added, until the container ends
    #[arg(long, short = 'f')]
    follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Only what was written since this time (RFC 3339) or in this span (such as
    /// 10m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Show each line's time
    #[arg(long, short = 't')]
    timestamps: bool,
    /// No more bytes than this
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<u64>,
    /// Only this stream
    #[arg(long, short = 's', value_name = "STREAM", conflicts_with = "tail")]
    stream: Option<StreamName>,
    /// The log of the container's attempt before this one
    #[arg(long, short = 'p')]
    previous: bool,
    /// Let the runtime open the file anew first
    #[arg(long, short = 'r')]
    reopen: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StreamName {
    Stdout,
    Stderr,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let since = args.since.as_deref().map(|text| since(text, session.now())).transpose()?;
    let runtime = session.runtime().await?;
    if args.reopen {
        let request = ReopenContainerLogRequest { container_id: args.id.clone() };
        runtime.reopen_container_log(request).await?;
    }
    let status = status(runtime, &args.id).await?;
    let path = log_path(&status, args.previous)?;
    // A negative number is all, as in crictl.
    let tail = args.tail.and_then(|lines| u64::try_from(lines).ok());
    let mut source = Source::open(&path, tail).with_context(|| opening(&path, &status))?;
    let filter = Filter {
        since,
        stream: args.stream.map(|name| match name {
            StreamName::Stdout => Stream::Stdout,
            StreamName::Stderr => Stream::Stderr,
        }),
        timestamps: args.timestamps,
        limit_bytes: args.limit_bytes,
    };
    let mut sink = Sink::new(output, filter);
    if args.follow && !args.previous {
        follow(source, &mut sink, &Running { runtime, id: &status.id }, CHECK_AFTER).await?;
    } else {
        source.drain(&mut sink)?;
        source.end(&mut sink)?;
    }
    sink.finish()?;
    Ok(())
}

fn opening(path: &Path, status: &ContainerStatus) -> String {
    let advice = match status.state() {
        ContainerState::ContainerCreated => ", the container was not started yet",
        _ => "",
    };
    format!("failed to read the log {}{advice}", path.display())
}

/// A time, or a span before now.
fn since(text: &str, now: i64) -> anyhow::Result<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    // Without an offset it is UTC, as the log's own times are.
    if let Ok(time) = format!("{text}Z").parse::<Timestamp>() {
        return Ok(time);
    }
    let span = duration::parse(text).ok().and_then(|span| SignedDuration::try_from(span).ok());
    let now = Timestamp::from_nanosecond(i128::from(now)).context("the clock is wrong")?;
    span.and_then(|span| now.checked_sub(span).ok())
        .with_context(|| format!("--since `{text}` is neither a time (RFC 3339) nor a span (10m)"))
}

async fn status(runtime: &RuntimeClient, id: &str) -> anyhow::Result<ContainerStatus> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let answer = runtime.container_status(request).await?;
    answer.status.context("the runtime answered without a status")
}

/// Where the log is: `<dir>/<attempt>.log`.
fn log_path(status: &ContainerStatus, previous: bool) -> anyhow::Result<PathBuf> {
    if status.log_path.is_empty() {
        bail!("container {} has no log: its pod has no log directory", status.id);
    }
    let path = PathBuf::from(&status.log_path);
    if !previous {
        return Ok(path);
    }
    let attempt = status.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    let Some(before) = attempt.checked_sub(1) else {
        bail!("container {} is the first attempt, there is no previous one", status.id);
    };
    Ok(path.with_file_name(format!("{before}.log")))
}

/// Asks the runtime whether the container may still write.
struct Running<'a> {
    runtime: &'a RuntimeClient,
    id: &'a str,
}

impl Alive for Running<'_> {
    async fn alive(&self) -> anyhow::Result<bool> {
        let request = ContainerStatusRequest { container_id: self.id.to_owned(), verbose: false };
        Ok(match self.runtime.container_status(request).await {
            Ok(answer) => match answer.status.unwrap_or_default().state() {
                ContainerState::ContainerCreated | ContainerState::ContainerRunning => true,
                ContainerState::ContainerExited | ContainerState::ContainerUnknown => false,
            },
            Err(error) if error.is_not_found() => false,
            // The runtime may be restarting; containers go on meanwhile.
            Err(error) => {
                tracing::debug!(%error, "the container's state is not known now");
                true
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_spans() {
        let now = 1_700_000_000_000_000_000;
        for (text, expected) in [
            ("2023-11-14T22:00:00Z", "2023-11-14T22:00:00Z"),
            ("2023-11-14T22:00:00", "2023-11-14T22:00:00Z"),
            ("2023-11-14T22:00:00.5+01:00", "2023-11-14T21:00:00.5Z"),
            ("20s", "2023-11-14T22:13:00Z"),
            ("1h", "2023-11-14T21:13:20Z"),
        ] {
            assert_eq!(since(text, now).expect(text).to_string(), expected, "{text}");
        }
        assert!(since("yesterday", now).is_err());
    }
}
