//! Containers in user namespaces.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use launch::{
    PinnedUser, SandboxNamespaces, make_sandbox_namespaces, probe_user_namespaces, unpin,
};
use serde_json::{Value, json};
use types::{IdMapping, UserNamespace};

use crate::bench::{Bench, read_link};
use crate::filesystems::{LONG_LAYERS, with_long_paths};
use crate::harness::{Case, wait_readable};

pub const CASES: &[Case] = &[
    ("users::files_are_the_namespaces", files_are_the_namespaces),
    ("users::layers_that_fit_no_call_are_mapped", layers_that_fit_no_call_are_mapped),
    ("users::root_has_no_power_over_the_host", root_has_no_power_over_the_host),
    ("users::devices_work", devices_work),
    ("users::mounts_may_be_made_inside", mounts_may_be_made_inside),
    ("users::volumes_are_mapped", volumes_are_mapped),
    ("users::volumes_are_mapped_without_a_namespace_too", volumes_are_mapped_without_a_namespace),
    ("users::what_cannot_be_mapped_is_named", what_cannot_be_mapped_is_named),
    ("users::what_cannot_be_mapped_below_is_told", what_cannot_be_mapped_below_is_told),
    ("users::mounts_do_not_spread_to_the_host", mounts_do_not_spread_to_the_host),
    ("users::sessions_join_it", sessions_join_it),
    ("users::a_terminal_is_the_users", a_terminal_is_the_users),
    ("users::parameters_are_set_by_the_hosts_root", parameters_are_set_by_the_hosts_root),
    ("users::the_hosts_namespaces_can_be_shared", the_hosts_namespaces_can_be_shared),
    ("users::ids_that_are_not_mapped_are_refused", ids_that_are_not_mapped_are_refused),
    ("users::hooks_are_refused", hooks_are_refused),
    ("users::failures_leave_nothing", failures_leave_nothing),
    ("users::the_probe_leaves_nothing", the_probe_leaves_nothing),
];

const FIRST: u32 = 300_000;

fn mapping() -> Vec<IdMapping> {
    vec![IdMapping { container_id: 0, host_id: FIRST, length: 65_536 }]
}

fn mapping_json() -> Value {
    json!([{"containerID": 0, "hostID": FIRST, "size": 65_536}])
}

/// A case whose sandbox has a user namespace.
struct Users {
    bench: Bench,
    wanted: SandboxNamespaces,
}

impl Users {
    fn new() -> Self {
        let mut bench = Bench::new();
        let wanted = wanted(&bench);
        make_sandbox_namespaces(&wanted).expect("made");
        bench.spec["linux"]["namespaces"] = json!([
            {"type": "pid"}, {"type": "mount"},
            {"type": "user", "path": bench.path("ns/user")},
            {"type": "network", "path": wanted.net},
            {"type": "ipc", "path": wanted.ipc},
            {"type": "uts", "path": wanted.uts},
        ]);
        bench.spec["hostname"] = json!(null);
        bench.spec["linux"]["uidMappings"] = mapping_json();
        bench.spec["linux"]["gidMappings"] = mapping_json();
        chown(bench.path("upper"), Some(FIRST), Some(FIRST)).expect("given");
        // As a node has it: nobody else may walk to the layers.
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(bench.path("."), private).expect("closed");
        Self { bench, wanted }
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        for path in self.wanted.pins() {
            unpin(path).expect("unpinned");
        }
    }
}

fn wanted(bench: &Bench) -> SandboxNamespaces {
    SandboxNamespaces {
        user: Some(PinnedUser {
            path: bench.path("ns/user"),
            mappings: UserNamespace { uids: mapping(), gids: mapping() },
        }),
        net: Some(bench.path("ns/net")),
        ipc: Some(bench.path("ns/ipc")),
        uts: Some(bench.path("ns/uts")),
        hostname: "pod-name".into(),
        sysctls: BTreeMap::new(),
    }
}

