//! The monitor without its daemon, the daemon without its monitor.

use std::time::{Duration, Instant};

use monitor_client::{
    CgroupPlacement, ContainerPhase, Event, MonitorError, Notice, read_exit_records,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{Ground, PATIENCE, until};

#[tokio::test]
async fn a_new_daemon_finds_what_runs_and_what_ended_meanwhile() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let runs = ground.container("echo one; sleep 1000");
    let ends =
        ground.container("trap 'echo last; exit 9' TERM; echo ready; while :; do sleep 0.01; done");
    let started = pod.start(&runs).await;
    let process = Pid::from_raw(pod.start(&ends).await.pid).expect("a number");
    until("it is ready", || !ground.log(&ends.id).is_empty()).await;
    drop(pod);
    kill_process(process, Signal::TERM).expect("signalled");
    until("the exit is recorded", || {
        read_exit_records(&ground.state()).is_ok_and(|found| found.records.len() == 1)
    })
    .await;

    let mut pod = ground.adopt().await.expect("adopted");
    let state = pod.monitor.state().await.expect("state");
    for container in &state.containers {
        match &container.phase {
            ContainerPhase::Running => {
                assert_eq!((&container.id, container.pid), (&runs.id, started.pid));
                assert_eq!(container.start_time, started.start_time);
            }
            ContainerPhase::Exited(exit) => {
                assert_eq!((&container.id, exit.code), (&ends.id, 9));
            }
            ContainerPhase::Starting => panic!("nothing starts"),
        }
    }
    assert_eq!(state.containers.len(), 2);
    let exit = pod.exit_of(&ends.id).await;
    assert_eq!(exit.code, 9);
    assert_eq!(ground.log(&ends.id), ["stdout F ready", "stdout F last"]);
    assert!(read_exit_records(&ground.state()).expect("read").records.is_empty());
    pod.end().await;
}

/// An exit is told to every daemon, and again until one has acknowledged it.
#[tokio::test]
async fn exits_are_told_until_they_are_acknowledged() {
    let ground = Ground::new();
    let mut first = ground.spawn().await;
    let mut second = ground.adopt().await.expect("adopted");
    let wanted = ground.container("exit 4");
    first.start(&wanted).await;
    for _ in 0..2 {
        for pod in [&mut first, &mut second] {
            let event = pod.event().await;
            let Event::Notice(Notice::ContainerExited { container, exit }) = event else {
                panic!("{event:?}")
            };
            assert_eq!((container, exit.code), (wanted.id.clone(), 4));
        }
    }
    let mut third = ground.adopt().await.expect("adopted");
    assert_eq!(third.exit_of(&wanted.id).await.code, 4);
    let state = first.monitor.state().await.expect("state");
    assert!(state.containers.is_empty(), "an acknowledged exit is forgotten");
    drop((second, third));
    first.end().await;
}

#[tokio::test]
async fn a_dead_monitor_is_noticed_and_its_records_are_read() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let ended = ground.container("exit 6");
    pod.start(&ended).await;
    while !matches!(pod.event().await, Event::Notice(Notice::ContainerExited { .. })) {}
    let wanted = ground.container("sleep 1000");
    pod.start(&wanted).await;
    let begun = Instant::now();
    kill_process(Pid::from_raw(pod.monitor.pid()).expect("a number"), Signal::KILL)
        .expect("killed");
    while pod.event().await != (Event::Lost { dead: true }) {}
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(pod.monitor.is_dead());
    assert!(pod.monitor.state().await.expect_err("gone").is_gone());
    let error = ground.adopt().await.expect_err("gone");
    assert!(matches!(error, MonitorError::NotRunning { .. }), "{error}");
    let found = read_exit_records(&ground.state()).expect("read");
    assert_eq!(found.records.len(), 1);
    assert_eq!((&found.records[0].container, found.records[0].exit.code), (&ended.id, 6));
    // Another one can take its place.
    let pod = ground.spawn().await;
    assert!(pod.monitor.state().await.expect("state").containers.is_empty());
    pod.end().await;
}

#[tokio::test]
async fn one_that_hangs_is_told_by_its_deadline_and_delays_nobody() {
    let (ground, other) = (Ground::new(), Ground::new());
    let (pod, healthy) = (ground.spawn().await, other.spawn().await);
    let pid = Pid::from_raw(pod.monitor.pid()).expect("a number");
    kill_process(pid, Signal::STOP).expect("stopped");
    let begun = Instant::now();
    let hung = pod.monitor.state();
    let prompt = async {
        let begun = Instant::now();
        healthy.monitor.state().await.expect("answers");
        begun.elapsed()
    };
    let (hung, prompt) = tokio::join!(hung, prompt);
    let error = hung.expect_err("hangs");
    assert!(error.is_deadline(), "{error}");
    assert!(begun.elapsed() < monitor_client::DEFAULT_DEADLINE * 2);
    assert!(prompt < Duration::from_secs(5), "{prompt:?}");
    assert!(ground.adopt().await.expect_err("hangs").is_deadline());
    kill_process(pid, Signal::CONT).expect("continued");
    pod.monitor.state().await.expect("answers again");
    healthy.end().await;
    pod.end().await;
}

#[tokio::test]
async fn there_is_one_monitor_for_a_sandbox() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let second =
        ground.monitors.spawn(&ground.sandbox, &ground.state(), &CgroupPlacement::default()).await;
    assert!(matches!(second, Err(MonitorError::RunsAlready { .. })));
    let stranger = types::SandboxId::random();
    let error = ground.monitors.adopt(&stranger, &ground.state()).await.expect_err("refused");
    assert!(matches!(error, MonitorError::Stranger { .. }), "{error}");
    pod.end().await;
}

#[tokio::test]
async fn shutdown_waits_for_containers_and_leaves_no_process() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let made = pod.monitor.make_sandbox(ground.sandbox()).await.expect("made");
    let wanted = ground.container("sleep 1000");
    pod.start(&wanted).await;
    let error = pod.monitor.shutdown().await.expect_err("busy");
    assert!(error.is_kind(monitor_client::FailureKind::Busy), "{error}");
    pod.monitor.signal(&wanted.id, 9, true).await.expect("killed");
    let exit = pod.exit_of(&wanted.id).await;
    assert_eq!((exit.signal, exit.oom_killed), (Some(9), false));
    pod.monitor.shutdown().await.expect("shut down");
    let reaper = made.reaper_pid.expect("a reaper");
    assert!(!std::path::Path::new(&format!("/proc/{reaper}")).exists());
    while pod.event().await != (Event::Lost { dead: true }) {}
    assert!(!ground.state().join("monitor.sock").exists());
}

/// More connections than there may be are refused, and one that sends nonsense is dropped;
/// neither harms the daemon that is there.
#[tokio::test]
async fn strange_clients_harm_nobody() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    for nonsense in [&b"nonsense"[..], b"{}", b"{\"id\":1}", &[0xff; 70_000]] {
        let socket = monitor_proto::connect(&ground.state()).expect("connected");
        let _ = monitor_proto::send(std::os::fd::AsFd::as_fd(&socket), nonsense, &[]);
        pod.monitor.state().await.expect("answers");
    }
    let mut many = Vec::new();
    for _ in 0..32 {
        many.extend(monitor_proto::connect(&ground.state()));
    }
    pod.monitor.state().await.expect("answers");
    drop(many);
    let begun = Instant::now();
    loop {
        match ground.adopt().await {
            Ok(_) => break,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    }
    pod.end().await;
}
