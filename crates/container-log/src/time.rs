//! Time stamps: RFC 3339 in UTC with nanoseconds, without allocation.

/// The length of a time stamp.
#[cfg(test)]
pub(crate) const LENGTH: usize = 30;

/// Writes `2026-11-23T10:11:12.000000001Z`.
pub(crate) fn write(out: &mut Vec<u8>, ns_since_1970: i64) {
    let seconds = ns_since_1970.div_euclid(1_000_000_000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    digits(out, year, 4);
    out.push(b'-');
    digits(out, month, 2);
    out.push(b'-');
    digits(out, day, 2);
    out.push(b'T');
    digits(out, of_day / 3600, 2);
    out.push(b':');
    digits(out, of_day / 60 % 60, 2);
    out.push(b':');
    digits(out, of_day % 60, 2);
    out.push(b'.');
    digits(out, ns_since_1970.rem_euclid(1_000_000_000), 9);
    out.push(b'Z');
}

/// Days since 1970 to year, month and day of the Gregorian calendar: years are counted
/// from March, in eras of 400 years.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = (year_of_era + era * 400, if month < 10 { month + 3 } else { month - 9 });
    (if month <= 2 { year + 1 } else { year }, month, day)
}

fn digits(out: &mut Vec<u8>, value: i64, width: u32) {
    for place in (0..width).rev() {
        let digit = value.div_euclid(10_i64.pow(place)).rem_euclid(10);
        out.push(b'0' + u8::try_from(digit).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_agree_with_a_calendar() {
        for ns in [
            0,
            1,
            951_782_400_000_000_000,
            1_709_164_799_999_999_999,
            1_795_428_672_123_456_789,
            4_102_444_800_000_000_000,
        ] {
            let mut out = Vec::new();
            write(&mut out, ns);
            assert_eq!(out.len(), LENGTH);
            let expected = jiff::Timestamp::from_nanosecond(ns.into()).unwrap();
            assert_eq!(std::str::from_utf8(&out).unwrap(), format!("{expected:.9}"));
        }
    }
}
