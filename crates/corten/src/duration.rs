//! Spans of time on the command line: `90`, `90s`, `1m30s`, `250ms`.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};

/// A time limit as it was given. Zero stands for the default, as in crictl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(pub Duration);

impl FromStr for Limit {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, anyhow::Error> {
        parse(text).map(Self)
    }
}

/// Parses a span; a bare number is seconds.
pub fn parse(text: &str) -> anyhow::Result<Duration> {
    let wrong = || format!("`{text}` is no span of time, write it as 90s, 1m30s or 250ms");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').with_context(wrong)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let number: f64 = number.parse().ok().with_context(wrong)?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => bail!(wrong()),
        };
        let part = Duration::try_from_secs_f64(number * seconds).ok().with_context(wrong)?;
        total = total.checked_add(part).with_context(wrong)?;
        rest = after;
    }
    if text.is_empty() {
        bail!(wrong());
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, ms) in [
            ("0", 0),
            ("10", 10_000),
            ("2s", 2000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("250ms", 250),
        ] {
            assert_eq!(parse(text).expect(text), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "s", "1x", "-1s", "1m30", "1..2s", "99999999999999999999999h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
