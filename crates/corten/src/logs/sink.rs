//! Which lines are shown, and how.

use std::io::{self, Write};

use jiff::Timestamp;

use super::line::{Line, Stream};
use crate::output::Output;

/// What of a log is shown.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Nothing written before this time.
    pub since: Option<Timestamp>,
    /// Only this stream.
    pub stream: Option<Stream>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// No more bytes than this.
    pub limit_bytes: Option<u64>,
}

/// Writes lines: standard output to standard output, error to error.
pub struct Sink<'a, 'b> {
    output: &'a mut Output<'b>,
    filter: Filter,
    left: Option<u64>,
    /// Whether the last part written to each stream had no newline.
    open: [bool; 2],
    malformed: u64,
}

impl<'a, 'b> Sink<'a, 'b> {
    pub fn new(output: &'a mut Output<'b>, filter: Filter) -> Self {
        let left = filter.limit_bytes;
        Self { output, filter, left, open: [false; 2], malformed: 0 }
    }

    /// Whether no more may be written.
    pub fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Takes one line of the file, without its newline.
    pub fn line(&mut self, raw: &[u8]) -> io::Result<()> {
        let Some(line) = Line::parse(raw) else {
            self.malformed += 1;
            return Ok(());
        };
        if self.filter.stream.is_some_and(|stream| stream != line.stream) {
            return Ok(());
        }
        if let Some(since) = self.filter.since
            && line.timestamp().is_some_and(|time| time < since)
        {
            return Ok(());
        }
        self.show(&line)
    }

    /// Counts what was too long to be a line.
    pub fn skipped(&mut self) {
        self.malformed += 1;
    }

    fn show(&mut self, line: &Line<'_>) -> io::Result<()> {
        let Self { output, filter, left, open, .. } = self;
        let open = &mut open[line.stream as usize];
        let out: &mut dyn Write = match line.stream {
            Stream::Stdout => output.out,
            Stream::Stderr => output.err,
        };
        let mut put = |bytes: &[u8]| {
            let fits = left.map_or(bytes.len(), |left| {
                bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))
            });
            if let Some(left) = left {
                *left -= fits as u64;
            }
            out.write_all(&bytes[..fits])
        };
        // The parts of one line have one time.
        if filter.timestamps && !*open {
            put(line.time.as_bytes())?;
            put(b" ")?;
        }
        put(line.content)?;
        if !line.partial {
            put(b"\n")?;
        }
        *open = line.partial;
        Ok(())
    }

    /// Pushes out what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.out.flush()?;
        self.output.err.flush()
    }

    /// Says how many lines could not be shown.
    pub fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        match self.malformed {
            0 => Ok(()),
            n => self.output.warn(&format!("left out {n} lines that are not in the log format")),
        }
    }
}
