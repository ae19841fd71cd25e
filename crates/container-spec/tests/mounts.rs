//! What is mounted where, over what, and in which order.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod support;

use container_spec::Volume;
use support::Setup;
use types::{IdMapping, Mount, Propagation};

/// Each mount as a line: `target type source options`.
fn lines(setup: &Setup) -> Vec<String> {
    let spec = setup.json();
    let options = |mount: &serde_json::Value| {
        let all = mount["options"].as_array().unwrap();
        all.iter().map(|option| option.as_str().unwrap()).collect::<Vec<_>>().join(",")
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let one = |m: &serde_json::Value| {
        [text(&m["destination"]), text(&m["type"]), text(&m["source"]), options(m)].join(" ")
    };
    spec["mounts"].as_array().unwrap().iter().map(one).collect()
}

fn targets(setup: &Setup) -> Vec<String> {
    lines(setup).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

fn mount(host: &str, container: &str) -> Mount {
    Mount { host_path: host.to_owned(), container_path: container.to_owned(), ..Mount::default() }
}

#[test]
fn defaults() {
    let wanted = [
        "/proc proc proc nosuid,noexec,nodev",
        "/dev tmpfs tmpfs nosuid,strictatime,mode=755,size=65536k",
        "/dev/pts devpts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        "/dev/mqueue mqueue mqueue nosuid,noexec,nodev",
        "/sys sysfs sysfs nosuid,noexec,nodev,ro",
        "/sys/fs/cgroup cgroup cgroup nosuid,noexec,nodev,relatime,ro",
        "/etc/hostname bind /run/corten/s/hostname rbind,rprivate,rw",
        "/etc/hosts bind /run/corten/s/hosts rbind,rprivate,rw",
        "/etc/resolv.conf bind /run/corten/s/resolv.conf rbind,rprivate,rw",
        "/dev/shm bind /run/corten/s/shm rbind,rprivate,rw",
    ];
    let mut setup = Setup::new();
    assert_eq!(lines(&setup), wanted);
    setup.container.security.readonly_rootfs = true;
    let lines = lines(&setup);
    assert_eq!(lines[7], "/etc/hosts bind /run/corten/s/hosts rbind,rprivate,ro");
    assert_eq!(lines[9], wanted[9]);
    assert_eq!(setup.json()["root"]["readonly"], true);
    setup.shm = None;
    let shm = "/dev/shm tmpfs shm nosuid,noexec,nodev,mode=1777,size=65536k";
    assert!(self::lines(&setup).iter().any(|line| line == shm));
}

#[test]
fn what_the_client_mounts_takes_the_place_of_a_default() {
    let mut setup = Setup::new();
    setup.container.mounts = vec![
        mount("/pods/hosts", "/etc//hosts"),
        mount("/pods/shm", "/dev/shm"),
        mount("/sys", "/sys/"),
    ];
    let lines = lines(&setup);
    for (target, source) in
        [("/etc/hosts", "/pods/hosts"), ("/dev/shm", "/pods/shm"), ("/sys", "/sys")]
    {
        let there: Vec<_> =
            lines.iter().filter(|line| line.split(' ').next() == Some(target)).collect();
        assert_eq!(there, [&format!("{target} bind {source} rbind,rprivate,rw")]);
    }
}

#[test]
fn a_dev_of_the_clients_has_none_of_ours_in_it() {
    let mut setup = Setup::new();
    setup.container.mounts = vec![mount("/dev", "/dev")];
    let targets = targets(&setup);
    assert_eq!(
        targets.iter().filter(|target| target.starts_with("/dev")).count(),
        1,
        "{targets:?}"
    );
    // The client's own mounts below it stay.
    setup.container.mounts.push(mount("/x", "/dev/shm"));
    let targets = self::targets(&setup);
    assert!(
        targets.iter().position(|t| t == "/dev") < targets.iter().position(|t| t == "/dev/shm")
    );
}

#[test]
fn what_lies_inside_another_mount_comes_after_it() {
    let mut setup = Setup::new();
    setup.container.mounts = vec![
        mount("/1", "/data/a/b"),
        mount("/2", "/data/a"),
        mount("/3", "/etc"),
        mount("/4", "/data"),
        mount("/5", "/data/a/../x"),
    ];
    let targets = targets(&setup);
    let place = |wanted: &str| targets.iter().position(|target| target == wanted).unwrap();
    assert!(place("/data") < place("/data/a") && place("/data/a") < place("/data/a/b"));
    assert!(place("/etc") < place("/etc/hosts") && place("/etc") < place("/etc/resolv.conf"));
    assert!(place("/data") < place("/data/x"));
    assert!(place("/dev") < place("/dev/shm"));
}

#[test]
fn options() {
    for (readonly, recursive, propagation, wanted, root) in [
        (false, false, Propagation::Private, "rbind,rprivate,rw", None),
        (true, false, Propagation::Private, "rbind,rprivate,ro", None),
        (true, true, Propagation::Private, "rbind,rprivate,rro", None),
        (true, false, Propagation::HostToContainer, "rbind,rslave,ro", Some("rslave")),
        (false, false, Propagation::Bidirectional, "rbind,rshared,rw", Some("rshared")),
    ] {
        let mut setup = Setup::new();
        setup.container.mounts = vec![Mount {
            readonly,
            recursive_read_only: recursive,
            propagation,
            ..mount("/a", "/b")
        }];
        assert!(lines(&setup).contains(&format!("/b bind /a {wanted}")));
        assert_eq!(setup.json()["linux"]["rootfsPropagation"].as_str(), root);
    }
    let mut setup = Setup::new();
    let options = vec!["noexec".to_owned(), "nosuid".to_owned()];
    let slave = Mount { propagation: Propagation::HostToContainer, ..mount("/c", "/d") };
    let shared = Mount { propagation: Propagation::Bidirectional, ..mount("/e", "/f") };
    setup.container.mounts =
        vec![Mount { mount_options: options, ..mount("/a", "/b") }, shared, slave];
    assert!(lines(&setup).contains(&"/b bind /a rbind,rprivate,rw,noexec,nosuid".to_owned()));
    assert_eq!(setup.json()["linux"]["rootfsPropagation"], "rshared");
}

#[test]
fn of_options_that_exclude_each_other_the_last_one_counts() {
    for (asked, wanted) in [
        (&["noexec", "exec"][..], ""),
        (&["exec", "noexec"], ",noexec"),
        (&["exec", "dev", "suid", "symfollow", "diratime", "atime"], ""),
        (&["strictatime", "noatime"], ",noatime"),
        (&["nosymfollow", "nodiratime", "nodev"], ",nodev,nodiratime,nosymfollow"),
    ] {
        let mut setup = Setup::new();
        let mount_options = asked.iter().map(|&option| option.to_owned()).collect();
        setup.container.mounts = vec![Mount { mount_options, ..mount("/a", "/b") }];
        let line = format!("/b bind /a rbind,rprivate,rw{wanted}");
        assert!(lines(&setup).contains(&line), "{asked:?}");
    }
}

#[test]
fn owners_are_mapped() {
    let mut setup = Setup::new();
    let ids = vec![IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }];
    setup.container.mounts =
        vec![Mount { uid_mappings: ids.clone(), gid_mappings: ids, ..mount("/a", "/b") }];
    let spec = setup.json();
    let mount =
        spec["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/b").unwrap();
    let wanted = serde_json::json!([{ "hostID": 100_000, "containerID": 0, "size": 65_536 }]);
    assert_eq!((&mount["uidMappings"], &mount["gidMappings"]), (&wanted, &wanted));
    assert!(mount["options"].as_array().unwrap().contains(&"idmap".into()));
}

#[test]
fn volumes_of_the_image_are_directories_of_the_callers() {
    let mut setup = Setup::new();
    setup.image.volumes = [
        "/data",
        "/data/",
        "/../../../etc",
        "logs",
        "/taken",
        "/",
        "/proc",
        "/sys/fs/cgroup",
        "/dev/shm",
        "/etc/hosts",
    ]
    .map(str::to_owned)
    .to_vec();
    setup.container.mounts = vec![mount("/x", "/taken")];
    let volume = |at: &str, path: &str| Volume {
        host_path: format!("/var/lib/corten/v/{at}").into(),
        container_path: path.to_owned(),
    };
    let built = setup.build().unwrap();
    assert_eq!(built.volumes, [volume("0", "/data"), volume("1", "/etc"), volume("2", "/logs")]);
    let lines = lines(&setup);
    assert!(lines.contains(&"/data bind /var/lib/corten/v/0 rbind,rprivate,rw".to_owned()));
    assert!(lines.contains(&"/taken bind /x rbind,rprivate,rw".to_owned()));
    assert!(lines.contains(&"/proc proc proc nosuid,noexec,nodev".to_owned()));
    // A volume over a directory does not hide the pod's files in it.
    let place = |wanted: &str| lines.iter().position(|line| line.starts_with(wanted)).unwrap();
    assert!(place("/etc bind") < place("/etc/hosts"));
}
