//! What a container has and what it cannot do.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::bench::{Bench, read_link, status_of, without_mount};
use crate::harness::Case;

pub const CASES: &[Case] = &[
    ("confinement::namespaces_are_its_own", namespaces_are_its_own),
    ("confinement::namespaces_can_be_joined", namespaces_can_be_joined),
    ("confinement::capabilities_are_exact", capabilities_are_exact),
    ("confinement::other_users_have_what_is_ambient", other_users_have_what_is_ambient),
    ("confinement::only_standard_descriptors_are_open", only_standard_descriptors_are_open),
    ("confinement::paths_are_masked_and_readonly", paths_are_masked_and_readonly),
    ("confinement::the_hosts_null_cannot_be_changed", the_hosts_null_cannot_be_changed),
    ("confinement::the_filter_is_loaded_either_way", the_filter_is_loaded_either_way),
    ("confinement::sysctls_are_set_in_its_namespaces", sysctls_are_set_in_its_namespaces),
    ("confinement::signals_and_session_are_fresh", signals_and_session_are_fresh),
    ("confinement::other_users_reopen_their_pipes", other_users_reopen_their_pipes),
];

const NAMESPACES: [&str; 6] = ["pid", "mnt", "ipc", "uts", "net", "cgroup"];

fn namespaces_are_its_own() {
    let mut bench = Bench::new();
    let outcome = bench
        .run("for n in pid mnt ipc uts net cgroup; do readlink /proc/self/ns/$n; done; echo $$");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    for (name, inside) in NAMESPACES.iter().zip(&lines) {
        assert_ne!(*inside, read_link(format!("/proc/self/ns/{name}")), "{name}");
    }
    assert_eq!(lines.last(), Some(&"1"));
}

fn namespaces_can_be_joined() {
    let mut bench = Bench::new();
    for entry in bench.spec["linux"]["namespaces"].as_array_mut().expect("list") {
        if entry["type"] == "network" {
            entry["path"] = json!(format!("/proc/{}/ns/net", std::process::id()));
        }
    }
    let namespaces = bench.spec["linux"]["namespaces"].as_array_mut().expect("list");
    namespaces.retain(|entry| entry["type"] != "ipc");
    let outcome = bench.run("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc");
    let expected =
        format!("{}\n{}\n", read_link("/proc/self/ns/net"), read_link("/proc/self/ns/ipc"));
    assert_eq!(outcome.stdout, expected);
}

fn capabilities_are_exact() {
    // chown 0, kill 5, setgid 6, setuid 7, net_bind_service 10
    let expected = format!("{:016x}", 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10);
    let none = format!("{:016x}", 0);
    let mut bench = Bench::new();
    let outcome = bench.run("cat /proc/self/status");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status_of(&outcome.stdout, set), expected, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status_of(&outcome.stdout, set), none, "{set}");
    }
    assert_eq!(status_of(&outcome.stdout, "NoNewPrivs"), "1");
    bench.spec["process"]["capabilities"] = json!(null);
    let outcome = bench.run("cat /proc/self/status");
    for set in ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(status_of(&outcome.stdout, set), none, "{set}");
    }
}

