//! What begins to filter what is forwarded after a pod with `firewall` was made in this
//! process: the pod is reached as those are that programs have made, and leaves as little.
//! Needs root, containernetworking-plugins, iptables, iproute2, nftables and util-linux.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    IMPATIENCE, Lab, Namespace, PATIENCE, Pod, chain, open,
    scene::{bridge, portmap},
};
use network::Network;
use serde_json::json;
use tokio::task::JoinHandle;
use types::Protocol;

const DROP: &str = "iptables -P FORWARD DROP";
/// How many rules of the plugin know an address, whose filter is iptables' newer side.
const RULES: &str = "iptables -S CNI-FORWARD 2>/dev/null | grep -c 10.213.1. || true";
/// The plugin, which is counted on the way, and may behave otherwise.
const COUNTED: &str = r#"#!/bin/sh
echo "$CNI_COMMAND $CNI_CONTAINERID" >>DIR/calls
case "$CNI_COMMAND $(cat DIR/mode 2>/dev/null)" in
"ADD fail") cat >/dev/null; echo '{"cniVersion":"1.0.0","code":11,"msg":"it fails"}'; exit 1 ;;
"ADD hang") exec sleep 600 ;;
"DEL crash") kill -9 $$ ;;
esac
exec /usr/lib/cni/firewall
"#;

