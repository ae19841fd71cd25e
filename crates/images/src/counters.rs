//! What the image service has done since the daemon started, for metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use metrics::{Durations, DurationsRead};

use crate::{PullError, PullErrorKind};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What the image service has done since the daemon started.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct ImageCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl ImageCounters {
            /// Returns the counters with their names.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }

        /// The counters while they run.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub $name: AtomicU64,)*
        }

        impl Counters {
            pub fn snapshot(&self) -> ImageCounters {
                ImageCounters { $($name: self.$name.load(Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Pulls that were begun.
    pulls_started,
    /// Pulls that ended with an image.
    pulls_succeeded,
    /// Pulls that ended with an error.
    pulls_failed,
    /// Pulls that ended because nobody waited for them any more.
    pulls_abandoned,
    /// Bytes that came from registries, of layers.
    layer_bytes_fetched,
    /// Layers that were unpacked.
    layers_unpacked,
    /// Bytes that layers unpacked to, as tar streams.
    layer_bytes_unpacked,
    /// Layers that were wanted and there already.
    layers_reused,
    /// Requests that were sent to registries.
    requests,
    /// Requests that were sent again after a failure.
    retries,
    /// Downloads that went on from where they broke, or from where another process left
    /// them.
    resumes,
    /// Mirrors that were found down.
    mirror_failures,
    /// Layers that were removed because nothing needed them.
    layers_collected,
    /// Layers that were found damaged.
    layers_damaged,
}

/// Why a pull failed, in the words of its series.
const REASONS: [&str; 11] = [
    "invalid_argument",
    "registry_unavailable",
    "not_found",
    "unauthorized",
    "refused",
    "invalid_image",
    "mismatch",
    "denied",
    "exhausted",
    "internal",
    "abandoned",
];

/// How pulls ended since the daemon started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOutcomes {
    /// How long those took that ended with an image.
    pub succeeded: DurationsRead,
    /// How long those took that ended with an error.
    pub failed: DurationsRead,
    /// Why they failed, and how many; all reasons.
    pub failures: Vec<(&'static str, u64)>,
}

/// [`PullOutcomes`] while they come.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    succeeded: Durations,
    failed: Durations,
    failures: [AtomicU64; REASONS.len()],
}

impl Outcomes {
    /// Counts a pull that has ended.
    pub fn count<T>(&self, took: Duration, result: &Result<T, PullError>) {
        match result {
            Ok(_) => self.succeeded.count(took),
            Err(error) => {
                self.failed.count(took);
                Counters::count(&self.failures[reason(error)]);
            }
        }
    }

    pub fn read(&self) -> PullOutcomes {
        let failures = self.failures.iter().map(|count| count.load(Relaxed));
        PullOutcomes {
            succeeded: self.succeeded.read(),
            failed: self.failed.read(),
            failures: REASONS.into_iter().zip(failures).collect(),
        }
    }
}

/// The number of an error's reason.
fn reason(error: &PullError) -> usize {
    if matches!(error, PullError::Abandoned { .. }) {
        return 10;
    }
    match error.kind() {
        PullErrorKind::InvalidArgument => 0,
        PullErrorKind::RegistryUnavailable => 1,
        PullErrorKind::NotFound => 2,
        PullErrorKind::Unauthorized => 3,
        PullErrorKind::Refused => 4,
        PullErrorKind::InvalidImage => 5,
        PullErrorKind::Mismatch => 6,
        PullErrorKind::Denied => 7,
        PullErrorKind::Exhausted => 8,
        PullErrorKind::Internal => 9,
    }
}

impl Counters {
    /// Counts one more.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a layer and the bytes of its tar stream.
    pub fn add_unpacked(&self, bytes: u64) {
        Self::count(&self.layers_unpacked);
        Self::add(&self.layer_bytes_unpacked, bytes);
    }

    /// Counts several more.
    pub fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Relaxed);
    }
}