fn files_are_the_namespaces() {
    let mut users = Users::new();
    let bench = &mut users.bench;
    chown(bench.image("tmp"), Some(1000), Some(1001)).expect("given");
    let outcome = bench.run(
        "cat /proc/self/uid_map; id -u; stat -c '%u:%g' /bin/busybox /tmp / /dev /dev/pts /proc/1
         touch /new; chown 1000:1000 /bin/busybox; stat -c '%u:%g' /new /bin/busybox
         hostname; readlink /proc/self/ns/user",
    );
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let map: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(map, ["0", "300000", "65536"], "{outcome:?}");
    assert_eq!(
        lines[1..11],
        ["0", "0:0", "1000:1001", "0:0", "0:0", "0:0", "0:0", "0:0", "1000:1000", "pod-name"],
        "{outcome:?}"
    );
    assert_ne!(lines[11], read_link("/proc/self/ns/user"));
    let owner = |path: &Path| {
        let file = fs::metadata(path).expect("there");
        (file.uid(), file.gid())
    };
    assert_eq!(owner(&bench.path("upper/new")), (FIRST, FIRST));
    assert_eq!(owner(&bench.path("upper/bin/busybox")), (FIRST + 1000, FIRST + 1000));
    assert_eq!(owner(&bench.image("bin/busybox")), (0, 0), "the layer is as it was");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert!(!mounts.contains(&*bench.image("").to_string_lossy()), "the host has no mount of it");
}

fn layers_that_fit_no_call_are_mapped() {
    let mut users = Users::new();
    let bench = with_long_paths(&mut users.bench);
    let outcome = bench.run("ls / | grep -c file; stat -c %u:%g /file0 /file150");
    assert_eq!(outcome.stdout, format!("{LONG_LAYERS}\n0:0\n0:0\n"), "{outcome:?}");
}

fn root_has_no_power_over_the_host() {
    let mut users = Users::new();
    let secret = users.bench.path("secret");
    fs::write(&secret, "secret").expect("written");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("closed");
    users.bench.add_mount(json!({"destination": "/secret", "type": "bind", "source": secret,
        "options": ["bind"]}));
    let all = ["CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER", "CAP_SYS_ADMIN", "CAP_MKNOD"];
    users.bench.spec["process"]["capabilities"] =
        json!({"bounding": all, "effective": all, "permitted": all});
    let outcome = users.bench.run(
        "cat /secret; chown 0 /secret; stat -c '%u %a' /secret; echo x > /secret
         grep CapEff /proc/self/status",
    );
    assert!(!outcome.stdout.contains("secret\n"), "{outcome:?}");
    assert!(outcome.stdout.starts_with("65534 600\n"), "{outcome:?}");
    let refusals = ["can't open", "not permitted", "can't create"];
    assert!(refusals.iter().all(|text| outcome.stderr.contains(text)), "{outcome:?}");
    assert_eq!(fs::read(&secret).expect("read"), b"secret");
}

fn devices_work() {
    let mut users = Users::new();
    users.bench.spec["linux"]["devices"] = json!([
        {"path": "/dev/kmsg-like", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640,
         "uid": 0, "gid": 6},
        {"path": "/dev/deep/strange", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666,
         "uid": 70_000, "gid": 70_000},
        {"path": "/dev/hosts", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640},
    ]);
    let outcome = users.bench.run(
        "echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 2 /dev/kmsg-like | wc -c
         stat -c '%n %u:%g %a' /dev/null /dev/kmsg-like /dev/deep/strange
         readlink /dev/fd; echo out > /dev/stdout; ls -ld /dev/ptmx | wc -l
         stat -c '%u:%g' /dev/hosts; head -c 1 /dev/hosts || chmod 666 /dev/hosts || echo refused",
    );
    assert_eq!(
        outcome.stdout,
        "3\n2\n/dev/null 0:0 666\n/dev/kmsg-like 0:6 640\n/dev/deep/strange 0:0 666\n\
         /proc/self/fd\nout\n1\n65534:65534\nrefused\n",
        "{outcome:?}"
    );
    let host = fs::metadata("/dev/null").expect("there");
    assert_eq!((host.uid(), host.gid()), (0, 0));
}

