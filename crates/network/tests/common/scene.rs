//! Scenes that Debian's plugin programs and this process play on hosts that are alike, and
//! what there is to see then.
#![allow(dead_code, reason = "every test program uses its part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::Duration,
};

use super::{self as common, Lab, Namespace, Pod, chain, open};
use regex_lite::Regex;
use serde_json::{Value, json};
use types::Protocol;

/// How long a connection may take before it counts as impossible: a lost packet is sent
/// again after a second.
pub const ENOUGH: Duration = Duration::from_secs(4);

/// How often a connection that does not come about is tried.
const TRIES: u32 = 3;

/// How often a scene that differs is played again.
const REPETITIONS: u32 = 2;

/// A list and what the host does with what is forwarded.
pub struct Scene {
    pub name: &'static str,
    pub version: &'static str,
    pub plugins: fn(&Lab) -> Value,
    /// A command on the host before all.
    pub before: &'static str,
    pub annotations: &'static [(&'static str, &'static str)],
    /// Whether this process is expected to run it.
    pub native: bool,
    pub ipv6: bool,
    /// Whether pods are held to their hardware addresses.
    pub holds_to_mac: bool,
}

/// What most scenes have in common.
pub const PLAIN: Scene = Scene {
    name: "",
    version: "1.0.0",
    plugins: |_| json!([]),
    before: "true",
    annotations: &[],
    native: true,
    ipv6: false,
    holds_to_mac: false,
};

/// All that is compared, a line each.
pub type Facts = BTreeSet<String>;

