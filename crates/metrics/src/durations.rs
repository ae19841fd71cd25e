//! A histogram of durations.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The upper bounds of the buckets, as their labels and in nanoseconds: two a decade, from what a
/// call takes that answers from memory to the longest pull.
pub const BOUNDS: [(&str, u64); 15] = [
    ("0.0001", 100_000),
    ("0.0003", 300_000),
    ("0.001", 1_000_000),
    ("0.003", 3_000_000),
    ("0.01", 10_000_000),
    ("0.03", 30_000_000),
    ("0.1", 100_000_000),
    ("0.3", 300_000_000),
    ("1.0", 1_000_000_000),
    ("3.0", 3_000_000_000),
    ("10.0", 10_000_000_000),
    ("30.0", 30_000_000_000),
    ("100.0", 100_000_000_000),
    ("300.0", 300_000_000_000),
    ("1000.0", 1_000_000_000_000),
];

/// How long something took, each time; counted without a lock.
#[derive(Debug, Default)]
pub struct Durations {
    /// How often it took at most the bound, and more than the one before; the last has no bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

/// [`Durations`] as they were at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DurationsRead {
    /// As in [`Durations`]: not added up.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

impl Durations {
    /// Counts one.
    pub fn count(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|(_, bound)| *bound < ns);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// Reads them. One that is counted meanwhile may be in its bucket and not yet in the sum.
    pub fn read(&self) -> DurationsRead {
        DurationsRead {
            buckets: self.buckets.each_ref().map(|bucket| bucket.load(Relaxed)),
            sum: Duration::from_nanos(self.sum_ns.load(Relaxed)),
        }
    }
}

impl DurationsRead {
    /// How many there were.
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_belong_to_the_buckets_below_and_labels_are_the_bounds() {
        for (label, ns) in BOUNDS {
            let seconds: f64 = label.parse().unwrap();
            assert_eq!(Duration::from_secs_f64(seconds), Duration::from_nanos(ns), "{label}");
        }
        assert!(BOUNDS.is_sorted_by(|one, next| one.1 < next.1));
        let durations = Durations::default();
        for ns in [0, 100_000, 100_001, 2_000_000_000_000] {
            durations.count(Duration::from_nanos(ns));
        }
        let read = durations.read();
        assert_eq!((read.buckets[0], read.buckets[1], read.buckets[BOUNDS.len()]), (2, 1, 1));
        assert_eq!((read.total(), read.sum), (4, Duration::from_nanos(2_000_000_200_001)));
    }
}
