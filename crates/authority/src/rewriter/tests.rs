use proptest::prelude::*;

use super::*;
use crate::hpack;

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small payload").to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut output = Vec::new();
    for (name, value) in fields {
        hpack::encode(&Field::new(name.as_bytes(), value.as_bytes()), &mut output);
    }
    output
}

fn request(authority: &str) -> Vec<u8> {
    block(&[(":method", "POST"), (":authority", authority), (":path", "/s/M")])
}

fn run(input: &[u8]) -> (Vec<u8>, Outcome) {
    let mut output = Vec::new();
    let outcome = Rewriter::new().feed(input, &mut output);
    (output, outcome)
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [&frame::PREFACE[..], &SETTINGS, &frames.concat()].concat()
}

#[test]
fn good_authorities_make_it_step_aside() {
    let fields = |authority: Option<&str>| match authority {
        Some(authority) => request(authority),
        None => block(&[(":method", "POST"), (":path", "/s/M")]),
    };
    for authority in [Some("localhost"), Some("127.0.0.1:80"), Some("[::1]:8080"), None] {
        let input = connection(&[
            frame(frame::HEADERS, frame::END_HEADERS, 1, &fields(authority)),
            frame(0, 1, 1, b"body"),
            vec![0xff; 100],
        ]);
        assert_eq!(run(&input), (input.clone(), Outcome::Pass), "{authority:?}");
    }
}

#[test]
fn bad_authorities_are_replaced() {
    let authorities =
        ["/run/x.sock", "%2Frun%2Fx.sock", "", "unix:/run/x.sock", "a b", "run/x.sock", "@"];
    for authority in authorities {
        let data = frame(0, 1, 1, b"body");
        let headers = frame(frame::HEADERS, frame::END_HEADERS, 1, &request(authority));
        let wanted = frame(frame::HEADERS, frame::END_HEADERS, 1, &request("localhost"));
        let (output, outcome) = run(&connection(&[headers.clone(), data.clone(), headers]));
        assert_eq!(outcome, Outcome::Continue, "{authority}");
        assert_eq!(output, connection(&[wanted.clone(), data, wanted]), "{authority}");
    }
}

#[test]
fn a_block_in_many_padded_frames_is_gathered() {
    let fields = request("/run/x.sock");
    let (head, tail) = fields.split_at(7);
    let first = [&[3, 0, 0, 0, 0, 9][..], head, &[0; 3]].concat();
    let input = connection(&[
        frame(frame::HEADERS, frame::END_STREAM | 0x28, 5, &first),
        frame(frame::CONTINUATION, 0, 5, b""),
        frame(frame::CONTINUATION, 0, 5, &tail[..4]),
        frame(frame::CONTINUATION, frame::END_HEADERS, 5, &tail[4..]),
    ]);
    let wanted =
        frame(frame::HEADERS, frame::END_HEADERS | frame::END_STREAM, 5, &request("localhost"));
    assert_eq!(run(&input), (connection(&[wanted]), Outcome::Continue));
}

#[test]
fn a_table_reference_to_a_bad_authority_is_replaced_each_time() {
    // Literal with indexing of name 1, then a reference to the new entry.
    let first = [&[0x41, 11][..], b"/run/x.sock"].concat();
    let localhost = block(&[(":authority", "localhost")]);
    let input = connection(&[
        frame(frame::HEADERS, frame::END_HEADERS, 1, &first),
        frame(frame::HEADERS, frame::END_HEADERS, 3, &[0xbe]),
    ]);
    let wanted = connection(&[
        frame(frame::HEADERS, frame::END_HEADERS, 1, &localhost),
        frame(frame::HEADERS, frame::END_HEADERS, 3, &localhost),
    ]);
    assert_eq!(run(&input), (wanted, Outcome::Continue));
}

#[test]
fn what_is_not_http2_passes() {
    let input = b"GET / HTTP/1.1\r\nhost: /run/x.sock\r\n\r\n";
    assert_eq!(run(input), (input.to_vec(), Outcome::Pass));
}

#[test]
fn broken_connections_end() {
    let bad = request("/run/x.sock");
    let open = frame(frame::HEADERS, 0, 1, &bad);
    let mut sequence = Vec::new();
    frame::write_bad_sequence(&mut sequence);
    let mut compression = Vec::new();
    frame::write_bad_compression(1, &mut compression);
    let flood: Vec<_> =
        (0..20_000).map(|_| frame(frame::CONTINUATION, 0, 1, b"")).collect::<Vec<_>>().concat();
    for (frames, wanted, why) in [
        (vec![open.clone(), frame(0, 0, 1, b"x")], &sequence, "data within a block"),
        (
            vec![open.clone(), frame(frame::CONTINUATION, 4, 3, b"")],
            &sequence,
            "another stream's continuation",
        ),
        (vec![open.clone(), open.clone()], &sequence, "headers within a block"),
        (vec![open.clone(), flood], &sequence, "a flood of continuations"),
        (vec![frame(frame::HEADERS, 0x0c, 1, &[9, 0])], &sequence, "too much padding"),
        (vec![frame(frame::HEADERS, 4, 1, &[0x80])], &compression, "index 0"),
        (vec![vec![0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1]], &sequence, "a huge frame"),
    ] {
        let (output, outcome) = run(&connection(&frames));
        assert_eq!(outcome, Outcome::End, "{why}");
        assert!(output.ends_with(wanted), "{why}");
        assert!(output.len() <= connection(&[]).len() + wanted.len(), "{why}");
    }
}

proptest! {
    #[test]
    fn how_the_bytes_arrive_does_not_matter(
        authorities in proptest::collection::vec("(/run/x|localhost|)", 1..5),
        cuts in proptest::collection::vec(1usize..40, 1..60),
    ) {
        let frames: Vec<_> = authorities
            .iter()
            .map(|authority| frame(frame::HEADERS, frame::END_HEADERS, 1, &request(authority)))
            .collect();
        let input = connection(&frames);
        let whole = run(&input).0;
        let mut rewriter = Rewriter::new();
        let (mut rest, mut output, mut passing) = (input.as_slice(), Vec::new(), false);
        for cut in cuts.into_iter().chain(std::iter::once(usize::MAX)) {
            let part = split(&mut rest, cut);
            if passing {
                output.extend_from_slice(part);
            } else {
                passing = rewriter.feed(part, &mut output) == Outcome::Pass;
            }
        }
        prop_assert_eq!(output, whole);
    }

    #[test]
    fn any_bytes_neither_panic_nor_pile_up(frames: Vec<(u8, u8, u8, Vec<u8>)>, tail: Vec<u8>) {
        let mut input = connection(&[]);
        for (kind, flags, stream, payload) in &frames {
            input.extend(frame(kind % 11, *flags, *stream, payload));
        }
        input.extend(tail);
        let mut rewriter = Rewriter::new();
        let mut output = Vec::new();
        rewriter.feed(&input, &mut output);
        prop_assert!(rewriter.frames.len() <= MAX_BLOCK_FRAMES);
    }
}
