//! The bytes: buffered, counted, bounded.

use std::io::{self, Read};

use crate::{UnpackError, split::Recorder};

/// Enough that most files of a layer are written with one call.
const BUFFER: usize = 256 << 10;

/// How much is gathered before it is handed on, where the source gives little at once.
const GATHER: usize = 64 << 10;

/// A reader with a buffer and a limit.
pub(super) struct Stream<'a> {
    reader: &'a mut dyn Read,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    left: u64,
    limit: u64,
    ended: bool,
    /// Takes down what is no file's data.
    pub(super) recorder: Option<Recorder<'a>>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(
        reader: &'a mut dyn Read,
        limit: u64,
        recorder: Option<Recorder<'a>>,
    ) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { reader, buffer, start: 0, end: 0, left: limit, limit, ended: false, recorder }
    }

    /// The same as [`Stream::data`], for what is no file's data.
    fn chunk(&mut self, max: u64) -> Result<&[u8], UnpackError> {
        let (from, taken) = self.take(max)?;
        let chunk = &self.buffer[from..from + taken];
        if let Some(recorder) = &mut self.recorder {
            recorder.bytes(chunk);
        }
        Ok(chunk)
    }

    /// Takes up to `max` bytes out of the buffer. None are left where it is empty.
    pub(super) fn data(&mut self, max: u64) -> Result<&[u8], UnpackError> {
        let (from, taken) = self.take(max)?;
        Ok(&self.buffer[from..from + taken])
    }

    fn take(&mut self, max: u64) -> Result<(usize, usize), UnpackError> {
        self.fill()?;
        let buffered = self.end - self.start;
        let taken = usize::try_from(max).unwrap_or(usize::MAX).min(buffered);
        let from = self.start;
        self.start += taken;
        Ok((from, taken))
    }

    /// Fills `out`. `false` where the stream ended before its first byte.
    pub(super) fn read_exact(
        &mut self,
        out: &mut [u8],
        what: &'static str,
    ) -> Result<bool, UnpackError> {
        let mut filled = 0;
        while filled < out.len() {
            let chunk = self.chunk((out.len() - filled) as u64)?;
            if chunk.is_empty() {
                return match filled {
                    0 => Ok(false),
                    _ => Err(UnpackError::Truncated { what }),
                };
            }
            out[filled..filled + chunk.len()].copy_from_slice(chunk);
            filled += chunk.len();
        }
        Ok(true)
    }

    /// Passes over `count` bytes.
    pub(super) fn skip(&mut self, mut count: u64, what: &'static str) -> Result<(), UnpackError> {
        while count > 0 {
            let passed = self.chunk(count)?.len() as u64;
            if passed == 0 {
                return Err(UnpackError::Truncated { what });
            }
            count -= passed;
        }
        Ok(())
    }

    /// Passes over everything that is left.
    pub(super) fn drain(&mut self) -> Result<(), UnpackError> {
        while !self.chunk(u64::MAX)?.is_empty() {}
        Ok(())
    }

    fn fill(&mut self) -> Result<(), UnpackError> {
        if self.start < self.end || self.ended {
            return Ok(());
        }
        (self.start, self.end) = (0, 0);
        while self.end < GATHER {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(UnpackError::Read(error)),
            }
        }
        let limit = UnpackError::Limit { what: "bytes", limit: self.limit };
        self.left = self.left.checked_sub(self.end as u64).ok_or(limit)?;
        Ok(())
    }
}
