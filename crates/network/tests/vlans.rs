//! VLANs as Debian's plugin program and this process make them, compared like all else of
//! the chain, where the kernel's bridges know VLANs. Needs root,
//! containernetworking-plugins, iptables, iproute2, nftables and util-linux.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::process::Command;

use common::{
    IMPATIENCE, Lab, PATIENCE, chain, open,
    scene::{PLAIN, Scene, bridge, compare, portmap},
};
use network::Network;
use serde_json::{Value, json};

const SCENES: &[Scene] = &[Scene {
    name: "a VLAN with a gateway",
    plugins: |lab| json!([bridge(lab, json!({ "vlan": 5 })), portmap()]),
    ..PLAIN
}];

/// Reports whether bridges of this kernel keep VLANs apart, and says so where not.
fn has_vlans() -> bool {
    let script = "unshare --net ip link add b0 type bridge vlan_filtering 1";
    let probe = Command::new("sh").args(["-c", script]).output().expect("sh runs");
    if !probe.status.success() {
        println!("untested: VLANs, since this kernel's bridges know none");
    }
    probe.status.success()
}

#[test]
fn programs_and_this_process_make_the_same_vlans() {
    if has_vlans() {
        let different = compare(SCENES.iter());
        assert!(different.is_empty(), "{different}");
    }
}

/// Writes a list whose pods are on the bridge that all of them share.
fn network(lab: &Lab, name: &str, subnet: &str, keys: &Value) -> std::sync::Arc<Network> {
    let dir = lab.path(&format!("{name}.d"));
    std::fs::create_dir(&dir).unwrap();
    let mut conf = bridge(lab, keys.clone());
    conf["ipam"]["ranges"] = json!([[{ "subnet": subnet }]]);
    let list = json!({ "cniVersion": "1.0.0", "name": name, "plugins": [conf, portmap()] });
    std::fs::write(dir.join("1.conflist"), list.to_string()).unwrap();
    let mut options = lab.options();
    options.conf_dir = dir;
    options.table = format!("corten_{name}");
    options.cache_dir = lab.path(&format!("{name}.cache"));
    open(options)
}

#[test]
fn pods_of_two_vlans_of_one_bridge_do_not_hear_each_other() {
    let lab = Lab::new();
    let pods = ["one", "two", "other"].map(|name| lab.pod(name));
    let keys = |vlan: u16| json!({ "vlan": vlan, "preserveDefaultVlan": false, "ipMasq": false });
    // The same subnet twice: only the VLAN tells them apart.
    let five = network(&lab, "five", "10.213.5.0/28", &keys(5));
    let trunk = json!({ "vlanTrunk": [{ "minID": 5, "maxID": 6 }, { "id": 9 }], "isGateway": false,
        "preserveDefaultVlan": false, "ipMasq": false });
    let trunk = network(&lab, "trunk", "10.213.9.0/28", &trunk);
    lab.daemon(async || {
        let first = five.attach(&pods[0].attach()).await;
        if !has_vlans() {
            let error = chain(&first.unwrap_err());
            assert!(error.contains("can have no VLANs with this kernel"), "{error}");
            return;
        }
        first.map_err(|error| chain(&error)).unwrap();
        five.attach(&pods[1].attach()).await.map_err(|error| chain(&error)).unwrap();
        trunk.attach(&pods[2].attach()).await.map_err(|error| chain(&error)).unwrap();
        pods[0].netns.serve("0.0.0.0:80", "one");
        let fetched = pods[1].netns.fetch("10.213.5.2:80", PATIENCE).unwrap();
        assert_eq!(fetched, "one 10.213.5.3");
        assert!(lab.host.fetch("10.213.5.2:80", PATIENCE).unwrap().starts_with("one"));
        // Without a tag the trunk's pod is in no VLAN.
        pods[2].netns.sh("ip addr add 10.213.5.9/28 dev eth0");
        pods[2].netns.fetch("10.213.5.2:80", IMPATIENCE).unwrap_err();
        let vlans = lab.host.sh("bridge vlan show");
        let lines = |id: &str| vlans.lines().filter(|line| line.trim_end().ends_with(id)).count();
        assert_eq!(lines(" 9"), 1, "{vlans}");
        assert_eq!(lines("5 PVID Egress Untagged"), 3, "two pods and the gateway: {vlans}");
        for pod in &pods[..2] {
            five.check(&pod.id).await.map_err(|error| chain(&error)).unwrap();
            five.detach(&pod.detach()).await.unwrap();
        }
        trunk.detach(&pods[2].detach()).await.unwrap();
        five.settled().await;
        trunk.settled().await;
    });
    let left = lab.host.sh("ip -o link; nft list ruleset");
    assert!(!left.contains("table"), "{left}");
    if has_vlans() {
        // As the program leaves it: the bridge, and the pair of its VLAN.
        assert!(left.contains("corten-c0.5@"), "{left}");
        assert_eq!(left.lines().count(), 4, "{left}");
    }
}