fn mounts_may_be_made_inside() {
    let mut users = Users::new();
    let caps = ["CAP_SYS_ADMIN"];
    users.bench.spec["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    let outcome = users.bench.run(
        "mount -t tmpfs tmpfs /tmp && echo mounted > /tmp/x && cat /tmp/x
         mount -o remount,bind,rw /sys && touch /sys/x; umount /proc/kcore && echo unmasked",
    );
    assert!(outcome.stdout.starts_with("mounted\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("/sys"), "{outcome:?}");
}

fn volumes_are_mapped() {
    let mut users = Users::new();
    let volume = users.bench.path("volume");
    fs::create_dir(&volume).expect("made");
    fs::write(volume.join("file"), "content").expect("written");
    chown(volume.join("file"), Some(1000), Some(1000)).expect("given");
    users.bench.add_mount(json!({"destination": "/mapped", "type": "bind", "source": volume,
        "options": ["rbind", "ridmap"], "uidMappings": mapping_json(),
        "gidMappings": mapping_json()}));
    users.bench.add_mount(json!({"destination": "/plain", "type": "bind", "source": volume,
        "options": ["rbind"]}));
    let outcome = users.bench.run(
        "stat -c %u /mapped /mapped/file /plain /plain/file; touch /mapped/new; touch /plain/no",
    );
    assert_eq!(outcome.stdout, "0\n1000\n65534\n65534\n", "{outcome:?}");
    assert!(outcome.stderr.contains("/plain/no"), "{outcome:?}");
    assert_eq!(fs::metadata(volume.join("new")).expect("there").uid(), 0);
    assert!(!volume.join("no").exists());
}

fn volumes_are_mapped_without_a_namespace() {
    let mut bench = Bench::new();
    let volume = bench.path("volume");
    fs::create_dir(&volume).expect("made");
    let shifted = json!([{"containerID": 0, "hostID": 5000, "size": 10}]);
    bench.add_mount(json!({"destination": "/mapped", "type": "bind", "source": volume,
        "options": ["bind"], "uidMappings": shifted, "gidMappings": shifted}));
    bench.spec["process"]["user"] = json!({"uid": 5003, "gid": 5003});
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).expect("opened");
    let outcome = bench.run("stat -c %u:%g /mapped; touch /mapped/new");
    assert_eq!(outcome.stdout, "5000:5000\n", "{outcome:?}");
    assert_eq!(fs::metadata(volume.join("new")).expect("there").uid(), 3);
}

fn what_cannot_be_mapped_is_named() {
    let mut users = Users::new();
    users.bench.add_mount(json!({"destination": "/mapped", "type": "bind",
        "source": "/proc/sys", "options": ["rbind"], "uidMappings": mapping_json(),
        "gidMappings": mapping_json()}));
    users.bench.script("true");
    let error = users.bench.run_spec().expect_err("a procfs").to_string();
    assert_eq!(
        error,
        "failed to map the owners of /proc/sys: the file system proc mounted on /proc does not \
         support it"
    );
}

fn what_cannot_be_mapped_below_is_told() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let mut users = Users::new();
    let volume = users.bench.path("volume");
    fs::create_dir_all(volume.join("below")).expect("made");
    mount("proc", volume.join("below"), "proc", MountFlags::empty(), None).expect("mounted");
    users.bench.add_mount(json!({"destination": "/mapped", "type": "bind", "source": volume,
        "options": ["rbind", "idmap"], "uidMappings": mapping_json(),
        "gidMappings": mapping_json()}));
    let outcome = users.bench.run("stat -c %u /mapped /mapped/below; touch /mapped/new");
    assert_eq!(outcome.stdout, "0\n65534\n", "{outcome:?}");
    let notice = outcome.notices.first().expect("a notice");
    assert!(notice.contains("the file system proc mounted on"), "{notice}");
    unmount(volume.join("below"), UnmountFlags::DETACH).expect("unmounted");
}

fn mounts_do_not_spread_to_the_host() {
    let mut users = Users::new();
    let volume = users.bench.path("volume");
    fs::create_dir(&volume).expect("made");
    crate::bench::mount_shared(&volume);
    users.bench.add_mount(json!({"destination": "/v", "type": "bind", "source": volume,
        "options": ["rbind", "rshared"]}));
    users.bench.script("true");
    let error = users.bench.run_spec().expect_err("shared").to_string();
    assert!(error.contains("is to spread to the host"), "{error}");
    rustix::mount::unmount(&volume, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
}

fn sessions_join_it() {
    let mut users = Users::new();
    users.bench.script("echo here; while true; do sleep 1; done");
    let mut running = users.bench.start().expect("started");
    assert_eq!(running.wait_for_output(), "here\n");
    let script = "id -u; cat /proc/self/uid_map; touch /from-exec; stat -c %u /from-exec; \
                  echo err > /dev/stderr; test $(readlink /proc/self/ns/user) = $(readlink /proc/1/ns/user) && echo 1";
    let outcome = users.bench.exec(&running, script).expect("started");
    let words: Vec<&str> = outcome.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "300000", "65536", "0", "1"], "{outcome:?}");
    assert_eq!(outcome.stderr, "err\n");
    assert_eq!(fs::metadata(users.bench.path("upper/from-exec")).expect("there").uid(), FIRST);
    running.stop();
}

