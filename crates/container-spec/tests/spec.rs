//! What is asked for, and the spec that comes of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod support;

use container_spec::{CgroupVersion, PidNamespace, exec_process, stop_signal};
use serde_json::{Value, json};
use support::Setup;
use types::{ImageConfig, Profile};

fn sorted(value: &Value) -> Vec<String> {
    let mut all: Vec<String> =
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect();
    all.sort();
    all
}

fn owned(all: &[&str]) -> Vec<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

fn namespaces(spec: &Value) -> Vec<(String, Option<String>)> {
    let one =
        |n: &Value| (n["type"].as_str().unwrap().to_owned(), n["path"].as_str().map(str::to_owned));
    spec["linux"]["namespaces"].as_array().unwrap().iter().map(one).collect()
}

#[test]
fn a_plain_container() {
    let spec = Setup::new().json();
    assert_eq!(spec["ociVersion"], "1.1.0");
    assert_eq!(spec["root"], json!({ "path": "rootfs", "readonly": false }));
    assert_eq!(spec.get("hostname"), None);
    assert_eq!(spec.get("hooks"), None);
    let process = &spec["process"];
    assert_eq!(process["args"], json!(["/bin/sh"]));
    assert_eq!(process["cwd"], "/");
    assert_eq!(process["terminal"], false);
    assert_eq!(process["noNewPrivileges"], false);
    assert_eq!(process["oomScoreAdj"], 0);
    assert_eq!(process["user"], json!({ "uid": 1000, "gid": 1001, "additionalGids": [1001, 29] }));
    for absent in ["apparmorProfile", "consoleSize", "selinuxLabel", "scheduler"] {
        assert_eq!(process.get(absent), None, "{absent}");
    }
    let linux = &spec["linux"];
    assert_eq!(linux["cgroupsPath"], "/kubepods/pod1/c");
    for absent in ["seccomp", "sysctl", "devices", "uidMappings", "rootfsPropagation", "mountLabel"]
    {
        assert_eq!(linux.get(absent), None, "{absent}");
    }
    assert_eq!(linux["resources"].as_object().unwrap().keys().collect::<Vec<_>>(), ["devices"]);
}

#[test]
fn what_is_executed() {
    for (command, args, entrypoint, cmd, wanted) in [
        (&["c"][..], &["a"][..], &["e"][..], &["m"][..], Some(&["c", "a"][..])),
        (&["c"], &[], &["e"], &["m"], Some(&["c"])),
        (&[], &["a"], &["e"], &["m"], Some(&["e", "a"])),
        (&[], &[], &["e", "f"], &["m"], Some(&["e", "f", "m"])),
        (&[], &[], &[], &["m", "n"], Some(&["m", "n"])),
        (&[], &["a"], &[], &["m"], Some(&["a"])),
        (&[], &[], &["e"], &[], Some(&["e"])),
        (&[], &[], &[], &[], None),
    ] {
        let mut setup = Setup::new();
        setup.container.command = owned(command);
        setup.container.args = owned(args);
        setup.image.entrypoint = owned(entrypoint);
        setup.image.cmd = owned(cmd);
        match wanted {
            Some(wanted) => assert_eq!(setup.json()["process"]["args"], json!(wanted)),
            None => assert_eq!(setup.build().unwrap_err().to_string(), "no command specified"),
        }
    }
}

