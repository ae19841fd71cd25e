//! Starting, ending, signals, namespaces.

use std::os::unix::fs::MetadataExt;

use launch::SandboxNamespaces;
use monitor_client::{
    CgroupPlacement, ContainerPhase, ContainerPid, Event, FailureKind, Features, MakeSandbox,
    Notice, ReaperRequest,
};
use types::ContainerId;

use crate::ground::{Ground, change_spec, until};

#[tokio::test]
async fn codes_signals_and_output_are_told() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    for (script, code, signal, output) in [
        ("true", 0, None, vec![]),
        ("echo out; echo err >&2; exit 7", 7, None, vec!["stderr F err", "stdout F out"]),
        ("echo -n half; exit 255", 255, None, vec!["stdout P half"]),
        ("kill -KILL $$", 137, Some(9), vec![]),
        ("kill -SEGV $$", 139, Some(11), vec![]),
    ] {
        let mut wanted = ground.container(script);
        if signal.is_some() {
            // The first process of a PID namespace cannot kill itself.
            wanted.pid = ContainerPid::Host;
        }
        let exit = pod.run(&wanted).await;
        assert_eq!((exit.code, exit.signal, exit.oom_killed), (code, signal, false), "{script}");
        let mut log = ground.log(&wanted.id);
        log.sort();
        assert_eq!(log, output, "{script}");
    }
    pod.end().await;
}

#[tokio::test]
async fn a_signal_reaches_one_process_or_all() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let child = "(trap 'echo child; exit' TERM; echo ready; while :; do sleep 0.01; done) & c=$!";
    let wait = "while :; do sleep 0.01; done";
    for (all, trap, expected) in [
        (false, "echo term; exit 3", &["ready", "term"][..]),
        (true, "wait $c; echo term; exit 3", &["ready", "child", "term"]),
    ] {
        let wanted = ground.container(&format!("trap '{trap}' TERM; {child}; {wait}"));
        pod.start(&wanted).await;
        until("the container is ready", || !ground.log(&wanted.id).is_empty()).await;
        pod.monitor.signal(&wanted.id, 15, all).await.expect("signalled");
        let exit = pod.exit_of(&wanted.id).await;
        assert_eq!((exit.code, exit.signal), (3, None));
        let log = ground.log(&wanted.id);
        // The shell tells that its sleep was terminated, too.
        let words = log.iter().map(|line| &line["stdout F ".len()..]);
        let words: Vec<&str> = words.filter(|word| *word != "Terminated").collect();
        assert_eq!(words, expected);
    }
    let missing = ContainerId::random();
    let error = pod.monitor.signal(&missing, 9, false).await.expect_err("refused");
    assert!(error.is_kind(FailureKind::NotFound), "{error}");
    pod.end().await;
}

fn processes_of(wanted: &monitor_client::StartContainer) -> Vec<String> {
    let procs = wanted.cgroup.procs_files.last().expect("has one");
    let text = std::fs::read_to_string(procs).unwrap_or_default();
    let name =
        |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    text.lines().map(name).collect()
}

/// What a container leaves behind in its cgroup ends with it, and its streams with that.
#[tokio::test]
async fn nothing_of_a_container_outlives_its_first_process() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let mut wanted = ground.container("setsid sleep 1000 & echo done");
    wanted.pid = ContainerPid::Host;
    let exit = pod.run(&wanted).await;
    assert_eq!(exit.code, 0);
    assert_eq!(ground.log(&wanted.id), ["stdout F done"]);
    // What is killed leaves its cgroup a moment after it has closed its descriptors.
    until("its cgroup is empty", || processes_of(&wanted).is_empty()).await;
    pod.end().await;
}

#[tokio::test]
async fn a_failed_launch_says_why_and_leaves_nothing() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let wanted = ground.container("true");
    change_spec(&wanted, |spec| spec["process"]["args"] = ["/no/such/command"].as_slice().into());
    let error = pod.monitor.start_container(wanted.clone()).await.expect_err("refused");
    let failure = error.failure().expect("a failure");
    assert_eq!(failure.kind, FailureKind::Launch);
    assert_eq!(failure.step.as_deref(), Some("exec"));
    assert!(failure.message.contains("/no/such/command"), "{failure}");
    assert!(pod.monitor.state().await.expect("state").containers.is_empty());
    // The kernel takes a reaped process from its cgroup a moment later.
    until("its cgroup is empty", || processes_of(&wanted).is_empty()).await;

    let mut outside = ground.container("true");
    outside.log.as_mut().expect("has one").file = "../0.log".into();
    let error = pod.monitor.start_container(outside).await.expect_err("refused");
    assert!(error.is_kind(FailureKind::Log), "{error}");
    pod.end().await;
}

