//! Addresses that are good once and for a minute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::rand::{GetRandomFlags, getrandom};

use super::backend::Wanted;

/// How long an address may wait for its client.
pub(crate) const LIFETIME: Duration = Duration::from_secs(60);

/// The most addresses that wait.
const MAX_WAITING: usize = 1000;

/// The random bytes of a token: nobody guesses 192 bits.
const TOKEN_BYTES: usize = 24;

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Too many wait for their clients.
    #[error("{MAX_WAITING} streaming addresses wait for their clients already: use those first")]
    Exhausted,
    /// The kernel gives no random bytes.
    #[error("failed to get random bytes for a streaming address")]
    Random(#[source] std::io::Error),
}

/// The addresses that wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tokens(Arc<Mutex<HashMap<String, (Instant, Wanted)>>>);

impl Tokens {
    /// Makes a token for what is wanted.
    pub(crate) fn issue(&self, wanted: Wanted, now: Instant) -> Result<String, AddressError> {
        let mut bytes = [0; TOKEN_BYTES];
        let got = getrandom(&mut bytes, GetRandomFlags::empty())
            .map_err(|errno| AddressError::Random(errno.into()))?;
        if got != TOKEN_BYTES {
            return Err(AddressError::Random(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let token = URL_SAFE_NO_PAD.encode(bytes);
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            waiting.retain(|_, (until, _)| *until > now);
        }
        if waiting.len() >= MAX_WAITING {
            return Err(AddressError::Exhausted);
        }
        waiting.insert(token.clone(), (now + LIFETIME, wanted));
        Ok(token)
    }

    /// Takes what a token stands for; it is of no use any more.
    pub(crate) fn redeem(&self, token: &str, now: Instant) -> Option<Wanted> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(token).filter(|(until, _)| *until > now).map(|(_, wanted)| wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted::PortForward { sandbox: "s".to_owned(), ports: Vec::new() }
    }

    #[test]
    fn a_token_is_good_once_and_for_a_minute() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.issue(wanted(), now).unwrap();
        assert_eq!(token.len(), 32);
        assert_eq!(tokens.redeem("another", now), None);
        assert_eq!(tokens.redeem(&token, now), Some(wanted()));
        assert_eq!(tokens.redeem(&token, now), None);
        let late = tokens.issue(wanted(), now).unwrap();
        assert_eq!(tokens.redeem(&late, now + LIFETIME), None);
    }

    #[test]
    fn the_waiting_are_limited_and_the_late_make_room() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        for _ in 0..MAX_WAITING {
            tokens.issue(wanted(), now).unwrap();
        }
        assert!(matches!(tokens.issue(wanted(), now), Err(AddressError::Exhausted)));
        tokens.issue(wanted(), now + LIFETIME).unwrap();
    }
}
