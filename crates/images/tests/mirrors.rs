//! Mirrors: who is asked, and what happens when one fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    Bed,
    fake::{Fake, Reply},
    made::{self, Layer, Made},
};
use images::PullErrorKind as Kind;

fn image() -> Made {
    Made::new(&[Layer::file("f", "1"), Layer::file("g", "2")])
}

fn dead() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn the_next_host_is_asked_and_names_stay_the_registrys() {
    let (server, empty, bed) = (Fake::new(), Fake::new(), Bed::new());
    server.push("team/app", "v1", &image());
    let (dead, empty_at, server_at) = (dead(), empty.address, server.address);
    bed.hosts(
        "registry.k8s.io",
        &format!(
            "server = \"http://{server_at}\"\n[host.\"http://{empty_at}\"]\n[host.\"http://{dead}\"]\n"
        ),
    );
    let pulled = bed.images.pull("registry.k8s.io/team/app:v1", None).await.unwrap();
    assert_eq!(pulled.repo_tags, ["registry.k8s.io/team/app:v1"]);
    assert!(pulled.repo_digests[0].starts_with("registry.k8s.io/team/app@sha256:"));
    assert_eq!(empty.asked()[0].query, "ns=registry.k8s.io");
    assert_eq!(server.asked()[0].query, "ns=registry.k8s.io");
}

#[tokio::test]
async fn a_mirror_that_lies_or_is_down_is_left_for_the_next() {
    let image = image();
    let layer = made::digest(&image.layers[0].stored);
    let wrong = vec![b'x'; image.layers[0].stored.len()];
    let lies: [(&str, Reply); 4] = [
        ("/blobs/", Reply::ok("application/octet-stream", &wrong)),
        ("/manifests/", Reply::ok("text/html", b"<html>please log in</html>")),
        (&layer, Reply::status(500)),
        (&layer, Reply::status(404)),
    ];
    for (part, reply) in lies {
        let (mirror, server, bed) = (Fake::new(), Fake::new(), Bed::new());
        mirror.push("a", "latest", &image);
        server.push("a", "latest", &image);
        let (part, lie) = (part.to_owned(), reply.clone());
        mirror.first(move |asked| asked.path.contains(&part).then(|| lie.clone()));
        let text = format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\n",
            server.address, mirror.address
        );
        bed.hosts("up.example", &text);
        let pulled = bed.images.pull("up.example/a", None).await.unwrap();
        assert_eq!(bed.text(&pulled, "f").as_deref(), Some("1"), "{reply:?}");
        bed.assert_tidy();
    }
}

#[tokio::test]
async fn capabilities_are_heeded() {
    let (mirror, server, bed) = (Fake::new(), Fake::new(), Bed::new());
    mirror.push("a", "latest", &image());
    server.push("a", "latest", &image());
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        server.address, mirror.address
    );
    bed.hosts("up.example", &text);
    bed.images.pull("up.example/a", None).await.unwrap();
    assert_eq!((mirror.count("/manifests/"), server.count("/manifests/")), (0, 1));
    assert_eq!((mirror.count("/blobs/"), server.count("/blobs/")), (3, 0));
}

#[tokio::test]
async fn what_all_hosts_said_is_in_the_error() {
    let (mirror, bed) = (Fake::new(), Bed::new());
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", dead(), mirror.address);
    bed.hosts("up.example", &text);
    let error = bed.images.pull("up.example/a", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::RegistryUnavailable);
    let text = error.to_string();
    assert!(text.contains("refused") && text.contains("manifest unknown"), "{text}");
}

#[tokio::test]
async fn a_bad_hosts_file_is_named() {
    let bed = Bed::new();
    bed.hosts("up.example", "server = ");
    let error = bed.images.pull("up.example/a", None).await.unwrap_err();
    assert!(error.to_string().contains("up.example/hosts.toml"), "{error}");
}