/// A host with a neighbour, and a network whose chain has a firewall.
fn lab() -> (Lab, Namespace) {
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    neighbour.serve("0.0.0.0:9000", "neighbour");
    let plugins = json!([bridge(&lab, json!({})), portmap(), { "type": "firewall" }]);
    let list = json!({ "cniVersion": "1.0.0", "name": "test.net", "plugins": plugins });
    fs::write(lab.path("net.d/1.conflist"), list.to_string()).unwrap();
    let program = lab.path("bin/firewall");
    fs::create_dir(lab.path("bin")).unwrap();
    fs::write(&program, COUNTED.replace("DIR", &lab.dir.path().display().to_string())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (lab, neighbour)
}

fn network(lab: &Lab, in_process: bool) -> Arc<Network> {
    let mut options = lab.options();
    options.in_process = in_process;
    options.bin_dirs = vec![lab.path("bin"), "/usr/lib/cni".into()];
    options.add_deadline = Duration::from_secs(6);
    open(options)
}

/// A daemon that keeps rules until it is dropped, as one that is killed does no more.
struct Keeping(JoinHandle<()>);

impl Keeping {
    fn begin(network: &Arc<Network>) -> Self {
        let network = Arc::clone(network);
        Self(tokio::spawn(async move { network.keep_rules().await }))
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn attach(network: &Arc<Network>, pod: &Pod) {
    network.attach(&pod.attach()).await.map_err(|error| chain(&error)).unwrap();
}

async fn detach(network: &Arc<Network>, pod: &Pod) {
    network.detach(&pod.detach()).await.map_err(|error| chain(&error)).unwrap();
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

fn leaves(pod: &Pod) -> bool {
    pod.netns.fetch("10.213.200.2:9000", IMPATIENCE).is_ok()
}

/// How often the plugin was called.
fn calls(lab: &Lab, what: &str) -> usize {
    let calls = fs::read_to_string(lab.path("calls")).unwrap_or_default();
    calls.lines().filter(|line| line.contains(what)).count()
}

fn note(lab: &Lab, pod: &Pod) -> Option<String> {
    fs::read_to_string(lab.path(&format!("root/cni/owed/{}.firewall", pod.id))).ok()
}

/// Who reaches whom, where a filter came after the pods. Each is waited for for `patience`.
fn reached_behind(filter: &str, in_process: bool, patience: Duration) -> Vec<(&'static str, bool)> {
    let (lab, neighbour) = lab();
    let pods = [lab.pod("one").map(Protocol::Tcp, 8080, 80), lab.pod("two")];
    let [one, two] = &pods;
    lab.daemon(async || {
        let network = network(&lab, in_process);
        let _keeping = Keeping::begin(&network);
        for pod in &pods {
            attach(&network, pod).await;
            until("it goes out", || leaves(pod)).await;
        }
        assert_eq!(calls(&lab, "ADD"), if in_process { 0 } else { 2 });
        one.netns.serve("0.0.0.0:80", "one");
        lab.host.sh(filter);
        until("the plugin is called", || calls(&lab, "ADD") == 2).await;
        if in_process {
            let told = || pods.iter().all(|pod| note(&lab, pod).as_deref() == Some("done"));
            until("its success is noted", told).await;
        }
        let out = |pod: &Pod| pod.netns.fetch("10.213.200.2:9000", patience).is_ok();
        let reached = vec![
            ("one goes out", out(one)),
            ("two goes out", out(two)),
            ("two to one", two.netns.fetch("10.213.1.2:80", patience).is_ok()),
            ("host to one", lab.host.fetch("10.213.1.2:80", patience).is_ok()),
            ("host to its port", lab.host.fetch("127.0.0.1:8080", patience).is_ok()),
            ("its port", neighbour.fetch("10.213.200.1:8080", patience).is_ok()),
        ];
        for pod in &pods {
            detach(&network, pod).await;
            assert_eq!(note(&lab, pod), None);
        }
        network.settled().await;
        assert_eq!(calls(&lab, "DEL"), 2);
        assert_eq!(lab.host.sh(RULES).trim(), "0");
        assert_eq!(common::list(&lab.path("root/cni/owed")), [""; 0]);
        reached
    })
}

#[test]
fn a_filter_that_comes_later_knows_the_pods_as_those_of_programs() {
    let legacy = "iptables-legacy -P FORWARD DROP";
    let own = "nft 'add table ip own; add chain ip own f \
               { type filter hook forward priority 0; policy drop; }'";
    for (filter, goes_out) in [(DROP, true), (legacy, false), (own, false)] {
        // What the one accepts is accepted for all; of the others much is dropped.
        let patience = if goes_out { PATIENCE } else { IMPATIENCE };
        let by_us = reached_behind(filter, true, patience);
        assert_eq!(by_us, reached_behind(filter, false, patience), "{filter}");
        // The plugin's accept is in the tables of iptables' newer side.
        assert_eq!(by_us[0].1, goes_out, "{filter}: {by_us:?}");
    }
}

#[test]
fn a_filter_that_came_while_no_daemon_ran_knows_the_pods() {
    let (lab, _neighbour) = lab();
    let pods = ["one", "two", "three"].map(|name| lab.pod(name));
    let known: Vec<_> = pods.iter().map(|pod| pod.id.clone()).collect();
    lab.daemon(async || {
        let network = network(&lab, true);
        for pod in &pods {
            attach(&network, pod).await;
        }
    });
    lab.host.sh(DROP);
    // One daemon was killed between its note and the program, another before it noted that
    // the program had succeeded.
    fs::write(lab.path(&format!("root/cni/owed/{}.firewall", pods[0].id)), "").unwrap();
    lab.daemon(async || {
        let network = network(&lab, true);
        network.recover(&known).await.unwrap();
        assert!(!leaves(&pods[1]), "the filter filters");
        let keeping = Keeping::begin(&network);
        until("all are known", || pods.iter().all(leaves)).await;
        drop(keeping);
        assert_eq!(calls(&lab, "ADD"), 3);
    });
    fs::write(lab.path(&format!("root/cni/owed/{}.firewall", pods[1].id)), "do").unwrap();
    lab.daemon(async || {
        let network = network(&lab, true);
        // The third is gone meanwhile.
        let report = network.recover(&known[..2]).await.unwrap();
        assert_eq!(report.detached, [known[2].clone()]);
        assert_eq!(calls(&lab, "DEL"), 1);
        let _keeping = Keeping::begin(&network);
        until("one is told again", || calls(&lab, "ADD") == 4).await;
        until("it is noted", || note(&lab, &pods[1]).as_deref() == Some("done")).await;
        assert_eq!(lab.host.sh(RULES).trim(), "4", "no rule is there twice");
        assert!(pods[..2].iter().all(leaves));
        for pod in &pods[..2] {
            detach(&network, pod).await;
        }
        network.settled().await;
        assert_eq!(calls(&lab, ""), 4 + 3);
        assert_eq!(lab.host.sh(RULES).trim(), "0");
    });
}

#[test]
fn what_a_killed_daemon_began_is_undone_without_a_filter_too() {
    let (lab, _neighbour) = lab();
    let pod = lab.pod("pod");
    lab.daemon(async || attach(&network(&lab, true), &pod).await);
    fs::write(lab.path(&format!("root/cni/owed/{}.firewall", pod.id)), "").unwrap();
    lab.daemon(async || {
        let network = network(&lab, true);
        network.recover(std::slice::from_ref(&pod.id)).await.unwrap();
        // While DEL fails the debt stays, and nothing of the pod's interfaces.
        fs::write(lab.path("mode"), "crash").unwrap();
        let error = chain(&network.detach(&pod.detach()).await.unwrap_err());
        assert!(error.contains("\"firewall\" of network \"test.net\" failed (DEL)"), "{error}");
        assert_eq!(pod.netns.sh("ip -o link").lines().count(), 1);
        assert_eq!(note(&lab, &pod).as_deref(), Some(""));
        fs::write(lab.path("mode"), "good").unwrap();
        let report = network.recover(&[]).await.unwrap();
        assert_eq!(report.detached, std::slice::from_ref(&pod.id));
        assert_eq!((calls(&lab, "ADD"), calls(&lab, "DEL")), (0, 2));
        assert_eq!(common::list(&lab.path("root/cni/owed")), [""; 0]);
    });
}

#[test]
fn pods_that_are_made_while_a_filter_comes_are_known_to_it() {
    let (lab, _neighbour) = lab();
    let pods: Vec<_> = (0..16).map(|n| lab.pod(&format!("p{n}"))).collect();
    lab.daemon(async || {
        let network = network(&lab, true);
        // Without the daemon's ear: a pod is looked after by who makes it.
        let mut coming = tokio::task::JoinSet::new();
        for pod in &pods {
            let (network, request) = (Arc::clone(&network), pod.attach());
            coming.spawn(async move { network.attach(&request).await.unwrap() });
        }
        // In the midst of them.
        coming.join_next().await.unwrap().unwrap();
        lab.host.sh(DROP);
        coming.join_all().await;
        let keeping = Keeping::begin(&network);
        until("all are known", || lab.host.sh(RULES).trim() == "32").await;
        drop(keeping);
        for pod in &pods {
            assert!(leaves(pod), "{}", pod.name);
        }
        for pod in &pods {
            detach(&network, pod).await;
        }
        network.settled().await;
        assert_eq!(lab.host.sh(RULES).trim(), "0");
        assert!(calls(&lab, "ADD") <= pods.len(), "{}", calls(&lab, "ADD"));
    });
}

#[test]
fn a_filter_that_comes_and_goes_starts_few_processes() {
    let (lab, _neighbour) = lab();
    let pods = ["one", "two", "three"].map(|name| lab.pod(name));
    lab.daemon(async || {
        let network = network(&lab, true);
        let _keeping = Keeping::begin(&network);
        for pod in &pods {
            attach(&network, pod).await;
        }
        // It fails: however many the news are, it is tried again only after a while.
        fs::write(lab.path("mode"), "fail").unwrap();
        let flap = async || {
            let begun = Instant::now();
            for _ in 0..100 {
                lab.host.sh("nft 'add table ip flap; add chain ip flap f \
                             { type filter hook forward priority 0; }'");
                tokio::time::sleep(Duration::from_millis(5)).await;
                lab.host.sh("nft delete table ip flap");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            begun.elapsed()
        };
        let took = flap().await;
        // After a second, two, four, eight.
        let most = pods.len() * usize::try_from(2 + took.as_secs()).unwrap();
        assert!(calls(&lab, "ADD") <= most, "{} in {took:?}", calls(&lab, "ADD"));
        fs::write(lab.path("mode"), "good").unwrap();
        fs::remove_file(lab.path("calls")).unwrap_or_default();
        lab.host.sh(DROP);
        let patience = Instant::now() + Duration::from_secs(70);
        while !pods.iter().all(leaves) {
            assert!(Instant::now() < patience, "it is never tried again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        flap().await;
        assert_eq!(calls(&lab, "ADD"), pods.len(), "once a pod");
        for pod in &pods {
            detach(&network, pod).await;
        }
        network.settled().await;
        assert_eq!((calls(&lab, "ADD"), calls(&lab, "DEL")), (3, 3));
    });
}

#[test]
fn a_pod_that_goes_waits_for_its_own_program_only() {
    let (lab, _neighbour) = lab();
    let pod = lab.pod("pod");
    lab.daemon(async || {
        let network = network(&lab, true);
        let _keeping = Keeping::begin(&network);
        attach(&network, &pod).await;
        fs::write(lab.path("mode"), "hang").unwrap();
        lab.host.sh(DROP);
        until("it hangs", || calls(&lab, "ADD") == 1).await;
        let begun = Instant::now();
        // Others come meanwhile, by programs.
        let (other, another) = (lab.pod("other"), lab.pod("another"));
        fs::write(lab.path("mode"), "good").unwrap();
        attach(&network, &other).await;
        attach(&network, &another).await;
        detach(&network, &other).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        detach(&network, &pod).await;
        // It has its deadline.
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
        assert_eq!(calls(&lab, &format!("DEL {}", pod.id)), 1);
        detach(&network, &another).await;
        network.settled().await;
        assert_eq!(lab.host.sh(RULES).trim(), "0");
        assert_eq!(common::list(&lab.path("root/cni/owed")), [""; 0]);
    });
}

#[test]
fn nothing_is_owed_to_a_program_that_is_missing() {
    let (lab, _neighbour) = lab();
    let pod = lab.pod("pod");
    let mut options = lab.options();
    options.bin_dirs = vec![lab.path("elsewhere")];
    lab.daemon(async || {
        let network = open(options);
        let _keeping = Keeping::begin(&network);
        attach(&network, &pod).await;
        assert!(network.status().await.ready);
        lab.host.sh(DROP);
        // New pods could not be made: that, and not the pod that is there, is what counts.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = network.status().await;
            if status.message.contains("no such program") {
                break;
            }
            assert!(Instant::now() < deadline, "{status:?}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert_eq!(note(&lab, &pod), None);
        assert!(network.attachment(&pod.id).await.unwrap().is_some());
        detach(&network, &pod).await;
        network.settled().await;
        assert_eq!(common::list(&lab.path("root/cni/owed")), [""; 0]);
    });
}
