//! Times that are reported: the wall clock, but never backwards.
//!
//! The kubelet sorts sandboxes and containers by `created_at`; with a clock that
//! was set back it would take an old attempt for the newest one
//! (kubernetes/kubernetes issue 134153).

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// A source of times, each later than the one before.
#[derive(Debug, Default)]
pub struct Clock {
    last: AtomicI64,
}

impl Clock {
    /// Returns the time in nanoseconds since 1970, or one more than the last time returned.
    pub fn now_ns(&self) -> i64 {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|d| i64::try_from(d.as_nanos()).ok())
            .unwrap_or(1);
        let next = |last: i64| Some(wall.max(last.saturating_add(1)));
        match self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(last) | Err(last) => wall.max(last.saturating_add(1)),
        }
    }

    /// Makes all later times later than `ns`, a time found in a record.
    pub fn observe(&self, ns: i64) {
        self.last.fetch_max(ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_only_grow_also_past_a_record_from_the_future() {
        let clock = Clock::default();
        let first = clock.now_ns();
        let second = clock.now_ns();
        assert!(second > first);
        clock.observe(second + 1_000_000_000_000);
        assert!(clock.now_ns() > second + 1_000_000_000_000);
    }
}
