//! A container that is about to end: when it is killed, and who waits for it.
//! Plain data, without clocks or calls of its own.
//!
//! ```text
//!   grace running ──(kill_at)──► killed ──(retry, backing off)──► killed ──► given up
//!        │ all who waited have left                                  (the waiters are told;
//!        ▼                                                            the container runs on
//!     abandoned: it runs on                                           and can be stopped again)
//! ```

use std::time::Duration;

use tokio::time::Instant;
use types::ContainerId;

use crate::{error::Error, task::Reply};

/// The first pause between two kills; it doubles.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest pause between two kills.
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// What is to be done when an ending's time has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing yet.
    Wait,
    /// Kill everything in the container.
    Kill,
    /// Nobody waits any more and nothing was killed: forget it.
    Abandon,
    /// Killing does not help: tell those who wait.
    GiveUp,
}

/// A container's end, and who waits for it.
#[derive(Debug)]
pub(crate) struct Ending {
    kill_at: Option<Instant>,
    kills: u32,
    next_kill: Instant,
    give_up_at: Option<Instant>,
    patience: Duration,
    pub(crate) stop_waiters: Vec<Reply<()>>,
    pub(crate) remove_waiters: Vec<Reply<()>>,
}

impl Ending {
    /// Makes an ending that gives up `patience` after the first kill.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            kill_at: None,
            kills: 0,
            next_kill: Instant::now(),
            give_up_at: None,
            patience,
            stop_waiters: Vec::new(),
            remove_waiters: Vec::new(),
        }
    }

    /// Kills no later than after `grace`: a later call can only shorten the time.
    pub(crate) fn kill_within(&mut self, grace: Duration) {
        // A grace period of centuries means "never".
        let Some(at) = Instant::now().checked_add(grace) else { return };
        self.kill_at = Some(self.kill_at.map_or(at, |old| old.min(at)));
    }

    /// When [`Ending::step`] is due.
    pub(crate) fn next_at(&self) -> Instant {
        if self.kills > 0 {
            return self.next_kill;
        }
        self.kill_at.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    /// Tells what is to be done now. `wanted` means that the whole sandbox ends.
    pub(crate) fn step(&mut self, now: Instant, wanted: bool) -> Next {
        if self.kills == 0 {
            if self.kill_at.is_none_or(|at| now < at) {
                return Next::Wait;
            }
            if !wanted
                && self.remove_waiters.is_empty()
                && self.stop_waiters.iter().all(Reply::is_closed)
            {
                return Next::Abandon;
            }
            self.give_up_at = Some(now + self.patience);
        } else if now < self.next_kill {
            return Next::Wait;
        } else if self.give_up_at.is_some_and(|at| now >= at) {
            return Next::GiveUp;
        }
        let pause = FIRST_RETRY.saturating_mul(1 << self.kills.min(8)).min(LONGEST_RETRY);
        self.kills += 1;
        self.next_kill = now + pause;
        Next::Kill
    }

    /// Tells those who wait that the container does not end.
    pub(crate) fn fail(self, id: &ContainerId, within: Duration) {
        for waiter in self.stop_waiters.into_iter().chain(self.remove_waiters) {
            let _ = waiter
                .send(Err(Error::Timeout { what: format!("killing container {id}"), within }));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn waited_for() -> (Ending, oneshot::Receiver<crate::error::Result<()>>) {
        let (reply, answer) = oneshot::channel();
        let mut ending = Ending::new(PATIENCE);
        ending.stop_waiters.push(reply);
        (ending, answer)
    }

    #[test]
    fn a_later_stop_can_only_shorten_the_grace_period() {
        let (mut ending, _answer) = waited_for();
        ending.kill_within(Duration::from_secs(3600));
        assert_eq!(ending.step(Instant::now(), false), Next::Wait);
        ending.kill_within(Duration::ZERO);
        ending.kill_within(Duration::from_secs(3600));
        assert_eq!(ending.step(Instant::now(), false), Next::Kill);
    }

    #[test]
    fn a_client_that_left_does_not_kill() {
        let (mut ending, answer) = waited_for();
        ending.kill_within(Duration::ZERO);
        drop(answer);
        assert_eq!(ending.step(Instant::now(), false), Next::Abandon);
        assert_eq!(
            ending.step(Instant::now(), true),
            Next::Kill,
            "but the end of the sandbox does"
        );
    }

    #[test]
    fn kills_are_repeated_with_growing_pauses_and_given_up() {
        let (mut ending, mut answer) = waited_for();
        ending.kill_within(Duration::ZERO);
        let start = Instant::now();
        let mut now = start;
        let mut kills = 0;
        loop {
            match ending.step(now, false) {
                Next::Kill => kills += 1,
                Next::Wait => {}
                Next::GiveUp => break,
                Next::Abandon => panic!("somebody waits"),
            }
            assert!(ending.next_at() > now);
            now = ending.next_at();
        }
        assert!((10..100).contains(&kills), "{kills}");
        assert!(now >= start + PATIENCE);
        ending.fail(&ContainerId::random(), PATIENCE);
        assert!(matches!(answer.try_recv(), Ok(Err(Error::Timeout { .. }))));
    }
}
