//! The built-in network on a host of its own: reachability, host ports, and no trace
//! left. Needs root, iproute2, nftables and util-linux.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    fs,
    net::{IpAddr, UdpSocket},
};

use common::{IMPATIENCE, Lab, PATIENCE, chain, open};
use network::NetworkError;
use types::Protocol;

fn ip(attachment: &network::Attachment) -> String {
    attachment.ips[0].to_string()
}

#[test]
fn pods_reach_each_other_and_the_host_and_leave_nothing() {
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    neighbour.serve("0.0.0.0:9000", "neighbour");
    lab.host.serve("0.0.0.0:9000", "host");
    let before = lab.traces();
    let (one, two) = (lab.pod("one"), lab.pod("two"));
    let network = lab.daemon(async || {
        let network = open(lab.options());
        network.recover(&[]).await.unwrap();
        assert!(network.status().await.ready);
        network
    });
    let (first, second) = lab.daemon(async || {
        let first = network.attach(&one.attach()).await.unwrap();
        let second = network.attach(&two.attach()).await.unwrap();
        (first, second)
    });
    assert_eq!(
        (ip(&first), first.network.as_str(), first.builtin),
        ("10.213.0.2".into(), "corten", true)
    );
    assert_eq!(ip(&second), "10.213.0.3");
    assert_eq!(first.result["ips"][0]["address"], "10.213.0.2/24");
    assert_eq!(first.result["interfaces"][2]["name"], "eth0");

    one.netns.serve("0.0.0.0:80", "one");
    let fetched = two.netns.fetch("10.213.0.2:80", PATIENCE).unwrap();
    assert_eq!(fetched, "one 10.213.0.3", "between pods the source is kept");
    assert_eq!(lab.host.fetch("10.213.0.2:80", PATIENCE).unwrap(), "one 10.213.0.1");
    assert_eq!(one.netns.fetch("127.0.0.1:80", PATIENCE).unwrap(), "one 127.0.0.1");
    assert_eq!(two.netns.fetch("10.213.0.1:9000", PATIENCE).unwrap(), "host 10.213.0.3");
    let outside = two.netns.fetch("10.213.200.2:9000", PATIENCE).unwrap();
    assert_eq!(outside, "neighbour 10.213.200.1", "outside the source is the host");

    lab.daemon(async || {
        assert_eq!(network.attachment(&one.id).await.unwrap(), Some(first.clone()));
        network.check(&one.id).await.unwrap();
        network.detach(&one.detach()).await.unwrap();
        network.settled().await;
        assert!(lab.traces().contains("corten-t0"), "the bridge stays for the other pod");
        network.detach(&two.detach()).await.unwrap();
        network.detach(&two.detach()).await.unwrap();
        assert_eq!(network.attachment(&one.id).await.unwrap(), None);
    });
    lab.expect_traces(&before);
    assert_eq!(two.netns.sh("ip -o link").lines().count(), 1, "only lo is left");
}

