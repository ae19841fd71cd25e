//! What must hold whatever dies when: a daemon killed at each of its steps, a machine that
//! was restarted, rules that others flush. Needs root, strace, iproute2, nftables and
//! util-linux.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use common::{IMPATIENCE, Lab, PATIENCE, Pod, chain, open};
use network::{AttachRequest, NetworkOptions};
use types::{PortMapping, Protocol, SandboxId};

/// Where the daemon that is killed finds its work.
const WORK: &str = "CORTEN_TEST_WORK";
/// The calls before which it is killed: whatever changes the kernel or the disk.
const STEPS: &str = "sendto,rename,unlink,write,flock,setns";
/// More than it makes of any one thread.
const MOST_STEPS: u32 = 400;

fn options(dir: &std::path::Path) -> NetworkOptions {
    let mut options = NetworkOptions::under(&dir.join("root"));
    options.conf_dir = dir.join("net.d");
    let builtin = options.builtin.as_mut().unwrap();
    builtin.subnets = vec!["10.213.0.0/24".parse().unwrap(), "fd00:213::/64".parse().unwrap()];
    builtin.bridge = "corten-t0".to_owned();
    options.table = "corten_test".to_owned();
    options.bin_dirs = vec![dir.join("no-programs")];
    options
}

/// No test by itself: the daemon of the others, in a process that may be killed. It
/// attaches a pod and detaches it again.
#[test]
fn daemon_that_is_killed() {
    let Ok(dir) = env::var(WORK) else { return };
    let dir = PathBuf::from(dir);
    let plain = dir.join("plain").exists();
    let id: SandboxId = fs::read_to_string(dir.join("id")).unwrap().parse().unwrap();
    let mut request = AttachRequest {
        sandbox_id: id.clone(),
        netns: dir.join("pod.netns"),
        namespace: "default".to_owned(),
        name: "pod".to_owned(),
        uid: "uid".to_owned(),
        port_mappings: vec![PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port: 8080,
            host_ip: String::new(),
        }],
        dns: None,
        annotations: [("kubernetes.io/egress-bandwidth".to_owned(), "10M".to_owned())].into(),
        cgroup_parent: String::new(),
        hostname: "pod".to_owned(),
        handler: String::new(),
    };
    if plain {
        request.annotations.clear();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let network = open(options(&dir));
        if plain {
            // The others' rules are there, as they are when a pod comes to a running daemon.
            let known = fs::read_to_string(dir.join("plain")).unwrap().parse().unwrap();
            network.recover(&[known]).await.unwrap();
        }
        // Names in the trace.
        let _ = dir.join("attach-begins").exists();
        network.attach(&request).await.map_err(|error| chain(&error)).unwrap();
        let _ = dir.join("attach-has-ended").exists();
        let detach = network::DetachRequest {
            sandbox_id: id,
            netns: Some(request.netns),
            namespace: request.namespace,
            name: request.name,
            uid: request.uid,
        };
        network.detach(&detach).await.unwrap();
        let _ = dir.join("detach-has-ended").exists();
        network.settled().await;
    });
}

/// Runs the daemon under strace with further arguments.
fn run_daemon(lab: &Lab, pod: &Pod, strace: &[&str]) -> ExitStatus {
    fs::write(lab.path("id"), pod.id.as_str()).unwrap();
    lab.host.run(|| {
        Command::new("strace")
            .args(["-f", "-qq", "-o"])
            .arg(lab.path("trace"))
            .args(strace)
            .arg(env::current_exe().unwrap())
            .args(["--exact", "daemon_that_is_killed", "--test-threads=1"])
            .env(WORK, lab.dir.path())
            .stdout(std::process::Stdio::null())
            .status()
            .expect("strace runs")
    })
}

#[test]
fn a_daemon_killed_at_any_step_leaves_nothing() {
    let lab = Lab::new();
    let before = lab.traces();
    let pod = lab.pod("pod");
    let mut step = 1;
    loop {
        let inject = format!("inject={STEPS}:signal=KILL:when={step}");
        let ended = run_daemon(&lab, &pod, &["-e", &format!("trace={STEPS}"), "-e", &inject]);
        let survived = ended.success();
        lab.daemon(async || {
            let network = open(options(lab.dir.path()));
            let report = network.recover(&[]).await.map_err(|error| chain(&error)).unwrap();
            assert!(report.owed.is_empty(), "step {step}: {:?}", report.owed);
        });
        assert_eq!(lab.traces(), before, "step {step}");
        assert_eq!(pod.netns.sh("ip -o link").lines().count(), 1, "step {step}");
        if survived {
            break;
        }
        step += 1;
        assert!(step < MOST_STEPS, "it is killed for ever");
    }
    assert!(step > 15, "it was killed only {step} times");
}