#[tokio::test]
async fn a_container_starts_once() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let wanted = ground.container("sleep 1000");
    pod.start(&wanted).await;
    let error = pod.monitor.start_container(wanted.clone()).await.expect_err("refused");
    assert!(error.is_kind(FailureKind::AlreadyExists), "{error}");
    let state = pod.monitor.state().await.expect("state");
    assert_eq!(state.containers.len(), 1);
    assert_eq!(state.containers[0].phase, ContainerPhase::Running);
    pod.end().await;
}

/// A pod of many containers has a state of many pages.
#[tokio::test]
async fn the_state_of_many_containers_is_complete() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let mut ids = Vec::new();
    for _ in 0..70 {
        let wanted = ground.container("true");
        pod.start(&wanted).await;
        ids.push(wanted.id);
    }
    ids.sort();
    let state = pod.monitor.state().await.expect("state");
    assert_eq!(state.containers.iter().map(|c| c.id.clone()).collect::<Vec<_>>(), ids);
    pod.end().await;
}

#[tokio::test]
async fn the_reaper_may_come_after_the_namespaces() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    assert!(pod.monitor.features().has(Features::LATE_REAPER));
    let reaper = ReaperRequest::default();
    let error = pod.monitor.start_reaper(reaper.clone()).await.expect_err("no namespaces");
    assert!(error.is_kind(FailureKind::Invalid), "{error}");
    let without = MakeSandbox { reaper: None, ..ground.sandbox() };
    let made = pod.monitor.make_sandbox(without.clone()).await.expect("made");
    assert_eq!(made.reaper_pid, None);
    let made = pod.monitor.start_reaper(reaper.clone()).await.expect("started");
    let pid = made.reaper_pid.expect("a reaper");
    assert_eq!(pod.monitor.start_reaper(reaper.clone()).await.expect("the same"), made);
    // It is as if it had been asked for at once.
    let state = pod.monitor.state().await.expect("state");
    assert_eq!(state.made, Some(MakeSandbox { reaper: Some(reaper), ..without }));
    assert_eq!(state.reaper.map(|reaper| (reaper.pid, reaper.alive)), Some((pid, true)));
    assert_eq!(pod.monitor.make_sandbox(ground.sandbox()).await.expect("made"), made);
    let elsewhere = ReaperRequest {
        cgroup: CgroupPlacement { procs_files: vec!["/none".into()], ..Default::default() },
    };
    let error = pod.monitor.start_reaper(elsewhere).await.expect_err("refused");
    assert!(error.is_kind(FailureKind::AlreadyExists), "{error}");
    let joined = std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("read");
    let own = std::fs::read_link("/proc/self/ns/net").expect("read");
    assert_ne!(joined, own);
    pod.end().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn namespaces_that_are_given_are_those_of_the_pod() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    assert!(pod.monitor.features().has(Features::GIVEN_NAMESPACES));
    let wanted = MakeSandbox { given: true, ..ground.sandbox() };
    let error = pod.monitor.make_sandbox(wanted.clone()).await.expect_err("nothing is pinned");
    assert!(error.is_kind(FailureKind::Launch), "{error}");
    let made = SandboxNamespaces {
        user: None,
        net: wanted.net.clone(),
        ipc: wanted.ipc.clone(),
        uts: wanted.uts.clone(),
        hostname: wanted.hostname.clone(),
        sysctls: wanted.sysctls.clone(),
    };
    let thread = std::thread::spawn(move || launch::make_namespaces_here(&made));
    thread.join().expect("joined").expect("made");
    // The thread was in them, this one is not.
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("read");
    assert_ne!(own.trim(), "corten-pod");
    let pid = pod.monitor.make_sandbox(wanted).await.expect("made").reaper_pid.expect("a reaper");
    let of = |kind: &str, file: &str| {
        let joined = std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).expect("read").ino();
        assert_eq!(joined, std::fs::metadata(ground.path(file)).expect("read").ino(), "{kind}");
    };
    of("net", "ns/net");
    of("ipc", "ns/ipc");
    of("uts", "ns/uts");
    let script = "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let container = ground.container(script);
    change_spec(&container, |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
        for (kind, file) in [("network", "ns/net"), ("uts", "ns/uts")] {
            namespaces.push(serde_json::json!({ "type": kind, "path": ground.path(file) }));
        }
    });
    assert_eq!(pod.run(&container).await.code, 0);
    assert_eq!(ground.log(&container.id), ["stdout F corten-pod", "stdout F 80"]);
    pod.end().await;
}

