//! Dialling a socket, and pausing when that fails.
//!
//! The pauses are grpc-go's as the kubelet sets them: 100 ms at first, 1.6 times
//! longer after each failure, at most 3 s, and from the start again after a
//! success. There is no jitter: the peers of one socket are few and local. While
//! a pause lasts, a call fails at once with the last failure instead of dialling.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// The first pause.
const BASE: Duration = Duration::from_millis(100);
/// The longest pause.
const MAX: Duration = Duration::from_secs(3);
/// By how much a pause grows, in tenths.
const FACTOR_TENTHS: u32 = 16;

/// Why a socket could not be dialled.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct DialError {
    pub(crate) kind: io::ErrorKind,
    pub(crate) message: String,
}

/// A tower service that makes connections to one socket.
#[derive(Clone)]
pub(crate) struct Dialer {
    path: Arc<Path>,
    limit: Duration,
    pause: Arc<Mutex<Pause>>,
}

impl Dialer {
    /// Dials `path`, each attempt for at most `limit`.
    pub(crate) fn new(path: &Path, limit: Duration) -> Self {
        Self { path: path.into(), limit, pause: Arc::default() }
    }

    async fn dial(self) -> Result<TokioIo<UnixStream>, DialError> {
        if let Some(last) = self.pause().blocks(Instant::now()) {
            return Err(last);
        }
        let dialled = match tokio::time::timeout(self.limit, UnixStream::connect(&self.path)).await
        {
            Ok(done) => done,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the socket did not accept within {:?}", self.limit),
            )),
        };
        match dialled {
            Ok(stream) => {
                self.pause().clear();
                Ok(TokioIo::new(stream))
            }
            Err(error) => {
                let error = DialError { kind: error.kind(), message: error.to_string() };
                self.pause().failed(Instant::now(), error.clone());
                Err(error)
            }
        }
    }

    fn pause(&self) -> MutexGuard<'_, Pause> {
        // The state is plain values, whole at any moment.
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl tower_service::Service<http::Uri> for Dialer {
    type Response = TokioIo<UnixStream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}

/// The pause after failures; none when `until` is `None`.
#[derive(Default)]
struct Pause {
    length: Duration,
    until: Option<(Instant, DialError)>,
}

impl Pause {
    fn blocks(&self, now: Instant) -> Option<DialError> {
        self.until.as_ref().filter(|(until, _)| now < *until).map(|(_, error)| error.clone())
    }

    fn failed(&mut self, now: Instant, error: DialError) {
        self.length = match self.length {
            Duration::ZERO => BASE,
            length => (length * FACTOR_TENTHS / 10).min(MAX),
        };
        self.until = Some((now + self.length, error));
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_start_again() {
        let error = DialError { kind: io::ErrorKind::NotFound, message: "gone".into() };
        let now = Instant::now();
        let mut pause = Pause::default();
        assert!(pause.blocks(now).is_none());
        let mut lengths = Vec::new();
        for _ in 0..10 {
            pause.failed(now, error.clone());
            lengths.push(pause.length.as_millis());
        }
        assert_eq!(lengths, [100, 160, 256, 409, 655, 1048, 1677, 2684, 3000, 3000]);
        assert!(pause.blocks(now + Duration::from_millis(2999)).is_some());
        assert!(pause.blocks(now + MAX).is_none());
        pause.clear();
        assert!(pause.blocks(now).is_none());
        pause.failed(now, error);
        assert_eq!(pause.length, BASE);
    }

    #[tokio::test]
    async fn a_pause_answers_with_the_last_failure_without_dialling() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let dialer = Dialer::new(&path, Duration::from_secs(1));
        let error = dialer.clone().dial().await.expect_err("nobody listens");
        assert_eq!(error.kind, io::ErrorKind::NotFound);
        // Now somebody listens, but the pause still holds.
        let far = Instant::now() + Duration::from_secs(60);
        if let Some((until, _)) = &mut dialer.pause().until {
            *until = far;
        }
        let _listener = tokio::net::UnixListener::bind(&path).expect("a listener");
        let error = dialer.clone().dial().await.expect_err("the pause holds");
        assert_eq!(error.kind, io::ErrorKind::NotFound);
        dialer.pause().clear();
        dialer.dial().await.expect("dialled after the pause");
    }
}
