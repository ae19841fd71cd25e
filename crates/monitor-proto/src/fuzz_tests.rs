//! Frames and records of the other side, fuzzed. See `testing::fuzz`.

use testing::fuzz::fuzz;

use crate::{
    CgroupPlacement, ContainerPid, Exec, ExecCgroup, ExecId, ExitRecord, FrameError, Op, Request,
    Rootfs, StartContainer, decode_message, decode_request, encode_message, encode_request,
    request_id,
};

fn requests() -> Vec<Vec<u8>> {
    let id: types::ContainerId = "a".repeat(64).parse().expect("an id");
    let start = StartContainer {
        id: id.clone(),
        bundle: "/bundle".into(),
        rootfs: Rootfs::Dir("/root".into()),
        rootfs_target: "/target".into(),
        pid: ContainerPid::New,
        cgroup: CgroupPlacement::default(),
        oom_files: Vec::new(),
        kill: crate::KillCgroup::default(),
        log: None,
        tty: false,
        stdin: true,
        stdin_once: false,
        program: None,
    };
    let exec = Exec {
        container: id.clone(),
        exec: ExecId::try_from("ab".to_owned()).expect("an id"),
        timeout_ms: Some(1000),
        tty: false,
        stdin: true,
        stdout: true,
        stderr: false,
        cgroup: ExecCgroup::default(),
        outlives_connection: false,
    };
    [
        Op::StartContainer(Box::new(start)),
        Op::Exec(exec),
        Op::AckExit { container: id },
        Op::Shutdown,
    ]
    .into_iter()
    .map(|op| encode_request(&Request { id: 7, op }).expect("encoded"))
    .collect()
}

#[test]
fn requests_of_any_daemon() {
    fuzz("requests", &requests(), |bytes| {
        request_id(bytes);
        let Ok(request) = decode_request(bytes) else { return };
        match encode_request(&request) {
            Ok(again) => assert_eq!(decode_request(&again).expect("read again"), request),
            Err(error) => assert!(matches!(error, FrameError::TooLong { .. }), "{error}"),
        }
    });
}

#[test]
fn messages_of_any_monitor() {
    let id = "a".repeat(64);
    let seeds = [
        r#"{"reply":{"id":7,"result":{"Ok":"done"}}}"#.to_owned(),
        r#"{"reply":{"id":7,"result":{"Err":{"kind":"launch","message":"no","errno":2}}}}"#
            .to_owned(),
        format!(
            r#"{{"notice":{{"exec_exited":{{"container":"{id}","exec":"ab","exit":{{"code":1,"finished_at_ns":5}}}}}}}}"#
        ),
        format!(
            r#"{{"version":1,"container":"{id}","pid":9,"exit":{{"code":137,"signal":9,"finished_at_ns":5}}}}"#
        ),
    ];
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(String::into_bytes).collect();
    fuzz("messages", &seeds, |bytes| {
        let _ = serde_json::from_slice::<ExitRecord>(bytes);
        let Ok(message) = decode_message(bytes) else { return };
        match encode_message(&message) {
            Ok(again) => assert_eq!(decode_message(&again).expect("read again"), message),
            Err(error) => assert!(matches!(error, FrameError::TooLong { .. }), "{error}"),
        }
    });
}
