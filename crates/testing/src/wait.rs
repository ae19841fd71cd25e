//! Waiting for a condition, never for a time.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at. Nothing waits for longer than the
/// condition takes to become true, plus this.
const INTERVAL: Duration = Duration::from_millis(10);

/// Set to a number on machines that are slower than others by about that much: limits
/// grow by it.
pub const PATIENCE: &str = "CORTEN_TEST_PATIENCE";

/// A limit as this machine needs it.
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    limit * factor()
}

/// How often a condition is looked at here.
#[must_use]
pub fn interval() -> Duration {
    INTERVAL * factor()
}

fn factor() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let read = || std::env::var(PATIENCE).ok()?.parse().ok();
    *FACTOR.get_or_init(|| read().unwrap_or(1).clamp(1, 100))
}

/// Looks at a condition until it gives a value; fails after `limit`.
///
/// # Errors
/// If the condition fails, or the time is over; `what` says what was waited for.
pub fn until<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let limit = patient(limit);
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(interval());
    }
}