#[test]
fn host_ports_are_reached_from_everywhere_and_capture_nothing_else() {
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    neighbour.serve("0.0.0.0:8080", "neighbour");
    let before = lab.traces();
    let server = lab
        .pod("server")
        .map(Protocol::Tcp, 8080, 80)
        .map(Protocol::Udp, 5353, 53)
        .map(Protocol::Tcp, 8081, 80)
        .at("10.213.200.1");
    let client = lab.pod("client");
    let network = lab.daemon(async || {
        let network = open(lab.options());
        network.attach(&server.attach()).await.map_err(|error| chain(&error)).unwrap();
        network.attach(&client.attach()).await.unwrap();
        network
    });
    server.netns.serve("0.0.0.0:80", "server");
    server.netns.serve_udp("0.0.0.0:53", "datagram");

    assert_eq!(lab.host.fetch("127.0.0.1:8080", PATIENCE).unwrap(), "server 10.213.0.1");
    assert!(lab.host.fetch("10.213.200.1:8080", PATIENCE).unwrap().starts_with("server"));
    let outside = neighbour.fetch("10.213.200.1:8080", PATIENCE).unwrap();
    assert_eq!(outside, "server 10.213.200.2", "the source of other hosts is kept");
    assert!(client.netns.fetch("10.213.0.1:8080", PATIENCE).unwrap().starts_with("server"));
    assert!(client.netns.fetch("10.213.200.1:8080", PATIENCE).unwrap().starts_with("server"));
    let itself = server.netns.fetch("10.213.200.1:8080", PATIENCE).unwrap();
    assert!(itself.starts_with("server"), "by hairpin: {itself}");
    assert_eq!(neighbour.ask_udp("10.213.200.1:5353"), "datagram");
    assert_eq!(lab.host.ask_udp("127.0.0.1:5353"), "datagram");

    // One address of the host only.
    assert!(neighbour.fetch("10.213.200.1:8081", PATIENCE).unwrap().starts_with("server"));
    lab.host.fetch("127.0.0.1:8081", IMPATIENCE).unwrap_err();
    // What is addressed to others is theirs.
    let others = client.netns.fetch("10.213.200.2:8080", PATIENCE).unwrap();
    assert!(others.starts_with("neighbour"), "{others}");

    lab.daemon(async || {
        // A port that is taken is refused, and the pod that asked for it leaves no trace.
        let late = lab.pod("late").map(Protocol::Tcp, 8080, 80);
        let with_both = lab.traces();
        let error = network.attach(&late.attach()).await.unwrap_err();
        assert!(
            matches!(&error, NetworkError::HostPortInUse { holder, .. } if *holder == server.id)
        );
        lab.expect_traces(&with_both);
        network.detach(&server.detach()).await.unwrap();
        lab.host.fetch("127.0.0.1:8080", IMPATIENCE).unwrap_err();
        network.attach(&late.attach()).await.unwrap();
        late.netns.serve("0.0.0.0:80", "late");
        assert!(lab.host.fetch("127.0.0.1:8080", PATIENCE).unwrap().starts_with("late"));
        network.detach(&late.detach()).await.unwrap();
        network.detach(&client.detach()).await.unwrap();
    });
    lab.expect_traces(&before);
}

