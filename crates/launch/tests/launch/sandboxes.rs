//! Namespaces of sandboxes and the reaper of a shared PID namespace.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;

use launch::{
    LaunchError, ReaperLaunch, SandboxNamespaces, make_sandbox_namespaces, start_reaper, unpin,
};
use serde_json::json;
use sys::pidfd::Exit;

use crate::bench::{Bench, read_link, status_of};
use crate::harness::{Case, kill};

pub const CASES: &[Case] = &[
    ("sandboxes::namespaces_are_pinned_and_joined", namespaces_are_pinned_and_joined),
    ("sandboxes::a_failure_leaves_no_pin", a_failure_leaves_no_pin),
    ("sandboxes::the_reaper_has_nothing", the_reaper_has_nothing),
    ("sandboxes::orphans_are_reaped", orphans_are_reaped),
    ("sandboxes::a_dead_reaper_is_told", a_dead_reaper_is_told),
    ("sandboxes::the_caller_stays_where_it_is", the_caller_stays_where_it_is),
];

fn wanted(bench: &Bench) -> SandboxNamespaces {
    SandboxNamespaces {
        user: None,
        net: Some(bench.path("ns/net")),
        ipc: Some(bench.path("ns/ipc")),
        uts: Some(bench.path("ns/uts")),
        hostname: "pod-name".into(),
        sysctls: BTreeMap::from([("kernel.shmmni".into(), "77".into())]),
    }
}

fn unpin_all(wanted: &SandboxNamespaces) {
    for path in [&wanted.net, &wanted.ipc, &wanted.uts].into_iter().flatten() {
        unpin(path).expect("unpinned");
        assert!(!path.exists());
        unpin(path).expect("again");
    }
}

fn namespaces_are_pinned_and_joined() {
    let mut bench = Bench::new();
    let wanted = wanted(&bench);
    let handles = make_sandbox_namespaces(&wanted).expect("made");
    assert!(handles.net.is_some() && handles.ipc.is_some() && handles.uts.is_some());
    let children = fs::read_to_string("/proc/thread-self/children").expect("read");
    assert_eq!(children.trim(), "", "nothing runs for them");
    drop(handles);
    bench.spec["linux"]["namespaces"] = json!([
        {"type": "pid"}, {"type": "mount"},
        {"type": "network", "path": wanted.net},
        {"type": "ipc", "path": wanted.ipc},
        {"type": "uts", "path": wanted.uts},
    ]);
    bench.spec["hostname"] = json!(null);
    let outcome = bench.run("hostname; cat /proc/sys/kernel/shmmni; readlink /proc/self/ns/net");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.get(..2).expect("lines"), ["pod-name", "77"]);
    assert_ne!(lines[2], read_link("/proc/self/ns/net"));
    assert_ne!(fs::read_to_string("/proc/sys/kernel/hostname").expect("read").trim(), "pod-name");
    unpin_all(&wanted);
}

fn a_failure_leaves_no_pin() {
    let bench = Bench::new();
    let mut wanted = wanted(&bench);
    wanted.sysctls.insert("net.no.such.thing".into(), "1".into());
    let error = make_sandbox_namespaces(&wanted).expect_err("no such parameter");
    assert!(error.to_string().contains("net.no.such.thing"), "{error}");
    assert!(!bench.path("ns").exists());

    wanted.sysctls.clear();
    fs::create_dir(bench.path("ns")).expect("made");
    fs::write(bench.path("ns/uts"), "in the way").expect("written");
    let error = make_sandbox_namespaces(&wanted).expect_err("in the way");
    assert!(matches!(error, LaunchError::Pin { .. }), "{error}");
    let left: Vec<_> = fs::read_dir(bench.path("ns")).expect("read").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert!(!mounts.contains(&*bench.path("ns").to_string_lossy()));

    wanted.net = None;
    wanted.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    let error = make_sandbox_namespaces(&wanted).expect_err("the host's network");
    assert!(error.to_string().contains("belongs to a namespace of the host"), "{error}");
}

