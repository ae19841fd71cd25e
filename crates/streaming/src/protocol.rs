//! Names of protocols, and how the end of a command is told.

use serde::{Deserialize, Serialize};

use crate::channel::Coding;

/// The header in which SPDY clients offer protocols and servers choose one.
pub(crate) const PROTOCOL_HEADER: &str = "x-stream-protocol-version";

/// The header in which a server tells what it would have accepted.
#[cfg(feature = "server")]
pub(crate) const ACCEPTED_HEADER: &str = "x-accepted-stream-protocol-versions";

/// The upgrade that SPDY clients ask for.
pub(crate) const SPDY_UPGRADE: &str = "SPDY/3.1";

/// Port-forward over SPDY.
pub(crate) const PORT_FORWARD: &str = "portforward.k8s.io";

/// Port-forward over SPDY in the messages of a WebSocket.
pub(crate) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// A version of the remote command protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// Errors are text.
    V1,
    /// The same, with an error stream that ends.
    V2,
    /// Terminals can be resized.
    V3,
    /// The end of a command is told as JSON.
    V4,
    /// A WebSocket's channels can be closed one by one.
    V5,
}

/// Remote command over SPDY, the newest first.
pub(crate) const SPDY_COMMAND: [(&str, Version); 5] = [
    ("v5.channel.k8s.io", Version::V5),
    ("v4.channel.k8s.io", Version::V4),
    ("v3.channel.k8s.io", Version::V3),
    ("v2.channel.k8s.io", Version::V2),
    ("channel.k8s.io", Version::V1),
];

/// Remote command over a WebSocket, the newest first; without a name it is the oldest.
pub(crate) const WS_COMMAND: [(&str, (Version, Coding)); 6] = [
    ("v5.channel.k8s.io", (Version::V5, Coding::Binary)),
    ("v4.channel.k8s.io", (Version::V4, Coding::Binary)),
    ("v4.base64.channel.k8s.io", (Version::V4, Coding::Base64)),
    ("channel.k8s.io", (Version::V1, Coding::Binary)),
    ("base64.channel.k8s.io", (Version::V1, Coding::Base64)),
    ("", (Version::V1, Coding::Binary)),
];

/// Port-forward over a WebSocket: two channels a port, named in the request.
#[cfg(feature = "server")]
pub(crate) const WS_PORT_FORWARD: [(&str, Coding); 5] = [
    ("v4.channel.k8s.io", Coding::Binary),
    ("v4.base64.channel.k8s.io", Coding::Base64),
    ("channel.k8s.io", Coding::Binary),
    ("base64.channel.k8s.io", Coding::Base64),
    ("", Coding::Binary),
];

/// Which streams of a process a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Whether they are a terminal.
    pub tty: bool,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended with this code, or what was attached to ended (0).
    Exited(i32),
    /// It could not be begun, or was given up.
    Failed(String),
}

/// `metav1.Status`, as far as this protocol uses it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Status {
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Cause {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default)]
    message: String,
}

const NON_ZERO: &str = "NonZeroExitCode";
const EXIT_CODE: &str = "ExitCode";
/// What Kubernetes puts before the text of an error that is the server's own.
const INTERNAL: &str = "Internal error occurred: ";

impl Outcome {
    /// What goes on the error stream.
    #[cfg(any(test, feature = "server"))]
    pub(crate) fn to_wire(&self, version: Version) -> Option<String> {
        if version >= Version::V4 {
            return serde_json::to_string(&self.status()).ok();
        }
        match self {
            Self::Exited(0) => None,
            Self::Exited(_) | Self::Failed(_) => Some(self.status().message),
        }
    }

    #[cfg(any(test, feature = "server"))]
    fn status(&self) -> Status {
        match self {
            Self::Exited(0) => Status { status: "Success".to_owned(), ..Status::default() },
            Self::Exited(code) => Status {
                status: "Failure".to_owned(),
                message: format!("command terminated with non-zero exit code: exit status {code}"),
                reason: NON_ZERO.to_owned(),
                details: Some(details(EXIT_CODE, code.to_string())),
                ..Status::default()
            },
            Self::Failed(text) => Status {
                status: "Failure".to_owned(),
                message: format!("{INTERNAL}{text}"),
                reason: "InternalError".to_owned(),
                details: Some(details("", text.clone())),
                code: Some(500),
                ..Status::default()
            },
        }
    }

    /// Reads what a server put on the error stream, to its end.
    pub(crate) fn from_wire(version: Version, text: &[u8]) -> Self {
        if text.is_empty() {
            return Self::Exited(0);
        }
        let plain = || Self::Failed(String::from_utf8_lossy(text).trim_end().to_owned());
        if version < Version::V4 {
            return old_exit(text).map_or_else(plain, Self::Exited);
        }
        let Ok(status) = serde_json::from_slice::<Status>(text) else { return plain() };
        if status.status == "Success" {
            return Self::Exited(0);
        }
        let causes = status.details.map(|details| details.causes).unwrap_or_default();
        let code = causes.iter().find(|cause| cause.reason == EXIT_CODE);
        match code.and_then(|cause| cause.message.parse().ok()) {
            Some(code) if status.reason == NON_ZERO => Self::Exited(code),
            _ => Self::Failed(status.message.trim_start_matches(INTERNAL).to_owned()),
        }
    }
}

