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

/// The unfinished line of a stream.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
}

/// Writes one line: `stamp stream tag text`.
pub(crate) fn push(out: &mut Vec<u8>, now_ns: i64, stream: Stream, whole: bool, text: &[u8]) {
    time::write(out, now_ns);
    out.extend_from_slice(stream.tag());
    out.extend_from_slice(if whole { b"F " } else { b"P " });
    out.extend_from_slice(text);
    out.push(b'\n');
}

impl Pending {
    /// Takes bytes and writes the lines that are complete. A line longer than `max` is
    /// written in parts of that size.
    pub(crate) fn take(
        &mut self,
        out: &mut Vec<u8>,
        now_ns: i64,
        stream: Stream,
        mut bytes: &[u8],
        max: usize,
    ) {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|&b| b == b'\n');
            let line = &bytes[..end.unwrap_or(bytes.len())];
            let room = max - self.bytes.len();
            if line.len() > room {
                // The part that fits goes out; the rest is looked at again.
                let (part, _) = line.split_at(room);
                self.emit(out, now_ns, stream, false, part);
                bytes = &bytes[room..];
            } else if end.is_some() {
                self.emit(out, now_ns, stream, true, line);
                bytes = &bytes[line.len() + 1..];
            } else {
                self.bytes.extend_from_slice(line);
                return;
            }
        }
    }

    fn emit(&mut self, out: &mut Vec<u8>, now_ns: i64, stream: Stream, whole: bool, end: &[u8]) {
        if self.bytes.is_empty() {
            push(out, now_ns, stream, whole, end);
            return;
        }
        self.bytes.extend_from_slice(end);
        push(out, now_ns, stream, whole, &self.bytes);
        self.bytes.clear();
        // A long line's memory is given back; a short one's is kept for the next.
        self.bytes.shrink_to(KEPT_BYTES);
    }

    /// Writes what is left of a stream that has ended: a last line without its end.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>, now_ns: i64, stream: Stream) {
        if !self.bytes.is_empty() {
            self.emit(out, now_ns, stream, true, &[]);
        }
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
        for cut in cuts {
            pending.take(&mut out, 0, Stream::Stdout, cut, max);
        }
        pending.finish(&mut out, 0, Stream::Stdout);
        String::from_utf8_lossy(&out).replace("1970-01-01T00:00:00.000000000Z stdout ", "")
    }

    #[test]
    fn lines_are_whole_and_long_ones_are_parted() {
        for (text, max, expected) in [
            ("a\nb\n", 10, "F a\nF b\n"),
            ("a\n\nb", 10, "F a\nF \nF b\n"),
            ("", 10, ""),
            ("abcd\n", 4, "F abcd\n"),
            ("abcde\n", 4, "P abcd\nF e\n"),
            ("abcdefgh\n", 4, "P abcd\nF efgh\n"),
            ("abcdefghi", 4, "P abcd\nP efgh\nF i\n"),
        ] {
            assert_eq!(lines(&[text.as_bytes()], max), expected, "{text:?}");
        }
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
            let expected = if text.is_empty() || text.ends_with('\n') { text } else { format!("{text}\n") };
            prop_assert_eq!(back, expected);
        }
    }
}
