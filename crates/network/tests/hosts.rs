//! Several hosts as network namespaces on one machine, IPv4 and IPv6. Needs root,
//! iproute2, nftables and util-linux.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{fs, net::IpAddr};

use common::{IMPATIENCE, Lab, Namespace, PATIENCE, Pod, chain, open};
use network::{Attachment, Network, NetworkOptions};
use serde_json::json;
use types::{IpPreference, Protocol};

/// A host whose default network has its own subnets.
struct Host {
    lab: Lab,
    number: u8,
}

impl Host {
    fn new(number: u8) -> Self {
        Self { lab: Lab::new(), number }
    }

    fn options(&self) -> NetworkOptions {
        let mut options = self.lab.options();
        let number = self.number;
        options.builtin.as_mut().unwrap().subnets = vec![
            format!("10.213.{number}.0/24").parse().unwrap(),
            format!("fd00:213:{number}::/64").parse().unwrap(),
        ];
        options
    }

    fn attach(&self, network: &std::sync::Arc<Network>, pod: &Pod) -> Attachment {
        self.lab.daemon(async || {
            network.attach(&pod.attach()).await.map_err(|error| chain(&error)).unwrap()
        })
    }
}

/// Lays a wire between two hosts: 10.213.100.N and fd00:213:100::N, and routes to each
/// other's pods.
fn connect(one: &Host, two: &Host) {
    let path = two.lab.host.path.display();
    one.lab.host.sh(&format!(
        "exec 9<{path}
         ip link add up0 type veth peer name up0 netns /proc/self/fd/9"
    ));
    for (host, other) in [(one, two), (two, one)] {
        let (own, other) = (host.number, other.number);
        host.lab.host.sh(&format!(
            "ip addr add 10.213.100.{own}/24 dev up0
             ip -6 addr add fd00:213:100::{own}/64 dev up0 nodad
             ip link set up0 up
             ip route add 10.213.{other}.0/24 via 10.213.100.{other}
             ip -6 route add fd00:213:{other}::/64 via fd00:213:100::{other}"
        ));
    }
}

