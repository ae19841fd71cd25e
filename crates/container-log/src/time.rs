//! Time stamps: RFC 3339 in UTC with nanoseconds, without allocation.

/// The length of a time stamp.
pub(crate) const LENGTH: usize = 30;

/// Makes `2026-11-23T10:11:12.000000001Z`.
pub(crate) fn stamp(ns_since_1970: i64) -> [u8; LENGTH] {
    let seconds = ns_since_1970.div_euclid(1_000_000_000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], of_day / 3600);
    digits(&mut text[14..16], of_day / 60 % 60);
    digits(&mut text[17..19], of_day % 60);
    digits(&mut text[20..29], ns_since_1970.rem_euclid(1_000_000_000));
    text
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

/// Writes a number from its last digit on; what does not fit is cut off.
fn digits(place: &mut [u8], mut value: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value.rem_euclid(10)).unwrap_or(0);
        value = value.div_euclid(10);
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
            let expected = jiff::Timestamp::from_nanosecond(ns.into()).unwrap();
            assert_eq!(std::str::from_utf8(&stamp(ns)).unwrap(), format!("{expected:.9}"));
        }
    }
}
