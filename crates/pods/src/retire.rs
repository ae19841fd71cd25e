//! Letting a successor take over: the pods' tasks end, what clients hold open goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::service::Pods;

/// What still changes pods.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    retired: Arc<watch::Sender<bool>>,
    going: Arc<watch::Sender<usize>>,
}

impl Default for Work {
    fn default() -> Self {
        let (retired, going) = (watch::Sender::new(false), watch::Sender::new(0));
        Self { retired: Arc::new(retired), going: Arc::new(going) }
    }
}

/// Counts as work until it is dropped.
#[derive(Debug)]
pub(crate) struct Going(Arc<watch::Sender<usize>>);

impl Work {
    pub(crate) fn begin(&self) -> Going {
        self.going.send_modify(|count| *count += 1);
        Going(self.going.clone())
    }

    /// Returns when no pod may be changed any more.
    pub(crate) async fn retired(&self) {
        let _ = self.retired.subscribe().wait_for(|retired| *retired).await;
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Pods {
    /// Ends all tasks of pods, so that another daemon may take the pods up while sessions of this
    /// one go on. Nothing may be asked of the pods from now on. False means that something is
    /// still being done after `patience`: no other daemon may be let in.
    pub async fn retire(&self, patience: Duration) -> bool {
        let work = &self.inner.work;
        work.retired.send_replace(true);
        let mut going = work.going.subscribe();
        let none = going.wait_for(|count| *count == 0);
        tokio::time::timeout(patience, none).await.is_ok_and(|waited| waited.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_counted_to_its_end() {
        let work = Work::default();
        let going = work.begin();
        let task = tokio::spawn({
            let work = work.clone();
            async move {
                work.retired().await;
                drop(going);
            }
        });
        assert_eq!(*work.going.borrow(), 1);
        work.retired.send_replace(true);
        task.await.unwrap();
        assert_eq!(*work.going.borrow(), 0);
    }
}
