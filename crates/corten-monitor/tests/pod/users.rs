//! Pods with a user namespace.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use monitor_client::{ContainerPid, Rootfs, UserRequest};
use types::{IdMapping, UserNamespace};

use crate::ground::{Ground, change_spec};

const FIRST: u32 = 700_000;

#[tokio::test]
async fn containers_and_sessions_are_in_the_pods_user_namespace() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let ids = vec![IdMapping { host_id: FIRST, container_id: 0, length: 65_536 }];
    let mut sandbox = ground.sandbox();
    sandbox.user = Some(Box::new(UserRequest {
        pin: ground.path("ns/user"),
        mappings: UserNamespace { uids: ids.clone(), gids: ids },
    }));
    pod.monitor.make_sandbox(sandbox.clone()).await.expect("made");
    let state = pod.monitor.state().await.expect("state");
    assert_eq!(state.made, Some(sandbox), "a new daemon can ask for it");

    let mut wanted = ground.container("id -u; cat /proc/self/uid_map; touch /mine");
    wanted.pid = ContainerPid::Pod;
    let Rootfs::Overlay { upper, .. } = &wanted.rootfs else { panic!("an overlay") };
    chown(upper, Some(FIRST), Some(FIRST)).expect("given");
    let mine = upper.join("mine");
    let user = ground.path("ns/user");
    change_spec(&wanted, |spec| {
        let range = serde_json::json!([{ "containerID": 0, "hostID": FIRST, "size": 65_536 }]);
        spec["linux"]["uidMappings"] = range.clone();
        spec["linux"]["gidMappings"] = range;
        let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.push(serde_json::json!({ "type": "user", "path": user }));
    });
    pod.run(&wanted).await;
    let log = ground.log(&wanted.id);
    let words: Vec<&str> = log.iter().flat_map(|line| line.split_whitespace()).collect();
    assert_eq!(words, ["stdout", "F", "0", "stdout", "F", "0", "700000", "65536"], "{log:?}");
    assert_eq!(mine.metadata().expect("made").uid(), FIRST);
    pod.end().await;
}

#[tokio::test]
async fn what_a_machine_cannot_is_said_in_one_line() {
    let ground = Ground::new();
    let scratch = tempfile::tempdir().expect("made");
    ground.monitors.probe_user_namespaces(scratch.path()).await.expect("this machine can");
    assert!(scratch.path().read_dir().expect("read").next().is_none(), "it is empty again");
    // A file system that has no owners to map, and takes no directory.
    let why = ground.monitors.probe_user_namespaces(Path::new("/proc")).await.expect_err("cannot");
    assert!(why.starts_with("failed to make directories in /proc: "), "{why}");
}
