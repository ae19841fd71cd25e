//! Frames to and from bytes.

use serde::{Deserialize, Serialize};

use crate::{FrameError, MAX_FRAME, Message, Request};

/// Writes a value as one frame.
///
/// # Errors
/// When it is longer than a frame may be.
pub fn serialize<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let bytes = serde_json::to_vec(value).map_err(FrameError::Encode)?;
    if bytes.len() > MAX_FRAME {
        return Err(FrameError::TooLong { length: bytes.len() });
    }
    Ok(bytes)
}

/// Writes a request.
///
/// # Errors
/// When it is longer than a frame may be.
pub fn encode_request(request: &Request) -> Result<Vec<u8>, FrameError> {
    serialize(request)
}

/// Writes a monitor's message.
///
/// # Errors
/// When it is longer than a frame may be.
pub fn encode_message(message: &Message) -> Result<Vec<u8>, FrameError> {
    serialize(message)
}

/// Reads a request.
///
/// # Errors
/// When it is none, or one that this build does not know; [`request_id`] may still find its id.
pub fn decode_request(bytes: &[u8]) -> Result<Request, FrameError> {
    serde_json::from_slice(bytes).map_err(FrameError::Decode)
}

/// Reads a monitor's message.
///
/// # Errors
/// When it is none, or one that this build does not know.
pub fn decode_message(bytes: &[u8]) -> Result<Message, FrameError> {
    serde_json::from_slice(bytes).map_err(FrameError::Decode)
}

/// Finds the id of a request that this build cannot read, to answer it all the same.
pub fn request_id(bytes: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Id {
        id: u64,
    }
    serde_json::from_slice::<Id>(bytes).ok().map(|id| id.id)
}
