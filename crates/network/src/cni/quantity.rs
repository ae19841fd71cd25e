//! Quantities as Kubernetes writes them: `500k`, `10M`, `1.5Gi`, `2e6`.

/// The longest text: more digits than any quantity has.
const MAX_BYTES: usize = 40;

/// Reads a quantity, rounded up to a whole number; `None` where it is none.
pub(crate) fn parse(text: &str) -> Option<u64> {
    if text.len() > MAX_BYTES {
        return None;
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let (multiplier, divisor) = scale(suffix)?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let places = u32::try_from(fraction.len()).ok()?;
    let divisor = 10u128.checked_pow(places)?.checked_mul(divisor)?;
    u64::try_from(digits.checked_mul(multiplier)?.div_ceil(divisor)).ok()
}

/// Returns what a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    if let Some(exponent) = suffix.strip_prefix(['e', 'E'])
        && let Ok(exponent) = exponent.parse::<i32>()
    {
        let power = 10u128.checked_pow(exponent.unsigned_abs())?;
        return Some(if exponent < 0 { (1, power) } else { (power, 1) });
    }
    Some(match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "" => (1, 1),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn quantities_are_read() {
        for (text, value) in [
            ("0", 0),
            ("10M", 10_000_000),
            ("1.5k", 1_500),
            ("1Ki", 1_024),
            ("1.5Gi", 3 << 29),
            ("2e6", 2_000_000),
            ("2E3", 2_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1500m", 2),
            (".5k", 500),
            ("5.", 5),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for bad in
            ["", ".", "k", "1x", "-1", "+1", "1.2.3", "1 M", "10000E", "1e99", &"9".repeat(50)]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
