//! Exec sessions.

use std::time::{Duration, Instant};

use monitor_client::FailureKind;
use types::ContainerId;

use crate::ground::{Ground, until};

#[tokio::test]
async fn output_and_code_come_back() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let wanted = ground.container("sleep 1000");
    pod.start(&wanted).await;
    let output = pod.exec(&ground, &wanted.id, "echo out; echo err >&2; exit 5", None).await;
    let output = output.expect("executed");
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(output.end.exit.expect("ended").code, 5);
    assert!(!output.end.timed_out && !output.truncated);

    // Each has its own end, however many there are.
    let many = (0..20).map(|n| {
        let (pod, ground, id) = (&pod, &ground, &wanted.id);
        async move {
            let script = format!("echo {n}; exit {n}");
            let output = pod.exec(ground, id, &script, None).await.expect("executed");
            assert_eq!(output.stdout, format!("{n}\n").into_bytes());
            assert_eq!(output.end.exit.expect("ended").code, n);
        }
    });
    let mut all = Box::pin(async {
        for one in many {
            one.await;
        }
    });
    all.as_mut().await;
    drop(all);
    pod.end().await;
}

/// What is over the limit is dropped, and the command is not blocked by it.
#[tokio::test]
async fn too_much_output_is_cut_and_blocks_nobody() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let wanted = ground.container("sleep 1000");
    pod.start(&wanted).await;
    let script = "yes | head -c 3000000; echo done >&2";
    let output = pod.exec(&ground, &wanted.id, script, None).await.expect("executed");
    assert!(output.truncated);
    assert_eq!(output.stdout.len() + output.stderr.len(), 1 << 20);
    assert_eq!(output.end.exit.expect("ended").code, 0);
    pod.end().await;
}

/// The kernel kills all of the session's cgroup: a child that left its session and its parent too.
#[tokio::test]
async fn a_time_limit_kills_all_that_was_started() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let wanted = ground.container("sleep 1000");
    pod.start(&wanted).await;
    let script = "(setsid sleep 4321 &); echo begun; sleep 4321";
    let begun = Instant::now();
    let limit = Duration::from_millis(300);
    let output = pod.exec(&ground, &wanted.id, script, Some(limit)).await.expect("executed");
    assert!(output.end.timed_out);
    assert_eq!(output.end.exit.expect("ended").signal, Some(9));
    assert_eq!(output.stdout, b"begun\n");
    assert!(begun.elapsed() >= limit && begun.elapsed() < Duration::from_secs(5));
    let left = pod.exec(&ground, &wanted.id, "ps -o args | grep '[4]321'", None).await;
    assert_eq!(String::from_utf8_lossy(&left.expect("executed").stdout), "");
    until("the session's cgroup is gone", || exec_dirs(&wanted) == 0).await;
    pod.end().await;
}

fn exec_dirs(wanted: &monitor_client::StartContainer) -> usize {
    let dir = wanted.cgroup.procs_files.last().and_then(|file| file.parent()).expect("has one");
    let entries = std::fs::read_dir(dir).expect("read").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("exec-")).count()
}

/// However short the time is, a command whose time is over is told as such.
#[tokio::test]
async fn the_shortest_time_limit_is_one() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let wanted = ground.container("sleep 1000");
    pod.start(&wanted).await;
    for limit in [Duration::ZERO, Duration::from_millis(1)] {
        let output = pod.exec(&ground, &wanted.id, "sleep 4321", Some(limit)).await;
        assert!(output.expect("executed").end.timed_out);
    }
    until("the sessions' cgroups are gone", || exec_dirs(&wanted) == 0).await;
    pod.end().await;
}

/// The answer does not wait for a child that holds the output open.
#[tokio::test]
async fn the_end_is_told_although_a_child_holds_the_output() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let wanted = ground.container("sleep 1000");
    pod.start(&wanted).await;
    let begun = Instant::now();
    let output = pod.exec(&ground, &wanted.id, "echo begun; sleep 50 & exit 3", None).await;
    let output = output.expect("executed");
    assert_eq!(output.end.exit.expect("ended").code, 3);
    assert_eq!(output.stdout, b"begun\n");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(exec_dirs(&wanted), 1, "the child still runs in the session's cgroup");
    pod.monitor.signal(&wanted.id, 9, true).await.expect("killed");
    until("the session's cgroup is gone", || exec_dirs(&wanted) == 0).await;
    pod.end().await;
}

/// A caller that leaves takes its command with it.
#[tokio::test]
async fn a_command_ends_with_its_caller() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let wanted = ground.container("sleep 1000");
    pod.start(&wanted).await;
    let call = pod.exec(&ground, &wanted.id, "sleep 4321", None);
    assert!(tokio::time::timeout(Duration::from_millis(200), call).await.is_err());
    until("the command is gone", || exec_dirs(&wanted) == 0).await;
    pod.end().await;
}

#[tokio::test]
async fn what_cannot_be_executed_is_refused() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let missing = pod.exec(&ground, &ContainerId::random(), "true", None).await;
    assert!(missing.expect_err("refused").is_kind(FailureKind::NotFound));
    let wanted = ground.container("sleep 1000");
    pod.start(&wanted).await;
    let bad = monitor_client::ExecSync {
        container: wanted.id.clone(),
        timeout: None,
        cgroup: ground.exec_cgroup(&wanted.id),
        output_limit: 100,
    };
    for process in [&b""[..], b"{}", b"[1, 2"] {
        let error = pod.monitor.exec_sync(&bad, process).await.expect_err("refused");
        assert!(error.is_kind(FailureKind::Launch), "{error}");
        assert_eq!(exec_dirs(&wanted), 0);
    }
    pod.monitor.signal(&wanted.id, 9, false).await.expect("killed");
    pod.exit_of(&wanted.id).await;
    let ended = pod.exec(&ground, &wanted.id, "true", None).await;
    assert!(ended.expect_err("refused").is_kind(FailureKind::NotFound));
    pod.end().await;
}
