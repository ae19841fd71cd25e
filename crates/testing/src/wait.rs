//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at. Nothing waits for longer than the
/// condition takes to become true, plus this.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// Looks at a condition until it gives a value; fails after `limit`.
///
/// # Errors
/// If the condition fails, or the time is over; `what` says what was waited for.
pub fn until<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(INTERVAL);
    }
}
