//! Single calls, lists and streams.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cri_proto::v1::{ContainerStatusRequest, StartContainerRequest, VersionRequest};

use super::server::{Fake, Running, Serves, endpoint, patient};
use crate::{AdminClient, Error, Options, RuntimeClient, Timeouts};

struct Started {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    fake: Fake,
    server: Running,
}

fn start(serves: Serves) -> Started {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let fake = Fake::default();
    let server = Running::start(&path, serves, &fake);
    Started { _dir: dir, path, fake, server }
}

fn ids(containers: &[cri_proto::v1::Container]) -> Vec<&str> {
    containers.iter().map(|container| container.id.as_str()).collect()
}

#[tokio::test]
async fn lists_come_by_stream_where_there_is_one() {
    let s = start(Serves::V1);
    s.fake.streams.store(true, Ordering::SeqCst);
    let runtime = RuntimeClient::connect(endpoint(&s.path), patient()).await.expect("connect");
    assert_eq!(ids(&runtime.containers(None).await.expect("list")), ["a", "b"]);
    drop(runtime);
    s.server.stop().await;
}

#[tokio::test]
async fn a_missing_stream_is_asked_for_once() {
    let s = start(Serves::V1);
    let runtime = RuntimeClient::connect(endpoint(&s.path), patient()).await.expect("connect");
    s.fake.take_paths();
    for _ in 0..2 {
        // Clones share what is known.
        let listed = runtime.clone().containers(None).await.expect("list");
        assert_eq!(ids(&listed), ["unary"]);
    }
    let call = |name| format!("/runtime.v1.RuntimeService/{name}");
    assert_eq!(
        s.fake.take_paths(),
        [call("StreamContainers"), call("ListContainers"), call("ListContainers")],
    );
    drop(runtime);
    s.server.stop().await;
}

#[tokio::test]
async fn v1alpha2_is_never_asked_for_streams() {
    let s = start(Serves::V1ALPHA2);
    let runtime = RuntimeClient::connect(endpoint(&s.path), patient()).await.expect("connect");
    s.fake.take_paths();
    runtime.containers(None).await.expect("list");
    assert_eq!(s.fake.take_paths(), ["/runtime.v1alpha2.RuntimeService/ListContainers"]);
    drop(runtime);
    s.server.stop().await;
}

#[tokio::test]
async fn an_error_names_endpoint_call_message_and_code() {
    let s = start(Serves::V1);
    let runtime = RuntimeClient::connect(endpoint(&s.path), patient()).await.expect("connect");
    let request = ContainerStatusRequest { container_id: "abc".into(), verbose: false };
    let error = runtime.container_status(request).await.expect_err("missing");
    assert!(error.is_not_found());
    assert_eq!(
        error.to_string(),
        format!(
            "ContainerStatus on unix://{} failed: no container abc (NotFound)",
            s.path.display(),
        ),
    );
    drop(runtime);
    s.server.stop().await;
}

#[tokio::test]
async fn a_call_without_an_answer_ends_at_its_limit() {
    let s = start(Serves::V1);
    let change = Duration::from_millis(200);
    let timeouts = Timeouts { change, ..patient().timeouts };
    let options = Options { timeouts, ..patient() };
    let runtime = RuntimeClient::connect(endpoint(&s.path), options).await.expect("connect");
    let error = runtime.start_container(StartContainerRequest::default()).await.expect_err("late");
    assert!(matches!(error, Error::Timeout { rpc: "StartContainer", .. }), "{error}");
    assert!(error.to_string().ends_with("did not answer within 200ms"), "{error}");
    assert_eq!(*s.fake.deadline.lock().expect("deadline"), "200000u");
    // The connection serves other calls.
    runtime.version(VersionRequest::default()).await.expect("version");
    drop(runtime);
    s.server.stop().await;
}

#[tokio::test]
async fn events_end_with_their_stream() {
    let s = start(Serves::V1);
    let runtime = RuntimeClient::connect(endpoint(&s.path), patient()).await.expect("connect");
    let mut events = runtime.container_events().await.expect("events");
    let first = events.next().await.expect("an event").expect("one");
    assert_eq!(first.container_id, "a");
    assert!(events.next().await.expect("the end").is_none());
    drop((runtime, events));
    s.server.stop().await;
}

#[tokio::test]
async fn an_archive_arrives_in_order() {
    let s = start(Serves::V1);
    let admin = AdminClient::new(endpoint(&s.path), patient());
    let pieces = ["one ", "two ", "three"].map(|text| text.as_bytes().to_vec());
    let names = admin.load(tokio_stream::iter(pieces)).await.expect("loaded");
    assert_eq!(names, ["one two three"]);
    drop(admin);
    s.server.stop().await;
}