#[test]
fn the_environment() {
    let mut setup = Setup::new();
    setup.image.env = owned(&["A=1", "B=2", "NOEQ", "*", "=x", "B=3", "E="]);
    setup.container.envs = vec![
        ("A".to_owned(), b"one".to_vec()),
        ("C".to_owned(), b"x=y\nz".to_vec()),
        ("C".to_owned(), b"last".to_vec()),
    ];
    setup.container.tty = true;
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let wanted = json!([
        path,
        "TERM=xterm",
        "HOSTNAME=web-0",
        "A=one",
        "B=3",
        "E=",
        "C=last",
        "HOME=/home/app"
    ]);
    let spec = setup.json();
    assert_eq!(spec["process"]["env"], wanted);
    assert_eq!(spec["process"]["terminal"], true);
    setup.image.env = owned(&["PATH=/x", "HOME=/img", "HOSTNAME=mine", "TERM=dumb"]);
    setup.container.envs = Vec::new();
    let wanted = json!(["PATH=/x", "TERM=dumb", "HOSTNAME=mine", "HOME=/img"]);
    assert_eq!(setup.json()["process"]["env"], wanted);
    setup.container.envs = vec![("HOME".to_owned(), Vec::new())];
    assert_eq!(setup.json()["process"]["env"][3], "HOME=/home/app");
    // A literal backslash and n is no newline.
    setup.container.envs = vec![("HOME".to_owned(), b"/a\\nb".to_vec())];
    assert_eq!(setup.json()["process"]["env"][3], "HOME=/a\\nb");
}

#[test]
fn the_working_directory() {
    for (asked, image, wanted) in
        [("", "", "/"), ("", "/srv", "/srv"), ("/tmp", "/srv", "/tmp"), ("/tmp", "rel", "/tmp")]
    {
        let mut setup = Setup::new();
        setup.container.working_dir = asked.to_owned();
        setup.image.working_dir = image.to_owned();
        assert_eq!(setup.json()["process"]["cwd"], wanted);
    }
}

#[test]
fn namespaces_are_the_sandboxes() {
    let path = |path: &str| Some(path.to_owned());
    let mut setup = Setup::new();
    let wanted = [
        ("mount".to_owned(), None),
        ("network".to_owned(), path("/run/netns/n")),
        ("ipc".to_owned(), path("/run/corten/s/ipc")),
        ("uts".to_owned(), path("/run/corten/s/uts")),
        ("pid".to_owned(), None),
    ];
    assert_eq!(namespaces(&setup.json()), wanted);
    setup.node_network = true;
    setup.pid = PidNamespace::Node;
    setup.cgroup_version = CgroupVersion::V2;
    let names =
        |spec: &Value| namespaces(spec).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(&setup.json()), ["mount", "ipc", "uts", "cgroup"]);
    setup.pid = PidNamespace::Join(std::path::Path::new("/proc/9/ns/pid"));
    assert_eq!(namespaces(&setup.json())[3], ("pid".to_owned(), path("/proc/9/ns/pid")));
}

#[test]
fn annotations_are_ours_and_what_the_caller_adds() {
    let mut setup = Setup::new();
    setup.image.labels.insert("containerd.io/restart.logpath".to_owned(), "binary:///x".to_owned());
    setup.annotations.insert("own".to_owned(), "1".to_owned());
    setup.annotations.insert("io.kubernetes.cri.sandbox-id".to_owned(), "forged".to_owned());
    let wanted = json!({
        "own": "1",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": "5".repeat(64),
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.sandbox-name": "web",
        "io.kubernetes.cri.sandbox-namespace": "default",
        "io.kubernetes.cri.sandbox-uid": "uid-1",
        "io.kubernetes.cri.image-name": "docker.io/library/app:1",
    });
    assert_eq!(setup.json()["annotations"], wanted);
}