#[test]
fn no_process_is_started_for_a_pod() {
    let lab = Lab::new();
    let pod = lab.pod("pod");
    let calls = "trace=execve,execveat,fork,vfork,clone,clone3";
    assert!(run_daemon(&lab, &pod, &["-e", calls]).success());
    let trace = fs::read_to_string(lab.path("trace")).unwrap();
    let programs = trace.lines().filter(|line| line.contains("execve")).count();
    assert_eq!(programs, 1, "only the daemon itself: {trace}");
    let forks = ["fork(", "vfork(", "clone(", "clone3("];
    let forks = trace.lines().filter(|line| forks.iter().any(|call| line.contains(call)));
    let processes: Vec<_> =
        forks.filter(|line| !line.contains("CLONE_THREAD") && !line.contains("resumed")).collect();
    assert!(processes.is_empty(), "{processes:?}");
}

/// What the network may cost in a running daemon, where other pods are: system calls in
/// all, and messages to the kernel's network among them.
struct Budget {
    begin: &'static str,
    end: &'static str,
    calls: usize,
    messages: usize,
}

const BUDGETS: [Budget; 2] = [
    Budget { begin: "attach-begins", end: "attach-has-ended", calls: 160, messages: 11 },
    Budget { begin: "attach-has-ended", end: "detach-has-ended", calls: 35, messages: 3 },
];

#[test]
fn a_pod_costs_few_system_calls_and_waits_for_no_disk() {
    let lab = Lab::new();
    let (other, pod) = (lab.pod("other").map(Protocol::Tcp, 8081, 80), lab.pod("pod"));
    lab.daemon(async || {
        let network = open(options(lab.dir.path()));
        network.attach(&other.attach()).await.unwrap();
    });
    fs::write(lab.path("plain"), other.id.as_str()).unwrap();
    assert!(run_daemon(&lab, &pod, &[]).success());
    let trace = fs::read_to_string(lab.path("trace")).unwrap();
    for Budget { begin, end, calls, messages } in BUDGETS {
        let lines = trace.lines().skip_while(|line| !line.contains(begin)).skip(1);
        // Waiting for each other and for memory is not work, whether the pool starts another
        // thread is chance, and flags of descriptors are asked for by debug builds alone.
        let quiet = [
            "futex(",
            "epoll_wait(",
            "madvise(",
            "mmap(",
            "munmap(",
            "mprotect(",
            "brk(",
            "F_GETFD",
            "rseq(",
            "set_robust_list(",
            "sigaltstack(",
            "sched_getaffinity(",
            "gettid(",
            "rt_sigprocmask(",
            "PR_SET_NAME",
        ];
        let lines: Vec<&str> = lines
            .take_while(|line| !line.contains(end))
            .filter(|line| !line.contains("resumed>") && !line.contains("+++"))
            .filter(|line| !quiet.iter().any(|call| line.contains(call)))
            .collect();
        let sent = lines.iter().filter(|line| line.contains("sendto(")).count();
        let shown = lines.join("\n");
        assert!(!shown.contains("sync("), "{shown}");
        assert!(lines.len() <= calls && sent <= messages, "{} {sent}\n{shown}", lines.len());
    }
}

#[test]
fn after_a_reboot_addresses_are_given_back() {
    let mut lab = Lab::new();
    let (removed, kept) = (lab.pod("removed").map(Protocol::Tcp, 8080, 80), lab.pod("kept"));
    lab.daemon(async || {
        let network = open(options(lab.dir.path()));
        network.attach(&removed.attach()).await.unwrap();
        network.attach(&kept.attach()).await.unwrap();
    });
    lab.reboot();
    let before = lab.traces();
    assert!(before.contains("10.213.0.2") && before.contains("10.213.0.3"), "{before}");
    lab.daemon(async || {
        let network = open(options(lab.dir.path()));
        let report = network.recover(std::slice::from_ref(&kept.id)).await.unwrap();
        assert_eq!(report.detached, std::slice::from_ref(&removed.id));
        // The pod that is listed still is stopped, then removed.
        let detach = network::DetachRequest { netns: None, ..kept.detach() };
        network.detach(&detach).await.unwrap();
        network.settled().await;
    });
    let after = lab.traces();
    assert!(after.ends_with("owed [] results [] leases []"), "{after}");
    assert!(!after.contains("corten"), "{after}");
}

