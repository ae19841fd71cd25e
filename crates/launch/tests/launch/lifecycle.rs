//! Starting, failing to start, and ending.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use launch::{LaunchError, Step};
use serde_json::json;
use sys::pidfd::Exit;

use crate::bench::Bench;
use crate::harness::Case;

pub const CASES: &[Case] = &[
    ("lifecycle::output_and_exit_codes_come_back", output_and_exit_codes_come_back),
    ("lifecycle::the_command_runs_as_asked", the_command_runs_as_asked),
    ("lifecycle::commands_that_cannot_run_say_why", commands_that_cannot_run_say_why),
    ("lifecycle::specs_that_cannot_be_done_say_why", specs_that_cannot_be_done_say_why),
    ("lifecycle::the_command_runs_in_its_cgroups", the_command_runs_in_its_cgroups),
    ("lifecycle::the_command_is_cloned_into_its_cgroup", the_command_is_cloned_into_its_cgroup),
    ("lifecycle::a_missing_cgroup_leaves_no_process", a_missing_cgroup_leaves_no_process),
    ("lifecycle::limits_are_clamped_and_reported", limits_are_clamped_and_reported),
    ("lifecycle::the_hosts_mounts_stay_as_they_are", the_hosts_mounts_stay_as_they_are),
];

fn output_and_exit_codes_come_back() {
    let mut bench = Bench::new();
    let outcome = bench.run("echo out; echo err >&2; exit 7");
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(outcome.exit, Exit::Code(7));
    let outcome = Bench::new().run("kill -9 $$; /bin/busybox sh -c 'kill -9 $$'; exit $?");
    assert_eq!(outcome.exit, Exit::Code(137), "signals of its own do not reach process 1");
}

fn the_command_runs_as_asked() {
    let mut bench = Bench::new();
    bench.spec["process"]["cwd"] = json!("/made/for/it");
    bench.spec["process"]["env"] = json!(["PATH=/bin", "A=1", "NOEQ", "*", "=x"]);
    bench.spec["process"]["user"] =
        json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o27});
    let outcome = bench.run("pwd; id -u; id -g; id -G; umask; hostname; env");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let first = ["/made/for/it", "1000", "1001", "1001 5 6", "0027", "corten-test"];
    assert_eq!(lines.get(..6).expect("lines"), first, "{outcome:?}");
    let mut env: Vec<&str> = lines.get(6..).expect("lines").to_vec();
    env.retain(|entry| !entry.starts_with("SHLVL=") && !entry.starts_with("PWD="));
    env.sort_unstable();
    assert_eq!(env, ["A=1", "HOME=/home/user", "PATH=/bin"]);
}

fn commands_that_cannot_run_say_why() {
    let bench = Bench::new();
    let file = |name: &str, content: &str, mode: u32| {
        fs::write(bench.image(name), content).expect("written");
        fs::set_permissions(bench.image(name), fs::Permissions::from_mode(mode)).expect("mode");
    };
    file("bin/plain", "x", 0o644);
    file("bin/garbage", "garbage", 0o755);
    file("bin/lost", "#!/no/such/interpreter\n", 0o755);
    let table = [
        ("foo", "exec: \"foo\": executable file not found in $PATH"),
        ("/bin/nope", "exec: \"/bin/nope\": no such file or directory"),
        ("plain", "exec: \"plain\": permission denied"),
        ("/etc", "exec: \"/etc\": permission denied"),
        ("garbage", "exec: \"garbage\": exec format error"),
        (
            "/bin/lost",
            "exec: \"/bin/lost\": no such file or directory (its interpreter is missing)",
        ),
        ("", "exec: \"\": executable file not found in $PATH"),
    ];
    let mut bench = bench;
    for (command, message) in table {
        bench.spec["process"]["args"] = json!([command]);
        let error = bench.run_spec().expect_err(command);
        assert_eq!(error.to_string(), message);
        assert!(matches!(error, LaunchError::Child(failure) if failure.step == Step::Exec));
    }
}

fn specs_that_cannot_be_done_say_why() {
    let mut bench = Bench::new();
    let good = bench.spec.clone();
    let table = [
        ("/linux/namespaces/0/type", json!("user"), "user namespace of a container's own is not"),
        ("/process/cwd", json!("relative"), "the working directory relative is not absolute"),
        ("/process/args", json!([]), "no command is given"),
        ("/process/apparmorProfile", json!("x"), "failed to set the apparmor profile"),
        ("/linux/sysctl", json!({"kernel.core_pattern": "x"}), "belongs to no namespace"),
        ("/linux/namespaces/4/path", json!("/no/such"), "failed to open /no/such"),
        ("/mounts/3/type", json!("nosuchfs"), "failed to mount nosuchfs on /dev/shm"),
        ("/mounts/3/destination", json!("/"), "/ is no place for a mount"),
        ("/mounts/3/options/0", json!("idmap"), "maps ids and is no bind mount"),
        ("/mounts/3/options/0", json!("remount"), "the mount option remount is not supported"),
        (
            "/hooks",
            json!({"poststop": [{"path": "/x"}]}),
            "a hook other than createRuntime and createContainer is not supported",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": -1, "minor": 1}]),
            "has a number out of range",
        ),
    ];
    for (pointer, value, message) in table {
        bench.spec = good.clone();
        let (parent, key) = pointer.rsplit_once('/').expect("pointer");
        let parent = bench.spec.pointer_mut(parent).expect(pointer);
        match parent.as_array_mut() {
            Some(array) => array[key.parse::<usize>().expect("index")] = value,
            None => parent[key] = value,
        }
        let error = bench.run_spec().expect_err(pointer);
        assert!(error.to_string().contains(message), "{pointer}: {error}");
    }
}

