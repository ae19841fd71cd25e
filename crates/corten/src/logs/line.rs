//! One line of a log file.

use jiff::Timestamp;

/// Where a container wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line of a log file, which is a line of the container or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// As it stands in the file.
    pub time: &'a str,
    pub stream: Stream,
    /// Whether the container's line goes on in the next one.
    pub partial: bool,
    /// Without a newline.
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    /// Parses a line without its newline; `None` when it has not the form.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let (time, rest) = word(line)?;
        let (stream, rest) = word(rest)?;
        let (tags, content) = word(rest).unwrap_or((rest, b""));
        let time = std::str::from_utf8(time).ok()?;
        // Only the form is checked here: most lines' times are never compared.
        if !time.starts_with(|c: char| c.is_ascii_digit()) || !time.contains('T') {
            return None;
        }
        let stream = match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let partial = match tags.split(|b| *b == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        Some(Self { time, stream, partial, content })
    }

    /// When the line was written; `None` when that is no time.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|b| *b == b' ')?;
    Some((&text[..end], &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_what_is_none() {
        let line = Line::parse(b"2026-01-02T03:04:05.6Z stdout F a  b ").expect("a line");
        assert_eq!(
            (line.stream, line.partial, line.content),
            (Stream::Stdout, false, &b"a  b "[..])
        );
        assert_eq!(line.timestamp().expect("a time").to_string(), "2026-01-02T03:04:05.6Z");
        let line = Line::parse(b"2026-01-02T03:04:05+02:00 stderr P:x \xff").expect("a line");
        assert_eq!((line.stream, line.partial, line.content), (Stream::Stderr, true, &b"\xff"[..]));
        let line = Line::parse(b"2026-01-02T03:04:05Z stdout F").expect("an empty line");
        assert_eq!(line.content, b"");
        for wrong in [
            &b""[..],
            b"hello world out there",
            b"2026-01-02T03:04:05Z stdin F x",
            b"2026-01-02T03:04:05Z stdout Q x",
            b"2026-01-02T03:04:05Z stdout",
            b"\xff\xfe stdout F x",
        ] {
            assert_eq!(Line::parse(wrong), None, "{wrong:?}");
        }
    }
}
