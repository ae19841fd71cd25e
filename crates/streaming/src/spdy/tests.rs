use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::Activity;

fn frames(decoder: &mut Decoder, input: &mut BytesMut) -> Result<Vec<Frame>, FrameError> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.decode(input)? {
        frames.push(frame);
    }
    Ok(frames)
}

fn bytes_of(encoder: &mut Encoder, frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        encoder.head(frame, &mut out).unwrap();
        if let Frame::Data { bytes, .. } = frame {
            out.extend_from_slice(bytes);
        }
    }
    out
}

fn header(name: &str, value: &str) -> Headers {
    Headers::new([(name, value)])
}

/// What Kubernetes' client sends: a stream's opening, byte by byte as the draft has it.
#[test]
fn the_wire_form_is_this() {
    let mut encoder = Encoder::default();
    let syn = Frame::SynStream { stream: 1, fin: false, headers: header("streamType", "error") };
    let bytes = bytes_of(&mut encoder, std::slice::from_ref(&syn));
    assert_eq!(bytes[..4], [0x80, 3, 0, 1]);
    assert_eq!(bytes[8..18], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    // The sum of the dictionary is in every first block.
    assert_eq!(bytes[20..24], [0xe3, 0xc6, 0xa7, 0xc2]);
    let plain = [
        (Frame::Reset { stream: 3, status: Status::CANCEL }, "80030003000000080000000300000005"),
        (
            Frame::Settings { initial_window: Some(65536) },
            "800300040000000c000000010000000700010000",
        ),
        (Frame::Ping(5), "800300060000000400000005"),
        (Frame::GoAway { last: 7 }, "80030007000000080000000700000000"),
        (Frame::WindowUpdate { stream: 1, delta: 9 }, "80030009000000080000000100000009"),
        (
            Frame::Data { stream: 1, fin: true, bytes: Bytes::from_static(b"hi") },
            "00000001010000026869",
        ),
    ];
    for (frame, hex) in plain {
        let bytes = bytes_of(&mut encoder, std::slice::from_ref(&frame));
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, hex, "{frame:?}");
        let mut input = BytesMut::from(&bytes[..]);
        assert_eq!(frames(&mut Decoder::default(), &mut input), Ok(vec![frame]));
    }
    let mut input = BytesMut::from(&bytes[..]);
    assert_eq!(frames(&mut Decoder::default(), &mut input), Ok(vec![syn]));
}

/// The state of the deflated headers goes on from block to block.
#[test]
fn many_blocks_share_their_state() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    for number in 0..1000 {
        let headers = Headers::new([
            ("streamType", "data".to_owned()),
            ("port", "80".to_owned()),
            ("requestID", number.to_string()),
        ]);
        let sent = Frame::SynReply { stream: 2 * number + 1, fin: false, headers };
        let mut input = BytesMut::from(&bytes_of(&mut encoder, std::slice::from_ref(&sent))[..]);
        assert!(input.len() < 200, "they are not deflated: {}", input.len());
        assert_eq!(frames(&mut decoder, &mut input), Ok(vec![sent]));
    }
}