fn a_terminal_is_the_users() {
    let mut users = Users::new();
    users.bench.script("tty; stat -c %u:%g /dev/console $(tty); echo done; sleep 5");
    users.bench.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let (launching, started) = users.bench.start_on_terminal().expect("started");
    let mut console = fs::File::from(started.console.expect("a terminal"));
    let mut text = String::new();
    while !text.contains("done") {
        use std::io::Read;
        assert!(wait_readable(&console, std::time::Duration::from_secs(10)), "{text}");
        let mut buffer = [0; 512];
        let length = console.read(&mut buffer).expect("read");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert_eq!(text.replace('\r', ""), "/dev/pts/0\n1000:5\n1000:5\ndone\n");
    crate::harness::kill(&launching.pidfd);
    sys::pidfd::wait_and_reap(&launching.pidfd).expect("reaped");
}

fn parameters_are_set_by_the_hosts_root() {
    let mut bench = Bench::new();
    let mut wanted = wanted(&bench);
    // The second is beyond what the namespace's own root can write.
    wanted.sysctls = BTreeMap::from([
        ("kernel.shmmni".into(), "77".into()),
        ("net.ipv4.ping_group_range".into(), "0 2147483647".into()),
    ]);
    make_sandbox_namespaces(&wanted).expect("made");
    bench.spec["linux"]["namespaces"] = json!([
        {"type": "pid"}, {"type": "mount"},
        {"type": "network", "path": wanted.net}, {"type": "ipc", "path": wanted.ipc},
    ]);
    bench.spec["hostname"] = json!(null);
    let outcome = bench.run("cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ping_group_range");
    let words: Vec<&str> = outcome.stdout.split_whitespace().collect();
    assert_eq!(words, ["77", "0", "2147483647"], "{outcome:?}");
    for path in wanted.pins() {
        unpin(path).expect("unpinned");
    }
}

fn the_hosts_namespaces_can_be_shared() {
    let mut users = Users::new();
    users.bench.spec["linux"]["namespaces"] = json!([
        {"type": "pid"}, {"type": "mount"},
        {"type": "user", "path": users.bench.path("ns/user")},
    ]);
    let outcome = users.bench.run("readlink /proc/self/ns/net; id -u; ls /sys | wc -l");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], read_link("/proc/self/ns/net"), "{outcome:?}");
    assert_eq!(lines[1], "0");
}

fn ids_that_are_not_mapped_are_refused() {
    let mut users = Users::new();
    users.bench.spec["process"]["user"] = json!({"uid": 65_536, "gid": 0});
    users.bench.script("true");
    let error = users.bench.run_spec().expect_err("not mapped").to_string();
    assert!(error.contains("65536"), "{error}");
}

fn hooks_are_refused() {
    for moment in ["createRuntime", "createContainer"] {
        let mut users = Users::new();
        users.bench.spec["hooks"] = json!({moment: [{"path": "/bin/true"}]});
        users.bench.script("true");
        let error = users.bench.run_spec().expect_err(moment).to_string();
        assert!(error.starts_with("a hook for a container in a user namespace"), "{error}");
    }
}

fn failures_leave_nothing() {
    let bench = Bench::new();
    let mut wanted = wanted(&bench);
    wanted.sysctls.insert("net.no.such.thing".into(), "1".into());
    make_sandbox_namespaces(&wanted).expect_err("no such parameter");
    assert!(fs::read_dir(bench.path("ns")).expect("read").next().is_none());

    wanted.sysctls.clear();
    let user = wanted.user.as_mut().expect("asked");
    user.mappings.uids[0].length = 0;
    let error = make_sandbox_namespaces(&wanted).expect_err("an empty range").to_string();
    assert!(error.contains("uid_map"), "{error}");
    assert!(fs::read_dir(bench.path("ns")).expect("read").next().is_none());
    let children = fs::read_to_string("/proc/thread-self/children").expect("read");
    assert_eq!(children.trim(), "", "nothing runs");
}

fn the_probe_leaves_nothing() {
    let scratch = tempfile::tempdir().expect("made");
    probe_user_namespaces(scratch.path()).expect("this machine can");
    assert!(fs::read_dir(scratch.path()).expect("read").next().is_none());
    let error = probe_user_namespaces(Path::new("/proc")).expect_err("no place");
    assert!(error.to_string().contains("/proc"), "{error}");
}