fn other_users_have_what_is_ambient() {
    let mut bench = Bench::new();
    bench.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let outcome = bench.run("cat /proc/self/status");
    assert_eq!(status_of(&outcome.stdout, "CapEff"), format!("{:016x}", 0));
    assert_eq!(status_of(&outcome.stdout, "Groups"), "");
    let caps = json!(["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]);
    bench.spec["process"]["capabilities"] = json!({"bounding": caps, "effective": caps,
        "permitted": caps, "inheritable": caps, "ambient": ["CAP_NET_BIND_SERVICE"]});
    let outcome = bench.run("cat /proc/self/status");
    assert_eq!(status_of(&outcome.stdout, "CapEff"), format!("{:016x}", 1 << 10));
    assert_eq!(status_of(&outcome.stdout, "CapAmb"), format!("{:016x}", 1 << 10));
}

fn only_standard_descriptors_are_open() {
    let mut bench = Bench::new();
    // A descriptor of ours without the flag that closes it must not get through either.
    let leak = fs::File::open("/").expect("opened");
    let flags = rustix::io::fcntl_getfd(&leak).expect("read") - rustix::io::FdFlags::CLOEXEC;
    rustix::io::fcntl_setfd(&leak, flags).expect("set");
    bench.spec["process"]["args"] = json!(["/bin/ls", "-l", "/proc/self/fd"]);
    let outcome = bench.run_spec().expect("started");
    // The directory that `ls` itself had open is gone when it looks at it.
    let open: Vec<&str> = outcome.stdout.lines().filter(|l| l.contains(" -> ")).collect();
    assert_eq!(open.len(), 3, "{open:?}");
    assert!(open.iter().all(|l| l.contains("/dev/null") || l.contains("pipe:")), "{open:?}");
    drop(leak);
}

fn paths_are_masked_and_readonly() {
    let mut bench = Bench::new();
    let outcome = bench.run(
        "head -c 1 /proc/version | wc -c; ls -A /sys/firmware | wc -l; stat -c %t:%T /proc/version
         echo 1 > /proc/sys/kernel/shmmax; chmod 666 /proc/version; touch /sys/firmware/x
         touch /sys/x; mount",
    );
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.get(..3).expect("lines"), ["0", "0", "1:3"]);
    assert_eq!(outcome.stderr.matches("Read-only file system").count(), 4, "{outcome:?}");
    let expected = "proc on /proc/sys type proc (ro,nosuid,nodev,noexec,relatime)";
    assert!(lines.contains(&expected), "{lines:?}");
}

fn the_hosts_null_cannot_be_changed() {
    let mut bench = Bench::new();
    let caps = json!(["CAP_FOWNER", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    bench.spec["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    let host = std::fs::metadata("/dev/null").expect("there").ino();
    // With a device of its own the container may do what it likes.
    let outcome = bench.run("stat -L -c %i /dev/fd/0; readlink /proc/self/fd/0; echo x >&0; cat");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_ne!(lines.first().copied(), Some(host.to_string().as_str()), "{outcome:?}");
    assert_eq!(lines.get(1).copied(), Some("/dev/null"), "{outcome:?}");
    // Without one it has the host's. The mode is the one that it has anyway: should the change
    // work, it does no harm.
    std::fs::create_dir(bench.path("dev")).expect("made");
    for part in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        without_mount(&mut bench.spec, part);
    }
    bench.add_mount(json!({"destination": "/dev", "type": "bind", "source": bench.path("dev"),
        "options": ["bind"]}));
    let outcome = bench.run("chmod 666 /proc/self/fd/0; chown 0:0 /proc/1/fd/0; echo x >&0; cat");
    assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 2, "it can be read and written: {outcome:?}");
}

fn seccomp() -> serde_json::Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]})
}

fn the_filter_is_loaded_either_way() {
    let mut bench = Bench::new();
    bench.spec["linux"]["seccomp"] = seccomp();
    for no_new_privileges in [true, false] {
        bench.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        for uid in [0, 1000] {
            bench.spec["process"]["user"] = json!({"uid": uid, "gid": uid});
            let outcome = bench.run("cat /proc/self/status; mkdir /tmp/x");
            assert_eq!(status_of(&outcome.stdout, "Seccomp"), "2");
            let expected = if no_new_privileges { "1" } else { "0" };
            assert_eq!(status_of(&outcome.stdout, "NoNewPrivs"), expected);
            assert!(outcome.stderr.contains("Function not implemented"), "{outcome:?}");
        }
    }
}

fn sysctls_are_set_in_its_namespaces() {
    let host = fs::read_to_string("/proc/sys/kernel/shmmni").expect("read");
    let mut bench = Bench::new();
    bench.spec["linux"]["sysctl"] =
        json!({"kernel.shmmni": "1234", "net.ipv4.ip_unprivileged_port_start": "0"});
    let outcome =
        bench.run("cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_unprivileged_port_start");
    assert_eq!(outcome.stdout, "1234\n0\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/shmmni").expect("read"), host);

    let namespaces = bench.spec["linux"]["namespaces"].as_array_mut().expect("list");
    namespaces.retain(|entry| entry["type"] != "ipc");
    let error = bench.run_spec().expect_err("the host's");
    assert!(error.to_string().contains("belongs to a namespace of the host"), "{error}");
}

fn signals_and_session_are_fresh() {
    let mut bench = Bench::new();
    bench.spec["process"]["args"] = json!(["/bin/cat", "/proc/self/status", "/proc/self/stat"]);
    let outcome = bench.run_spec().expect("started");
    for set in ["SigBlk", "SigIgn"] {
        assert_eq!(status_of(&outcome.stdout, set), format!("{:016x}", 0), "{set}");
    }
    let stat = outcome.stdout.lines().last().expect("stat");
    let fields: Vec<&str> = stat.split(' ').collect();
    assert_eq!(fields.get(4..6), Some(["1", "1"].as_slice()), "group and session: {stat}");
}

fn other_users_reopen_their_pipes() {
    let mut bench = Bench::new();
    bench.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let outcome = bench.run("echo out > /dev/stdout; echo err > /dev/stderr");
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
}
