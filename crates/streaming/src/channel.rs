//! Channels in the messages of a WebSocket: one byte that says which, then bytes.
//!
//! | channel | remote command | port-forward, for the port of number `n` |
//! |---|---|---|
//! | 0 | standard input | `2n`: data |
//! | 1 | standard output | `2n + 1`: errors |
//! | 2 | standard error | |
//! | 3 | errors and the end | |
//! | 4 | terminal sizes | |
//! | 255 | the channel in the next byte is closed (v5) | |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;

/// Standard input.
pub(crate) const STDIN: u8 = 0;
/// Standard output.
pub(crate) const STDOUT: u8 = 1;
/// Standard error.
pub(crate) const STDERR: u8 = 2;
/// Errors, and the end.
pub(crate) const ERROR: u8 = 3;
/// Terminal sizes.
pub(crate) const RESIZE: u8 = 4;
/// A channel is closed.
pub(crate) const CLOSE: u8 = 255;

/// How bytes are in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As they are.
    Binary,
    /// The channel as a digit, then base64, in a text message.
    Base64,
}

/// A message that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Its channel is no digit.
    #[error("a message names no channel")]
    NoChannel,
    /// It is no base64.
    #[error("a message is not base64")]
    Base64,
}

impl Coding {
    /// Makes a message.
    #[must_use]
    pub fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut out = BytesMut::with_capacity(bytes.len() + 1);
                out.put_u8(channel);
                out.put_slice(bytes);
                Message::Binary(out.freeze())
            }
            Self::Base64 => {
                let mut out = String::with_capacity(1 + bytes.len().div_ceil(3) * 4);
                out.push(char::from(b'0'.saturating_add(channel)));
                STANDARD.encode_string(bytes, &mut out);
                Message::Text(out.into())
            }
        }
    }

    /// Takes a message apart. One without bytes says nothing and belongs to no channel.
    ///
    /// # Errors
    /// When it is not in the coding.
    pub fn decode(self, mut message: Bytes) -> Result<Option<(u8, Bytes)>, ChannelError> {
        if message.is_empty() {
            return Ok(None);
        }
        let channel = message.split_to(1)[0];
        match self {
            Self::Binary => Ok(Some((channel, message))),
            Self::Base64 => {
                let channel = channel.checked_sub(b'0').ok_or(ChannelError::NoChannel)?;
                let bytes = STANDARD.decode(&message).map_err(|_| ChannelError::Base64)?;
                Ok(Some((channel, bytes.into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_wire_form_is_this() {
        assert_eq!(Coding::Binary.encode(1, b"hi").into_data(), &b"\x01hi"[..]);
        assert_eq!(Coding::Base64.encode(3, b"hi").into_data(), &b"3aGk="[..]);
        assert_eq!(Coding::Base64.decode(Bytes::from_static(b"/x")), Err(ChannelError::NoChannel));
        assert_eq!(Coding::Base64.decode(Bytes::from_static(b"0?")), Err(ChannelError::Base64));
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives(
            base64 in any::<bool>(),
            channel in 0_u8..10,
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let coding = if base64 { Coding::Base64 } else { Coding::Binary };
            let message = coding.encode(channel, &bytes).into_data();
            prop_assert_eq!(coding.decode(message), Ok(Some((channel, bytes.into()))));
        }

        #[test]
        fn foreign_messages_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Coding::Base64.decode(bytes.clone().into());
            let _ = Coding::Binary.decode(bytes.into());
        }
    }
}
