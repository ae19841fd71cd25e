//! Frames and header blocks, fuzzed. See `testing::fuzz`.

use bytes::Bytes;
use testing::fuzz::fuzz;

use super::*;

fn frames() -> Vec<Frame> {
    let headers = |pairs: &[(&str, &str)]| Headers::new(pairs.iter().copied());
    let opening = headers(&[("streamType", "data"), ("port", "80"), ("requestID", "1")]);
    vec![
        Frame::Settings { initial_window: Some(65536) },
        Frame::SynStream { stream: 1, fin: false, headers: opening },
        Frame::SynStream { stream: 3, fin: true, headers: headers(&[("streamtype", "error")]) },
        Frame::Data { stream: 1, fin: false, bytes: Bytes::from_static(b"some bytes") },
        Frame::WindowUpdate { stream: 1, delta: 9 },
        Frame::Ping(5),
        Frame::Reset { stream: 3, status: Status::CANCEL },
        Frame::GoAway { last: 3 },
    ]
}

/// The frames one by one, and all in a row: the state of the compression goes on.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut row = Encoder::default();
    let mut all = Vec::new();
    let mut seeds = Vec::new();
    for frame in frames() {
        let write = |encoder: &mut Encoder, out: &mut Vec<u8>| {
            encoder.head(&frame, out).unwrap();
            if let Frame::Data { bytes, .. } = &frame {
                out.extend_from_slice(bytes);
            }
        };
        write(&mut row, &mut all);
        let mut one = Vec::new();
        write(&mut Encoder::default(), &mut one);
        seeds.push(one);
    }
    seeds.push(all);
    seeds
}

#[test]
fn frames_of_any_peer() {
    fuzz("spdy", &seeds(), super::fuzz);
}

/// The blocks as they are before they are deflated: their lengths are seldom right by chance.
#[test]
fn headers_of_any_peer() {
    let block = |pairs: &[(&str, &str)]| {
        let mut bytes = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    };
    let seeds = [
        block(&[("streamtype", "stdin")]),
        block(&[("streamtype", "data"), ("port", "8080"), ("requestid", "12")]),
        block(&[]),
    ];
    fuzz("headers", &seeds, |bytes| {
        let Ok(headers) = Headers::read(bytes) else { return };
        for name in ["streamtype", "port", "requestid"] {
            assert!(headers.get(name).is_none_or(|value| value.len() <= bytes.len()));
        }
    });
}