/// A block that inflates to far more than it is, and counts that promise memory
/// (CVE-2026-35469).
#[test]
fn bombs_are_refused() {
    let mut encoder = Encoder::default();
    let big = Headers::new([("x", "0".repeat(60 << 10)), ("y", "0".repeat(60 << 10))]);
    let bytes = bytes_of(&mut encoder, &[Frame::SynReply { stream: 1, fin: false, headers: big }]);
    assert!(bytes.len() < 2000);
    let error = frames(&mut Decoder::default(), &mut BytesMut::from(&bytes[..]));
    assert_eq!(error, Err(FrameError::Headers("they are larger than 64 KiB")));
    for (bytes, expected) in [
        (&b"\x80\x03\x00\x04\x00\x00\x00\x04\xff\xff\xff\xff"[..], FrameError::Short(4)),
        (b"\x80\x02\x00\x04\x00\x00\x00\x04\xff\xff\xff\xff", FrameError::Version(2)),
        (b"\x80\x03\x00\x01\x00\xff\xff\xff", FrameError::TooLong(0xff_ffff)),
        (b"\x80\x03\x00\x01\x00\x00\x00\x04\x00\x00\x00\x01", FrameError::Short(1)),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00", FrameError::NoStream),
    ] {
        let mut input = BytesMut::from(bytes);
        assert_eq!(frames(&mut Decoder::default(), &mut input), Err(expected));
    }
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let id = 1_u32..0x7fff_ffff;
    let headers = proptest::collection::vec(("[a-z:-]{1,20}", "\\PC{0,40}"), 0..6)
        .prop_map(Headers::new::<String, String>);
    prop_oneof![
        (id.clone(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..2000))
            .prop_map(|(stream, fin, bytes)| Frame::Data { stream, fin, bytes: bytes.into() }),
        (id.clone(), any::<bool>(), headers.clone())
            .prop_map(|(stream, fin, headers)| Frame::SynStream { stream, fin, headers }),
        (id.clone(), any::<bool>(), headers.clone())
            .prop_map(|(stream, fin, headers)| Frame::SynReply { stream, fin, headers }),
        (id.clone(), any::<bool>(), headers).prop_map(|(stream, fin, headers)| Frame::Headers {
            stream,
            fin,
            headers
        }),
        (id.clone(), any::<u32>())
            .prop_map(|(stream, status)| Frame::Reset { stream, status: Status(status) }),
        any::<u32>().prop_map(Frame::Ping),
        (id.clone(), 1_u32..0x7fff_ffff)
            .prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
        id.prop_map(|last| Frame::GoAway { last }),
    ]
}

/// Pieces of one data frame, put together again.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut out: Vec<Frame> = Vec::new();
    let mut open = false;
    for frame in frames {
        match (frame, out.last_mut()) {
            (
                Frame::Data { fin, bytes: more, stream },
                Some(Frame::Data { fin: last, bytes, stream: same }),
            ) if open && stream == *same => {
                *bytes = [&bytes[..], &more[..]].concat().into();
                *last = fin;
            }
            (frame, _) => out.push(frame),
        }
        open = matches!(out.last(), Some(Frame::Data { fin: false, .. }));
    }
    out
}

proptest! {
    /// Whatever comes, it is frames or an error, and takes no more memory than it is.
    #[test]
    fn foreign_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        fuzz(&bytes);
    }

    /// The same where the beginning looks right.
    #[test]
    fn broken_frames_do_no_harm(
        wanted in proptest::collection::vec(any_frame(), 1..5),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let mut bytes = bytes_of(&mut Encoder::default(), &wanted);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fuzz(&bytes);
    }

    /// However the bytes are cut, the frames are the same.
    #[test]
    fn the_cuts_do_not_matter(
        wanted in proptest::collection::vec(any_frame(), 1..8),
        cuts in proptest::collection::vec(1_usize..700, 1..40),
    ) {
        let bytes = bytes_of(&mut Encoder::default(), &wanted);
        let (mut decoder, mut input, mut got) = (Decoder::default(), BytesMut::new(), Vec::new());
        let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            input.extend_from_slice(now);
            got.extend(frames(&mut decoder, &mut input).unwrap());
            rest = later;
        }
        // Two data frames of one stream in a row look as one; that is all that may differ.
        prop_assert_eq!(joined(got), joined(wanted));
    }
}

fn start(role: Role, io: tokio::io::DuplexStream, streams: usize) -> Connection {
    Connection::start(io, role, Limits { streams }, Activity::default())
}

fn pair() -> (Connection, Connection) {
    let (one, other) = tokio::io::duplex(64 << 10);
    (start(Role::Client, one, 16), start(Role::Server, other, 16))
}

