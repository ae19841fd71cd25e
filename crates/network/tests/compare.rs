//! The same configuration lists run by Debian's plugin programs and in this process, on
//! two hosts that are alike: interfaces, addresses, routes, settings, leases, results and
//! reachability must be the same. Needs root, containernetworking-plugins, iptables,
//! iproute2, nftables and util-linux.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{collections::BTreeSet, fs};

use common::{
    Lab, Pod, chain, open,
    scene::{PLAIN, Scene, bridge, compare, portmap},
};
use serde_json::json;

const SCENES: &[Scene] = &[
    Scene { name: "bridge", plugins: |lab| json!([bridge(lab, json!({})), portmap()]), ..PLAIN },
    Scene {
        name: "earlier version",
        version: "0.3.1",
        plugins: |lab| {
            json!([bridge(lab, json!({ "hairpinMode": false, "mtu": 1400 })), portmap()])
        },
        ..PLAIN
    },
    Scene {
        name: "dual stack",
        version: "0.4.0",
        plugins: |lab| {
            let mut conf = bridge(
                lab,
                json!({ "isDefaultGateway": true, "promiscMode": true, "hairpinMode": false }),
            );
            conf["ipam"]["ranges"] =
                json!([[{ "subnet": "10.213.1.0/24" }], [{ "subnet": "fd00:213:1::/64" }]]);
            conf["ipam"]["routes"] = json!([]);
            json!([conf, portmap()])
        },
        ipv6: true,
        ..PLAIN
    },
    Scene {
        name: "ptp",
        plugins: |lab| {
            let mut conf = bridge(lab, json!({}));
            for key in ["bridge", "isGateway", "hairpinMode"] {
                conf.as_object_mut().unwrap().remove(key);
            }
            conf["type"] = json!("ptp");
            conf["mtu"] = json!(1300);
            fs::write(lab.path("resolv.conf"), "nameserver 10.7.7.7\nsearch x y\n").unwrap();
            conf["ipam"]["resolvConf"] = json!(lab.path("resolv.conf"));
            json!([conf, portmap()])
        },
        ..PLAIN
    },
    Scene {
        name: "loopback, tuning and bandwidth",
        plugins: |lab| {
            json!([
                { "type": "loopback" },
                bridge(lab, json!({ "ipMasq": false })),
                { "type": "bandwidth", "capabilities": { "bandwidth": true } },
                // Of one pod: with the same address at two of its ports a bridge leads to either.
                { "type": "tuning", "mtu": 1280, "promisc": true, "allmulti": true,
                  "capabilities": { "mac": true },
                  "sysctl": { "net.core.somaxconn": "333", "net.ipv4.conf.eth0.log_martians": "1" } },
            ])
        },
        annotations: &[
            ("kubernetes.io/ingress-bandwidth", "20M"),
            ("kubernetes.io/egress-bandwidth", "30M"),
            ("io.corten.mac", "02:00:00:00:02:13"),
        ],
        ..PLAIN
    },
    Scene {
        name: "addresses and resolver",
        plugins: |lab| {
            let mut conf = bridge(lab, json!({ "capabilities": { "ips": true, "mac": true } }));
            conf["dns"] = json!({ "nameservers": ["10.9.9.9"], "search": ["a.b"] });
            conf["ipam"]["ranges"] = json!([[{ "subnet": "10.213.1.0/24", "rangeStart": "10.213.1.20",
                "rangeEnd": "10.213.1.99", "gateway": "10.213.1.254" }]]);
            conf["ipam"]["routes"] = json!([{ "dst": "0.0.0.0/0" },
                { "dst": "192.0.2.0/24", "gw": "10.213.1.77" }]);
            json!([conf, portmap()])
        },
        annotations: &[("io.corten.ips", "10.213.1.50"), ("io.corten.mac", "02:00:00:00:09:99")],
        ..PLAIN
    },
    Scene {
        name: "firewall where nothing filters",
        plugins: |lab| json!([bridge(lab, json!({})), portmap(), { "type": "firewall" }]),
        ..PLAIN
    },
    Scene {
        name: "firewall where what is forwarded is dropped",
        plugins: |lab| json!([bridge(lab, json!({})), portmap(), { "type": "firewall" }]),
        before: "iptables -P FORWARD DROP",
        native: false,
        ..PLAIN
    },
    Scene {
        name: "no firewall where what is forwarded is dropped",
        plugins: |lab| json!([bridge(lab, json!({})), portmap()]),
        before: "iptables -P FORWARD DROP",
        ..PLAIN
    },
    Scene {
        name: "held to the hardware address",
        plugins: |lab| json!([bridge(lab, json!({ "macspoofchk": true })), portmap()]),
        holds_to_mac: true,
        ..PLAIN
    },
    Scene {
        name: "duplicates of addresses",
        plugins: |lab| {
            let mut conf = bridge(lab, json!({ "enabledad": true }));
            conf["ipam"]["ranges"] =
                json!([[{ "subnet": "10.213.1.0/24" }], [{ "subnet": "fd00:213:1::/64" }]]);
            json!([conf, portmap()])
        },
        ipv6: true,
        ..PLAIN
    },
];

#[test]
fn programs_and_this_process_do_the_same() {
    let different = compare(SCENES.iter());
    assert!(different.is_empty(), "{different}");
}

#[test]
fn an_address_is_not_given_twice_by_the_two() {
    let lab = Lab::new();
    let conf = json!({
        "cniVersion": "1.0.0", "name": "test.net",
        "plugins": [bridge(&lab, json!({})), portmap()],
    });
    fs::write(lab.path("net.d/10-test.conflist"), conf.to_string()).unwrap();
    let pods: Vec<Pod> = (0..6).map(|n| lab.pod(&format!("p{n}"))).collect();
    let options = |in_process: bool| {
        let mut options = lab.options();
        options.in_process = in_process;
        options.bin_dirs = vec!["/usr/lib/cni".into()];
        options
    };
    lab.daemon(async || {
        let networks = [open(options(true)), open(options(false))];
        let mut coming = tokio::task::JoinSet::new();
        for (pod, network) in pods.iter().zip(networks.iter().cycle()) {
            let (network, request) = (network.clone(), pod.attach());
            coming.spawn(async move { network.attach(&request).await.unwrap().ips[0] });
        }
        let ips: BTreeSet<_> = coming.join_all().await.into_iter().collect();
        assert_eq!(ips.len(), pods.len());
        // Each takes away what the other has made, by the record.
        for (pod, network) in pods.iter().zip(networks.iter().rev().cycle()) {
            network.detach(&pod.detach()).await.map_err(|e| chain(&e)).unwrap();
        }
        for network in &networks {
            network.settled().await;
        }
    });
    let left = common::list(&lab.path("ipam/test.net"));
    assert_eq!(left, ["last_reserved_ip.0", "lock"]);
    assert_eq!(common::list(&lab.path("root/cni/owed")), Vec::<String>::new());
}
