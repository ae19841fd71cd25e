//! Sizes, ages and times for people.

use jiff::Timestamp;

/// The units of [`size`], each a thousand of the one before.
const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// How many characters of an id are shown when it is cut.
const SHORT_ID: usize = 13;

/// A number of bytes with three significant digits: `1.23MB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut divisor = 1_u64;
    while bytes / divisor >= 1000 && unit + 1 < UNITS.len() {
        divisor = divisor.saturating_mul(1000);
        unit += 1;
    }
    // As many parts of the unit as the digits need, rounded; a u128 holds them.
    let rounded =
        |parts: u128| (u128::from(bytes) * parts + u128::from(divisor) / 2) / u128::from(divisor);
    let number = match bytes / divisor {
        0..10 => trim(rounded(100) / 100, rounded(100) % 100, 2),
        10..100 => trim(rounded(10) / 10, rounded(10) % 10, 1),
        _ => rounded(1).to_string(),
    };
    format!("{number}{}", UNITS[unit])
}

/// A number with decimals, without the zeros at its end.
fn trim(whole: u128, decimals: u128, places: usize) -> String {
    let text = format!("{whole}.{decimals:0places$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How long ago `then` was, both in nanoseconds since 1970: `3 minutes ago`.
#[must_use]
pub fn ago(now: i64, then: i64) -> String {
    format!("{} ago", span(now.saturating_sub(then).max(0) / 1_000_000_000))
}

fn span(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let hours = (seconds + HOUR / 2) / HOUR;
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        _ if seconds < MINUTE => format!("{seconds} seconds"),
        _ if seconds < 2 * MINUTE => "About a minute".to_owned(),
        _ if seconds < HOUR => format!("{} minutes", seconds / MINUTE),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", seconds / DAY),
        _ if hours < 24 * 60 => format!("{} weeks", seconds / DAY / 7),
        _ if hours < 24 * 730 => format!("{} months", seconds / DAY / 30),
        _ => format!("{} years", seconds / DAY / 365),
    }
}

/// A time in nanoseconds since 1970, as RFC 3339 in UTC.
#[must_use]
pub fn time(ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(ns)).map_or_else(|_| ns.to_string(), |t| t.to_string())
}

/// An id's first characters, without the digest's algorithm.
#[must_use]
pub fn short_id(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..SHORT_ID).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (12_345, "12.3kB"),
            (123_456, "123kB"),
            (4_500_000, "4.5MB"),
            (77_800_000, "77.8MB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn ages() {
        for (seconds, text) in [
            (-5, "Less than a second ago"),
            (0, "Less than a second ago"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "About a minute ago"),
            (150, "2 minutes ago"),
            (3600, "About an hour ago"),
            (7200, "2 hours ago"),
            (86_400 * 3, "3 days ago"),
            (86_400 * 20, "2 weeks ago"),
            (86_400 * 90, "3 months ago"),
            (86_400 * 1000, "2 years ago"),
        ] {
            assert_eq!(ago(seconds * 1_000_000_000, 0), text);
        }
        assert_eq!(ago(i64::MAX, i64::MIN), "292 years ago");
    }

    #[test]
    fn times_and_ids() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_700_000_000_500_000_000), "2023-11-14T22:13:20.5Z");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789abc");
        assert_eq!(short_id("abc"), "abc");
    }
}
