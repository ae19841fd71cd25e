//! A task that ends with its owner.

use tokio::task::JoinHandle;

/// Dropped, the task ends at once, whatever it waits for.
#[derive(Debug)]
pub(crate) struct Task<T = ()>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    /// Starts it.
    pub(crate) fn spawn(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl<T> Task<T> {
    /// Waits for its end.
    ///
    /// # Cancellation
    /// May be called again.
    pub(crate) async fn ended(&mut self) {
        if !self.0.is_finished() {
            let _ = (&mut self.0).await;
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
