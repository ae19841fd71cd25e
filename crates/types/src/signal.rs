//! Names and numbers of Linux's signals (`signal(7)`), as images, the CRI and users write them.

/// The real-time signals' first number as user space counts it (the C library
/// keeps the kernel's 32 and 33 for itself).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The standard signals of x86-64 and arm64, in the order of their numbers.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Returns a signal's number. Taken are `15`, `TERM`, `SIGTERM`, `SIGRTMIN`,
/// `RTMIN+3`, `SIGRTMINPLUS3`, `SIGRTMAX-1` and `SIGRTMAXMINUS1`, in any case.
pub fn signal_number(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let alias = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        other => other,
    };
    if let Some(at) = NAMES.iter().position(|n| *n == alias) {
        return i32::try_from(at + 1).ok();
    }
    real_time(name)
}

fn real_time(name: &str) -> Option<i32> {
    let offset = |rest: &str, signs: [&str; 2]| -> Option<i32> {
        if rest.is_empty() {
            return Some(0);
        }
        signs.iter().find_map(|s| rest.strip_prefix(s))?.parse().ok()
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN.checked_add(offset(rest, ["+", "PLUS"])?)?
    } else {
        RTMAX.checked_sub(offset(name.strip_prefix("RTMAX")?, ["-", "MINUS"])?)?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// Returns a signal's name with its prefix: `SIGTERM`, `SIGRTMIN+3`.
pub fn signal_name(number: i32) -> Option<String> {
    if (RTMIN..=RTMAX).contains(&number) {
        return Some(match (number - RTMIN, RTMAX - number) {
            (0, _) => "SIGRTMIN".to_owned(),
            (_, 0) => "SIGRTMAX".to_owned(),
            (up, down) if up <= down => format!("SIGRTMIN+{up}"),
            (_, down) => format!("SIGRTMAX-{down}"),
        });
    }
    let at = usize::try_from(number).ok()?.checked_sub(1)?;
    NAMES.get(at).map(|n| format!("SIG{n}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for number in (1..=31).chain(RTMIN..=RTMAX) {
            assert_eq!(signal_name(number).as_deref().and_then(signal_number), Some(number));
        }
    }

    #[test]
    fn every_spelling_is_taken_and_nonsense_is_not() {
        for (text, number) in [
            ("15", 15),
            ("term", 15),
            ("SIGTERM", 15),
            ("SIGRTMIN+3", 37),
            ("SIGRTMINPLUS3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGFOO", "SIGRTMIN+31", "SIGRTMAX-31", "RTMIN3", "SIG"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }
}