#[tokio::test]
async fn streams_carry_both_ways_and_close_by_halves() {
    let (client, mut server) = pair();
    let opening = tokio::spawn(async move {
        let stream = client.open(header("Name", "one")).await.unwrap();
        (client, stream)
    });
    let Stream { headers, mut reader, writer } = server.accept().await.unwrap();
    let (_client, mut ours) = opening.await.unwrap();
    assert_eq!(headers.get("name"), Some("one"));
    ours.writer.send(Bytes::from_static(b"question")).await.unwrap();
    ours.writer.finish().await.unwrap();
    assert_eq!(reader.recv().await.unwrap().unwrap(), "question");
    assert_eq!(reader.recv().await, Ok(None));
    assert_eq!(reader.recv().await, Ok(None), "and again");
    writer.send(Bytes::from_static(b"answer")).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(ours.reader.recv().await.unwrap().unwrap(), "answer");
    assert_eq!(ours.reader.recv().await, Ok(None));
}

/// A stream that nobody reads holds up itself and no other.
#[tokio::test]
async fn flow_control_keeps_streams_apart() {
    let (client, mut server) = pair();
    let opening = tokio::spawn(async move {
        let full = client.open(header("name", "full")).await.unwrap();
        let free = client.open(header("name", "free")).await.unwrap();
        (client, full, free)
    });
    let mut unread = server.accept().await.unwrap();
    let mut read = server.accept().await.unwrap();
    let (_client, full, free) = opening.await.unwrap();
    // A round trip: the settings of both sides are there.
    free.writer.send(Bytes::from_static(b"x")).await.unwrap();
    read.reader.recv().await.unwrap();
    let sent = tokio::spawn(async move {
        full.writer.send(vec![7; 4 << 20].into()).await.unwrap();
        full.writer.finish().await.unwrap();
        full.reader
    });
    for _ in 0..20 {
        free.writer.send(vec![1; 100_000].into()).await.unwrap();
        let mut got = 0;
        while got < 100_000 {
            got += read.reader.recv().await.unwrap().unwrap().len();
        }
    }
    assert!(!sent.is_finished(), "4 MiB are on their way and nobody reads them");
    let mut got = 0;
    while let Some(bytes) = unread.reader.recv().await.unwrap() {
        got += bytes.len();
    }
    assert_eq!(got, 4 << 20);
    sent.await.unwrap();
}

#[tokio::test]
async fn a_reset_ends_one_stream() {
    let (client, mut server) = pair();
    let opening = tokio::spawn(async move {
        let one = client.open(header("name", "one")).await.unwrap();
        let two = client.open(header("name", "two")).await.unwrap();
        (client, one, two)
    });
    let one = server.accept().await.unwrap();
    let mut two = server.accept().await.unwrap();
    let (_client, mut ours, other) = opening.await.unwrap();
    drop(one);
    assert_eq!(ours.reader.recv().await, Err(StreamError::Reset(Status::CANCEL)));
    let late = ours.writer.send(Bytes::from_static(b"late")).await;
    assert_eq!(late, Err(StreamError::Closed));
    other.writer.send(Bytes::from_static(b"fine")).await.unwrap();
    assert_eq!(two.reader.recv().await.unwrap().unwrap(), "fine");
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let (one, other) = tokio::io::duplex(64 << 10);
    let (client, _server) = (start(Role::Client, one, 4), start(Role::Server, other, 2));
    let _first = client.open(header("n", "1")).await.unwrap();
    let _second = client.open(header("n", "2")).await.unwrap();
    let third = client.open(header("n", "3")).await;
    assert!(matches!(third, Err(ConnectionError::Refused)), "{third:?}");
}

/// What was sent before the end arrives, and the end is seen.
#[tokio::test]
async fn closing_loses_nothing() {
    let (client, mut server) = pair();
    let opening = tokio::spawn(async move {
        let stream = client.open(header("n", "1")).await.unwrap();
        (client, stream)
    });
    let theirs = server.accept().await.unwrap();
    let (client, mut ours) = opening.await.unwrap();
    let reading = tokio::spawn(async move {
        let mut got = 0;
        while let Ok(Some(bytes)) = ours.reader.recv().await {
            got += bytes.len();
        }
        got
    });
    theirs.writer.send(vec![0; 1 << 20].into()).await.unwrap();
    theirs.writer.finish().await.unwrap();
    let closing = tokio::spawn(server.close());
    assert_eq!(reading.await.unwrap(), 1 << 20);
    client.close().await;
    closing.await.unwrap();
}

