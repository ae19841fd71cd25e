//! VLANs as Debian's plugin program and this process make them, compared like all else of
//! the chain, where the kernel's bridges know VLANs. Needs root,
//! containernetworking-plugins, iptables, iproute2, nftables and util-linux.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{collections::BTreeMap, process::Command};

use common::{
    IMPATIENCE, Lab, PATIENCE, Pod, chain, open,
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
        // Without a tag the trunk's pod is in another VLAN.
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

/// The VLANs of a pod's port as iproute2 lists them, with their flags.
fn vlans_of(lab: &Lab, pod: &Pod) -> BTreeMap<u64, String> {
    let port = format!("corten{}", &pod.id.as_str()[..9]);
    let listed = lab.host.sh(&format!("bridge -j vlan show dev {port}"));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["ifname"], port.as_str(), "{listed}");
    let mut vlans = BTreeMap::new();
    for item in listed[0]["vlans"].as_array().unwrap() {
        let first = item["vlan"].as_u64().unwrap();
        let flags = item["flags"].as_array().into_iter().flatten();
        let flags: Vec<_> = flags.map(|flag| flag.as_str().unwrap()).collect();
        for vlan in first..=item["vlanEnd"].as_u64().unwrap_or(first) {
            vlans.insert(vlan, flags.join(" "));
        }
    }
    vlans
}

/// What release 1.8 of the program gives a port, on a bridge whose own VLAN is `default`.
struct Port {
    default: u16,
    keys: Value,
    vlans: &'static [(u64, &'static str)],
}

#[test]
fn a_ports_vlans_are_those_of_the_configuration() {
    const BOTH: &str = "PVID Egress Untagged";
    if !has_vlans() {
        return;
    }
    let trunk = json!([{ "minID": 5, "maxID": 6 }, { "id": 9 }]);
    let alone = json!({ "vlanTrunk": trunk, "preserveDefaultVlan": false });
    let on_all = json!({ "vlanTrunk": trunk });
    let ports = [
        Port { default: 1, keys: alone.clone(), vlans: &[(1, BOTH), (5, ""), (6, ""), (9, "")] },
        Port { default: 1, keys: on_all.clone(), vlans: &[(1, BOTH), (5, ""), (6, ""), (9, "")] },
        Port { default: 77, keys: alone, vlans: &[(1, BOTH), (5, ""), (6, ""), (9, "")] },
        Port {
            default: 77,
            keys: on_all,
            vlans: &[(1, BOTH), (5, ""), (6, ""), (9, ""), (77, "Egress Untagged")],
        },
        Port {
            default: 1,
            keys: json!({ "vlan": 7, "vlanTrunk": trunk, "preserveDefaultVlan": false }),
            vlans: &[(5, ""), (6, ""), (7, BOTH), (9, "")],
        },
        Port {
            default: 1,
            keys: json!({ "vlan": 5, "vlanTrunk": trunk, "preserveDefaultVlan": false }),
            vlans: &[(5, ""), (6, ""), (9, "")],
        },
        Port {
            default: 1,
            keys: json!({ "vlan": 7, "preserveDefaultVlan": false }),
            vlans: &[(7, BOTH)],
        },
        Port {
            default: 1,
            keys: json!({ "vlan": 7 }),
            vlans: &[(1, "Egress Untagged"), (7, BOTH)],
        },
        Port { default: 1, keys: json!({ "vlanTrunk": [] }), vlans: &[(1, BOTH)] },
    ];
    for Port { default, mut keys, vlans } in ports {
        let lab = Lab::new();
        lab.host.sh(&format!(
            "ip link add corten-c0 type bridge vlan_filtering 1 vlan_default_pvid {default}"
        ));
        let pod = lab.pod("pod");
        keys["isGateway"] = json!(keys.get("vlanTrunk").is_some());
        keys["ipMasq"] = json!(false);
        let network = network(&lab, "ports", "10.213.5.0/28", &keys);
        lab.daemon(async || {
            network.attach(&pod.attach()).await.map_err(|error| chain(&error)).unwrap();
            let wanted = vlans.iter().map(|(vlan, flags)| (*vlan, (*flags).to_owned())).collect();
            assert_eq!(vlans_of(&lab, &pod), wanted, "{default} {keys}");
            network.detach(&pod.detach()).await.unwrap();
            network.settled().await;
        });
    }
}

#[test]
fn a_trunks_pod_reaches_the_vlans_whose_tags_it_may_set() {
    if !has_vlans() {
        return;
    }
    let lab = Lab::new();
    let [five, seven, pod] = ["five", "seven", "trunk"].map(|name| lab.pod(name));
    // One subnet: only the tag tells who is meant.
    let of = |vlan: u16| {
        let keys = json!({ "vlan": vlan, "preserveDefaultVlan": false, "isGateway": false,
            "ipMasq": false });
        network(&lab, &format!("v{vlan}"), "10.213.5.0/28", &keys)
    };
    let (of_five, of_seven) = (of(5), of(7));
    let trunk = json!({ "vlanTrunk": [{ "minID": 5, "maxID": 6 }, { "id": 9 }],
        "isGateway": false, "preserveDefaultVlan": false, "ipMasq": false });
    let of_trunk = network(&lab, "trunk", "10.213.9.0/28", &trunk);
    lab.daemon(async || {
        let pods = [(&of_five, &five), (&of_seven, &seven), (&of_trunk, &pod)];
        for (network, pod) in pods {
            network.attach(&pod.attach()).await.map_err(|error| chain(&error)).unwrap();
        }
        five.netns.serve("0.0.0.0:80", "five");
        seven.netns.serve("0.0.0.0:80", "seven");
        let ask = |vlan: u16, patience| {
            pod.netns.sh(&format!(
                "ip link add link eth0 name eth0.{vlan} type vlan id {vlan}
                 ip addr add 10.213.5.9/28 dev eth0.{vlan}
                 ip link set eth0.{vlan} up"
            ));
            let said = five.netns.sh("ip -4 -o addr show eth0");
            assert!(said.contains("10.213.5."), "{said}");
            let address = said.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
            let answer = pod.netns.fetch(&format!("{address}:80"), patience);
            pod.netns.sh(&format!("ip link del eth0.{vlan}"));
            answer
        };
        assert_eq!(ask(5, PATIENCE).unwrap(), "five 10.213.5.9");
        ask(7, IMPATIENCE).unwrap_err();
        ask(6, IMPATIENCE).unwrap_err();
        // It is the port that keeps the tag back: the pod of that VLAN has the same address.
        let port = format!("corten{}", &pod.id.as_str()[..9]);
        lab.host.sh(&format!("bridge vlan add dev {port} vid 7"));
        assert_eq!(ask(7, PATIENCE).unwrap(), "seven 10.213.5.9");
        for (network, pod) in pods {
            network.detach(&pod.detach()).await.unwrap();
            network.settled().await;
        }
    });
}
