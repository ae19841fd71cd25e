//! CNI with Debian's plugins, and with plugins of the tests' own that misbehave. Needs
//! root, containernetworking-plugins, iptables, iproute2, nftables and util-linux.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{IMPATIENCE, Lab, PATIENCE, Pod, chain, open};
use network::{Network, NetworkError, NetworkOptions, PluginFailure};
use serde_json::{Value, json};
use types::{Protocol, SandboxId};

/// Debian's bridge, host-local and portmap, in a version of the specification.
fn bridge_conflist(lab: &Lab, version: &str) -> String {
    json!({
        "cniVersion": version,
        "name": "test.net",
        "plugins": [
            {
                "type": "bridge", "bridge": "corten-c0", "isGateway": true, "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": lab.path("ipam"),
                    "ranges": [[{ "subnet": "10.213.1.0/24" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
    .to_string()
}

fn write_conf(lab: &Lab, text: &str) {
    fs::write(lab.path("net.d/10-test.conflist"), text).unwrap();
}

/// Options with the tests' own plugins before Debian's.
fn options(lab: &Lab) -> NetworkOptions {
    let mut options = lab.options();
    options.in_process = false;
    options.bin_dirs = vec![lab.path("bin"), "/usr/lib/cni".into()];
    options
}

/// Writes a plugin as a shell script. It notes every call in `calls`.
fn write_plugin(lab: &Lab, name: &str, script: &str) {
    let bin = lab.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let path = bin.join(name);
    let calls = lab.path("calls");
    let text = format!(
        "#!/bin/sh\nLOG={}\nCONF=$(cat)\n\
         echo \"{name} $CNI_COMMAND ns=${{CNI_NETNS:+set}} prev=$(echo \"$CONF\" | grep -c prevResult)\" >>$LOG\n\
         {script}\n",
        calls.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A plugin that gives the address 10.213.2.9 and does nothing.
const GOOD: &str = r#"[ $CNI_COMMAND = ADD ] && cat <<EOF
{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"$CNI_NETNS"}],
 "ips":[{"address":"10.213.2.9/24","interface":0}]}
EOF
exit 0"#;

fn write_chain(lab: &Lab, kinds: &[&str]) {
    let plugins: Vec<Value> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
    let conf = json!({ "cniVersion": "1.0.0", "name": "own", "plugins": plugins });
    write_conf(lab, &conf.to_string());
}

fn calls(lab: &Lab) -> Vec<String> {
    let text = fs::read_to_string(lab.path("calls")).unwrap_or_default();
    let _ = fs::remove_file(lab.path("calls"));
    text.lines().map(str::to_owned).collect()
}

fn leases(lab: &Lab) -> Vec<String> {
    let names = common::list(&lab.path("ipam/test.net"));
    names.into_iter().filter(|name| name.starts_with("10.")).collect()
}

fn owed(lab: &Lab) -> (Vec<String>, Vec<String>) {
    (common::list(&lab.path("root/cni/owed")), common::list(&lab.path("root/cni/results")))
}

async fn fail(network: &Arc<Network>, pod: &Pod) -> NetworkError {
    network.attach(&pod.attach()).await.expect_err("the attach fails")
}

#[test]
fn debians_plugins_give_a_pod_its_network_in_every_version() {
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let lab = Lab::new();
        write_conf(&lab, &bridge_conflist(&lab, version));
        let one = lab.pod("one").map(Protocol::Tcp, 8080, 80);
        let two = lab.pod("two");
        let network = open(options(&lab));
        lab.daemon(async || {
            assert!(network.status().await.ready);
            let first = network.attach(&one.attach()).await.map_err(|e| chain(&e)).unwrap();
            network.attach(&two.attach()).await.unwrap();
            assert_eq!(first.ips[0].to_string(), "10.213.1.2", "{version}");
            assert_eq!((first.network.as_str(), first.builtin), ("test.net", false));
            one.netns.serve("0.0.0.0:80", "one");
            let fetch = |from: &common::Namespace, address| from.fetch(address, PATIENCE).unwrap();
            assert_eq!(fetch(&two.netns, "10.213.1.2:80"), "one 10.213.1.3");
            assert!(fetch(&one.netns, "127.0.0.1:80").starts_with("one"));
            let address = lab.host.sh("ip -o -4 addr show dev corten-c0");
            assert!(address.contains("10.213.1.1/24"), "{address}");
            assert!(fetch(&lab.host, "10.213.1.1:8080").starts_with("one"));
            // Not of the pod with ports: portmap 1.1.1 then wants IPv6 rules that it never made.
            network.check(&two.id).await.map_err(|error| chain(&error)).unwrap();
            cached_as_libcni(&lab, &one.id, &first.result);

            network.detach(&one.detach()).await.map_err(|error| chain(&error)).unwrap();
            network.detach(&one.detach()).await.unwrap();
            lab.host.fetch("10.213.1.1:8080", IMPATIENCE).unwrap_err();
            network.detach(&two.detach()).await.unwrap();
        });
        assert_eq!(leases(&lab), Vec::<String>::new());
        assert_eq!(owed(&lab), (Vec::new(), Vec::new()));
        assert!(!lab.host.sh("ip -o link").contains("veth"));
        assert!(!lab.host.sh("nft list ruleset; iptables-save -t nat").contains("8080"));
    }
}

fn cached_as_libcni(lab: &Lab, id: &SandboxId, result: &Value) {
    let path = lab.path(&format!("root/cni/results/test.net-{id}-eth0"));
    let entry: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(entry["kind"], "cniCacheV1");
    assert_eq!(entry["containerId"], id.as_str());
    assert_eq!((&entry["ifName"], &entry["networkName"]), (&json!("eth0"), &json!("test.net")));
    assert_eq!(entry["cniArgs"][0], json!(["IgnoreUnknown", "1"]));
    assert_eq!(entry["capabilityArgs"]["portMappings"][0]["hostPort"], 8080);
    assert_eq!(&entry["result"], result);
    assert!(entry["config"].as_str().is_some_and(|text| text.starts_with("ey")));
}

#[test]
fn a_pod_is_detached_without_configuration_and_namespace() {
    let lab = Lab::new();
    write_conf(&lab, &bridge_conflist(&lab, "1.0.0"));
    let pod = lab.pod("pod").map(Protocol::Tcp, 8080, 80);
    let mut detach = pod.detach();
    let network = open(options(&lab));
    lab.daemon(async || network.attach(&pod.attach()).await.unwrap());
    assert_eq!(leases(&lab), ["10.213.1.2"]);
    fs::remove_dir_all(lab.path("net.d")).unwrap();
    drop(pod);
    detach.netns = None;
    // By another daemon, after a restart.
    lab.daemon(async || {
        open(options(&lab)).detach(&detach).await.map_err(|error| chain(&error)).unwrap();
    });
    assert_eq!(leases(&lab), Vec::<String>::new());
    assert_eq!(owed(&lab), (Vec::new(), Vec::new()));
}

#[test]
fn recovery_pays_the_debts_of_unknown_sandboxes() {
    let lab = Lab::new();
    write_conf(&lab, &bridge_conflist(&lab, "1.0.0"));
    let (kept, lost) = (lab.pod("kept"), lab.pod("lost"));
    lab.daemon(async || {
        let network = open(options(&lab));
        network.attach(&kept.attach()).await.unwrap();
        network.attach(&lost.attach()).await.unwrap();
        let network = open(options(&lab));
        let report = network.recover(std::slice::from_ref(&kept.id)).await.unwrap();
        assert_eq!(report.detached, std::slice::from_ref(&lost.id));
        assert_eq!(leases(&lab), ["10.213.1.2"]);
        network.detach(&kept.detach()).await.unwrap();
    });
    assert_eq!(leases(&lab), Vec::<String>::new());
}

#[test]
fn the_chain_is_run_forward_and_backward_with_results() {
    let lab = Lab::new();
    for name in ["a", "b"] {
        write_plugin(&lab, name, GOOD);
    }
    write_chain(&lab, &["a", "b"]);
    let pod = lab.pod("pod");
    let network = open(options(&lab));
    lab.daemon(async || {
        let attachment = network.attach(&pod.attach()).await.unwrap();
        assert_eq!(attachment.ips[0].to_string(), "10.213.2.9");
        assert_eq!(calls(&lab), ["a ADD ns=set prev=0", "b ADD ns=set prev=1"]);
        network.check(&pod.id).await.unwrap();
        assert_eq!(calls(&lab), ["a CHECK ns=set prev=1", "b CHECK ns=set prev=1"]);
        network.detach(&pod.detach()).await.unwrap();
        assert_eq!(calls(&lab), ["b DEL ns=set prev=1", "a DEL ns=set prev=1"]);
        network.detach(&pod.detach()).await.unwrap();
        assert_eq!(calls(&lab), Vec::<String>::new());
        assert!(matches!(
            network.check(&pod.id).await.unwrap_err(),
            NetworkError::NotAttached { .. }
        ));
    });
}

#[test]
fn what_a_plugin_does_wrong_is_told_and_undone() {
    let cases = [
        (
            r#"printf '%s' '{"cniVersion":"1.0.0","code":11,"msg":"no room","details":"try\nlater"}'
               exit 1"#,
            "CNI plugin \"bad\" of network \"own\" failed (ADD): no room: try later (code 11)",
        ),
        ("echo oh no >&2; exit 3", "failed (ADD): exit status: 3: oh no"),
        ("echo this is no result", "cannot be used: expected ident at line 1 column 2: this is no"),
        ("exit 0", "cannot be used: EOF while parsing a value"),
        (r#"echo '{"cniVersion":"7.0"}'"#, "its cniVersion is \"7.0\""),
        ("kill -9 $$", "signal: 9"),
        ("head -c 3000000 /dev/zero; exit 0", "longer than"),
        (
            r#"echo '{"cniVersion":"1.0.0","interfaces":[],"ips":[]}'"#,
            "network \"own\" gave sandbox",
        ),
    ];
    for (script, text) in cases {
        let lab = Lab::new();
        write_plugin(&lab, "good", GOOD);
        write_plugin(&lab, "bad", &format!("[ $CNI_COMMAND = DEL ] && exit 0\n{script}"));
        write_chain(&lab, &["good", "bad"]);
        let pod = lab.pod("pod");
        let network = open(options(&lab));
        lab.daemon(async || {
            let error = chain(&fail(&network, &pod).await);
            assert!(error.contains(text), "{error}");
            assert!(!error.contains('\n'), "{error}");
            assert_eq!(calls(&lab)[2..], ["bad DEL ns=set prev=1", "good DEL ns=set prev=1"]);
        });
        assert_eq!(owed(&lab), (Vec::new(), Vec::new()));
    }
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    let lab = Lab::new();
    let pids = lab.path("pids");
    let hang = format!(
        "[ $CNI_COMMAND = DEL ] && exit 0\nsleep 1000 & echo $! $$ >{}\nwait",
        pids.display()
    );
    write_plugin(&lab, "hang", &hang);
    write_chain(&lab, &["hang"]);
    let pod = lab.pod("pod");
    let mut options = options(&lab);
    options.add_deadline = Duration::from_millis(700);
    let network = open(options);
    lab.daemon(async || {
        let before = Instant::now();
        let error = fail(&network, &pod).await;
        assert!(chain(&error).ends_with("no answer within 0.7 s"), "{}", chain(&error));
        assert!(before.elapsed() < Duration::from_secs(20));
        assert_eq!(calls(&lab), ["hang ADD ns=set prev=0", "hang DEL ns=set prev=0"]);
    });
    for pid in fs::read_to_string(pids).unwrap().split_whitespace() {
        // Killed; at most a zombie that its reaper has not looked at.
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
    assert_eq!(owed(&lab), (Vec::new(), Vec::new()));
}

#[test]
fn a_child_that_keeps_the_output_open_does_not_hold_the_pod() {
    let lab = Lab::new();
    let pid = lab.path("pid");
    // The plugin ends well; what it left behind still holds its output.
    write_plugin(&lab, "daemon", &format!("sleep 300 & echo $! >{}\n{GOOD}", pid.display()));
    write_chain(&lab, &["daemon"]);
    let pod = lab.pod("pod");
    let network = open(options(&lab));
    lab.daemon(async || {
        let before = Instant::now();
        network.attach(&pod.attach()).await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(30));
    });
    let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_debt_that_cannot_be_paid_stays_until_it_can() {
    let lab = Lab::new();
    write_plugin(&lab, "good", GOOD);
    write_plugin(&lab, "late", GOOD);
    write_chain(&lab, &["good", "late"]);
    let pod = lab.pod("pod");
    let network = open(options(&lab));
    lab.daemon(async || {
        network.attach(&pod.attach()).await.unwrap();
        fs::rename(lab.path("bin/late"), lab.path("late")).unwrap();
        calls(&lab);
        let error = network.detach(&pod.detach()).await.unwrap_err();
        let NetworkError::Plugin { command: "DEL", source, .. } = &error else {
            panic!("{error}");
        };
        assert!(matches!(source, PluginFailure::NotFound { .. }), "{source}");
        let figures = network.figures();
        let failed = |operation| {
            let mut all = figures.iter().filter(|one| one.way == "programs");
            all.find(|one| one.operation == operation).map(|o| (o.durations.total(), o.failures))
        };
        assert_eq!((failed("add"), failed("del")), (Some((1, 0)), Some((1, 1))));
        assert_eq!(calls(&lab), ["good DEL ns=set prev=1"], "the others are let clean up");
        let report = network.recover(&[]).await.unwrap();
        assert_eq!(report.owed.len(), 1);
        assert_ne!(owed(&lab).0, Vec::<String>::new());
        fs::rename(lab.path("late"), lab.path("bin/late")).unwrap();
        let report = network.recover(&[]).await.unwrap();
        assert_eq!(report.detached, std::slice::from_ref(&pod.id));
    });
    assert_eq!(owed(&lab), (Vec::new(), Vec::new()));
}

#[test]
fn status_tells_what_is_missing_and_attach_agrees() {
    let lab = Lab::new();
    let pod = lab.pod("pod");
    let file = "10-test.conflist";
    let path_type = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../../bin/sh"}]}"#;
    let no_program = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"absent"}]}"#;
    lab.daemon(async || {
        for (text, message, at_attach) in [
            (path_type, "plugin type \"../../bin/sh\" is not a file name", "is not a file name"),
            ("{\"cniVersion\":", "EOF while parsing", "EOF while parsing"),
            (no_program, "no such program in", "no such program in"),
        ] {
            write_conf(&lab, text);
            let network = open(options(&lab));
            let status = network.status().await;
            assert!(!status.ready);
            assert_eq!(status.reason, "NetworkPluginNotReady");
            assert!(status.message.contains(message), "{}", status.message);
            assert!(status.message.contains(file), "{}", status.message);
            let error = chain(&fail(&network, &pod).await);
            assert!(error.contains(at_attach), "{error}");
        }
        fs::remove_file(lab.path("net.d").join(file)).unwrap();
        let without = NetworkOptions { builtin: None, ..options(&lab) };
        let network = open(without);
        let status = network.status().await;
        assert!(!status.ready && status.message.starts_with("no CNI configuration in"));
        assert!(matches!(fail(&network, &pod).await, NetworkError::NotReady { .. }));
        // A configuration that appears is used at once.
        write_plugin(&lab, "good", GOOD);
        write_chain(&lab, &["good"]);
        network.attach(&pod.attach()).await.unwrap();
        network.detach(&pod.detach()).await.unwrap();
    });
    assert_eq!(owed(&lab), (Vec::new(), Vec::new()));
}

#[test]
fn a_caller_that_leaves_does_not_stop_the_work() {
    let lab = Lab::new();
    let (begun, go) = (lab.path("begun"), lab.path("go"));
    let script = format!(
        "if [ $CNI_COMMAND = ADD ]; then touch {}; while ! [ -e {} ]; do sleep 0.02; done; fi\n{GOOD}",
        begun.display(),
        go.display()
    );
    write_plugin(&lab, "slow", &script);
    write_chain(&lab, &["slow"]);
    let pod = lab.pod("pod");
    let network = open(options(&lab));
    lab.daemon(async || {
        let request = pod.attach();
        let mut attach = Box::pin(network.attach(&request));
        while !begun.exists() {
            let _ = tokio::time::timeout(Duration::from_millis(10), &mut attach).await;
        }
        drop(attach);
        fs::write(&go, "").unwrap();
        let deadline = Instant::now() + PATIENCE;
        while network.attachment(&pod.id).await.unwrap().is_none() {
            assert!(Instant::now() < deadline, "the attach goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        network.detach(&pod.detach()).await.unwrap();
    });
    assert_eq!(owed(&lab), (Vec::new(), Vec::new()));
}

/// A chain of the specification's newest version.
fn write_new_chain(lab: &Lab, keys: Value) {
    let mut conf = json!({ "cniVersion": "1.1.0", "name": "own", "plugins": [{ "type": "own" }] });
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
    write_conf(lab, &conf.to_string());
}

#[test]
fn plugins_are_asked_for_their_status_and_forgiven_for_a_while() {
    let lab = Lab::new();
    let broken = lab.path("broken");
    let script = format!(
        r#"if [ $CNI_COMMAND = STATUS ] && [ -e {} ]; then
             echo '{{"cniVersion":"1.1.0","code":'$(cat {})',"msg":"no uplink"}}'; exit 1
           fi
           {GOOD}"#,
        broken.display(),
        broken.display()
    );
    write_plugin(&lab, "own", &script);
    write_new_chain(&lab, json!({}));
    let mut options = options(&lab);
    options.status_grace = Duration::from_secs(7);
    let network = open(options);
    lab.daemon(async || {
        assert!(network.status().await.ready);
        assert_eq!(calls(&lab)[0], "own STATUS ns= prev=0");
        fs::write(&broken, "50").unwrap();
        let begun = Instant::now();
        let failed = loop {
            let status = network.status().await;
            if !status.ready {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(40), "it is still ready");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        // Asked at most every five seconds while all is well, then at every look.
        assert!(begun.elapsed() > Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(calls(&lab).len() >= 2, "a first failure is forgiven");
        let text = "CNI plugin \"own\" of network \"own\" failed (STATUS): no uplink (code 50)";
        assert_eq!(
            (failed.message.as_str(), failed.reason.as_str()),
            (text, "NetworkPluginNotReady")
        );
        // Pods that are there may be cut off too.
        fs::write(&broken, "51").unwrap();
        let begun = Instant::now();
        while !network.status().await.message.ends_with("no uplink (code 51)") {
            assert!(begun.elapsed() < Duration::from_secs(20), "the other code is not told");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        fs::remove_file(&broken).unwrap();
        let begun = Instant::now();
        while !network.status().await.ready {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not heal");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

#[test]
fn a_status_that_hangs_is_not_waited_for() {
    let lab = Lab::new();
    write_plugin(&lab, "own", &format!("[ $CNI_COMMAND = STATUS ] && sleep 60\n{GOOD}"));
    write_new_chain(&lab, json!({}));
    let network = open(options(&lab));
    lab.daemon(async || {
        let begun = Instant::now();
        let status = network.status().await;
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        assert!(!status.ready && status.message.contains("have not answered STATUS yet"));
    });
}

#[test]
fn garbage_is_collected_with_the_valid_attachments() {
    let lab = Lab::new();
    let seen = lab.path("seen");
    let script =
        format!("[ $CNI_COMMAND = GC ] && echo \"$CONF\" >>{} && exit 0\n{GOOD}", seen.display());
    write_plugin(&lab, "own", &script);
    write_new_chain(&lab, json!({}));
    let pod = lab.pod("pod");
    let network = open(options(&lab));
    lab.daemon(async || {
        network.recover(&[]).await.unwrap();
        network.attach(&pod.attach()).await.unwrap();
        network.clean().await;
        let text = fs::read_to_string(&seen).unwrap();
        let valid: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .inspect(|conf| {
                assert_eq!(conf["cni.dev/attachments"], conf["cni.dev/valid-attachments"])
            })
            .map(|conf| conf["cni.dev/valid-attachments"].clone())
            .collect();
        let one = json!([{ "containerID": pod.id.as_str(), "ifname": "eth0" }]);
        assert_eq!(valid, [json!([]), one]);
        fs::remove_file(&seen).unwrap();
        for keys in [json!({ "disableGC": true }), json!({ "cniVersion": "1.0.0" })] {
            write_new_chain(&lab, keys);
            network.clean().await;
            assert!(!seen.exists());
        }
        // One that fails or hangs is told in the log, and harms nobody.
        write_plugin(&lab, "own", &format!("[ $CNI_COMMAND = GC ] && kill -9 $$\n{GOOD}"));
        write_new_chain(&lab, json!({}));
        network.clean().await;
        network.detach(&pod.detach()).await.unwrap();
    });
    assert_eq!(owed(&lab), (Vec::new(), Vec::new()));
}

#[test]
fn a_handlers_pods_have_configurations_of_their_own() {
    let lab = Lab::new();
    write_plugin(&lab, "node", GOOD);
    write_plugin(&lab, "other", &GOOD.replace("10.213.2.9", "10.213.3.9"));
    write_chain(&lab, &["node"]);
    let dir = lab.path("other.d");
    fs::create_dir(&dir).unwrap();
    let conf = json!({ "cniVersion": "1.0.0", "name": "others", "plugins": [{ "type": "other" }] });
    fs::write(dir.join("1.conflist"), conf.to_string()).unwrap();
    let mut options = options(&lab);
    options.handler_conf_dirs.insert("special".to_owned(), dir.clone());
    let (one, two) = (lab.pod("one"), lab.pod("two"));
    let network = open(options);
    lab.daemon(async || {
        let plain = network.attach(&one.attach()).await.unwrap();
        let mut request = two.attach();
        request.handler = "special".to_owned();
        let special = network.attach(&request).await.unwrap();
        assert_eq!((plain.network.as_str(), special.network.as_str()), ("own", "others"));
        assert_eq!(special.ips[0].to_string(), "10.213.3.9");
        // DEL is by the record: without the directory too.
        fs::remove_dir_all(&dir).unwrap();
        network.detach(&two.detach()).await.unwrap();
        network.detach(&one.detach()).await.unwrap();
        let error = network.attach(&request).await.unwrap_err();
        assert!(error.to_string().contains("other.d"), "{error}");
    });
    assert_eq!(owed(&lab), (Vec::new(), Vec::new()));
}

#[test]
fn a_configuration_that_comes_or_goes_is_noticed_without_being_asked_for() {
    let lab = Lab::new();
    let dir = lab.path("net.d");
    write_plugin(&lab, "good", GOOD);
    lab.daemon(async || {
        let network = open(NetworkOptions { builtin: None, ..options(&lab) });
        let watching = network.clone();
        let watching = tokio::spawn(async move { watching.watch_configuration().await });
        // With a change between any two looks, whatever was remembered would be wrong.
        for round in 0..3 {
            for wanted in [true, false] {
                if wanted {
                    fs::create_dir_all(&dir).unwrap();
                    // Half of it first.
                    fs::write(dir.join("10-test.conflist"), "{\"cniVersion\":").unwrap();
                    write_chain(&lab, &["good"]);
                } else {
                    fs::remove_dir_all(&dir).unwrap();
                }
                let deadline = Instant::now() + PATIENCE;
                while network.status().await.ready != wanted {
                    assert!(Instant::now() < deadline, "round {round}: not {wanted}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        watching.abort();
    });
}
