//! What the monitor's process is, and what its children inherit.

use std::fs;

use monitor_client::ContainerPid;

use crate::ground::{Ground, until};

fn status(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).expect("read")
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

#[tokio::test]
async fn it_lives_alone_and_holds_nothing_of_others() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let pid = pod.monitor.pid();
    assert_eq!(field(&status(pid), "Name"), "corten-monitor");
    assert_eq!(field(&status(pid), "Umask"), "0077");
    assert_eq!(field(&status(pid), "Threads"), "1");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read");
    let session: i32 = stat
        .rsplit(')')
        .next()
        .and_then(|s| s.split(' ').nth(4))
        .expect("a session")
        .parse()
        .expect("a number");
    assert_eq!(session, pid, "it leads its own session");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("read").as_os_str(), "/");
    let exe = fs::read_link(format!("/proc/{pid}/exe")).expect("read");
    assert!(exe.to_string_lossy().starts_with("/memfd:corten-monitor"), "{exe:?}");
    let write = fs::File::options().write(true).open(format!("/proc/{pid}/exe"));
    assert!(write.is_err(), "a program that runs cannot be written");
    let socket = fs::metadata(ground.state().join("monitor.sock")).expect("there");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&socket.permissions()) & 0o777, 0o600);
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("read").count();
    assert!(open <= 8, "{open} descriptors are open in an idle monitor");
    pod.end().await;
}

/// Signals, descriptors and privileges of the monitor are not the container's.
#[tokio::test]
async fn containers_and_sessions_inherit_nothing() {
    let ground = Ground::new();
    let mut pod = ground.spawn().await;
    let script = "ls() { for f in /proc/self/fd/*; do readlink $f; done; }; \
                  grep -E 'Sig(Blk|Ign)' /proc/self/status; ls; echo end";
    let mut wanted = ground.container(script);
    wanted.pid = ContainerPid::New;
    pod.run(&wanted).await;
    let container = ground.log(&wanted.id).join("\n");
    let keeper = ground.container("sleep 1000");
    pod.start(&keeper).await;
    let session = pod.exec(&ground, &keeper.id, script, None).await.expect("executed").stdout;
    for text in [container, String::from_utf8(session).expect("text")] {
        assert!(text.contains("end"), "{text}");
        assert!(text.contains("SigBlk:\t0000000000000000"), "{text}");
        assert!(text.contains("SigIgn:\t0000000000000000"), "{text}");
        for foreign in ["socket:", "anon_inode", "memfd", "monitor", "0.log"] {
            assert!(!text.contains(foreign), "{foreign} in {text}");
        }
    }
    pod.end().await;
}

/// Orphans of host PID namespaces fall to the monitor and do not stay as zombies.
#[tokio::test]
async fn strangers_are_reaped() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let mut wanted =
        ground.container("for i in 1 2 3 4 5; do (true &); done; echo ready; sleep 1000");
    wanted.pid = ContainerPid::Host;
    pod.start(&wanted).await;
    until("it is ready", || !ground.log(&wanted.id).is_empty()).await;
    let children = format!("/proc/{0}/task/{0}/children", pod.monitor.pid());
    until("only the container is left", || {
        fs::read_to_string(&children).is_ok_and(|text| text.split_whitespace().count() == 1)
    })
    .await;
    pod.end().await;
}

/// How many monitors share the program's text in the test of their size.
const MANY: usize = 10;

/// What each pod costs: what a monitor does not share, and its part of the program.
#[tokio::test]
async fn idle_monitors_are_small() {
    // One copy of the program for all, as in a daemon.
    let mut grounds = vec![Ground::new()];
    let mut pods = Vec::new();
    for at in 0..MANY {
        if at > 0 {
            let mut ground = Ground::new();
            ground.monitors = grounds[0].monitors.clone();
            grounds.push(ground);
        }
        let ground = &grounds[at];
        let pod = ground.spawn().await;
        pod.monitor.make_sandbox(ground.sandbox()).await.expect("made");
        let wanted = ground.container("echo x; sleep 1000");
        pod.start(&wanted).await;
        until("it is ready", || !ground.log(&wanted.id).is_empty()).await;
        pod.exec(ground, &wanted.id, "true", None).await.expect("executed");
        pods.push(pod);
    }
    let rollup = format!("/proc/{}/smaps_rollup", pods[0].monitor.pid());
    let rollup = fs::read_to_string(rollup).expect("read");
    let kib = |name: &str| -> u64 {
        field(&rollup, name).trim_end_matches(" kB").trim().parse().expect("a number")
    };
    let (share, own) = (kib("Pss"), kib("Anonymous"));
    println!("an idle monitor of {MANY}: {share} KiB PSS, {own} KiB of them its own");
    // A build for tests is neither static nor small; the shipped one has a third of this.
    assert!(own < 1024, "{own} KiB");
    assert!(share < 2048, "{share} KiB");
    for pod in pods {
        pod.end().await;
    }
}

/// A hundred sessions later it is as large as before.
#[tokio::test]
async fn sessions_do_not_make_it_grow() {
    let ground = Ground::new();
    let pod = ground.spawn().await;
    let wanted = ground.container("sleep 1000");
    pod.start(&wanted).await;
    let figures = || {
        let pid = pod.monitor.pid();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("read").count();
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("read");
        let anonymous = field(&rollup, "Anonymous");
        (open, anonymous.trim_end_matches(" kB").trim().parse::<u64>().expect("a number"))
    };
    for _ in 0..20 {
        pod.exec(&ground, &wanted.id, "true", None).await.expect("executed");
    }
    let before = figures();
    for _ in 0..100 {
        pod.exec(&ground, &wanted.id, "true", None).await.expect("executed");
    }
    // What belongs to the last session is closed a moment after its end was told: a
    // leak would be a hundred of them, and stays.
    until("its descriptors are as before", || figures().0 <= before.0).await;
    let after = figures();
    assert!(after.1 <= before.1 + 64, "memory: {before:?} to {after:?}");
    pod.end().await;
}