#[test]
fn capability_sets() {
    const DEFAULT: [&str; 14] = [
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    ];
    let without = |name: &str| DEFAULT.into_iter().filter(|cap| *cap != name).collect::<Vec<_>>();
    let with = |name| {
        let mut all = DEFAULT.to_vec();
        all.push(name);
        all.sort_unstable();
        all
    };
    for (add, drop, ambient, wanted) in [
        (&[][..], &[][..], &[][..], DEFAULT.to_vec()),
        (&["NET_ADMIN"], &[], &[], with("CAP_NET_ADMIN")),
        (&["CAP_NET_ADMIN"], &[], &[], with("CAP_NET_ADMIN")),
        (&["net_admin"], &[], &[], with("CAP_NET_ADMIN")),
        (&[], &["CHOWN"], &[], without("CAP_CHOWN")),
        (&[], &["ALL"], &[], vec![]),
        (&["NET_RAW"], &["all"], &[], vec!["CAP_NET_RAW"]),
        (&["NET_RAW"], &["ALL", "NET_RAW"], &[], vec![]),
        (&["KILL"], &["KILL"], &[], without("CAP_KILL")),
        (&[], &["ALL"], &["NET_BIND_SERVICE"], vec!["CAP_NET_BIND_SERVICE"]),
    ] {
        let mut setup = Setup::new();
        let capabilities = &mut setup.container.security.capabilities;
        capabilities.add = owned(add);
        capabilities.drop = owned(drop);
        capabilities.add_ambient = owned(ambient);
        let sets = &setup.json()["process"]["capabilities"];
        for set in ["bounding", "effective", "permitted"] {
            assert_eq!(sorted(&sets[set]), wanted, "{set} of +{add:?} -{drop:?}");
        }
        for set in ["inheritable", "ambient"] {
            assert_eq!(sets[set].as_array().unwrap().len(), ambient.len(), "{set}");
        }
    }
    let mut setup = Setup::new();
    setup.host_capabilities.remove("CAP_SYS_RESOURCE");
    setup.host_capabilities.remove("CAP_MKNOD");
    setup.host_capabilities.insert("CAP_FROM_THE_FUTURE".to_owned());
    assert_eq!(sorted(&setup.json()["process"]["capabilities"]["bounding"]), without("CAP_MKNOD"));
    setup.container.security.capabilities.add = owned(&["ALL"]);
    setup.container.security.capabilities.drop = owned(&["CHOWN"]);
    assert_eq!(sorted(&setup.json()["process"]["capabilities"]["bounding"]).len(), 41 - 3);
}

#[test]
fn profiles() {
    let localhost: oci_spec::runtime::LinuxSeccomp =
        serde_json::from_value(json!({ "defaultAction": "SCMP_ACT_LOG" })).unwrap();
    let local = || Profile::Localhost("mine.json".to_owned());
    for (asked, unset, wanted) in [
        (None, Profile::Unconfined, None),
        (None, Profile::RuntimeDefault, Some("SCMP_ACT_ERRNO")),
        (None, local(), Some("SCMP_ACT_LOG")),
        (Some(Profile::RuntimeDefault), Profile::Unconfined, Some("SCMP_ACT_ERRNO")),
        (Some(Profile::Unconfined), Profile::RuntimeDefault, None),
        (Some(local()), Profile::Unconfined, Some("SCMP_ACT_LOG")),
    ] {
        let mut setup = Setup::new();
        setup.container.security.seccomp = asked;
        setup.unset_seccomp = unset;
        setup.localhost = Some(localhost.clone());
        assert_eq!(setup.json()["linux"]["seccomp"]["defaultAction"].as_str(), wanted);
    }
    for (asked, unset, default, wanted) in [
        (None, Profile::RuntimeDefault, Some("corten-default"), Some("corten-default")),
        (None, Profile::RuntimeDefault, None, None),
        (None, Profile::Unconfined, Some("corten-default"), None),
        (Some(Profile::Unconfined), Profile::RuntimeDefault, Some("corten-default"), None),
        (Some(local()), Profile::RuntimeDefault, Some("corten-default"), Some("mine.json")),
    ] {
        let mut setup = Setup::new();
        setup.container.security.apparmor = asked;
        setup.unset_apparmor = unset;
        setup.apparmor_default = default;
        assert_eq!(setup.json()["process"]["apparmorProfile"].as_str(), wanted);
    }
}

