//! How much of the processors is in use: the time used between two readings.
//!
//! Readings come when somebody asks, several clients at a time. A rate over a few
//! milliseconds would be noise, so each is taken over a second at least: two readings are
//! remembered of each cgroup, the later one being replaced once it is that old.

use std::collections::HashMap;

use parking_lot::Mutex;

/// A rate is taken over this time at least, unless it began later.
const WINDOW_NS: i64 = 1_000_000_000;
/// What nobody has asked for in this time is forgotten.
const KEPT_NS: i64 = 3_600 * WINDOW_NS;

/// A reading: the time on the processors that was used until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// When, in nanoseconds since 1970.
    pub(crate) at_ns: i64,
    /// Used since the beginning, in nanoseconds.
    pub(crate) usage_ns: u64,
}

/// The readings of all cgroups.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    known: Mutex<HashMap<String, Seen>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    earlier: Reading,
    later: Reading,
}

impl Rates {
    /// Remembers a reading of a cgroup and returns the billionths of one processor that were
    /// in use before it. Of one that was never read, it is the mean since it began.
    pub(crate) fn note(&self, cgroup: &str, began_ns: i64, now: Reading) -> Option<u64> {
        let begin = Reading { at_ns: began_ns, usage_ns: 0 };
        let mut known = self.known.lock();
        let seen = known.entry(cgroup.to_owned()).or_insert(Seen { earlier: begin, later: begin });
        if now.usage_ns < seen.later.usage_ns || now.at_ns < seen.later.at_ns {
            // The clock was set, or it is another cgroup of that name.
            *seen = Seen { earlier: now, later: now };
            return None;
        }
        if now.at_ns.saturating_sub(seen.later.at_ns) >= WINDOW_NS {
            *seen = Seen { earlier: seen.later, later: now };
        }
        rate(seen.earlier, now)
    }

    /// Forgets cgroups that nobody has asked for in a long time, as of those that are gone.
    pub(crate) fn forget_old(&self, now_ns: i64) {
        self.known.lock().retain(|_, seen| now_ns.saturating_sub(seen.later.at_ns) < KEPT_NS);
    }
}

fn rate(from: Reading, to: Reading) -> Option<u64> {
    let elapsed = u128::try_from(to.at_ns.checked_sub(from.at_ns)?).ok().filter(|ns| *ns > 0)?;
    let used = u128::from(to.usage_ns.checked_sub(from.usage_ns)?);
    u64::try_from(used * 1_000_000_000 / elapsed).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: i64 = 1_000_000;

    fn reading(at_ms: i64, usage_ms: u64) -> Reading {
        Reading { at_ns: at_ms * MS, usage_ns: usage_ms * 1_000_000 }
    }

    #[test]
    fn rates_are_over_a_second_at_least() {
        let rates = Rates::default();
        let note = |at, usage| rates.note("/a", 0, reading(at, usage));
        // Since the beginning, as long as that is all there is.
        assert_eq!(note(100, 50), Some(500_000_000));
        assert_eq!(note(900, 90), Some(100_000_000));
        // A second after the beginning this one is remembered, and compared with it.
        assert_eq!(note(1_000, 1_000), Some(1_000_000_000));
        assert_eq!(note(1_500, 1_500), Some(1_000_000_000));
        // A second after that one.
        assert_eq!(note(2_000, 900), None, "less than before: another cgroup");
    }

    #[test]
    fn two_clients_see_the_same() {
        let rates = Rates::default();
        let mut first = None;
        for (second, used) in (1..10).zip((1..10).map(|second| second * 500)) {
            first = rates.note("/a", 0, reading(second * 1_000, used));
            let other = rates.note("/a", 0, reading(second * 1_000 + 10, used + 5));
            let (a, b) = (first.unwrap(), other.unwrap());
            assert!(a.abs_diff(b) < 10_000_000, "{a} {b}");
        }
        assert_eq!(first, Some(500_000_000));
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let rates = Rates::default();
        rates.note("/a", 0, reading(1_000, 1));
        rates.note("/b", 0, reading(1_000 + 3_600_000, 1));
        rates.forget_old(reading(1_001 + 3_600_000, 0).at_ns);
        assert_eq!(rates.known.lock().keys().collect::<Vec<_>>(), ["/b"]);
    }

    proptest! {
        #[test]
        fn no_clock_and_no_count_do_harm(steps in prop::collection::vec(any::<(i64, u64)>(), 0..20)) {
            let rates = Rates::default();
            for (at_ns, usage_ns) in steps {
                rates.note("/a", 0, Reading { at_ns, usage_ns });
                rates.forget_old(at_ns);
            }
        }
    }
}
