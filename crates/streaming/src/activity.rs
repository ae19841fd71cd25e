//! When something last moved on a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time of the last movement; clones are the same one.
#[derive(Debug, Clone)]
pub struct Activity {
    begun: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { begun: Instant::now(), last_ms: Arc::default() }
    }
}

impl Activity {
    /// Something moved.
    pub fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    /// Returns when nothing has moved for `limit`; never where that is zero.
    pub async fn idle_for(&self, limit: Duration) {
        if limit.is_zero() {
            return std::future::pending().await;
        }
        loop {
            let last = self.begun + Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            match limit.checked_sub(last.elapsed()) {
                None | Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_waits_for_the_last_movement() {
        let (activity, limit) = (Activity::default(), Duration::from_millis(300));
        let begun = Instant::now();
        let touching = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            activity.touch();
            std::future::pending::<()>().await;
        };
        tokio::select! { () = activity.idle_for(limit) => {} () = touching => {} }
        assert!(begun.elapsed() >= Duration::from_millis(440), "{:?}", begun.elapsed());
    }
}
