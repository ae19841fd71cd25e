//! What is in the messages of clients and servers, fuzzed. See `testing::fuzz`.

use testing::fuzz::fuzz;

use crate::Outcome;
use crate::channel::Coding;
use crate::protocol::{self, SPDY_COMMAND, Sizes, Version, WS_COMMAND};

#[test]
fn channels_sizes_and_protocols() {
    let seeds = [
        &b"\x00input"[..],
        b"\xff\x00",
        b"3aGk=",
        b"{\"Width\":80,\"Height\":24}\n{\"Width\":132,\"Height\":50}",
        b"v5.channel.k8s.io, v4.channel.k8s.io,channel.k8s.io",
    ];
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(<[u8]>::to_vec).collect();
    fuzz("channels", &seeds, |bytes| {
        for coding in [Coding::Binary, Coding::Base64] {
            let Ok(Some((channel, data))) = coding.decode(bytes.to_vec().into()) else { continue };
            assert!(data.len() < bytes.len());
            // What the coding has a word for comes back as it was.
            if coding == Coding::Binary || channel < 10 {
                let again = coding.encode(channel, &data).into_data();
                assert_eq!(coding.decode(again), Ok(Some((channel, data))));
            }
        }
        let mut sizes = Sizes::default();
        for piece in bytes.chunks(7) {
            sizes.take(piece);
        }
        let text = String::from_utf8_lossy(bytes);
        let offered: Vec<&str> = text.split(',').map(str::trim).collect();
        for name in [
            protocol::choose(&offered, &SPDY_COMMAND).map(|(name, _)| name),
            protocol::choose(&offered, &WS_COMMAND).map(|(name, _)| name),
        ] {
            assert!(name.is_none_or(|name| offered.contains(&name)));
        }
    });
}

#[test]
fn ends_of_any_server() {
    let ends = [Outcome::Exited(0), Outcome::Exited(3), Outcome::Failed("no".to_owned())];
    let texts = ends.iter().flat_map(|end| [end.to_wire(Version::V4), end.to_wire(Version::V1)]);
    let seeds: Vec<Vec<u8>> = texts.flatten().map(String::into_bytes).collect();
    fuzz("ends", &seeds, |bytes| {
        for version in [Version::V1, Version::V4, Version::V5] {
            if let Outcome::Failed(text) = Outcome::from_wire(version, bytes) {
                // Bytes that are no text become marks of three bytes each.
                assert!(text.len() <= bytes.len() * 3);
            }
        }
    });
}
