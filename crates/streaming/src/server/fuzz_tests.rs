//! Whole sessions with a hostile client, fuzzed. See `testing::fuzz`.

use testing::fuzz::fuzz;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::process::Times;
use super::{port_forward, tests::Fake, upgrade};
use crate::spdy::fuzz_tests::seeds;

const FOREVER: Times = Times { idle: std::time::Duration::ZERO, whole: std::time::Duration::ZERO };

/// Says something and reads to the end what comes.
async fn says(mut io: DuplexStream, bytes: &[u8]) {
    let (mut from, mut to) = tokio::io::split(&mut io);
    let saying = async {
        let _ = to.write_all(bytes).await;
        let _ = to.shutdown().await;
    };
    let mut heard = Vec::new();
    let (_, heard) = tokio::join!(saying, from.read_to_end(&mut heard));
    heard.unwrap();
}

/// A frame of a client's: masked, with a mask that changes nothing.
fn message(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![opcode | if fin { 0x80 } else { 0 }];
    match u8::try_from(payload.len()) {
        Ok(short @ ..126) => frame.push(0x80 | short),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Port-forward: streams, pairs of them, their ports. Nobody listens at port 1.
#[test]
fn forwards_of_any_client() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let seeds: Vec<Vec<u8>> = seeds();
    fuzz("forwards", &seeds, |bytes| {
        runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let fake = Fake::default();
            let serving = port_forward::over_spdy(&fake, "known", theirs, FOREVER);
            tokio::join!(serving, says(ours, bytes));
        });
    });
}

/// The same in the messages of a WebSocket.
#[test]
fn messages_of_any_client() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut messages: Vec<Vec<u8>> = seeds().iter().map(|seed| message(2, true, seed)).collect();
    messages.push(
        [message(2, false, b"in "), message(9, true, b""), message(0, true, b"two")].concat(),
    );
    messages.push([message(1, true, b"text"), message(8, true, &[3, 232])].concat());
    fuzz("websocket", &messages, |bytes| {
        runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let socket = upgrade::websocket(theirs).await;
            let (mut inner, passing) = crate::tunnel::open(socket);
            let reading = async {
                let mut read = Vec::new();
                inner.read_to_end(&mut read).await.unwrap();
                assert!(read.len() <= bytes.len());
                drop(inner);
            };
            tokio::join!(passing, reading, says(ours, bytes));
        });
    });
}
