//! What CDI devices ask for, and what limits and labels become, in the spec.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod support;

use cdi::{DeviceNode, Edits, Hook, Mount};
use serde_json::json;
use support::Setup;

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

#[test]
fn a_vendors_edits_come_last() {
    let mut setup = Setup::new();
    setup.container.envs.push(("CARD".to_owned(), b"mine".to_vec()));
    setup.cdi = vec![Edits {
        env: texts(&["CARD=theirs", "MORE=1"]),
        device_nodes: vec![DeviceNode {
            path: "/dev/card0".to_owned(),
            host_path: "/dev/fuse".to_owned(),
            permissions: "rw".to_owned(),
            ..DeviceNode::default()
        }],
        mounts: vec![Mount {
            host_path: "/usr/lib/card".to_owned(),
            container_path: "/lib/card".to_owned(),
            options: texts(&["ro", "nosuid"]),
            ..Mount::default()
        }],
        additional_gids: vec![44, 0, 29],
        ..Edits::default()
    }];
    let spec = setup.json();
    let env = spec["process"]["env"].as_array().unwrap();
    assert!(env.contains(&json!("CARD=theirs")) && env.contains(&json!("MORE=1")), "{env:?}");
    assert!(!env.contains(&json!("CARD=mine")), "{env:?}");
    assert_eq!(spec["process"]["user"]["additionalGids"], json!([1001, 29, 44]));
    let device = &spec["linux"]["devices"][0];
    assert_eq!((&device["path"], &device["type"]), (&json!("/dev/card0"), &json!("c")));
    assert_eq!(device["major"], 10);
    assert_eq!((&device["uid"], &device["gid"]), (&json!(1000), &json!(1001)));
    let rules = spec["linux"]["resources"]["devices"].as_array().unwrap();
    assert_eq!(rules.last().unwrap()["access"], "rw");
    let mount = spec["mounts"].as_array().unwrap().last().unwrap();
    assert_eq!(mount["options"], json!(["ro", "nosuid", "rbind"]));
    assert_eq!((&mount["type"], &mount["destination"]), (&json!("bind"), &json!("/lib/card")));
}

#[test]
fn hooks_are_for_handlers_that_run_them() {
    let mut setup = Setup::new();
    setup.cdi = vec![Edits {
        hooks: vec![Hook {
            hook_name: "createContainer".to_owned(),
            path: "/usr/bin/card-hook".to_owned(),
            args: texts(&["card-hook", "link"]),
            env: texts(&["A=1"]),
            timeout: None,
        }],
        ..Edits::default()
    }];
    let hook = &setup.json()["hooks"]["createContainer"][0];
    assert_eq!((&hook["path"], &hook["env"]), (&json!("/usr/bin/card-hook"), &json!(["A=1"])));
    setup.cdi[0].hooks[0].hook_name = "poststart".to_owned();
    let error = setup.build().unwrap_err().to_string();
    assert!(error.contains("hooks"), "{error}");
    setup.runs_all_hooks = true;
    assert_eq!(setup.json()["hooks"]["poststart"].as_array().unwrap().len(), 1);
    setup.cdi[0].hooks[0].hook_name = "whenever".to_owned();
    assert!(setup.build().is_err());
}

#[test]
fn what_a_vendor_writes_wrongly_is_refused() {
    let node = |path: &str, host: &str, kind: &str, permissions: &str| Edits {
        device_nodes: vec![DeviceNode {
            path: path.to_owned(),
            host_path: host.to_owned(),
            kind: kind.to_owned(),
            permissions: permissions.to_owned(),
            ..DeviceNode::default()
        }],
        ..Edits::default()
    };
    let mount = |from: &str, to: &str| Edits {
        mounts: vec![Mount {
            host_path: from.to_owned(),
            container_path: to.to_owned(),
            ..Mount::default()
        }],
        ..Edits::default()
    };
    for bad in [
        node("dev/x", "/dev/fuse", "", ""),
        node("/dev/x", "/dev/none", "", ""),
        node("/dev/x", "/dev/fuse", "z", ""),
        node("/dev/x", "/dev/fuse", "", "rwx"),
        mount("/a", "b"),
        mount("a", "/b"),
        Edits { env: texts(&["=x"]), ..Edits::default() },
        Edits { env: texts(&["A"]), ..Edits::default() },
        Edits { intel_rdt: Some(json!({})), ..Edits::default() },
        Edits { net_devices: vec![device("", "x")], ..Edits::default() },
        Edits { net_devices: vec![device("eth1", "a name too long for it")], ..Edits::default() },
        Edits { net_devices: vec![device("eth1", "a/b")], ..Edits::default() },
        Edits { net_devices: vec![device("eth1", "net%d")], ..Edits::default() },
        Edits { net_devices: vec![device("eth1", "lo")], ..Edits::default() },
        Edits { net_devices: vec![device("eth1", "x"), device("eth2", "x")], ..Edits::default() },
        Edits { net_devices: vec![device("eth1", "x"), device("eth1", "y")], ..Edits::default() },
    ] {
        let mut setup = Setup::new();
        setup.cdi = vec![bad.clone()];
        assert!(setup.build().is_err(), "{bad:?}");
    }
}