#[tokio::test]
async fn containers_share_the_pods_process_numbers_with_the_reaper() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let made = pod.monitor.make_sandbox(ground.sandbox()).await.expect("made");
    let reaper = made.reaper_pid.expect("a reaper");
    assert_eq!(pod.monitor.make_sandbox(ground.sandbox()).await.expect("made"), made);
    let mut other = ground.sandbox();
    other.hostname = "another".to_owned();
    let error = pod.monitor.make_sandbox(other).await.expect_err("refused");
    assert!(error.is_kind(FailureKind::AlreadyExists), "{error}");

    let mut first = ground.container("sleep 1000");
    first.pid = ContainerPid::Pod;
    pod.start(&first).await;
    let mut second = ground.container("ps -o pid,args; hostname");
    second.pid = ContainerPid::Pod;
    let uts = ground.path("ns/uts");
    change_spec(&second, |spec| {
        let entry = [("type", "uts"), ("path", uts.to_str().expect("text"))];
        let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.push(entry.into_iter().collect());
    });
    pod.run(&second).await;
    let log = ground.log(&second.id);
    assert!(log.iter().any(|line| line.contains("sleep 1000")), "{log:?}");
    assert!(log.last().is_some_and(|line| line.ends_with("corten-pod")), "{log:?}");

    // The first process of another container's namespace can be seen as well.
    let own = ground.container("sleep 2000");
    pod.start(&own).await;
    let mut debug = ground.container("ps -o pid,args");
    debug.pid = ContainerPid::Container(own.id.clone());
    pod.run(&debug).await;
    let log = ground.log(&debug.id);
    assert!(log.iter().any(|line| line.contains("sleep 2000")), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("sleep 1000")), "{log:?}");

    // With the reaper the namespace ends, and all that is in there.
    let pid = rustix::process::Pid::from_raw(reaper).expect("a number");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let (mut told, mut ended) = (false, false);
    while !(told && ended) {
        match pod.event().await {
            Event::Notice(Notice::ReaperExited { exit }) => told = exit.signal == Some(9),
            Event::Notice(Notice::ContainerExited { container, exit }) => {
                assert_eq!((&container, exit.signal), (&first.id, Some(9)));
                pod.monitor.ack_exit(&container).await.expect("acknowledged");
                ended = true;
            }
            other => panic!("{other:?}"),
        }
    }
    let state = pod.monitor.state().await.expect("state");
    assert!(state.reaper.is_some_and(|reaper| !reaper.alive));
    let mut late = ground.container("true");
    late.pid = ContainerPid::Pod;
    let error = pod.monitor.start_container(late).await.expect_err("refused");
    assert!(error.is_kind(FailureKind::NotRunning), "{error}");
    pod.end().await;
}

/// The limit of the memory cgroup, where this machine has one that can be set.
#[tokio::test]
async fn only_a_container_that_died_of_it_was_killed_for_want_of_memory() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let hog = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    for (script, oom_killed) in [
        (format!("exec {hog}"), true),
        (format!("{hog}; exit 4"), false),
        ("true".to_owned(), false),
    ] {
        let wanted = ground.container(&script);
        let file = &wanted.oom_files.first().expect("a memory cgroup").path;
        let limit = ["memory.limit_in_bytes", "memory.max"].map(|name| file.with_file_name(name));
        let limit = limit.iter().find(|path| path.exists()).expect("a limit");
        std::fs::write(limit, "20M").expect("limited");
        let exit = pod.run(&wanted).await;
        assert_eq!(exit.oom_killed, oom_killed, "{script}: {exit:?}");
        assert_eq!(exit.signal, oom_killed.then_some(9), "{script}");
    }
    pod.end().await;
}

#[tokio::test]
async fn a_terminal_is_logged_and_resized() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let mut wanted =
        ground.container("tty; trap 'stty size; exit' WINCH; while :; do sleep 1; done");
    wanted.tty = true;
    change_spec(&wanted, |spec| spec["process"]["terminal"] = true.into());
    pod.start(&wanted).await;
    until("the terminal is there", || !ground.log(&wanted.id).is_empty()).await;
    assert!(ground.log(&wanted.id)[0].contains("/dev/"), "{:?}", ground.log(&wanted.id));
    pod.monitor.resize_tty(&wanted.id, 101, 33).await.expect("resized");
    pod.exit_of(&wanted.id).await;
    assert_eq!(ground.log(&wanted.id)[1].trim_end(), "stdout F 33 101");

    let plain = ground.container("sleep 1000");
    pod.start(&plain).await;
    let error = pod.monitor.resize_tty(&plain.id, 80, 25).await.expect_err("refused");
    assert!(error.is_kind(FailureKind::Invalid), "{error}");
    pod.end().await;
}

/// Standard input that is asked for stays open; one that is not is empty.
#[tokio::test]
async fn standard_input_is_kept_open_where_asked() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let empty = ground.container("cat; echo over");
    pod.run(&empty).await;
    assert_eq!(ground.log(&empty.id), ["stdout F over"]);
    let mut open = ground.container("echo ready; cat; echo over");
    open.stdin = true;
    pod.start(&open).await;
    until("it runs", || !ground.log(&open.id).is_empty()).await;
    until("it reads", || processes_of(&open).iter().any(|p| p.starts_with("cat"))).await;
    assert_eq!(ground.log(&open.id), ["stdout F ready"]);
    pod.end().await;
}
