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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{ExecId, Failure, FailureKind, Notice, Op, Reply, StartContainer};

    /// Old monitors live on under new daemons: what is on the wire must not change.
    #[test]
    fn the_wire_form_is_this() {
        let id = "a".repeat(64);
        for (op, expected) in [
            (Op::Shutdown, json!("shutdown")),
            (Op::State { after: None }, json!({"state": {"after": null}})),
            (
                Op::AckExit { container: id.parse().expect("an id") },
                json!({"ack_exit": {"container": id}}),
            ),
        ] {
            let request = Request { id: 7, op };
            let bytes = encode_request(&request).expect("encoded");
            let value: serde_json::Value = serde_json::from_slice(&bytes).expect("parsed");
            assert_eq!(value, json!({"id": 7, "op": expected}));
            assert_eq!(decode_request(&bytes).expect("decoded"), request);
        }
        let failure = Failure::new(FailureKind::NotFound, "no");
        for (message, expected) in [
            (
                Message::Reply { id: 7, result: Ok(Reply::Done) },
                json!({"reply": {"id": 7, "result": {"Ok": "done"}}}),
            ),
            (
                Message::Reply { id: 7, result: Err(failure) },
                json!({"reply": {"id": 7, "result": {"Err": {"kind": "not_found", "message": "no"}}}}),
            ),
        ] {
            let bytes = encode_message(&message).expect("encoded");
            let value: serde_json::Value = serde_json::from_slice(&bytes).expect("parsed");
            assert_eq!(value, expected);
            assert_eq!(decode_message(&bytes).expect("decoded"), message);
        }
    }

    #[test]
    fn fields_that_an_older_peer_lacks_have_defaults() {
        let id = "a".repeat(64);
        let start: StartContainer = serde_json::from_value(json!({
            "id": id, "bundle": "/b", "rootfs": {"dir": "/r"}, "rootfs_target": "/t", "pid": "new",
        }))
        .expect("parsed");
        assert!(start.log.is_none() && !start.tty && start.cgroup.procs_files.is_empty());
        let notice: Notice = serde_json::from_value(json!({"exec_exited": {
            "container": id, "exec": "ab", "exit": {"code": 1, "finished_at_ns": 5}, "later": true,
        }}))
        .expect("parsed");
        assert!(matches!(notice, Notice::ExecExited { timed_out: false, .. }));
        let failure: Failure =
            serde_json::from_value(json!({"kind": "a_new_one", "message": "m"})).expect("parsed");
        assert_eq!(failure.kind, FailureKind::Unknown);
    }

    #[test]
    fn a_request_of_a_newer_daemon_is_answered() {
        let bytes = br#"{"id": 9, "op": {"something_new": {"x": 1}}}"#;
        assert!(decode_request(bytes).is_err());
        assert_eq!(request_id(bytes), Some(9));
        assert_eq!(request_id(b"nonsense"), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let text = "x".repeat(MAX_FRAME);
        assert!(matches!(serialize(&text), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn exec_ids_are_fit_for_names_of_files() {
        for bad in ["", "..", "a/b", "A", &"a".repeat(65)] {
            assert!(ExecId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        let id = ExecId::random();
        assert_eq!(ExecId::try_from(id.to_string()), Ok(id));
    }
}