fn the_reaper_has_nothing() {
    let bench = Bench::new();
    let wanted = wanted(&bench);
    let handles = make_sandbox_namespaces(&wanted).expect("made");
    let namespaces = [&handles.net, &handles.ipc, &handles.uts];
    let namespaces = namespaces.into_iter().flatten().map(AsFd::as_fd).collect();
    let reaper = start_reaper(&ReaperLaunch { namespaces, ..Default::default() }).expect("started");
    let proc = format!("/proc/{}", reaper.pid.as_raw_pid());
    // It says that it is ready before it closes the last descriptor and loads the filter.
    let settled = || {
        fs::read_dir(format!("{proc}/fd")).expect("read").next().is_none()
            && fs::read_to_string(format!("{proc}/status")).expect("read").contains("Seccomp:\t2")
    };
    while !settled() {
        std::thread::yield_now();
    }
    let status = fs::read_to_string(format!("{proc}/status")).expect("read");
    assert_eq!(status_of(&status, "Name"), "corten-reaper");
    // Containers of the pod read this: it says nothing of the host.
    let line = fs::read(format!("{proc}/cmdline")).expect("read");
    assert_eq!(String::from_utf8_lossy(&line).trim_end_matches('\0'), "corten-reaper");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status_of(&status, set), format!("{:016x}", 0), "{set}");
    }
    assert_eq!(status_of(&status, "NoNewPrivs"), "1");
    assert_eq!(status_of(&status, "Uid"), "65534\t65534\t65534\t65534");
    let mounts = fs::read_to_string(format!("{proc}/mountinfo")).expect("read");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / ro,nosuid,nodev,noexec"), "{mounts}");
    for name in ["pid", "mnt", "net", "ipc", "uts"] {
        let own = read_link(format!("/proc/self/ns/{name}"));
        assert_ne!(read_link(format!("{proc}/ns/{name}")), own, "{name}");
    }
    kill(&reaper.pidfd);
    assert_eq!(sys::pidfd::wait_and_reap(&reaper.pidfd).expect("reaped"), Exit::Signal(9));
    unpin_all(&wanted);
}

fn orphans_are_reaped() {
    let mut bench = Bench::new();
    let reaper = start_reaper(&ReaperLaunch::default()).expect("started");
    bench.pidns = Some(reaper.pidns.try_clone().expect("copied"));
    bench.script(
        "cat /proc/1/comm; readlink /proc/1/exe; readlink /proc/1/root; kill -9 1; kill -15 1
         (sleep 0.01 & echo $! > /tmp/orphan)
         while kill -0 $(cat /tmp/orphan) 2>/dev/null; do sleep 0.01; done
         cat /proc/[0-9]*/stat | grep -c ' Z '; test $$ != 1 && echo done",
    );
    let outcome = bench.run_spec().expect("started");
    assert_eq!(outcome.stdout, "corten-reaper\n0\ndone\n", "{outcome:?}");
    assert!(sys::pidfd::peek_exit(&reaper.pidfd).expect("asked").is_none(), "it still runs");
    kill(&reaper.pidfd);
    sys::pidfd::wait_and_reap(&reaper.pidfd).expect("reaped");
}

fn a_dead_reaper_is_told() {
    let mut bench = Bench::new();
    let reaper = start_reaper(&ReaperLaunch::default()).expect("started");
    kill(&reaper.pidfd);
    sys::pidfd::wait_and_reap(&reaper.pidfd).expect("reaped");
    bench.pidns = Some(reaper.pidns);
    let error = bench.run_spec().expect_err("ended");
    assert!(matches!(error, LaunchError::PidNamespaceEnded(_)), "{error:?}");
    bench.pidns = None;
    assert_eq!(bench.run("echo $$").stdout, "1\n", "the next one is as always");
}

fn the_caller_stays_where_it_is() {
    let names = ["pid", "pid_for_children", "mnt", "net", "ipc", "uts", "cgroup"];
    let before = names.map(|name| read_link(format!("/proc/self/ns/{name}")));
    let mut bench = Bench::new();
    let reaper = start_reaper(&ReaperLaunch::default()).expect("started");
    bench.pidns = Some(reaper.pidns.try_clone().expect("copied"));
    bench.run("true");
    assert_eq!(names.map(|name| read_link(format!("/proc/self/ns/{name}"))), before);
    kill(&reaper.pidfd);
    sys::pidfd::wait_and_reap(&reaper.pidfd).expect("reaped");
}
