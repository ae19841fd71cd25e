//! Bytes to lines. Pure: the same bytes give the same lines, however they are cut.

use crate::time;

/// Which of a container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn tag(self) -> &'static [u8] {
        match self {
            Self::Stdout => b" stdout ",
            Self::Stderr => b" stderr ",
        }
    }
}

/// What stands before the text of the lines of one moment.
pub(crate) struct Heads {
    whole: [u8; HEAD],
    part: [u8; HEAD],
}

/// A time stamp, a stream of six letters, a tag of one, and the spaces after them.
const HEAD: usize = time::LENGTH + " stdout F ".len();

impl Heads {
    pub(crate) fn new(now_ns: i64, stream: Stream) -> Self {
        let mut whole = [b' '; HEAD];
        whole[..time::LENGTH].copy_from_slice(&time::stamp(now_ns));
        whole[time::LENGTH..HEAD - 2].copy_from_slice(stream.tag());
        let mut part = whole;
        whole[HEAD - 2] = b'F';
        part[HEAD - 2] = b'P';
        Self { whole, part }
    }

    /// What stands before a whole line, or before a part of one.
    pub(crate) fn of(&self, whole: bool) -> &[u8] {
        if whole { &self.whole } else { &self.part }
    }
}

/// A line, or a part of one, in two pieces: what was kept from before, and what came now.
pub(crate) struct Line<'a> {
    pub(crate) whole: bool,
    pub(crate) text: [&'a [u8]; 2],
}

/// The unfinished line of a stream: never longer than a line may be.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
}

impl Pending {
    /// Takes bytes and emits the lines that are complete. A line longer than `max` is emitted in
    /// parts of that size.
    pub(crate) fn take(&mut self, mut bytes: &[u8], max: usize, mut emit: impl FnMut(Line<'_>)) {
        while !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let line = &bytes[..end.unwrap_or(bytes.len())];
            let room = max - self.bytes.len();
            if line.len() > room {
                // The part that fits goes out; the rest is looked at again.
                self.emit(false, &line[..room], &mut emit);
                bytes = &bytes[room..];
            } else if end.is_some() {
                self.emit(true, line, &mut emit);
                bytes = &bytes[line.len() + 1..];
            } else {
                self.bytes.extend_from_slice(line);
                return;
            }
        }
    }

    /// Emits what is left of a stream that has ended. It is a part: there is no end of line, and
    /// who puts the log together again must not add one.
    pub(crate) fn finish(&mut self, mut emit: impl FnMut(Line<'_>)) {
        if !self.bytes.is_empty() {
            self.emit(false, &[], &mut emit);
        }
    }

    fn emit(&mut self, whole: bool, end: &[u8], emit: &mut impl FnMut(Line<'_>)) {
        emit(Line { whole, text: [&self.bytes, end] });
        self.bytes.clear();
        // A long line's memory is given back; a short one's is kept for the next.
        self.bytes.shrink_to(KEPT_BYTES);
    }
}

/// How much memory an unfinished line keeps.
const KEPT_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(cuts: &[&[u8]], max: usize) -> String {
        let (mut pending, mut out) = (Pending::default(), Vec::new());
        let mut emit = |line: Line<'_>| {
            out.extend_from_slice(if line.whole { b"F " } else { b"P " });
            out.extend_from_slice(line.text[0]);
            out.extend_from_slice(line.text[1]);
            out.push(b'\n');
        };
        for cut in cuts {
            pending.take(cut, max, &mut emit);
            assert!(pending.bytes.len() <= max);
        }
        pending.finish(&mut emit);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn lines_are_whole_and_long_ones_are_parted() {
        for (text, max, expected) in [
            ("a\nb\n", 10, "F a\nF b\n"),
            ("a\n\nb", 10, "F a\nF \nP b\n"),
            ("", 10, ""),
            ("abcd\n", 4, "F abcd\n"),
            ("abcde\n", 4, "P abcd\nF e\n"),
            ("abcdefgh\n", 4, "P abcd\nF efgh\n"),
            ("abcdefghi", 4, "P abcd\nP efgh\nP i\n"),
        ] {
            assert_eq!(lines(&[text.as_bytes()], max), expected, "{text:?}");
        }
    }

    #[test]
    fn heads_are_of_the_form() {
        let heads = Heads::new(1, Stream::Stderr);
        assert_eq!(heads.of(true), b"1970-01-01T00:00:00.000000001Z stderr F ");
        assert_eq!(heads.of(false), b"1970-01-01T00:00:00.000000001Z stderr P ");
    }

    proptest! {
        /// However the kernel cuts the bytes, the log is the same.
        #[test]
        fn the_cuts_do_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..400),
            cuts in proptest::collection::vec(0_usize..400, 0..20),
            max in 1_usize..40,
        ) {
            let mut places: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            places.push(0);
            places.push(bytes.len());
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(lines(&pieces, max), lines(&[&bytes], max));
        }

        /// Nothing is lost and nothing is added.
        #[test]
        fn every_byte_is_there(text in "[a-z\n]{0,300}", max in 1_usize..40) {
            let log = lines(&[text.as_bytes()], max);
            let mut back = String::new();
            for line in log.lines() {
                back.push_str(&line[2..]);
                if line.starts_with('F') {
                    back.push('\n');
                }
            }
            prop_assert_eq!(back, text);
        }
    }
}
