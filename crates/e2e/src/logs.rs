//! The CRI's log format: `<time> <stream> <tags> <text>`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::ContainerConfig;

use crate::context::Pod;

/// A line of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When.
    pub time: jiff::Timestamp,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether the line goes on in the next.
    pub partial: bool,
    /// The text.
    pub text: String,
}

/// A log file.
#[derive(Clone, Debug)]
pub struct Log(pub Vec<Line>);

impl Log {
    /// Reads every line; one that is not of the format is an error.
    ///
    /// # Errors
    /// If it is not.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.is_empty() || text.ends_with('\n'), "the last line is not ended");
        let lines: Result<Vec<Line>> = text.split_terminator('\n').map(parse_line).collect();
        Ok(Self(lines?))
    }

    /// What was written, as it was written, whatever the stream.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.iter().map(Line::written).collect()
    }

    /// What was written to a stream.
    #[must_use]
    pub fn of(&self, stream: &str) -> String {
        self.0.iter().filter(|line| line.stream == stream).map(Line::written).collect()
    }
}

impl Line {
    fn written(&self) -> String {
        format!("{}{}", self.text, if self.partial { "" } else { "\n" })
    }
}

/// Where a container's log is.
#[must_use]
pub fn path(pod: &Pod, config: &ContainerConfig) -> PathBuf {
    PathBuf::from(&pod.config.log_directory).join(&config.log_path)
}

/// Reads a container's log.
///
/// # Errors
/// If there is none, or a line is not of the format.
pub fn read(pod: &Pod, config: &ContainerConfig) -> Result<Log> {
    let path = path(pod, config);
    let text = std::fs::read(&path).with_context(|| format!("no log {}", path.display()))?;
    Log::parse(&String::from_utf8_lossy(&text))
}

fn parse_line(line: &str) -> Result<Line> {
    let mut parts = line.splitn(4, ' ');
    let mut part = || parts.next().with_context(|| format!("not a log line: {line:.200}"));
    let (time, stream, tags, text) = (part()?, part()?, part()?, part()?);
    ensure!(stream == "stdout" || stream == "stderr", "the stream is {stream}");
    let partial = match tags.split(':').next() {
        Some("P") => true,
        Some("F") => false,
        other => anyhow::bail!("the tag is {other:?}"),
    };
    // RFC 3339 with nanoseconds, as the kubelet parses it.
    let fraction = time.split('.').nth(1).unwrap_or_default();
    let digits = fraction.chars().take_while(char::is_ascii_digit).count();
    ensure!((1..=9).contains(&digits), "the time {time} has no fraction");
    let time = time.parse().with_context(|| format!("not a time: {time}"))?;
    Ok(Line { time, stream: stream.to_owned(), partial, text: text.to_owned() })
}