/// A cgroup of this case in a v1 hierarchy, removed at the end.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn new(hierarchy: &str) -> Self {
        let name = format!("corten-launch-test-{}", std::process::id());
        let path = std::path::Path::new("/sys/fs/cgroup").join(hierarchy).join(name);
        fs::create_dir(&path).expect("made");
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).expect("removed");
    }
}

fn the_command_runs_in_its_cgroups() {
    let cgroups = [Cgroup::new("pids"), Cgroup::new("unified")];
    let mut bench = Bench::new();
    bench.procs_files = cgroups.iter().map(|cgroup| cgroup.0.join("cgroup.procs")).collect();
    let outcome = bench.run(
        "grep -e :pids: -e ^0:: /proc/self/cgroup; grep ' /sys/fs/cgroup/pids ' /proc/self/mountinfo;
         cat /sys/fs/cgroup/pids/cgroup.procs; touch /sys/fs/cgroup/pids/x /sys/fs/cgroup/x;
         mkdir /sys/fs/cgroup/pids/x",
    );
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(
        lines[0].ends_with(":/") && lines[1].ends_with(":/"),
        "own cgroup namespace: {lines:?}"
    );
    assert!(lines[2].contains(" / /sys/fs/cgroup/pids ro,"), "{lines:?}");
    assert_eq!(lines[3], "1", "only the container is in it");
    assert_eq!(outcome.stderr.matches("Read-only file system").count(), 3, "{outcome:?}");
}

fn the_command_is_cloned_into_its_cgroup() {
    let cgroup = Cgroup::new("unified");
    let mut bench = Bench::new();
    bench.into_cgroup = Some(fs::File::open(&cgroup.0).expect("opened").into());
    let namespaces = bench.spec["linux"]["namespaces"].as_array_mut().expect("list");
    namespaces.retain(|entry| entry["type"] != "cgroup");
    let outcome = bench.run("grep ^0:: /proc/self/cgroup");
    let name = cgroup.0.file_name().expect("name").to_string_lossy().into_owned();
    assert_eq!(outcome.stdout, format!("0::/{name}\n"));
}

fn a_missing_cgroup_leaves_no_process() {
    let mut bench = Bench::new();
    bench.procs_files = vec!["/sys/fs/cgroup/pids/corten-not-there/cgroup.procs".into()];
    let error = bench.run_spec().expect_err("no cgroup");
    let LaunchError::Child(failure) = &error else { panic!("{error}") };
    assert_eq!((failure.step, failure.path.as_ref()), (Step::Cgroup, bench.procs_files.first()));
    let children = fs::read_to_string("/proc/thread-self/children").expect("read");
    assert_eq!(children.trim(), "");
}

fn limits_are_clamped_and_reported() {
    let mut bench = Bench::new();
    bench.spec["process"]["oomScoreAdj"] = json!(500);
    bench.spec["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 128, "hard": 256},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);
    let outcome = bench.run("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj");
    assert_eq!(outcome.stdout, "128\n256\n500\n");
    assert!(outcome.notices.is_empty(), "{outcome:?}");

    // Without CAP_SYS_RESOURCE nothing can be raised; with it nothing is clamped.
    let may_raise = rustix::thread::capabilities(None)
        .expect("read")
        .effective
        .contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
    let hard = rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum;
    bench.spec["process"]["oomScoreAdj"] = json!(-999);
    bench.spec["process"]["rlimits"] =
        json!([{"type": "RLIMIT_MEMLOCK", "soft": 1024, "hard": u64::MAX}]);
    let caps = json!(["CAP_CHOWN", "CAP_SYS_RESOURCE"]);
    bench.spec["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    let outcome = bench.run("cat /proc/self/oom_score_adj");
    if may_raise || hard.is_none() {
        return;
    }
    assert_ne!(outcome.stdout.trim(), "-999");
    let notices = outcome.notices.join("\n");
    for part in ["oom_score_adj -999", "RLIMIT_MEMLOCK", "CAP_SYS_RESOURCE"] {
        assert!(notices.contains(part), "{part}: {notices}");
    }
}

fn the_hosts_mounts_stay_as_they_are() {
    let bench = Bench::new();
    let name = bench.path("").to_string_lossy().trim_end_matches('/').to_owned();
    let mut bench = bench;
    let outcome = bench.run("cat /proc/self/mountinfo");
    assert!(!outcome.stdout.contains(&format!("{name}/target")), "{outcome:?}");
    assert!(!outcome.stdout.contains(" /boot "), "the host's mounts are gone: {outcome:?}");
    let host = fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert!(!host.contains(&name));
}