fn device(host: &str, name: &str) -> cdi::NetDevice {
    cdi::NetDevice { host_interface_name: host.to_owned(), name: name.to_owned() }
}

#[test]
fn network_devices_are_for_the_pods_network() {
    let mut setup = Setup::new();
    let devices = vec![device("eth1", "net1"), device("eth2", ""), device("eth1", "net1")];
    setup.cdi = vec![Edits { net_devices: devices, ..Edits::default() }];
    let wanted = |host_name: &str, name: &str| container_spec::NetDevice {
        host_name: host_name.to_owned(),
        name: name.to_owned(),
    };
    let built = setup.build().unwrap();
    assert_eq!(built.net_devices, [wanted("eth1", "net1"), wanted("eth2", "eth2")]);
    // The runtime moves them, whoever makes the container.
    assert!(setup.json()["linux"]["netDevices"].is_null());
}

#[test]
fn limits_are_the_runtimes_own_then_the_pods_then_the_containers() {
    let limit = |spec: &serde_json::Value, name: &str| {
        let all = spec["process"]["rlimits"].as_array().unwrap().clone();
        let found = all.into_iter().find(|limit| limit["type"] == name).unwrap();
        (found["soft"].as_u64().unwrap(), found["hard"].as_u64().unwrap())
    };
    let mut setup = Setup::new();
    assert_eq!(limit(&setup.json(), "RLIMIT_NOFILE"), (1024, 524_288));
    assert_eq!(limit(&setup.json(), "RLIMIT_CORE"), (0, u64::MAX));
    let annotation = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    setup.sandbox.annotations.extend([
        annotation("io.corten.rlimits", "nofile=2048:4096,nproc=100"),
        annotation("io.corten.rlimits/app", "nofile=3000"),
        annotation("io.corten.rlimits/other", "nofile=1"),
    ]);
    assert_eq!(limit(&setup.json(), "RLIMIT_NOFILE"), (3000, 3000));
    assert_eq!(limit(&setup.json(), "RLIMIT_NPROC"), (100, 100));
    let own = annotation("io.corten.rlimits", "nofile=7");
    setup.container.annotations.extend([own]);
    assert_eq!(limit(&setup.json(), "RLIMIT_NOFILE"), (7, 7));
    setup.container.annotations.extend([annotation("io.corten.rlimits", "rtprio=99")]);
    assert!(setup.build().unwrap_err().to_string().contains("rtprio"));
}

#[test]
fn labels_are_the_containers_or_the_pods() {
    let options = |level: &str| types::SelinuxOptions {
        level: level.to_owned(),
        ..types::SelinuxOptions::default()
    };
    let mut setup = Setup::new();
    setup.sandbox.security.selinux = Some(options("s0:c1,c2"));
    let spec = setup.json();
    assert_eq!(spec["process"]["selinuxLabel"], "system_u:system_r:container_t:s0:c1,c2");
    assert_eq!(spec["linux"]["mountLabel"], "system_u:object_r:container_file_t:s0:c1,c2");
    setup.container.security.selinux = Some(options("s0:c3"));
    assert_eq!(setup.json()["process"]["selinuxLabel"], "system_u:system_r:container_t:s0:c3");
    setup.container.security.selinux = Some(options("s0\n"));
    assert!(setup.build().is_err());
}
