//! Frames to and from bytes. Pure: no clock, no socket.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{Deflater, Headers, Inflater};

/// The length of a frame's head.
const HEAD: usize = 8;

/// The longest control frame. Kubernetes' have some 300 bytes.
pub(crate) const MAX_CONTROL: usize = 64 << 10;

/// The most of a data frame that is given out at a time.
const MAX_PIECE: usize = 64 << 10;

const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
/// The sign that a frame is a control frame, and the bit that is not of a stream's number.
const CONTROL_BIT: u32 = 1 << 31;
const INITIAL_WINDOW: u32 = 7;

/// Bytes that are no SPDY/3.1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version.
    #[error("a frame is of SPDY/{0}, not of SPDY/3")]
    Version(u16),
    /// A control frame that is too long.
    #[error("a control frame of {0} bytes exceeds the limit of 65536")]
    TooLong(usize),
    /// A control frame whose length is not that of its kind.
    #[error("a control frame of kind {0} is too short")]
    Short(u16),
    /// A data frame of stream 0.
    #[error("a data frame belongs to no stream")]
    NoStream,
    /// A header block that cannot be read.
    #[error("the headers of a stream cannot be used: {0}")]
    Headers(&'static str),
}

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// What was sent is no SPDY.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// There is no such stream.
    pub const INVALID_STREAM: Self = Self(2);
    /// There are too many streams, or nobody wants this one.
    pub const REFUSED_STREAM: Self = Self(3);
    /// It is not wanted any more.
    pub const CANCEL: Self = Self(5);
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A piece of a data frame; `fin` is on the last piece.
    Data {
        /// The stream.
        stream: u32,
        /// Whether nothing follows on the stream.
        fin: bool,
        /// The bytes.
        bytes: Bytes,
    },
    /// Opens a stream.
    SynStream {
        /// The stream.
        stream: u32,
        /// Whether nothing follows on the stream.
        fin: bool,
        /// Its headers.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        stream: u32,
        /// Whether nothing follows on the stream.
        fin: bool,
        /// The answer's headers.
        headers: Headers,
    },
    /// Ends a stream at once, in both directions.
    Reset {
        /// The stream.
        stream: u32,
        /// Why.
        status: Status,
    },
    /// Settings; of those only the initial window counts.
    Settings {
        /// The bytes that may be sent on a new stream before they are acknowledged.
        initial_window: Option<u32>,
    },
    /// A sign of life; it is sent back.
    Ping(u32),
    /// No new streams from now on.
    GoAway {
        /// The last stream that was taken.
        last: u32,
    },
    /// More headers of a stream.
    Headers {
        /// The stream.
        stream: u32,
        /// Whether nothing follows on the stream.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// Allows more bytes.
    WindowUpdate {
        /// The stream, or 0 for the connection.
        stream: u32,
        /// How many.
        delta: u32,
    },
    /// A control frame that is not known; it is ignored.
    Unknown(u16),
}

/// Reads the frames of one direction.
#[derive(Debug)]
pub struct Decoder {
    inflater: Inflater,
    data: Option<DataLeft>,
}

/// A data frame of which a part is still to come.
#[derive(Debug)]
struct DataLeft {
    stream: u32,
    fin: bool,
    left: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflater: Inflater::new(), data: None }
    }
}

impl Decoder {
    /// Takes the next frame, or a piece of one, off the front of `input`; `None` when more bytes
    /// are needed.
    ///
    /// # Errors
    /// The connection is of no use after one.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if self.data.is_some() {
            return Ok(self.piece(input));
        }
        let Some(mut head) = input.get(..HEAD) else { return Ok(None) };
        let (first, rest) = (head.get_u32(), head.get_u32());
        let [flags, length @ ..] = rest.to_be_bytes();
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if first & CONTROL_BIT == 0 {
            if first == 0 {
                return Err(FrameError::NoStream);
            }
            input.advance(HEAD);
            self.data = Some(DataLeft { stream: first, fin: flags & FLAG_FIN != 0, left: length });
            return Ok(self.piece(input));
        }
        let [version @ .., kind_high, kind_low] = first.to_be_bytes();
        let version = u16::from_be_bytes(version) & 0x7fff;
        let kind = u16::from_be_bytes([kind_high, kind_low]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(FrameError::TooLong(length));
        }
        if input.len() < HEAD + length {
            return Ok(None);
        }
        input.advance(HEAD);
        let body = input.split_to(length);
        self.control(kind, flags & FLAG_FIN != 0, &body)
            .map(Some)
            .map_err(|error| error.unwrap_or(FrameError::Short(kind)))
    }

    fn piece(&mut self, input: &mut BytesMut) -> Option<Frame> {
        let data = self.data.as_mut()?;
        let (stream, count) = (data.stream, data.left.min(input.len()).min(MAX_PIECE));
        if count == 0 && data.left > 0 {
            return None;
        }
        data.left -= count;
        let fin = data.fin && data.left == 0;
        if data.left == 0 {
            self.data = None;
        }
        Some(Frame::Data { stream, fin, bytes: input.split_to(count).freeze() })
    }

    /// Reads a control frame's body; `Err(None)` is one that is too short.
    fn control(
        &mut self,
        kind: u16,
        fin: bool,
        mut body: &[u8],
    ) -> Result<Frame, Option<FrameError>> {
        let body = &mut body;
        Ok(match kind {
            1 => {
                let (stream, _associated) = (id(body)?, id(body)?);
                let block = body.get(2..).ok_or(None)?;
                Frame::SynStream { stream, fin, headers: self.inflater.inflate(block)? }
            }
            2 => Frame::SynReply { stream: id(body)?, fin, headers: self.inflater.inflate(body)? },
            3 => Frame::Reset { stream: id(body)?, status: Status(number(body)?) },
            4 => settings(body)?,
            6 => Frame::Ping(number(body)?),
            7 => Frame::GoAway { last: id(body)? },
            8 => Frame::Headers { stream: id(body)?, fin, headers: self.inflater.inflate(body)? },
            9 => Frame::WindowUpdate { stream: id(body)?, delta: id(body)? },
            other => Frame::Unknown(other),
        })
    }
}

