//! Header blocks: names and values, deflated with one state a direction.

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;
use super::frame::FrameError;

/// The largest header block, inflated. Kubernetes sends some 200 bytes.
pub(crate) const MAX_HEADERS: usize = 64 << 10;

/// The most headers of a block.
const MAX_COUNT: usize = 256;

/// The headers of a stream. Names are of lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Makes headers of names and values.
    pub fn new<N: AsRef<str>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let lower = |(name, value): (N, V)| (name.as_ref().to_ascii_lowercase(), value.into());
        Self(pairs.into_iter().map(lower).collect())
    }

    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let length = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        out.put_u32(length(self.0.len()));
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            out.put_u32(length(text.len()));
            out.extend_from_slice(text.as_bytes());
        }
        out
    }

    pub(super) fn read(mut bytes: &[u8]) -> Result<Self, FrameError> {
        let count = number(&mut bytes)?;
        if count > MAX_COUNT {
            return Err(FrameError::Headers("there are too many"));
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = text(&mut bytes)?.to_ascii_lowercase();
            headers.push((name, text(&mut bytes)?));
        }
        if !bytes.is_empty() {
            return Err(FrameError::Headers("bytes follow the last one"));
        }
        Ok(Self(headers))
    }
}

fn number(bytes: &mut &[u8]) -> Result<usize, FrameError> {
    let number = bytes.try_get_u32().map_err(|_| FrameError::Headers("they end early"))?;
    usize::try_from(number).map_err(|_| FrameError::Headers("a length does not fit"))
}

fn text(bytes: &mut &[u8]) -> Result<String, FrameError> {
    let length = number(bytes)?;
    let Some((text, rest)) = bytes.split_at_checked(length) else {
        return Err(FrameError::Headers("they end early"));
    };
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|_| FrameError::Headers("they are not UTF-8"))
}

/// Deflates the blocks of one direction.
#[derive(Debug)]
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Self {
        let mut state = Compress::new(Compression::fast(), true);
        // It fails in the middle of a block alone, and this is the beginning.
        let _ = state.set_dictionary(&dictionary());
        Self(state)
    }

    pub(crate) fn deflate(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        let input = headers.write();
        let mut out = Vec::with_capacity(input.len() + 64);
        let begun = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - begun).unwrap_or(usize::MAX);
            let rest = input.get(done..).unwrap_or_default();
            self.0
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .map_err(|_| FrameError::Headers("they cannot be deflated"))?;
            // Room that is left means that all has been flushed.
            if out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(out.capacity());
        }
    }
}

/// Inflates the blocks of one direction.
#[derive(Debug)]
pub(crate) struct Inflater {
    state: Decompress,
    broken: bool,
}

impl Inflater {
    pub(crate) fn new() -> Self {
        Self { state: Decompress::new(true), broken: false }
    }

    /// After an error the direction cannot be read any more: the state is shared by all blocks.
    pub(crate) fn inflate(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        if self.broken {
            return Err(FrameError::Headers("an earlier block was broken"));
        }
        let result = self.inflate_all(block).and_then(|bytes| Headers::read(&bytes));
        self.broken = result.is_err();
        result
    }

    fn inflate_all(&mut self, block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut out = Vec::with_capacity(1024.max(block.len()));
        let begun = self.state.total_in();
        loop {
            let done = usize::try_from(self.state.total_in() - begun).unwrap_or(usize::MAX);
            let rest = block.get(done..).unwrap_or_default();
            match self.state.decompress_vec(rest, &mut out, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => {
                    return Err(FrameError::Headers("the deflated stream ends"));
                }
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.state
                        .set_dictionary(&dictionary())
                        .map_err(|_| FrameError::Headers("they use another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(FrameError::Headers("they cannot be inflated")),
            }
            let done = usize::try_from(self.state.total_in() - begun).unwrap_or(usize::MAX);
            if out.len() < out.capacity() {
                // No room was wanted: the block is at its end, or makes no progress.
                return match done == block.len() {
                    true => Ok(out),
                    false => Err(FrameError::Headers("they cannot be inflated")),
                };
            }
            if out.len() >= MAX_HEADERS {
                return Err(FrameError::Headers("they are larger than 64 KiB"));
            }
            out.reserve(out.capacity().min(MAX_HEADERS));
        }
    }
}
