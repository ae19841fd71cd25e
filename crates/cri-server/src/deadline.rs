//! The client's deadline.
//!
//! The server below us ends a call at the deadline with `Cancelled`, which clients would take for
//! their own doing. A clock in here that strikes a moment earlier is heard first.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Status, metadata::MetadataMap};

/// The header with the deadline (gRPC over HTTP/2, "Timeout").
const HEADER: &str = "grpc-timeout";

/// By how much it is kept sooner: both clocks go by milliseconds, and this one is set later.
const SOONER: Duration = Duration::from_millis(2);

/// The most digits of it.
const MAX_DIGITS: usize = 8;

/// How long the client waits; `None` where it does not say, or not as it should.
pub(crate) fn of(metadata: &MetadataMap) -> Option<Duration> {
    read(metadata.get(HEADER)?.to_str().ok()?)
}

fn read(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number && digits.len() <= MAX_DIGITS)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Answers a call within the client's deadline. What a call has begun goes on after it, and a
/// retry finds it.
///
/// # Errors
/// `DeadlineExceeded`, or the call's own.
pub(crate) async fn within<T>(
    deadline: Option<Duration>,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(deadline) = deadline else { return work.await };
    let sooner = deadline.saturating_sub(SOONER).max(deadline / 4);
    timeout(sooner, work).await.unwrap_or_else(|_| {
        let text = format!("the client's deadline of {deadline:?} is over; what was begun goes on");
        Err(Status::deadline_exceeded(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_they_are_written() {
        for (text, wanted) in [
            ("1m", Some(Duration::from_millis(1))),
            ("2S", Some(Duration::from_secs(2))),
            ("3M", Some(Duration::from_secs(180))),
            ("1H", Some(Duration::from_secs(3600))),
            ("500u", Some(Duration::from_micros(500))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("", None),
            ("m", None),
            ("1", None),
            ("-1m", None),
            ("+1m", None),
            ("1ms", None),
            ("123456789n", None),
            ("1µ", None),
        ] {
            assert_eq!(read(text), wanted, "{text}");
        }
    }

    #[tokio::test]
    async fn a_call_that_is_too_late_is_told_so() {
        let never = std::future::pending::<Result<(), Status>>();
        let late = within(Some(Duration::from_millis(1)), never).await.unwrap_err();
        assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
        let ready = async { Ok(1) };
        assert_eq!(within(Some(Duration::ZERO), ready).await.unwrap(), 1);
    }
}