#[cfg(any(test, feature = "server"))]
fn details(reason: &str, message: String) -> Details {
    Details { causes: vec![Cause { reason: reason.to_owned(), message }] }
}

/// The code in the text of a server that speaks no JSON.
fn old_exit(text: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(text).ok()?;
    if !text.contains("non-zero exit code") {
        return None;
    }
    text.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A terminal's size, as it is on the resize stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    #[serde(rename = "Width")]
    pub width: u16,
    /// Rows.
    #[serde(rename = "Height")]
    pub height: u16,
}

/// The longest text of a size.
#[cfg(any(test, feature = "server"))]
const MAX_SIZE_TEXT: usize = 1024;

/// Takes sizes out of the bytes of a resize stream, which cuts them anywhere.
#[cfg(any(test, feature = "server"))]
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    text: Vec<u8>,
}

#[cfg(any(test, feature = "server"))]
impl Sizes {
    /// The newest size that is complete. What is no size is thrown away.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Option<TerminalSize> {
        self.text.extend_from_slice(bytes);
        let mut values = serde_json::Deserializer::from_slice(&self.text).into_iter();
        let (mut newest, mut used) = (None, 0);
        let mut broken = false;
        loop {
            match values.next() {
                Some(Ok(size)) => (newest, used) = (Some(size), values.byte_offset()),
                Some(Err(error)) => {
                    broken = !error.is_eof();
                    break;
                }
                None => {
                    used = self.text.len();
                    break;
                }
            }
        }
        self.text.drain(..used);
        if broken || self.text.len() > MAX_SIZE_TEXT {
            self.text.clear();
        }
        newest
    }
}

/// Chooses the first protocol of the client's that the server has.
pub(crate) fn choose<'a, T: Copy>(
    offered: &[&'a str],
    known: &[(&'static str, T)],
) -> Option<(&'a str, T)> {
    offered.iter().find_map(|offer| {
        known.iter().find(|(name, _)| name == offer).map(|(_, what)| (*offer, *what))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The texts are those that kubectl parses.
    #[test]
    fn ends_are_told_in_kubernetes_words() {
        for (outcome, text) in [
            (Outcome::Exited(0), r#"{"metadata":{},"status":"Success"}"#),
            (
                Outcome::Exited(3),
                r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit status 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#,
            ),
            (
                Outcome::Failed("no shell".to_owned()),
                r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: no shell","reason":"InternalError","details":{"causes":[{"message":"no shell"}]},"code":500}"#,
            ),
        ] {
            assert_eq!(outcome.to_wire(Version::V4).as_deref(), Some(text));
            assert_eq!(Outcome::from_wire(Version::V4, text.as_bytes()), outcome);
        }
        assert_eq!(Outcome::Exited(0).to_wire(Version::V1), None);
        let old = Outcome::Exited(42).to_wire(Version::V2).unwrap();
        assert_eq!(Outcome::from_wire(Version::V2, old.as_bytes()), Outcome::Exited(42));
        let failed = Outcome::from_wire(Version::V1, b"error executing remote command: no\n");
        assert_eq!(failed, Outcome::Failed("error executing remote command: no".to_owned()));
        let odd = Outcome::from_wire(Version::V4, b"not JSON");
        assert_eq!(odd, Outcome::Failed("not JSON".to_owned()));
    }

    #[test]
    fn the_clients_order_decides() {
        let offered = ["v9", "v4.channel.k8s.io", "v5.channel.k8s.io"];
        assert_eq!(choose(&offered, &SPDY_COMMAND), Some(("v4.channel.k8s.io", Version::V4)));
        assert_eq!(choose(&["v9"], &SPDY_COMMAND), None);
    }

    proptest! {
        #[test]
        fn sizes_are_found_however_they_are_cut(
            sizes in proptest::collection::vec(any::<(u16, u16)>(), 1..10),
            cut in 1_usize..30,
        ) {
            let size = |(width, height)| TerminalSize { width, height };
            let text: String = sizes
                .iter()
                .map(|one| serde_json::to_string(&size(*one)).unwrap() + "\n")
                .collect();
            let (mut parser, mut last) = (Sizes::default(), None);
            for piece in text.as_bytes().chunks(cut) {
                last = parser.take(piece).or(last);
            }
            prop_assert_eq!(last, sizes.last().map(|one| size(*one)));
        }

        #[test]
        fn foreign_sizes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let mut parser = Sizes::default();
            for piece in bytes.chunks(100) {
                parser.take(piece);
                prop_assert!(parser.text.len() <= MAX_SIZE_TEXT);
            }
        }

        #[test]
        fn foreign_ends_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            Outcome::from_wire(Version::V4, &bytes);
            Outcome::from_wire(Version::V1, &bytes);
        }
    }
}
