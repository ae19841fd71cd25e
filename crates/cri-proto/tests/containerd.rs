//! The numbers of containerd's fields, byte by byte: its clients know no other.

use cri_proto::containerd::services::containers::v1::{
    Container, GetContainerRequest, GetContainerResponse, container::Runtime,
};
use cri_proto::containerd::services::tasks::v1::{GetRequest, GetResponse};
use cri_proto::containerd::services::version::v1::VersionResponse;
use cri_proto::containerd::v1::types::{Process, Status};
use prost::Message as _;
use prost_types::{Any, Timestamp};

/// A field of some bytes: its number and kind, its length, its content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("a short field");
    [&[number << 3 | 2, length], content].concat()
}

#[test]
fn requests_are_read_as_clients_write_them() {
    let request = GetContainerRequest::decode(&*field(1, b"id")).expect("a request");
    assert_eq!(request.id, "id");
    let bytes = [field(1, b"id"), field(2, b"exec")].concat();
    let request = GetRequest::decode(&*bytes).expect("a request");
    assert_eq!((&*request.container_id, &*request.exec_id), ("id", "exec"));
}

#[test]
fn answers_are_written_as_clients_read_them() {
    let version = VersionResponse { version: "1".to_owned(), revision: "r".to_owned() };
    assert_eq!(version.encode_to_vec(), [field(1, b"1"), field(2, b"r")].concat());

    let time = |seconds| Timestamp { seconds, nanos: 0 };
    let container = Container {
        id: "id".to_owned(),
        labels: [("k".to_owned(), "v".to_owned())].into(),
        image: "image".to_owned(),
        runtime: Some(Runtime { name: "name".to_owned() }),
        spec: Some(Any { type_url: "type".to_owned(), value: b"{}".to_vec() }),
        created_at: Some(time(5)),
        updated_at: Some(time(6)),
        sandbox: "s".to_owned(),
    };
    let expected = [
        field(1, b"id"),
        field(2, &[field(1, b"k"), field(2, b"v")].concat()),
        field(3, b"image"),
        field(4, &field(1, b"name")),
        field(5, &[field(1, b"type"), field(2, b"{}")].concat()),
        field(8, &[8, 5]),
        field(9, &[8, 6]),
        field(11, b"s"),
    ]
    .concat();
    let answer = GetContainerResponse { container: Some(container) };
    assert_eq!(answer.encode_to_vec(), field(1, &expected));

    let process = Process {
        container_id: "c".to_owned(),
        id: "p".to_owned(),
        pid: 7,
        status: Status::Stopped.into(),
        terminal: true,
        exit_status: 9,
        exited_at: Some(time(1)),
    };
    let expected = [
        field(1, b"c"),
        field(2, b"p"),
        vec![3 << 3, 7, 4 << 3, 3, 8 << 3, 1, 9 << 3, 9],
        field(10, &[8, 1]),
    ]
    .concat();
    let answer = GetResponse { process: Some(process) };
    assert_eq!(answer.encode_to_vec(), field(1, &expected));
}
