//! Checks of texts that others wrote.

use crate::SpecError;

/// How much of a wrong text an error shows.
const SHOWN: usize = 64;

/// Returns a text that can stand in a message of one line: cut, and escaped.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect::<String>().escape_debug().to_string()
}

/// Refuses what ends a line or a C string: a text that is written into a file of lines
/// must not become two of them.
pub(crate) fn check_line(what: &'static str, text: &str) -> Result<(), SpecError> {
    refuse(what, text, |c| matches!(c, '\n' | '\r' | '\0'))
}

/// Refuses all control characters and white space.
pub(crate) fn check_word(what: &'static str, text: &str) -> Result<(), SpecError> {
    refuse(what, text, |c| c.is_control() || c.is_whitespace())
}

/// Refuses NUL, which no path, argument or variable can hold.
pub(crate) fn check_no_nul(what: &'static str, text: &str) -> Result<(), SpecError> {
    refuse(what, text, |c| c == '\0')
}

/// Refuses more than there may be.
pub(crate) fn check_count(what: &'static str, count: usize, limit: usize) -> Result<(), SpecError> {
    if count > limit { Err(SpecError::TooMany { what, count, limit }) } else { Ok(()) }
}

fn refuse(what: &'static str, text: &str, bad: impl Fn(char) -> bool) -> Result<(), SpecError> {
    if text.contains(bad) {
        return Err(SpecError::Characters { what, text: shown(text) });
    }
    Ok(())
}

/// Makes an absolute path of its components alone: no `.`, no empty ones, `..` taken back
/// as far as the root.
pub(crate) fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether a cleaned path is another, or lies below it.
pub(crate) fn is_at_or_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, clean) in [
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../../etc", "/etc"),
            ("a/b", "/a/b"),
            ("", "/"),
        ] {
            assert_eq!(clean_path(path), clean, "{path}");
        }
    }

    #[test]
    fn below_is_by_components() {
        assert!(is_at_or_below("/dev", "/dev") && is_at_or_below("/dev/shm", "/dev"));
        assert!(!is_at_or_below("/device", "/dev") && !is_at_or_below("/", "/dev"));
    }

    #[test]
    fn shown_texts_are_one_line() {
        assert_eq!(shown("a\nb"), "a\\nb");
        assert_eq!(shown(&"x".repeat(1000)).len(), SHOWN);
    }
}
