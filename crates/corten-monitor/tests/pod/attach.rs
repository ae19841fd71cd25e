//! Who is attached to a container.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use monitor_client::{AttachEnd, AttachSession, Attached, FailureKind};
use types::ContainerId;

use crate::ground::{Ground, Pod, until};

/// A client: its ends, and the session.
struct Client {
    stdin: Option<File>,
    stdout: File,
    session: AttachSession,
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("made")
}

async fn attach(pod: &Pod, id: &ContainerId) -> Client {
    let ((their_stdin, stdin), (stdout, their_stdout)) = (pipe(), pipe());
    let streams = Attached {
        stdin: Some(their_stdin.as_fd()),
        stdout: Some(their_stdout.as_fd()),
        stderr: None,
    };
    let session = pod.monitor.attach(id, streams).await.expect("attached");
    Client { stdin: Some(stdin.into()), stdout: stdout.into(), session }
}

fn read(file: &mut File, wanted: &str) {
    let mut seen = vec![0; wanted.len()];
    file.read_exact(&mut seen).expect("read");
    assert_eq!(String::from_utf8_lossy(&seen), wanted);
}

/// Input that the container does not take waits in the client's pipe; meanwhile the monitor serves
/// others, does not spin, and nothing of it is lost when the client has gone.
#[tokio::test]
async fn input_waits_for_the_container() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let mut wanted =
        ground.container("while [ ! -e /tmp/go ]; do sleep 0.05; done; wc -c; echo end");
    (wanted.stdin, wanted.stdin_once) = (true, true);
    pod.start(&wanted).await;
    let mut client = attach(&pod, &wanted.id).await;
    // More than the container's pipe holds, and less than both.
    let mut stdin = client.stdin.take().expect("there");
    stdin.write_all(&[b'x'; 100_000]).expect("written");
    drop(stdin);
    let ticks = || {
        let path = format!("/proc/{}/stat", pod.monitor.pid());
        let stat = std::fs::read_to_string(path).expect("read");
        let (_, rest) = stat.rsplit_once(')').expect("a name");
        rest.split(' ').skip(12).take(2).map(|n| n.parse::<u64>().expect("a number")).sum::<u64>()
    };
    let before = ticks();
    for _ in 0..20 {
        let output = pod.exec(&ground, &wanted.id, "true", None).await.expect("executed");
        assert_eq!(output.end.exit.expect("ended").code, 0);
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(ticks() - before < 40, "it spins: {} ticks", ticks() - before);
    pod.exec(&ground, &wanted.id, "touch /tmp/go", None).await.expect("executed");
    read(&mut client.stdout, "100000\nend\n");
    assert_eq!(client.session.ended().await.expect("told"), AttachEnd::ContainerEnded);
    assert_eq!(pod.exit_of(&wanted.id).await.code, 0);
    pod.end().await;
}

/// The first to leave ends the input where that was asked for, also without a word.
#[tokio::test]
async fn input_ends_once_or_never() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    for once in [true, false] {
        let mut wanted = ground.container("while read line; do echo got $line; done; echo end");
        (wanted.stdin, wanted.stdin_once) = (true, once);
        pod.start(&wanted).await;
        let (mut first, mut second) =
            (attach(&pod, &wanted.id).await, attach(&pod, &wanted.id).await);
        first.stdin.as_mut().expect("there").write_all(b"one\n").expect("written");
        read(&mut first.stdout, "got one\n");
        read(&mut second.stdout, "got one\n");
        drop(first);
        if once {
            read(&mut second.stdout, "end\n");
            assert_eq!(pod.exit_of(&wanted.id).await.code, 0);
        } else {
            second.stdin.as_mut().expect("there").write_all(b"two\n").expect("written");
            read(&mut second.stdout, "got two\n");
        }
    }
    pod.end().await;
}

/// Who does not read is let go and told; the container and the log have not waited.
#[tokio::test]
async fn who_does_not_read_is_let_go() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let mut wanted = ground.container("read line; seq 300000");
    wanted.stdin = true;
    pod.start(&wanted).await;
    let mut slow = attach(&pod, &wanted.id).await;
    slow.stdin.as_mut().expect("there").write_all(b"go\n").expect("written");
    assert_eq!(slow.session.ended().await.expect("told"), AttachEnd::TooSlow);
    assert_eq!(pod.exit_of(&wanted.id).await.code, 0);
    assert_eq!(ground.log(&wanted.id).last().map(String::as_str), Some("stdout F 300000"));
    let mut rest = String::new();
    slow.stdout.read_to_string(&mut rest).expect("read");
    assert!(rest.starts_with("1\n2\n3\n"), "what it had got is whole");
    pod.end().await;
}

#[tokio::test]
async fn only_what_runs_can_be_attached_to() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let none = pod.monitor.attach(&ContainerId::random(), Attached::default()).await;
    assert!(none.expect_err("refused").is_kind(FailureKind::NotFound));
    let wanted = ground.container("exit 3");
    pod.start(&wanted).await;
    pod.exit_of(&wanted.id).await;
    let ended = pod.monitor.attach(&wanted.id, Attached::default()).await;
    assert!(ended.is_err());
    // A client that has gone leaves no descriptor behind.
    let idle = ground.container("sleep 1000");
    pod.start(&idle).await;
    let fds =
        || std::fs::read_dir(format!("/proc/{}/fd", pod.monitor.pid())).expect("read").count();
    let before = fds();
    for _ in 0..100 {
        drop(attach(&pod, &idle.id).await);
        until("the descriptors are closed", || fds() <= before).await;
    }
    pod.end().await;
}