/// A peer without settings, as Kubernetes' own library: no window is waited for, and none told.
#[tokio::test]
async fn a_peer_without_flow_control_is_not_waited_for() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut raw, io) = tokio::io::duplex(1 << 20);
    let mut server = start(Role::Server, io, 4);
    let mut encoder = Encoder::default();
    let opening = [
        Frame::SynStream { stream: 1, fin: false, headers: header("streamtype", "stdin") },
        Frame::Ping(1),
        Frame::Data { stream: 1, fin: true, bytes: vec![3; 500_000].into() },
    ];
    raw.write_all(&bytes_of(&mut encoder, &opening)).await.unwrap();
    let mut stream = server.accept().await.unwrap();
    let mut got = 0;
    while let Some(bytes) = stream.reader.recv().await.unwrap() {
        got += bytes.len();
    }
    assert_eq!(got, 500_000);
    stream.writer.send(vec![0; 300_000].into()).await.unwrap();
    stream.writer.finish().await.unwrap();
    let begun = std::time::Instant::now();
    let closing = tokio::spawn(server.close());
    let (mut decoder, mut input, mut seen) = (Decoder::default(), BytesMut::new(), Vec::new());
    while raw.read_buf(&mut input).await.unwrap() > 0 {
        seen.extend(frames(&mut decoder, &mut input).unwrap());
    }
    // A client is let hang up first.
    assert!(begun.elapsed() >= super::connection::HANG_UP);
    drop(raw);
    closing.await.unwrap();
    assert!(seen.contains(&Frame::Ping(1)));
    let sent: usize =
        seen.iter().map(|f| if let Frame::Data { bytes, .. } = f { bytes.len() } else { 0 }).sum();
    assert_eq!(sent, 300_000);
    let strange = |f: &&Frame| matches!(f, Frame::Settings { .. } | Frame::WindowUpdate { .. });
    assert_eq!(seen.iter().find(strange), None);
    // Said last, and that the peer's stream was looked at: it may drop those that were not.
    assert_eq!(seen.last(), Some(&Frame::GoAway { last: 1 }));
}

/// A peer that asks and asks, and reads no answer, loses the connection; memory stays bounded.
#[tokio::test]
async fn a_flood_of_pings_ends_the_connection() {
    use tokio::io::AsyncWriteExt;
    let (mut raw, io) = tokio::io::duplex(1024);
    let server = start(Role::Server, io, 4);
    let ping = bytes_of(&mut Encoder::default(), &[Frame::Ping(1)]);
    let flood = async {
        loop {
            if raw.write_all(&ping).await.is_err() {
                return;
            }
        }
    };
    let mut closed = server.closed();
    tokio::select! { () = flood => {} () = closed.wait() => {} }
    assert!(closed.is_closed());
}

/// A closed connection waits a little for who reads nothing, and then keeps nothing: what was not
/// taken by then is not sent.
#[tokio::test]
async fn a_peer_that_reads_nothing_is_left() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const ROOM: usize = 1024;
    let (mut raw, io) = tokio::io::duplex(ROOM);
    let mut server = start(Role::Server, io, 4);
    let opening = Frame::SynStream { stream: 1, fin: false, headers: header("a", "b") };
    raw.write_all(&bytes_of(&mut Encoder::default(), &[opening])).await.unwrap();
    let stream = server.accept().await.unwrap();
    stream.writer.send(vec![0; 100_000].into()).await.unwrap();
    server.close().await;
    let mut sent = Vec::new();
    raw.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent.len(), ROOM);
}