pub fn bridge(lab: &Lab, keys: Value) -> Value {
    let mut conf = json!({
        "type": "bridge", "bridge": "corten-c0", "isGateway": true, "ipMasq": true,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "dataDir": lab.path("ipam"),
            "ranges": [[{ "subnet": "10.213.1.0/24" }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

pub fn portmap() -> Value {
    json!({ "type": "portmap", "capabilities": { "portMappings": true } })
}

/// Plays scenes by programs and by this process, and returns what differs.
pub fn compare<'a>(scenes: impl Iterator<Item = &'a Scene> + Clone) -> String {
    // Most of the time of a scene is waiting for what is not reached.
    let played: Vec<(Facts, Facts)> = std::thread::scope(|scope| {
        let playing: Vec<_> = scenes
            .clone()
            .map(|scene| scope.spawn(|| (play(scene, false), play(scene, true))))
            .collect();
        playing.into_iter().map(|scene| scene.join().expect("the scene is played")).collect()
    });
    let mut different = String::new();
    for (scene, first) in scenes.zip(played) {
        // With all scenes at once on a busy machine a connection may take too long. Alone it
        // must not, not again and again: what really differs does so every time.
        let mut found = differences(scene, &first);
        for _ in 0..REPETITIONS {
            if found.is_some() {
                found = differences(scene, &(play(scene, false), play(scene, true)));
            }
        }
        different += &found.unwrap_or_default();
    }
    different
}

pub fn differences(scene: &Scene, (by_programs, by_us): &(Facts, Facts)) -> Option<String> {
    assert!(by_us.len() > 100, "{}: {by_us:?}", scene.name);
    let only =
        |one: &Facts, other: &Facts| -> Vec<String> { one.difference(other).cloned().collect() };
    let (missing, more) = (only(by_programs, by_us), only(by_us, by_programs));
    (!missing.is_empty() || !more.is_empty()).then(|| {
        format!(
            "{}:\nonly by programs: {missing:#?}\nonly by this process: {more:#?}\n",
            scene.name
        )
    })
}

/// Runs a scene on a host of its own and returns what there is to see.
pub fn play(scene: &Scene, in_process: bool) -> Facts {
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    lab.host.sh(scene.before);
    let conf = json!({
        "cniVersion": scene.version, "name": "test.net", "plugins": (scene.plugins)(&lab),
    });
    fs::write(lab.path("net.d/10-test.conflist"), conf.to_string()).unwrap();
    let mut options = lab.options();
    options.builtin = None;
    options.in_process = in_process;
    options.bin_dirs = vec!["/usr/lib/cni".into()];
    let one = lab.pod("one").map(Protocol::Tcp, 8080, 80).map(Protocol::Udp, 5353, 53);
    let two = lab.pod("two");
    let network = open(options);
    lab.daemon(async || {
        let status = network.status().await;
        let native = in_process && scene.native;
        assert_eq!(status.config["inProcess"], native, "{}: {status:?}", scene.name);
        for (pod, annotations) in [(&one, scene.annotations), (&two, &[][..])] {
            let mut request = pod.attach();
            request.annotations = owned(annotations);
            network.attach(&request).await.map_err(|e| chain(&e)).unwrap();
        }
    });
    let mut facts = Facts::new();
    inside(&lab, &one, &mut facts);
    on_disk(&lab, &one, &mut facts);
    on_host(&lab, &one, &mut facts);
    reachability(&lab, &neighbour, [&one, &two], scene.ipv6, &mut facts);
    if scene.holds_to_mac {
        two.netns.sh("ip link set eth0 address 02:00:00:00:09:98");
        let answer = two.netns.fetch("10.213.200.2:9000", ENOUGH).map_err(|_| "not reached");
        facts.insert(format!("with another hardware address: {answer:?}"));
        assert!(answer.is_err(), "{}: it is not held to its address", scene.name);
    }
    lab.daemon(async || {
        for pod in [&one, &two] {
            network.detach(&pod.detach()).await.map_err(|e| chain(&e)).unwrap();
        }
        network.settled().await;
    });
    let left = lab.host.sh("ip -o link | cut -d: -f2 | sed 's/veth.*/CHOSEN/'
         nft list tables | grep corten || true");
    facts.insert(format!("left on the host: {:?}", left.split_whitespace().collect::<Vec<_>>()));
    let leases: Vec<_> = common::list(&lab.path("ipam/test.net"));
    facts.insert(format!("left on disk: {leases:?}"));
    facts
}

fn owned(annotations: &[(&str, &str)]) -> BTreeMap<String, String> {
    annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// What the pod sees.
fn inside(lab: &Lab, pod: &Pod, facts: &mut Facts) {
    let addresses = pod.netns.sh("ip -o addr show; ip -o link show");
    let routes = pod.netns.sh("ip route show table all; ip -6 route show table all");
    // The link-local address comes when the kernel is sure of it.
    let sure = |line: &&str| !line.contains("fe80::");
    for line in addresses.lines().chain(routes.lines()).filter(sure) {
        facts.insert(format!("pod: {}", plain(lab, pod, line)));
    }
    for interface in ["lo", "eth0"] {
        settings(&pod.netns, interface, interface, facts);
    }
    let core = pod.netns.sh("cat /proc/sys/net/core/somaxconn");
    facts.insert(format!("pod: somaxconn {}", core.trim()));
}

/// What the host has for the pod.
fn on_host(lab: &Lab, pod: &Pod, facts: &mut Facts) {
    let link = host_end(lab, pod);
    for line in lab.host.sh("ip -o addr show; ip route show; ip -6 route show").lines() {
        // Nobody chooses the bridge's link-local address.
        if !line.contains("fe80") {
            facts.insert(format!("host: {}", plain(lab, pod, &line.replace(&link, "VETH"))));
        }
    }
    settings(&lab.host, &link, "VETH", facts);
    if lab.host.sh("ip -o link").contains("corten-c0:") {
        settings(&lab.host, "corten-c0", "BRIDGE", facts);
        let details = lab.host.sh(&format!("bridge -d link show dev {link}"));
        let hairpin = details.contains("hairpin on");
        facts.insert(format!("host: hairpin {hairpin}"));
        let vlans = lab.host.sh(&format!("bridge vlan show dev {link} || true"));
        let vlans: Vec<&str> = vlans.split_whitespace().filter(|word| *word != link).collect();
        facts.insert(format!("host: VLANs {vlans:?}"));
        let promiscuous = lab.host.sh("ip -d link show corten-c0").contains("promiscuity 1");
        facts.insert(format!("host: bridge promiscuous {promiscuous}"));
    }
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        let value = lab.host.sh(&format!("cat /proc/sys/{path}"));
        facts.insert(format!("host: {path} {}", value.trim()));
    }
    let shaping = lab.host.sh("tc qdisc show; tc filter show dev lo");
    let handle = Regex::new(r"qdisc (\w+) \w+: dev \S+").unwrap();
    for line in shaping.lines().filter(|line| line.contains("tbf") || line.contains("ingress")) {
        facts.insert(format!("host: {}", handle.replace(line, "$1")));
    }
}

/// Leases and cached results.
fn on_disk(lab: &Lab, pod: &Pod, facts: &mut Facts) {
    for name in common::list(&lab.path("ipam/test.net")) {
        let text = fs::read_to_string(lab.path("ipam/test.net").join(&name)).unwrap();
        let text = text.replace(pod.id.as_str(), "ONE");
        let owner = text.lines().next().unwrap_or_default();
        let text = if owner.len() == 64 { text.replace(owner, "TWO") } else { text };
        facts.insert(format!("lease {name}: {text:?}"));
    }
    let path = lab.path(&format!("root/cni/results/test.net-{}-eth0", pod.id));
    let mut entry: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    // Holds the path of the test's directory.
    entry.as_object_mut().unwrap().remove("config");
    let interfaces = entry["result"]["interfaces"].as_array_mut().unwrap();
    for interface in interfaces {
        if !["eth0", "corten-c0"].contains(&interface["name"].as_str().unwrap()) {
            interface["name"] = json!("CHOSEN");
        }
    }
    facts.insert(format!("result: {}", plain(lab, pod, &entry.to_string())));
}

/// All settings of an interface.
fn settings(namespace: &Namespace, interface: &str, name: &str, facts: &mut Facts) {
    for family in ["ipv4", "ipv6"] {
        let dir = format!("/proc/sys/net/{family}/conf/{interface}");
        let text = namespace.sh(&format!("cd {dir}; grep -s '' * || true"));
        for line in text.lines().filter(|line| !line.starts_with("stable_secret")) {
            facts.insert(format!("{family} {name} {line}"));
        }
    }
}

/// Who reaches whom.
fn reachability(lab: &Lab, neighbour: &Namespace, pods: [&Pod; 2], ipv6: bool, facts: &mut Facts) {
    let [one, two] = pods;
    let address = |pod: &Pod, family: &str| {
        let text = pod.netns.sh(&format!("ip -o {family} addr show dev eth0 scope global"));
        text.split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_owned()
    };
    one.netns.serve("[::]:80", "one");
    one.netns.serve_udp("0.0.0.0:53", "one");
    neighbour.serve("0.0.0.0:9000", "neighbour");
    let to_one = format!("{}:80", address(one, "-4"));
    neighbour.sh("ip route add 10.213.1.0/24 via 10.213.200.1");
    let mut ways = vec![
        ("pod to pod", &two.netns, to_one.clone()),
        ("host to pod", &lab.host, to_one.clone()),
        ("pod to neighbour", &two.netns, "10.213.200.2:9000".to_owned()),
        ("neighbour to pod", neighbour, to_one),
        ("neighbour to host port", neighbour, "10.213.200.1:8080".to_owned()),
        ("host to host port", &lab.host, "10.213.200.1:8080".to_owned()),
        ("host to host port by 127.0.0.1", &lab.host, "127.0.0.1:8080".to_owned()),
        ("pod to host port", &two.netns, "10.213.200.1:8080".to_owned()),
        ("pod to itself by host port", &one.netns, "10.213.200.1:8080".to_owned()),
    ];
    if ipv6 {
        let to_one = format!("[{}]:80", address(one, "-6"));
        ways.push(("pod to pod by IPv6", &two.netns, to_one.clone()));
        ways.push(("host to pod by IPv6", &lab.host, to_one));
    }
    // At once: most of the time is waiting for what is not reached.
    thread::scope(|scope| {
        let asked: Vec<_> = ways
            .iter()
            .map(|(way, from, to)| (way, scope.spawn(|| reach(way, from, to))))
            .collect();
        for (way, answer) in asked {
            let answer = answer.join().expect("the way is tried");
            let answer = answer.map(|text| text.replace("::ffff:", ""));
            facts.insert(format!("{way}: {answer:?}"));
        }
    });
}

/// Tries a way. On a busy machine, and while a neighbour learns a hardware address anew, a
/// connection may fail; a way that is closed stays closed.
fn reach(way: &str, from: &Namespace, to: &str) -> Result<String, &'static str> {
    for attempt in 1..=TRIES {
        match from.fetch(to, ENOUGH) {
            Ok(text) => return Ok(text),
            Err(error) => eprintln!("{way}, to {to}, attempt {attempt}: {error}"),
        }
    }
    Err("not reached")
}

/// The host's end of a pod's pair.
fn host_end(lab: &Lab, pod: &Pod) -> String {
    let index = pod.netns.sh("ip -o link show eth0 | sed 's/.*eth0@if\\([0-9]*\\):.*/\\1/'");
    let index = index.trim();
    let line = lab.host.sh(&format!("ip -o link | grep '^{index}:'"));
    line.split([' ', '@']).nth(1).unwrap().to_owned()
}

/// A line without what is chosen by chance.
fn plain(lab: &Lab, pod: &Pod, line: &str) -> String {
    let line = line.replace(&lab.dir.path().display().to_string(), "DIR");
    let line = line.replace(pod.id.as_str(), "ID");
    let rules = [
        (r"([0-9a-f]{2}:){5}[0-9a-f]{2}", "MAC"),
        (r"fe80::[0-9a-f:]+", "LINKLOCAL"),
        (r"@if\d+", "@IF"),
        (r"^\d+: ", ""),
        (r"link-netnsid \d+", "NETNSID"),
        (r"link/ether \S+", "ETHER"),
        (r"(veth[0-9a-f]{8}|corten[0-9a-f]{9}|bwp[0-9a-f]{12}|cortn-[0-9a-f]{9})", "CHOSEN"),
        (r"expires \w+", "N"),
        // Of IPv6 this process has no duplicates looked for, so that pods can use their
        // addresses at once.
        (r" (tentative|nodad)", ""),
    ];
    let mut line = line;
    for (pattern, with) in rules {
        line = Regex::new(pattern).unwrap().replace_all(&line, with).into_owned();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
