//! Which version is agreed on, and that it stays.

use std::sync::atomic::Ordering;

use cri_proto::v1::{ListImagesRequest, VersionRequest};
use tonic::Code;

use super::server::{Fake, Running, Serves, endpoint, patient};
use crate::{ApiVersion, Error, ImageClient, RuntimeClient};

#[tokio::test]
async fn the_newest_common_version_is_taken_by_each_service() {
    for (serves, version) in [
        (Serves::V1, ApiVersion::V1),
        (Serves::V1ALPHA2, ApiVersion::V1Alpha2),
        (Serves::BOTH, ApiVersion::V1),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let fake = Fake::default();
        let server = Running::start(&path, serves, &fake);

        let runtime = RuntimeClient::connect(endpoint(&path), patient()).await.expect("runtime");
        assert_eq!(runtime.api_version(), version, "{serves:?}");
        assert_eq!(*fake.authority.lock().expect("authority"), "localhost");
        let answer = runtime.version(VersionRequest { version: "x".into() }).await.expect("answer");
        assert_eq!(answer.runtime_api_version, "x");

        let images = ImageClient::connect(endpoint(&path), patient()).await.expect("images");
        assert_eq!(images.api_version(), version, "{serves:?}");
        fake.take_paths();
        images.list_images(ListImagesRequest::default()).await.expect("list");
        assert_eq!(fake.take_paths(), [format!("/runtime.{version}.ImageService/ListImages")]);
        drop((runtime, images));
        server.stop().await;
    }
}

#[tokio::test]
async fn a_server_of_neither_version_is_named_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let server = Running::start(&path, Serves::NEITHER, &Fake::default());
    let error = RuntimeClient::connect(endpoint(&path), patient()).await.expect_err("neither");
    assert!(matches!(error, Error::NoCommonVersion { service: "RuntimeService", .. }), "{error}");
    let error = ImageClient::connect(endpoint(&path), patient()).await.expect_err("neither");
    assert!(matches!(error, Error::NoCommonVersion { service: "ImageService", .. }), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn any_other_error_is_not_taken_for_an_old_runtime() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let fake = Fake::default();
    fake.unavailable.store(true, Ordering::SeqCst);
    let server = Running::start(&path, Serves::BOTH, &fake);
    let error = RuntimeClient::connect(endpoint(&path), patient()).await.expect_err("unavailable");
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(
        error.to_string(),
        format!("Version on unix://{} failed: still recovering (Unavailable)", path.display()),
    );
    assert_eq!(fake.take_paths(), ["/runtime.v1.RuntimeService/Version"]);
    server.stop().await;
}

#[tokio::test]
async fn a_missing_socket_says_which_and_what_to_check() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let error = RuntimeClient::connect(endpoint(&path), patient()).await.expect_err("no socket");
    assert_eq!(
        error.to_string(),
        format!(
            "failed to connect to unix://{}: no such socket: is the runtime running, \
             and is this its endpoint?",
            path.display(),
        ),
    );
    // A socket whose server is gone.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
    let error = ImageClient::connect(endpoint(&path), patient()).await.expect_err("refused");
    assert!(error.to_string().contains("nobody listens on the socket"), "{error}");
}

#[tokio::test]
async fn the_agreed_version_stays_when_dialled_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let fake = Fake::default();
    let server = Running::start(&path, Serves::V1ALPHA2, &fake);
    let runtime = RuntimeClient::connect(endpoint(&path), patient()).await.expect("connect");
    assert_eq!(runtime.api_version(), ApiVersion::V1Alpha2);
    server.stop().await;

    // The new server speaks both, and would agree on v1 with a new client.
    let server = Running::start(&path, Serves::BOTH, &fake);
    fake.take_paths();
    let mut answer = runtime.version(VersionRequest::default()).await;
    for _ in 0..100 {
        if answer.is_ok() {
            break;
        }
        // The first calls may still meet the connection that is closing.
        tokio::task::yield_now().await;
        answer = runtime.version(VersionRequest::default()).await;
    }
    answer.expect("dialled again");
    let paths = fake.take_paths();
    assert!(!paths.is_empty());
    assert!(paths.iter().all(|p| p == "/runtime.v1alpha2.RuntimeService/Version"), "{paths:?}");
    drop(runtime);
    server.stop().await;
}
