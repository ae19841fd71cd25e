//! The daemon's log: structured lines on standard error.
//!
//! Every call of the API opens a span with the call's name and a number of its own;
//! spans inside carry the pod and the container, so that each line names all three.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Span, field::Empty, info_span};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is neither a level nor a filter.
    #[error("\"{level}\" is not a log level or filter")]
    Level {
        /// What was configured.
        level: String,
        /// The cause.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// A log is set up already.
    #[error("the log is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up the log: once in a process.
///
/// # Errors
/// Fails where `level` is not a level or filter.
pub fn init(level: &str, json: bool) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(level)
        .map_err(|source| TelemetryError::Level { level: level.to_owned(), source })?;
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry
            .with(fmt::layer().json().with_writer(std::io::stderr).with_current_span(false))
            .try_init()
    } else {
        registry
            .with(fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false))
            .try_init()
    }
    .map_err(TelemetryError::Twice)
}

/// Opens the span of a call: its name, a number unique in this process, and fields for
/// what it turns out to be about: `pod`, `sandbox`, `container`.
pub fn call_span(rpc: &'static str) -> Span {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let request = NEXT.fetch_add(1, Ordering::Relaxed);
    info_span!("call", rpc, request, pod = Empty, sandbox = Empty, container = Empty)
}

/// Joins an error and its causes into one line, the outermost first.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text.replace('\n', " ")
}