fn address(attachment: &Attachment, ipv6: bool) -> String {
    match attachment.ips.iter().find(|ip| ip.is_ipv6() == ipv6).unwrap() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

#[test]
fn pods_of_two_hosts_reach_each_other_in_both_families() {
    let (one, two) = (Host::new(1), Host::new(2));
    connect(&one, &two);
    // What others have decided stays, and counts.
    one.lab.host.sh("nft add table inet theirs
         nft 'add chain inet theirs forward { type filter hook forward priority 0; }'
         nft add rule inet theirs forward tcp dport 99 drop
         nft add rule inet theirs forward tcp dport 80 accept");
    let policy = || one.lab.host.sh("nft list table inet theirs");
    let (before, traces) = (policy(), [one.lab.traces(), two.lab.traces()]);

    let server = one.lab.pod("server").map(Protocol::Tcp, 8080, 80).map(Protocol::Sctp, 8080, 80);
    let neighbour = one.lab.pod("neighbour");
    let client = two.lab.pod("client");
    let networks = [open(one.options()), open(two.options())];
    let served = one.attach(&networks[0], &server);
    one.attach(&networks[0], &neighbour);
    two.attach(&networks[1], &client);
    assert_eq!(address(&served, false), "10.213.1.2");
    assert_eq!(address(&served, true), "[fd00:213:1::2]");
    assert!(served.ips[0].is_ipv4(), "IPv4 is the pod's IP");
    server.netns.serve("[::]:80", "server");
    server.netns.serve("[::]:99", "forbidden");

    let expect = |from: &Namespace, to: &str| {
        let answer = from.fetch(to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert!(answer.starts_with("server"), "{to}: {answer}");
        answer
    };
    for ipv6 in [false, true] {
        let pod = address(&served, ipv6);
        expect(&neighbour.netns, &format!("{pod}:80"));
        expect(&client.netns, &format!("{pod}:80"));
        expect(&one.lab.host, &format!("{pod}:80"));
        client.netns.fetch(&format!("{pod}:99"), IMPATIENCE).unwrap_err();
        // Host ports: from another host, its pods, the host itself, a pod, the pod itself.
        let host = if ipv6 { "[fd00:213:100::1]:8080" } else { "10.213.100.1:8080" };
        for from in [&two.lab.host, &client.netns, &one.lab.host, &neighbour.netns, &server.netns] {
            expect(from, host);
        }
        let other = if ipv6 { "[fd00:213:100::2]:8080" } else { "10.213.100.2:8080" };
        one.lab.host.fetch(other, IMPATIENCE).unwrap_err();
    }
    expect(&one.lab.host, "127.0.0.1:8080");
    // The kernel has no translation of ::1.
    one.lab.host.fetch("[::1]:8080", IMPATIENCE).unwrap_err();
    // Towards other hosts, pods have their host's address.
    let answer = client.netns.fetch("[fd00:213:1::2]:80", PATIENCE).unwrap();
    assert_eq!(answer, "server fd00:213:100::2");
    let rules = one.lab.host.sh("nft list table ip corten_test; nft list table ip6 corten_test");
    assert!(rules.contains("sctp . 8080 : 10.213.1.2 . 80"), "{rules}");
    assert!(rules.contains("sctp . 8080 : fd00:213:1::2 . 80"), "{rules}");

    assert_eq!(policy(), before);
    one.lab.daemon(async || {
        networks[0].detach(&server.detach()).await.unwrap();
        networks[0].detach(&neighbour.detach()).await.unwrap();
    });
    two.lab.daemon(async || networks[1].detach(&client.detach()).await.unwrap());
    one.lab.expect_traces(&traces[0]);
    two.lab.expect_traces(&traces[1]);
    assert_eq!(policy(), before);
}

#[test]
fn the_pods_ip_is_of_the_preferred_family() {
    let host = Host::new(1);
    let pod = host.lab.pod("pod");
    for (ip_preference, first) in
        [(IpPreference::Ipv6, true), (IpPreference::Ipv4, false), (IpPreference::Cni, false)]
    {
        let network = open(NetworkOptions { ip_preference, ..host.options() });
        let attachment = host.attach(&network, &pod);
        assert_eq!((attachment.ips.len(), attachment.ips[0].is_ipv6()), (2, first));
    }
}

#[test]
fn a_default_network_of_ipv6_alone() {
    let host = Host::new(1);
    let before = host.lab.traces();
    let (one, two) = (host.lab.pod("one").map(Protocol::Tcp, 8080, 80), host.lab.pod("two"));
    let mut options = host.options();
    options.builtin.as_mut().unwrap().subnets.remove(0);
    let network = open(options);
    let served = host.attach(&network, &one);
    host.attach(&network, &two);
    assert_eq!(served.ips.len(), 1);
    one.netns.serve("[::]:80", "one");
    let answer = two.netns.fetch("[fd00:213:1::2]:80", PATIENCE).unwrap();
    assert_eq!(answer, "one fd00:213:1::3");
    let answer = two.netns.fetch("[fd00:213:1::1]:8080", PATIENCE).unwrap();
    assert!(answer.starts_with("one"), "{answer}");
    // Routers that pods pretend to be are not listened to, by either side.
    let quiet = one.netns.sh("cat /proc/sys/net/ipv6/conf/eth0/accept_ra");
    assert_eq!(quiet.trim(), "0");
    let quiet = host.lab.host.sh("cat /proc/sys/net/ipv6/conf/corten-t0/accept_ra");
    assert_eq!(quiet.trim(), "0");
    host.lab.daemon(async || {
        network.detach(&one.detach()).await.unwrap();
        network.detach(&two.detach()).await.unwrap();
    });
    host.lab.expect_traces(&before);
}

#[test]
fn the_kubelets_range_is_taken_over() {
    let host = Host::new(1);
    let before = host.lab.traces();
    let (old, new) = (host.lab.pod("old"), host.lab.pod("new"));
    let network = open(host.options());
    assert_eq!(address(&host.attach(&network, &old), false), "10.213.1.2");
    host.lab.daemon(async || {
        for bad in ["", "x", "10.214.0.1/24", "10.214.0.0/24,10.215.0.0/24"] {
            network.set_pod_cidr(bad).await.unwrap_err();
        }
        network.set_pod_cidr("10.214.7.0/24, fd00:214::/64").await.unwrap();
    });
    // Also after a restart.
    let network = open(host.options());
    let attachment = host.attach(&network, &new);
    assert_eq!(address(&attachment, false), "10.214.7.2");
    assert_eq!(address(&attachment, true), "[fd00:214::2]");
    new.netns.serve("[::]:80", "new");
    for to in ["10.214.7.2:80", "[fd00:214::2]:80"] {
        assert!(old.netns.fetch(to, PATIENCE).unwrap().starts_with("new"), "{to}");
        assert!(host.lab.host.fetch(to, PATIENCE).unwrap().starts_with("new"), "{to}");
    }
    host.lab.daemon(async || {
        network.detach(&old.detach()).await.unwrap();
        network.detach(&new.detach()).await.unwrap();
    });
    host.lab.expect_traces(&before);
    // A configuration of one's own says its ranges itself.
    let conf = json!({
        "cniVersion": "1.0.0", "name": "own",
        "plugins": [{ "type": "bridge", "bridge": "corten-t1", "ipam": {
            "type": "host-local", "dataDir": host.lab.path("ipam"), "subnet": "10.213.9.0/24" } }],
    });
    fs::write(host.lab.path("net.d/1.conflist"), conf.to_string()).unwrap();
    assert_eq!(address(&host.attach(&network, &new), false), "10.213.9.2");
}
