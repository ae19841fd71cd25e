//! Logs of real containers.

use std::fs;

use monitor_client::FailureKind;

use crate::ground::{Ground, until};

#[tokio::test]
async fn every_line_before_the_exit_is_in_the_log() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let wanted = ground.container("seq 1000000");
    assert_eq!(pod.run(&wanted).await.code, 0);
    let path = ground.path("logs").join(wanted.id.short()).join("0.log");
    let text = fs::read_to_string(path).expect("read");
    let mut lines = 0_u32;
    for line in text.lines() {
        lines += 1;
        assert_eq!(&line[30..], format!(" stdout F {lines}"));
    }
    assert_eq!(lines, 1_000_000);
    pod.end().await;
}

#[tokio::test]
async fn a_line_without_end_is_parted_and_memory_stays_flat() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let wanted = ground.container("dd if=/dev/zero bs=1M count=20");
    assert_eq!(pod.run(&wanted).await.code, 0);
    let path = ground.path("logs").join(wanted.id.short()).join("0.log");
    let log = fs::read(path).expect("read");
    let parts = log.split(|&b| b == b'\n').filter(|l| l.get(30..40) == Some(b" stdout P ")).count();
    assert_eq!(parts, 20 * 64);
    let status = fs::read_to_string(format!("/proc/{}/status", pod.monitor.pid())).expect("read");
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("a figure");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 16 << 10, "{peak} KiB at most were resident");
    pod.end().await;
}

#[tokio::test]
async fn rotation_goes_on_in_a_new_file_and_loses_nothing() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let wanted = ground.container("seq 300000");
    pod.start(&wanted).await;
    let path = ground.path("logs").join(wanted.id.short()).join("0.log");
    let old = path.with_extension("log.old");
    until("it writes", || fs::metadata(&path).is_ok_and(|m| m.len() > 0)).await;
    fs::rename(&path, &old).expect("renamed");
    pod.monitor.reopen_log(&wanted.id).await.expect("reopened");
    assert!(path.exists(), "the new file is there when the answer is");
    pod.exit_of(&wanted.id).await;
    let mut lines = 0_u32;
    for path in [&old, &path] {
        for line in fs::read_to_string(path).expect("read").lines() {
            lines += 1;
            assert_eq!(&line[30..], format!(" stdout F {lines}"));
        }
    }
    assert_eq!(lines, 300_000);
    let error = pod.monitor.reopen_log(&wanted.id).await.expect_err("refused");
    assert!(error.is_kind(FailureKind::NotFound), "{error}");
    pod.end().await;
}

#[tokio::test]
async fn a_failure_to_reopen_leaves_no_file_and_the_old_log_goes_on() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let wanted = ground.container("while :; do echo x; sleep 0.01; done");
    pod.start(&wanted).await;
    let dir = ground.path("logs").join(wanted.id.short());
    let moved = ground.path("logs").join("moved");
    until("it writes", || fs::metadata(dir.join("0.log")).is_ok_and(|m| m.len() > 0)).await;
    fs::rename(&dir, &moved).expect("renamed");
    let error = pod.monitor.reopen_log(&wanted.id).await.expect_err("refused");
    assert!(error.is_kind(FailureKind::Log), "{error}");
    assert!(!dir.exists());
    let before = fs::metadata(moved.join("0.log")).expect("there").len();
    until("the old log goes on", || {
        fs::metadata(moved.join("0.log")).is_ok_and(|m| m.len() > before)
    })
    .await;
    pod.end().await;
}