#[test]
fn the_default_profile_knows_the_final_capabilities() {
    let allows_mount = |setup: &Setup| {
        let spec = setup.json();
        let rules = spec["linux"]["seccomp"]["syscalls"].as_array().unwrap();
        rules.iter().any(|rule| rule["names"].as_array().unwrap().contains(&json!("mount")))
    };
    let mut setup = Setup::new();
    setup.container.security.seccomp = Some(Profile::RuntimeDefault);
    assert!(!allows_mount(&setup));
    setup.container.security.capabilities.add = owned(&["SYS_ADMIN"]);
    assert!(allows_mount(&setup));
    setup.container.security.capabilities.drop = owned(&["SYS_ADMIN"]);
    assert!(!allows_mount(&setup));
}

#[test]
fn a_privileged_container() {
    let mut setup = Setup::new();
    setup.sandbox.security.privileged = true;
    setup.container.security.privileged = true;
    setup.container.security.seccomp = Some(Profile::RuntimeDefault);
    setup.container.security.masked_paths = owned(&["/proc/kcore"]);
    setup.apparmor_default = Some("corten-default");
    setup.host_capabilities.remove("CAP_SYS_RESOURCE");
    setup.cgroup_version = CgroupVersion::V2;
    let spec = setup.json();
    let (process, linux) = (&spec["process"], &spec["linux"]);
    assert_eq!(sorted(&process["capabilities"]["bounding"]).len(), 40);
    assert_eq!(process["capabilities"]["ambient"], json!([]));
    assert_eq!(process.get("apparmorProfile"), None);
    assert_eq!(linux.get("seccomp"), None);
    assert_eq!((&linux["maskedPaths"], &linux["readonlyPaths"]), (&json!([]), &json!([])));
    assert_eq!(linux["devices"].as_array().unwrap().len(), 4);
    assert_eq!(
        linux["resources"]["devices"],
        json!([{ "allow": true, "type": "a", "access": "rwm" }])
    );
    assert!(!namespaces(&spec).iter().any(|(name, _)| name == "cgroup"));
    for mount in spec["mounts"].as_array().unwrap() {
        assert!(!mount["options"].as_array().unwrap().contains(&json!("ro")), "{mount}");
    }
}