#[test]
fn a_udp_flow_follows_the_host_port_to_its_next_owner() {
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    let client = neighbour.run(|| UdpSocket::bind("0.0.0.0:40000").unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = || {
        client.send_to(b"?", "10.213.200.1:5353").unwrap();
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    lab.daemon(async || {
        let network = open(lab.options());
        lab.host.serve_udp("0.0.0.0:5353", "host");
        assert_eq!(ask(), "host");
        for name in ["first", "second"] {
            let pod = lab.pod(name).map(Protocol::Udp, 5353, 53);
            network.attach(&pod.attach()).await.unwrap();
            pod.netns.serve_udp("0.0.0.0:53", name);
            assert_eq!(ask(), name);
            network.detach(&pod.detach()).await.unwrap();
        }
        assert_eq!(ask(), "host");
    });
}

#[test]
fn a_pod_does_not_reach_the_hosts_loopback() {
    let lab = Lab::new();
    let server = lab.host.run(|| UdpSocket::bind("127.0.0.1:7777").unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let pod = lab.pod("pod").map(Protocol::Tcp, 8080, 80);
    lab.daemon(async || open(lab.options()).attach(&pod.attach()).await.unwrap());
    // All that a privileged pod can do to send packets for 127.0.0.1 out of its eth0.
    pod.netns.sh("echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet
         ip route del local 127.0.0.0/8 dev lo table local
         ip route del local 127.0.0.1 dev lo table local
         ip route add 127.0.0.1 via 10.213.0.1 dev eth0 src 10.213.0.2");
    let client = pod.netns.run(|| UdpSocket::bind("10.213.0.2:0").unwrap());
    client.send_to(b"guarded", "127.0.0.1:7777").unwrap();
    // The attempt is a real one: without the guard it succeeds.
    lab.host.sh("nft flush chain ip corten_test guard");
    client.send_to(b"unguarded", "127.0.0.1:7777").unwrap();
    let mut buffer = [0; 64];
    let length = server.recv(&mut buffer).unwrap();
    assert_eq!(String::from_utf8_lossy(&buffer[..length]), "unguarded");
}

#[test]
fn a_pod_whose_namespace_is_gone_is_taken_away() {
    let lab = Lab::new();
    let before = lab.traces();
    lab.daemon(async || {
        let network = open(lab.options());
        let pod = lab.pod("pod").map(Protocol::Tcp, 8080, 80);
        network.attach(&pod.attach()).await.unwrap();
        let detach = network::DetachRequest { netns: None, ..pod.detach() };
        drop(pod);
        network.detach(&detach).await.unwrap();
    });
    lab.expect_traces(&before);
}

#[test]
fn an_attach_again_replaces_the_first() {
    let lab = Lab::new();
    let before = lab.traces();
    let pod = lab.pod("pod").map(Protocol::Tcp, 8080, 80);
    lab.daemon(async || {
        let network = open(lab.options());
        network.attach(&pod.attach()).await.unwrap();
        let again = network.attach(&pod.attach()).await.unwrap();
        pod.netns.serve("0.0.0.0:80", "pod");
        let address = format!("{}:80", again.ips[0]);
        assert!(lab.host.fetch(&address, PATIENCE).unwrap().starts_with("pod"));
        network.detach(&pod.detach()).await.unwrap();
    });
    lab.expect_traces(&before);
}

#[test]
fn a_failed_attach_leaves_nothing() {
    let lab = Lab::new();
    let before = lab.traces();
    let pod = lab.pod("pod");
    lab.daemon(async || {
        let network = open(lab.options());
        let mut request = pod.attach();
        request.netns = lab.path("nowhere");
        let error = network.attach(&request).await.unwrap_err();
        assert!(matches!(error, NetworkError::Namespace { .. }), "{error}");
        request.netns = lab.path("root");
        network.attach(&request).await.unwrap_err();
        // Something is in the way inside the pod.
        pod.netns.sh("ip link add eth0 type dummy 2>/dev/null || ip link add eth0 type veth");
        let error = network.attach(&pod.attach()).await.unwrap_err();
        assert!(matches!(error, NetworkError::Interface { .. }), "{error}");
        // Two failed before it was known who would do it.
        let failures = |operation: &str, way: &str| {
            let all = network.figures().into_iter();
            let mut of = all.filter(|one| (one.operation, one.way) == (operation, way));
            of.next().map(|one| (one.failures, one.durations.total()))
        };
        assert_eq!(failures("add", "none"), Some((2, 2)));
        assert_eq!(failures("add", "in_process"), Some((1, 1)));
        assert_eq!(failures("add", "programs"), Some((0, 0)));
        // What has nothing to give back is not counted.
        network.detach(&pod.detach()).await.unwrap();
        assert_eq!(failures("del", "none"), Some((0, 0)));
        assert_eq!(failures("del", "in_process"), Some((0, 0)));
    });
    lab.expect_traces(&before);
}

#[test]
fn recovery_keeps_the_known_and_removes_the_unknown() {
    let lab = Lab::new();
    let before = lab.traces();
    let kept = lab.pod("kept").map(Protocol::Tcp, 8080, 80);
    let lost = lab.pod("lost").map(Protocol::Tcp, 8081, 80);
    let bare = lab.pod("bare");
    lab.daemon(async || {
        let network = open(lab.options());
        for pod in [&kept, &lost, &bare] {
            network.attach(&pod.attach()).await.unwrap();
        }
    });
    // A crash that lost a record, and a program that flushed all rules.
    fs::remove_file(lab.path(&format!("root/cni/owed/{}.json", bare.id))).unwrap();
    fs::remove_file(lab.path(&format!("root/cni/owed/{}.attached.json", bare.id))).unwrap();
    lab.host.sh("nft flush ruleset");
    kept.netns.serve("0.0.0.0:80", "kept");
    lab.daemon(async || {
        let network = open(lab.options());
        let report = network.recover(std::slice::from_ref(&kept.id)).await.unwrap();
        assert_eq!(report.detached, std::slice::from_ref(&lost.id));
        assert!(report.owed.is_empty());
        assert!(lab.host.fetch("127.0.0.1:8080", PATIENCE).unwrap().starts_with("kept"));
        let leases = common::list(&lab.path("root/cni/networks/corten"));
        assert_eq!(leases, ["10.213.0.2", "last_reserved_ip.0", "lock"]);
        network.settled().await;
        assert_eq!(lost.netns.sh("ip -o link").lines().count(), 1);
        assert_eq!(bare.netns.sh("ip -o link").lines().count(), 1);
        network.detach(&kept.detach()).await.unwrap();
    });
    lab.expect_traces(&before);
}

#[test]
fn a_damaged_record_does_not_hold_a_pod() {
    let lab = Lab::new();
    let before = lab.traces();
    let pod = lab.pod("pod");
    lab.daemon(async || {
        let network = open(lab.options());
        network.attach(&pod.attach()).await.unwrap();
        for kind in ["json", "attached.json"] {
            fs::write(lab.path(&format!("root/cni/owed/{}.{kind}", pod.id)), "{").unwrap();
        }
        network.detach(&pod.detach()).await.unwrap();
    });
    lab.expect_traces(&before);
}

#[test]
fn other_peoples_bridges_and_subnets_are_left_alone() {
    let lab = Lab::new();
    let pod = lab.pod("pod");
    lab.host.sh("ip link add other0 type bridge; ip addr add 10.213.0.77/28 dev other0");
    let before = lab.traces();
    lab.daemon(async || {
        let error = open(lab.options()).attach(&pod.attach()).await.unwrap_err();
        let text = "subnet 10.213.0.0/24 of the built-in network overlaps with 10.213.0.77/28 of \
                    interface other0: configure another subnet";
        assert_eq!(error.to_string(), text);
    });
    lab.expect_traces(&before);
    lab.host.sh("ip addr flush dev other0; ip link add corten-t0 type bridge
         ip link add port0 type veth peer name port1; ip link set port0 master corten-t0");
    let before = lab.traces();
    lab.daemon(async || {
        let error = open(lab.options()).attach(&pod.attach()).await.unwrap_err();
        assert!(matches!(error, NetworkError::ForeignBridge { .. }), "{error}");
    });
    lab.expect_traces(&before);
}

#[test]
fn a_bridge_left_by_a_crash_is_taken_over() {
    let lab = Lab::new();
    let pod = lab.pod("pod");
    for left in [
        "ip link add corten-t0 type bridge",
        "ip link add corten-t0 type bridge; ip link set corten-t0 alias 'corten /elsewhere' up
         ip addr add 10.213.0.1/24 dev corten-t0",
    ] {
        lab.host.sh(left);
        lab.daemon(async || {
            let network = open(lab.options());
            network.attach(&pod.attach()).await.unwrap();
            assert!(lab.host.fetch("10.213.0.1:1", PATIENCE).is_err());
            let names = lab.host.sh("ip -o link show corten-t0; ip -o -4 addr show corten-t0");
            assert!(names.contains("10.213.0.1/24"), "{names}");
            network.detach(&pod.detach()).await.unwrap();
            network.settled().await;
        });
        assert!(!lab.host.sh("ip -o link").contains("corten-t0"));
    }
}

#[test]
fn many_pods_come_and_go_at_once() {
    const PODS: u16 = 24;
    let lab = Lab::new();
    let before = lab.traces();
    let pods: Vec<_> =
        (0..PODS).map(|n| lab.pod(&format!("p{n}")).map(Protocol::Tcp, 9000 + n, 80)).collect();
    lab.daemon(async || {
        let network = open(lab.options());
        for _ in 0..10 {
            let mut coming = tokio::task::JoinSet::new();
            for pod in &pods {
                let (network, request) = (network.clone(), pod.attach());
                coming.spawn(async move { network.attach(&request).await.unwrap().ips[0] });
            }
            let mut ips: Vec<IpAddr> = coming.join_all().await;
            ips.sort();
            ips.dedup();
            assert_eq!(ips.len(), pods.len());
            let mut going = tokio::task::JoinSet::new();
            for pod in &pods {
                let (network, request) = (network.clone(), pod.detach());
                going.spawn(async move { network.detach(&request).await.unwrap() });
            }
            going.join_all().await;
        }
    });
    lab.expect_traces(&before);
}