#[test]
fn a_stop_that_was_cut_off_is_finished_by_the_next_daemon() {
    let lab = Lab::new();
    let before = lab.traces();
    let pod = lab.pod("pod");
    lab.daemon(async || {
        let network = open(options(lab.dir.path()));
        network.attach(&pod.attach()).await.unwrap();
    });
    // As far as a daemon gets that dies before the interfaces are gone.
    fs::write(lab.path(&format!("root/cni/owed/{}.going", pod.id)), "").unwrap();
    lab.daemon(async || {
        let network = open(options(lab.dir.path()));
        // The pod is stopped but not removed: it is known.
        let report = network.recover(std::slice::from_ref(&pod.id)).await.unwrap();
        assert_eq!(report.detached, std::slice::from_ref(&pod.id));
        assert_eq!(network.attachment(&pod.id).await.unwrap(), None);
    });
    lab.expect_traces(&before);
}

#[test]
fn rules_that_another_program_flushed_come_back() {
    let lab = Lab::new();
    let pod = lab.pod("pod").map(Protocol::Tcp, 8080, 80);
    lab.daemon(async || {
        let network = open(options(lab.dir.path()));
        network.attach(&pod.attach()).await.unwrap();
        pod.netns.serve("0.0.0.0:80", "pod");
        lab.host.sh("nft flush ruleset");
        lab.host.fetch("127.0.0.1:8080", IMPATIENCE).unwrap_err();
        network.clean().await;
        assert!(lab.host.fetch("127.0.0.1:8080", PATIENCE).unwrap().starts_with("pod"));
        lab.host.sh("nft flush ruleset; ip link set corten-t0 down");
        network.detach(&pod.detach()).await.unwrap();
        network.settled().await;
    });
}

#[test]
fn rules_come_back_at_once_and_only_when_something_is_missing() {
    const FLUSHES: [&str; 5] = [
        "nft flush ruleset",
        "nft delete table ip corten_test",
        "nft flush table ip corten_test",
        "nft flush chain ip6 corten_test prerouting",
        "nft delete table ip6 corten_test; nft delete table ip corten_test",
    ];
    let lab = Lab::new();
    let pod = lab.pod("pod").map(Protocol::Tcp, 8080, 80);
    let other = lab.pod("other").map(Protocol::Tcp, 8081, 80);
    let rules = || lab.host.sh("nft list ruleset");
    lab.daemon(async || {
        let network = open(options(lab.dir.path()));
        network.attach(&pod.attach()).await.unwrap();
        let keeping = network.clone();
        let keeping = tokio::spawn(async move { keeping.keep_rules().await });
        let wanted = rules();
        for flush in FLUSHES {
            lab.host.sh(flush);
            assert_ne!(rules(), wanted, "{flush}");
            let deadline = Instant::now() + PATIENCE;
            while rules() != wanted {
                assert!(Instant::now() < deadline, "{flush}: {}", rules());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        // Neither our own changes nor those of others' tables are taken for a loss.
        let handles = || lab.host.sh("nft -a list table ip corten_test");
        let before = handles();
        network.attach(&other.attach()).await.unwrap();
        network.detach(&other.detach()).await.unwrap();
        lab.host.sh("nft add table ip theirs; nft delete table ip theirs");
        network.settled().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(handles(), before, "the tables were made anew");
        keeping.abort();
        network.detach(&pod.detach()).await.unwrap();
        network.settled().await;
    });
}

#[test]
fn interfaces_that_are_removed_by_hand_do_no_harm() {
    let lab = Lab::new();
    let before = lab.traces();
    let (one, two) = (lab.pod("one"), lab.pod("two"));
    lab.daemon(async || {
        let network = open(options(lab.dir.path()));
        for pod in [&one, &two] {
            network.attach(&pod.attach()).await.unwrap();
            network.check(&pod.id).await.map_err(|error| chain(&error)).unwrap();
        }
        lab.host.sh(&format!("ip link del corten{}", &one.id.as_str()[..9]));
        let error = chain(&network.check(&one.id).await.unwrap_err());
        assert!(error.ends_with("not as it was made: interface eth0 is gone"), "{error}");
        two.netns.sh("ip route del default");
        let error = chain(&network.check(&two.id).await.unwrap_err());
        assert!(error.contains("the route to 0.0.0.0/0 is gone"), "{error}");
        lab.host.sh("ip link del corten-t0");
        for pod in [&one, &two] {
            network.detach(&pod.detach()).await.unwrap();
        }
    });
    lab.expect_traces(&before);
}
