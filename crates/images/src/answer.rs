//! What registries answer: bodies within limits, and failures in the registry's own
//! words.

use std::{
    io,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use reqwest::{Response, StatusCode, header::RETRY_AFTER};
use serde::Deserialize;

use crate::{
    PullError,
    error::{chain, one_line},
};

/// The longest pause that a registry may ask for: who asks for a longer one is left
/// for the client to come back to.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);

/// The most that is read of an error's body.
const MAX_ERROR_BYTES: u64 = 64 << 10;

/// A try that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub error: PullError,
    /// After which pause at least another try can help; `None` if it cannot.
    pub again: Option<Duration>,
}

impl Failure {
    /// Makes a failure that trying again does not help.
    pub fn last(error: PullError) -> Self {
        Self { error, again: None }
    }

    fn again(error: PullError) -> Self {
        Self { error, again: Some(Duration::ZERO) }
    }
}

/// Where an answer comes from, and for what it was asked, for errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// `host:port`.
    pub host: &'a str,
    /// `manifest latest of docker.io/library/busybox`.
    pub what: &'a str,
    /// How long nothing may come.
    pub patience: Duration,
    /// How many bytes of a body must come in that time.
    pub min_bytes: u64,
}

/// How fast a body comes. Only the time counts in which we wait for the registry, and
/// not that in which it would wait for us.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Origin<'_> {
    /// Waits for the head of an answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Failure> {
        match tokio::time::timeout(self.patience, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.broken(error)),
            Err(_) => Err(Failure::again(self.stalled())),
        }
    }

    /// Waits for a body's next bytes.
    pub async fn next_chunk(
        &self,
        response: &mut Response,
        pace: &mut Pace,
    ) -> Result<Option<Bytes>, Failure> {
        let begun = Instant::now();
        let chunk = match tokio::time::timeout(self.patience, response.chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) => return Err(self.broken(error)),
            Err(_) => return Err(Failure::again(self.stalled())),
        };
        pace.waited += begun.elapsed();
        pace.bytes += chunk.as_ref().map_or(0, Bytes::len) as u64;
        if pace.waited >= self.patience {
            if pace.bytes < self.min_bytes && chunk.is_some() {
                return Err(Failure::again(self.dripping(pace.bytes)));
            }
            *pace = Pace::default();
        }
        Ok(chunk)
    }

    /// Reads a body of at most `limit` bytes.
    pub async fn read_all(&self, mut response: Response, limit: u64) -> Result<Bytes, Failure> {
        let mut body = Vec::new();
        let mut pace = Pace::default();
        while let Some(chunk) = self.next_chunk(&mut response, &mut pace).await? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(Failure::last(PullError::LimitExceeded {
                    what: format!("{} at {}", self.what, self.host),
                    limit: format!("{limit} bytes"),
                }));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    /// Turns an answer that is none of 200 and 206 into its failure.
    pub async fn expect_ok(&self, response: Response) -> Result<Response, Failure> {
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            _ => Err(self.refused(response).await),
        }
    }

    /// Makes the failure of an answer that is no success.
    pub async fn refused(&self, response: Response) -> Failure {
        let status = response.status().as_u16();
        let after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()))
            .unwrap_or_default();
        let message = self.words(response).await;
        let (host, what) = (self.host.to_owned(), self.what.to_owned());
        match status {
            // The client follows the others.
            300..=399 => Failure::last(PullError::Registry {
                host,
                step: format!("get {what}"),
                message: format!("status {status}: a redirect to where no registry is"),
            }),
            404 => Failure::last(PullError::NotFound { host, what, message }),
            401 | 403 => Failure::last(PullError::Unauthorized { host, what, status, message }),
            408 | 429 | 500.. if after > MAX_RETRY_AFTER => {
                Failure::last(self.unavailable(format!(
                    "status {status}: {message}: it asks to come back in {} s",
                    after.as_secs()
                )))
            }
            408 | 429 | 500.. => Failure {
                error: self.unavailable(format!("status {status}: {message}")),
                again: Some(after),
            },
            _ => Failure::last(PullError::Registry {
                host,
                step: format!("get {what}"),
                message: format!("status {status}: {message}"),
            }),
        }
    }

    /// Returns what the registry says. A redirect may lead to a machine that is none
    /// of the user's business: what that one says is not repeated.
    async fn words(&self, response: Response) -> String {
        let url = response.url();
        let name = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        if name != self.host {
            return format!("answered by {name}, to which it redirects");
        }
        registry_text(&self.read_all(response, MAX_ERROR_BYTES).await.unwrap_or_default())
    }

    /// A connection that did not come up, or broke.
    fn broken(&self, error: reqwest::Error) -> Failure {
        let again = can_come_back(&error);
        // Addresses of redirects may hold secrets.
        let failure = self.unavailable(chain(&error.without_url()));
        Failure { error: failure, again: again.then_some(Duration::ZERO) }
    }

    fn stalled(&self) -> PullError {
        self.unavailable(format!("nothing came for {} s", self.patience.as_secs()))
    }

    fn dripping(&self, bytes: u64) -> PullError {
        self.unavailable(format!("only {bytes} bytes came in {} s", self.patience.as_secs()))
    }

    fn unavailable(&self, reason: String) -> PullError {
        PullError::RegistryUnavailable {
            host: self.host.to_owned(),
            step: format!("get {}", self.what),
            reason,
        }
    }
}

/// Reads `Retry-After`: seconds, or a date.
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let date: SystemTime = date.into();
    Some(date.duration_since(now).unwrap_or_default())
}

/// Tells whether trying again at once can help: a connection that broke may hold the
/// next time, a host that refuses or is not known will not change within seconds.
fn can_come_back(error: &reqwest::Error) -> bool {
    if error.is_redirect() || error.is_builder() {
        return false;
    }
    if !error.is_connect() {
        return true;
    }
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && matches!(
                io.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::BrokenPipe
            )
        {
            return true;
        }
        next = cause.source();
    }
    false
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What token servers say instead.
#[derive(Deserialize)]
struct Details {
    #[serde(alias = "error_description", alias = "message", alias = "error")]
    details: String,
}

/// Returns a registry's own words: `errors[].message`, or the body's beginning.
pub(crate) fn registry_text(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) if !errors.is_empty() => {
            let each = errors.iter().map(|e| format!("{}: {}", e.code, e.message));
            each.collect::<Vec<_>>().join("; ")
        }
        _ => match serde_json::from_slice::<Details>(body) {
            Ok(Details { details }) => details,
            Err(_) => String::from_utf8_lossy(body).into_owned(),
        },
    };
    let line = one_line(&text);
    if line.is_empty() { "the registry gave no reason".to_owned() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_read_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_470);
        for (text, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(10)),
            ("Wed, 21 Oct 2014 07:28:00 GMT", None),
            ("Mon, 20 Oct 2014 07:28:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(text, now).map(|d| d.as_secs()), expected, "{text}");
        }
    }

    #[test]
    fn the_registrys_words_are_one_line() {
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"A","message":"b\nc","detail":{}},{"code":"D"}]}"#,
                "A: b c; D:",
            ),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            (r#"{"errors":[]}"#, r#"{"errors":[]}"#),
            ("<html>\n<h1>no</h1>", "<html> <h1>no</h1>"),
            ("", "the registry gave no reason"),
        ] {
            assert_eq!(registry_text(body.as_bytes()), expected, "{body}");
        }
        assert!(registry_text(&[b'x'; 5000]).len() < 600);
    }
}
