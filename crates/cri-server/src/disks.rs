//! Whether the daemon's directories can be written to. Without that no pod can be made; those
//! that run do not care.
//!
//! What must never happen: Status waits for a disk. A look that takes longer goes on, and what
//! the last one has shown is told meanwhile.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::timeout};

/// How long what a look has shown is believed: the kubelet asks every five seconds.
const BELIEVED: Duration = Duration::from_secs(1);

/// How long a look is waited for.
const PATIENCE: Duration = Duration::from_millis(20);

/// The daemon's directories.
#[derive(Debug, Clone)]
pub(crate) struct Disks {
    dirs: Arc<[PathBuf]>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When the last look was over.
    at: Option<Instant>,
    is_looking: bool,
    /// What is wrong, in a line.
    problem: Option<String>,
}

impl Disks {
    pub(crate) fn new(dirs: &[PathBuf]) -> Self {
        Self { dirs: dirs.into(), seen: Arc::default() }
    }

    /// What is wrong with them, as far as that is known.
    pub(crate) async fn problem(&self) -> Option<String> {
        if let Some(look) = self.begin() {
            let _ = timeout(PATIENCE, look).await;
        }
        self.seen(|seen| seen.problem.clone())
    }

    /// Looks again, unless that is being done or was lately.
    fn begin(&self) -> Option<JoinHandle<()>> {
        let is_due = self.seen(|seen| {
            let is_due = !seen.is_looking && seen.at.is_none_or(|at| at.elapsed() > BELIEVED);
            seen.is_looking |= is_due;
            is_due
        });
        let disks = self.clone();
        is_due.then(|| tokio::task::spawn_blocking(move || disks.look()))
    }

    fn look(&self) {
        let problem = self.dirs.iter().find_map(|dir| problem_of(dir));
        self.seen(|seen| {
            match (&seen.problem, &problem) {
                (None, Some(problem)) => tracing::error!("no pod can be made: {problem}"),
                (Some(_), None) => {
                    tracing::info!("the daemon's directories can be written to again")
                }
                _ => {}
            }
            *seen = Seen { at: Some(Instant::now()), is_looking: false, problem };
        });
    }

    fn seen<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn problem_of(dir: &Path) -> Option<String> {
    let error = state::try_writing(dir).err()?;
    Some(format!("failed to write to {}: {error}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_wrong_is_told_and_then_that_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("root");
        let disks = Disks::new(&[dir.path().to_owned(), at.clone()]);
        let told = |wanted: bool| {
            let disks = disks.clone();
            async move {
                let begun = Instant::now();
                loop {
                    let problem = disks.problem().await;
                    if problem.is_some() == wanted {
                        return problem;
                    }
                    assert!(begun.elapsed() < Duration::from_secs(20), "{problem:?}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        let problem = told(true).await.unwrap();
        assert!(problem.contains(&at.display().to_string()), "{problem}");
        std::fs::create_dir(&at).unwrap();
        assert_eq!(told(false).await, None);
    }
}
