//! Frame headers of HTTP/2 (RFC 9113, section 4.1) and the two kinds of frame
//! that carry header blocks.

use crate::hpack::Field;

/// What a client sends before its first frame.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of a frame's header.
pub const HEADER_LENGTH: usize = 9;
/// The payload that every peer accepts without being asked.
const MAX_PAYLOAD: usize = 16_384;

pub const HEADERS: u8 = 0x1;
pub const CONTINUATION: u8 = 0x9;

pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The octets of stream dependency and weight.
const PRIORITY_LENGTH: usize = 5;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl FrameHeader {
    pub fn parse(bytes: [u8; HEADER_LENGTH]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2),
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        }
    }

    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn write(self, output: &mut Vec<u8>) {
        let length = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        output.extend_from_slice(&length[1..]);
        output.extend_from_slice(&[self.kind, self.flags]);
        output.extend_from_slice(&self.stream.to_be_bytes());
    }
}

/// The part of a HEADERS frame's payload that is header block; `None` if the
/// padding or priority that its flags announce do not fit.
pub fn block_of(header: FrameHeader, payload: &[u8]) -> Option<&[u8]> {
    let mut block = payload;
    let mut padding = 0;
    if header.has(PADDED) {
        let (first, rest) = block.split_first()?;
        (padding, block) = (usize::from(*first), rest);
    }
    if header.has(PRIORITY) {
        block = block.get(PRIORITY_LENGTH..)?;
    }
    block.get(..block.len().checked_sub(padding)?)
}

/// Writes fields as one HEADERS frame and as many CONTINUATION frames as it takes.
pub fn write_headers(stream: u32, end_stream: bool, fields: &[Field], output: &mut Vec<u8>) {
    let mut block = Vec::new();
    for field in fields {
        crate::hpack::encode(field, &mut block);
    }
    let mut kind = HEADERS;
    let mut flags = if end_stream { END_STREAM } else { 0 };
    let mut rest = block.as_slice();
    loop {
        let (payload, after) = rest.split_at(rest.len().min(MAX_PAYLOAD));
        if after.is_empty() {
            flags |= END_HEADERS;
        }
        FrameHeader { length: payload.len(), kind, flags, stream }.write(output);
        output.extend_from_slice(payload);
        if after.is_empty() {
            return;
        }
        (kind, flags, rest) = (CONTINUATION, 0, after);
    }
}

/// Writes a frame to which every server answers that compression failed, and
/// ends the connection: a field with the index 0 (RFC 7541, section 6.1).
pub fn write_bad_compression(stream: u32, output: &mut Vec<u8>) {
    FrameHeader { length: 1, kind: HEADERS, flags: END_HEADERS, stream: stream.max(1) }
        .write(output);
    output.push(0x80);
}

/// Writes a frame to which every server answers that the protocol was violated,
/// and ends the connection: a CONTINUATION of nothing (RFC 9113, section 6.10).
pub fn write_bad_sequence(output: &mut Vec<u8>) {
    FrameHeader { length: 0, kind: CONTINUATION, flags: END_HEADERS, stream: 0 }.write(output);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_padding_and_priority() {
        let header = |flags| FrameHeader { length: 0, kind: HEADERS, flags, stream: 1 };
        type Case = (u8, &'static [u8], Option<&'static [u8]>);
        let cases: [Case; 8] = [
            (0, b"abc", Some(b"abc")),
            (PADDED, &[2, b'a', 0, 0], Some(b"a")),
            (PRIORITY, &[0, 0, 0, 0, 16, b'a'], Some(b"a")),
            (PADDED | PRIORITY, &[1, 0, 0, 0, 0, 16, b'a', 0], Some(b"a")),
            (PADDED, &[3, b'a', 0], None),
            (PADDED, &[], None),
            (PRIORITY, &[0, 0, 0, 0], None),
            (PADDED, &[2, 0, 0], Some(b"")),
        ];
        for (flags, payload, expected) in cases {
            assert_eq!(block_of(header(flags), payload), expected, "{flags:#x} {payload:?}");
        }
    }

    #[test]
    fn a_header_survives() {
        let header = FrameHeader { length: 0x01_02_03, kind: 1, flags: 5, stream: 0x7fff_fffe };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        assert_eq!(FrameHeader::parse(bytes.try_into().expect("nine octets")), header);
    }

    #[test]
    fn long_blocks_are_split() {
        let mut output = Vec::new();
        write_headers(3, true, &[Field::new(b"a", &[b'v'; 40_000])], &mut output);
        let mut seen = Vec::new();
        let mut rest = output.as_slice();
        while let Some((header, after)) = rest.split_first_chunk::<HEADER_LENGTH>() {
            let header = FrameHeader::parse(*header);
            seen.push((header.kind, header.flags, header.length));
            rest = &after[header.length..];
        }
        let total = 40_000 + 1 + 1 + 1 + 4;
        assert_eq!(
            seen,
            [
                (HEADERS, END_STREAM, MAX_PAYLOAD),
                (CONTINUATION, 0, MAX_PAYLOAD),
                (CONTINUATION, END_HEADERS, total - 2 * MAX_PAYLOAD)
            ]
        );
    }
}
