//! The client's bytes in, the server's bytes out; no I/O.

use crate::frame::{self, FrameHeader};
use crate::hpack::{Decoder, Field, HpackError};

/// What replaces an authority that the server would refuse.
const REPLACEMENT: &[u8] = b"localhost";

/// The frames of one compressed header block, their headers included, so that
/// empty continuations count too. Twice what is accepted of a decoded list
/// after compression at its worst; a block over it ends the connection.
const MAX_BLOCK_FRAMES: usize = 128 * 1024;

/// What becomes of the connection's bytes from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They must go on through [`Rewriter::feed`].
    Continue,
    /// They are for the server as they are; everything held back was put out.
    Pass,
    /// Nothing more may go to the server: what was put out ends the connection.
    End,
}

/// Watches frames, and decodes and replaces header blocks where it must.
pub struct Rewriter {
    step: Step,
    decoder: Decoder,
    /// Whether a bad authority was seen; until then everything goes out unchanged.
    rewriting: bool,
    /// The frames of the block that is being gathered, as they came.
    frames: Vec<u8>,
    /// The compressed block itself.
    block: Vec<u8>,
}

/// What the next byte is.
enum Step {
    Preface { seen: usize },
    Header { bytes: [u8; frame::HEADER_LENGTH], seen: usize, block: Option<Block> },
    Other { left: usize },
    Payload { header: FrameHeader, from: usize, block: Block },
}

/// The header block that frames are being gathered for.
#[derive(Clone, Copy)]
struct Block {
    stream: u32,
    end_stream: bool,
}

/// Why the connection must end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("frames of a header block are out of order, too many or too short")]
    Sequence,
    #[error("a header block cannot be decoded")]
    Compression { stream: u32, source: HpackError },
}

impl Rewriter {
    pub fn new() -> Self {
        Self {
            step: Step::Preface { seen: 0 },
            decoder: Decoder::new(),
            rewriting: false,
            frames: Vec::new(),
            block: Vec::new(),
        }
    }

    /// Takes the next bytes of the client and appends what the server is to see.
    pub fn feed(&mut self, mut input: &[u8], output: &mut Vec<u8>) -> Outcome {
        while !input.is_empty() {
            match self.take(&mut input, output) {
                Ok(Outcome::Continue) => {}
                Ok(outcome) => {
                    output.extend_from_slice(input);
                    return outcome;
                }
                Err(broken) => {
                    end(&broken, output);
                    return Outcome::End;
                }
            }
        }
        Outcome::Continue
    }

    fn take(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Result<Outcome, Broken> {
        match &mut self.step {
            Step::Preface { seen } => {
                let part = split(input, frame::PREFACE.len() - *seen);
                output.extend_from_slice(part);
                let expected = &frame::PREFACE[*seen..*seen + part.len()];
                *seen += part.len();
                if part != expected {
                    // Not HTTP/2: the server says so.
                    return Ok(Outcome::Pass);
                }
                if *seen == frame::PREFACE.len() {
                    self.step = Step::next(None);
                }
                Ok(Outcome::Continue)
            }
            Step::Header { bytes, seen, block } => {
                let part = split(input, bytes.len() - *seen);
                bytes[*seen..*seen + part.len()].copy_from_slice(part);
                *seen += part.len();
                if *seen < bytes.len() {
                    return Ok(Outcome::Continue);
                }
                let (bytes, block) = (*bytes, *block);
                self.begin(bytes, block, output)
            }
            Step::Other { left } => {
                let part = split(input, *left);
                output.extend_from_slice(part);
                *left -= part.len();
                if *left == 0 {
                    self.step = Step::next(None);
                }
                Ok(Outcome::Continue)
            }
            Step::Payload { header, from, block } => {
                let (header, from, block) = (*header, *from, *block);
                let part = split(input, from + header.length - self.frames.len());
                self.frames.extend_from_slice(part);
                if self.frames.len() < from + header.length {
                    return Ok(Outcome::Continue);
                }
                self.finish(header, from, block, output)
            }
        }
    }

    /// Decides by its header what to do with a frame.
    fn begin(
        &mut self,
        bytes: [u8; frame::HEADER_LENGTH],
        block: Option<Block>,
        output: &mut Vec<u8>,
    ) -> Result<Outcome, Broken> {
        let header = FrameHeader::parse(bytes);
        let block = match (header.kind, block) {
            (frame::HEADERS, None) => {
                Block { stream: header.stream, end_stream: header.has(frame::END_STREAM) }
            }
            (frame::CONTINUATION, Some(block)) if block.stream == header.stream => block,
            (_, None) => {
                output.extend_from_slice(&bytes);
                self.step = match header.length {
                    0 => Step::next(None),
                    left => Step::Other { left },
                };
                return Ok(Outcome::Continue);
            }
            (_, Some(_)) => return Err(Broken::Sequence),
        };
        self.frames.extend_from_slice(&bytes);
        let from = self.frames.len();
        if from + header.length > MAX_BLOCK_FRAMES {
            return Err(Broken::Sequence);
        }
        if header.length == 0 {
            return self.finish(header, from, block, output);
        }
        self.step = Step::Payload { header, from, block };
        Ok(Outcome::Continue)
    }

    /// Adds a gathered frame to its block, and settles the block if it is the last.
    fn finish(
        &mut self,
        header: FrameHeader,
        from: usize,
        block: Block,
        output: &mut Vec<u8>,
    ) -> Result<Outcome, Broken> {
        let payload = &self.frames[from..];
        let part = match header.kind {
            frame::HEADERS => frame::block_of(header, payload).ok_or(Broken::Sequence)?,
            _ => payload,
        };
        self.block.extend_from_slice(part);
        if !header.has(frame::END_HEADERS) {
            self.step = Step::next(Some(block));
            return Ok(Outcome::Continue);
        }
        self.step = Step::next(None);
        let outcome = self.settle(block, output);
        self.frames.clear();
        self.block.clear();
        outcome
    }

    fn settle(&mut self, block: Block, output: &mut Vec<u8>) -> Result<Outcome, Broken> {
        let mut fields = self
            .decoder
            .decode(&self.block)
            .map_err(|source| Broken::Compression { stream: block.stream, source })?;
        let replaced = replace(&mut fields);
        if !self.rewriting && !replaced {
            output.append(&mut self.frames);
            return Ok(Outcome::Pass);
        }
        self.rewriting = true;
        frame::write_headers(block.stream, block.end_stream, &fields, output);
        Ok(Outcome::Continue)
    }
}

impl Step {
    fn next(block: Option<Block>) -> Self {
        Self::Header { bytes: [0; frame::HEADER_LENGTH], seen: 0, block }
    }
}

/// Puts a good authority in place of each one that the server would refuse.
fn replace(fields: &mut [Field]) -> bool {
    let mut replaced = false;
    for field in fields.iter_mut().filter(|field| &*field.name == b":authority") {
        if http::uri::Authority::try_from(&*field.value).is_err() {
            field.value = REPLACEMENT.into();
            replaced = true;
        }
    }
    replaced
}

fn split<'a>(input: &mut &'a [u8], at_most: usize) -> &'a [u8] {
    let (part, rest) = input.split_at(input.len().min(at_most));
    *input = rest;
    part
}

/// Has the server tell the client what is wrong: it alone may write to it.
fn end(broken: &Broken, output: &mut Vec<u8>) {
    match broken {
        Broken::Sequence => frame::write_bad_sequence(output),
        Broken::Compression { stream, .. } => frame::write_bad_compression(*stream, output),
    }
}

#[cfg(test)]
mod tests;
