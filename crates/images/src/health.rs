//! Which mirrors are down. A mirror that failed is not asked for a while, by any pull:
//! it costs its time-out once, and not once a blob.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// The most mirrors that are remembered.
const MAX_REMEMBERED: usize = 1024;

/// The memory of mirrors that are down.
#[derive(Debug)]
pub(crate) struct Health {
    rest: Duration,
    max_rest: Duration,
    down: Mutex<HashMap<String, Down>>,
}

#[derive(Debug)]
struct Down {
    until: Instant,
    failures: u32,
}

impl Health {
    pub fn new(rest: Duration, max_rest: Duration) -> Self {
        Self { rest, max_rest, down: Mutex::default() }
    }

    /// Tells whether a mirror is not to be asked now.
    pub fn is_resting(&self, mirror: &str) -> bool {
        self.is_resting_at(mirror, Instant::now())
    }

    fn is_resting_at(&self, mirror: &str, now: Instant) -> bool {
        self.down.lock().get(mirror).is_some_and(|down| now < down.until)
    }

    /// Remembers that a mirror failed. Returns how long it is left alone.
    pub fn failed(&self, mirror: &str) -> Duration {
        self.failed_at(mirror, Instant::now())
    }

    fn failed_at(&self, mirror: &str, now: Instant) -> Duration {
        let mut down = self.down.lock();
        if down.len() >= MAX_REMEMBERED {
            down.retain(|_, down| now < down.until);
        }
        let failures = match down.get(mirror) {
            // Requests that were under way together are one failure.
            Some(before) if now < before.until => before.failures,
            Some(before) => before.failures.saturating_add(1),
            None => 0,
        };
        let rest = self.rest.saturating_mul(1 << failures.min(16)).min(self.max_rest);
        down.insert(mirror.to_owned(), Down { until: now + rest, failures });
        rest
    }

    /// Forgets that a mirror failed: it has answered.
    pub fn answered(&self, mirror: &str) {
        self.down.lock().remove(mirror);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_rests_longer_each_time_until_it_answers() {
        let second = Duration::from_secs(1);
        let health = Health::new(second, 3 * second);
        let start = Instant::now();
        assert!(!health.is_resting_at("m", start));
        assert_eq!(health.failed_at("m", start), second);
        assert_eq!(health.failed_at("m", start), second, "at the same time: the same failure");
        assert!(health.is_resting_at("m", start) && !health.is_resting_at("other", start));
        assert!(!health.is_resting_at("m", start + second));
        assert_eq!(health.failed_at("m", start + second), 2 * second);
        assert_eq!(health.failed_at("m", start + 4 * second), 3 * second);
        health.answered("m");
        assert_eq!(health.failed_at("m", start), second);
    }
}