#[test]
fn masked_and_read_only_paths() {
    let mut setup = Setup::new();
    let spec = setup.json();
    assert_eq!(sorted(&spec["linux"]["maskedPaths"]).len(), 12);
    assert_eq!(
        sorted(&spec["linux"]["readonlyPaths"]),
        ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
    );
    setup.container.security.masked_paths = owned(&["/proc/kcore"]);
    setup.container.security.readonly_paths = owned(&["/proc/sys"]);
    let spec = setup.json();
    assert_eq!(spec["linux"]["maskedPaths"], json!(["/proc/kcore"]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!(["/proc/sys"]));
    // In a user namespace an empty list is the client's choice.
    setup.container.security.masked_paths.clear();
    let ids = vec![types::IdMapping { host_id: 1000, container_id: 0, length: 65_536 }];
    let user = Some(types::UserNamespace { uids: ids.clone(), gids: ids });
    setup.sandbox.security.namespaces.user.clone_from(&user);
    setup.container.security.namespaces.user = user;
    assert_eq!(setup.json()["linux"]["maskedPaths"], json!([]));
}

#[test]
fn limits() {
    let mut setup = Setup::new();
    setup.cgroup_version = CgroupVersion::V2;
    setup.container.resources = types::LinuxResources {
        cpu_period_us: 100_000,
        cpu_quota_us: 50_000,
        cpu_shares: 512,
        memory_limit_bytes: 1 << 26,
        oom_score_adj: -997,
        cpuset_cpus: "0-1,3".to_owned(),
        cpuset_mems: "0".to_owned(),
        hugepage_limits: vec![types::HugepageLimit {
            page_size: "2MB".to_owned(),
            limit_bytes: u64::MAX,
        }],
        unified: [("memory.high".to_owned(), "max".to_owned())].into(),
        memory_swap_limit_bytes: 1 << 27,
    };
    let spec = setup.json();
    let resources = &spec["linux"]["resources"];
    assert_eq!(
        resources["cpu"],
        json!({ "shares": 512, "quota": 50000, "period": 100_000, "cpus": "0-1,3", "mems": "0" })
    );
    assert_eq!(resources["memory"], json!({ "limit": 1 << 26, "swap": 1 << 27 }));
    assert_eq!(resources["hugepageLimits"], json!([{ "pageSize": "2MB", "limit": i64::MAX }]));
    assert_eq!(resources["unified"], json!({ "memory.high": "max" }));
    assert_eq!(resources.get("pids"), None);
    assert_eq!(spec["process"]["oomScoreAdj"], -997);
}

#[test]
fn device_rules_and_nodes() {
    let mut setup = Setup::new();
    let allow = |typ: &str, major: i64, minor: i64, access: &str| json!({ "allow": true, "type": typ, "major": major, "minor": minor, "access": access });
    let spec = setup.json();
    let rules = spec["linux"]["resources"]["devices"].as_array().unwrap().clone();
    assert_eq!(rules[0], json!({ "allow": false, "type": "a", "access": "rwm" }));
    assert!(rules.contains(&allow("c", 1, 3, "rwm")));
    assert!(rules.contains(&json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" })));
    assert!(!rules.iter().any(|rule| rule["type"] == "b" && rule["access"] != "m"));
    let device = |container_path: &str, host_path: &str, permissions: &str| types::Device {
        container_path: container_path.to_owned(),
        host_path: host_path.to_owned(),
        permissions: permissions.to_owned(),
    };
    setup.container.devices = vec![
        device("/dev/mine", "/dev/fuse", "rw"),
        device("/dev/audio", "/dev/snd", "r"),
        device("", "/dev/sda", ""),
    ];
    let spec = setup.json();
    let nodes: Vec<&str> = spec["linux"]["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["path"].as_str().unwrap())
        .collect();
    assert_eq!(nodes, ["/dev/mine", "/dev/audio/a", "/dev/audio/by/b", "/dev/sda"]);
    assert_eq!(
        spec["linux"]["devices"][0],
        json!({ "path": "/dev/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 0, "gid": 6 })
    );
    let more = &spec["linux"]["resources"]["devices"].as_array().unwrap()[rules.len()..];
    let wanted = [
        allow("c", 10, 229, "rw"),
        allow("c", 116, 1, "r"),
        allow("c", 116, 2, "r"),
        allow("b", 8, 0, "rwm"),
    ];
    assert_eq!(more, wanted);
}

#[test]
fn signals() {
    let image =
        |signal: &str| ImageConfig { stop_signal: signal.to_owned(), ..ImageConfig::default() };
    for (asked, signal, wanted) in [
        (None, "", 15),
        (None, "SIGQUIT", 3),
        (None, "QUIT", 3),
        (None, "9", 9),
        (None, "SIGRTMIN+3", 37),
        (None, "nonsense", 15),
        (Some(10), "SIGQUIT", 10),
    ] {
        assert_eq!(stop_signal(asked, &image(signal)), wanted, "{asked:?} {signal}");
    }
}

#[test]
fn exec_sessions_are_like_the_container() {
    let mut setup = Setup::new();
    setup.container.security.no_new_privs = true;
    let built = setup.build().unwrap();
    let process = built.spec.process().as_ref().unwrap();
    let exec = exec_process(process, &owned(&["id", "-u"]), true);
    assert_eq!(exec.args().as_deref(), Some(&owned(&["id", "-u"])[..]));
    assert_eq!(exec.terminal(), Some(true));
    assert!(exec.env().as_ref().unwrap().contains(&"TERM=xterm".to_owned()));
    assert_eq!(exec.user(), process.user());
    assert_eq!(exec.capabilities(), process.capabilities());
    assert_eq!(exec.no_new_privileges(), Some(true));
}