fn number(body: &mut &[u8]) -> Result<u32, Option<FrameError>> {
    body.try_get_u32().map_err(|_| None)
}

fn id(body: &mut &[u8]) -> Result<u32, Option<FrameError>> {
    number(body).map(|number| number & !CONTROL_BIT)
}

/// Reads settings. Their number is checked against what is there before anything is made of it.
fn settings(mut body: &[u8]) -> Result<Frame, Option<FrameError>> {
    let count = usize::try_from(body.try_get_u32().map_err(|_| None)?).map_err(|_| None)?;
    if count.checked_mul(8) != Some(body.len()) {
        return Err(None);
    }
    let mut initial_window = None;
    while let (Ok(id), Ok(value)) = (body.try_get_u32(), body.try_get_u32()) {
        if id & 0x00ff_ffff == INITIAL_WINDOW {
            initial_window = Some(value & !CONTROL_BIT);
        }
    }
    Ok(Frame::Settings { initial_window })
}

/// Writes the frames of one direction.
#[derive(Debug)]
pub struct Encoder {
    deflater: Deflater,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { deflater: Deflater::new() }
    }
}

impl Encoder {
    /// Appends a frame's bytes, those of data excepted: they follow as they are.
    ///
    /// # Errors
    /// Where headers do not fit into a frame.
    pub fn head(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<(), FrameError> {
        match frame {
            Frame::Data { stream, fin, bytes } => {
                out.put_u32(stream & !CONTROL_BIT);
                put_length(out, *fin, bytes.len());
            }
            Frame::SynStream { stream, fin, headers } => {
                let mut body = Vec::from([0; 10]);
                body[..4].copy_from_slice(&stream.to_be_bytes());
                body.extend_from_slice(&self.deflater.deflate(headers)?);
                put_control(out, 1, *fin, &body)?;
            }
            Frame::SynReply { stream, fin, headers } => {
                self.put_headers(out, 2, *stream, *fin, headers)?;
            }
            Frame::Reset { stream, status } => {
                put_control(out, 3, false, &pair(*stream, status.0))?
            }
            Frame::Settings { initial_window } => {
                let mut body = Vec::new();
                body.put_u32(u32::from(initial_window.is_some()));
                initial_window.iter().for_each(|window| body.extend(pair(INITIAL_WINDOW, *window)));
                put_control(out, 4, false, &body)?;
            }
            Frame::Ping(id) => put_control(out, 6, false, &id.to_be_bytes())?,
            Frame::GoAway { last } => put_control(out, 7, false, &pair(*last, 0))?,
            Frame::Headers { stream, fin, headers } => {
                self.put_headers(out, 8, *stream, *fin, headers)?;
            }
            Frame::WindowUpdate { stream, delta } => {
                put_control(out, 9, false, &pair(*stream, *delta))?;
            }
            Frame::Unknown(kind) => put_control(out, *kind, false, &[])?,
        }
        Ok(())
    }

    fn put_headers(
        &mut self,
        out: &mut Vec<u8>,
        kind: u16,
        stream: u32,
        fin: bool,
        headers: &Headers,
    ) -> Result<(), FrameError> {
        let mut body = stream.to_be_bytes().to_vec();
        body.extend_from_slice(&self.deflater.deflate(headers)?);
        put_control(out, kind, fin, &body)
    }
}

fn pair(one: u32, other: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&one.to_be_bytes());
    bytes[4..].copy_from_slice(&other.to_be_bytes());
    bytes
}

fn put_control(out: &mut Vec<u8>, kind: u16, fin: bool, body: &[u8]) -> Result<(), FrameError> {
    if body.len() > MAX_CONTROL {
        return Err(FrameError::TooLong(body.len()));
    }
    out.put_u16(VERSION | 0x8000);
    out.put_u16(kind);
    put_length(out, fin, body.len());
    out.extend_from_slice(body);
    Ok(())
}

fn put_length(out: &mut Vec<u8>, fin: bool, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff;
    out.put_u32(u32::from(fin) << 24 | length);
}
