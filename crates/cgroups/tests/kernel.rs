//! Real cgroups of this machine, under names of the tests' own.
#![allow(clippy::unwrap_used)] // a test that fails here has failed

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cgroups::{Cgroup, CgroupPath, Cgroups, DeviceAccess, DeviceKind, DeviceRule, Mode, Resources};

/// A tree of cgroups that is removed with the value.
struct Tree {
    cgroups: Cgroups,
    top: CgroupPath,
}

impl Tree {
    fn new(name: &str) -> Self {
        let top = format!("/corten-cg-test-{}-{name}", std::process::id()).parse().unwrap();
        Self { cgroups: Cgroups::detect().unwrap(), top }
    }

    fn create(&self, leaf: &str, resources: &Resources) -> Cgroup {
        let path = CgroupPath::new(self.top.as_str(), leaf).unwrap();
        self.cgroups.create(&path, resources).unwrap().cgroup
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let top = self.cgroups.open(&self.top);
        top.kill().unwrap();
        top.remove().unwrap();
        assert!(!top.exists());
    }
}

/// Starts a command that is in the cgroup before its first instruction: a shell waits
/// for a line until it has been placed.
fn place(cgroup: &Cgroup, files: Vec<PathBuf>, script: &str) -> Child {
    let mut child = Command::new("/bin/bash")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert!(cgroup.exists());
    for file in files {
        fs::write(file, child.id().to_string()).unwrap();
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    child
}

fn number(pid: u32) -> i32 {
    i32::try_from(pid).unwrap()
}

#[test]
fn limits_are_applied_and_updated() {
    let tree = Tree::new("limits");
    let resources = |memory: i64| Resources {
        memory_limit: Some(memory),
        memory_swap_limit: Some(memory),
        cpu_shares: Some(512),
        cpu_quota_us: Some(20_000),
        cpu_period_us: Some(100_000),
        pids_limit: Some(17),
        ..Resources::default()
    };
    let cgroup = tree.create("a", &resources(32 << 20));
    let mut child = place(&cgroup, cgroup.procs_files(), "exec sleep 1000");
    let stats = cgroup.stats().unwrap();
    assert_eq!(stats.pids, Some(1));
    assert_eq!(stats.pids_limit, Some(17));
    assert_eq!(stats.memory.unwrap().limit, Some(32 << 20));
    // Up and down again: memory and swap together is never below memory.
    for memory in [64 << 20, 16 << 20] {
        cgroup.update(&resources(memory)).unwrap();
        assert_eq!(
            cgroup.stats().unwrap().memory.unwrap().limit,
            Some(u64::try_from(memory).unwrap())
        );
    }
    assert_eq!(cgroup.oom_kill_count().unwrap(), Some(0));
    cgroup.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn all_descendants_are_killed_also_frozen_ones() {
    let tree = Tree::new("kill");
    let cgroup = tree.create("a", &Resources::default());
    let below = tree.create("a", &Resources::default());
    let mut child =
        place(&cgroup, cgroup.procs_files(), "setsid sleep 1000 & setsid sleep 1000 & wait");
    let begun = Instant::now();
    while below.pids().unwrap().len() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
    cgroup.freeze().unwrap();
    cgroup.kill().unwrap();
    child.wait().unwrap();
    cgroup.remove().unwrap();
    assert!(cgroup.is_empty().unwrap());
    cgroup.remove().unwrap();
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let tree = Tree::new("rollback");
    let path = CgroupPath::new(tree.top.as_str(), "a").unwrap();
    let resources = Resources { cpuset_cpus: Some("9999".to_owned()), ..Resources::default() };
    assert!(tree.cgroups.create(&path, &resources).is_err());
    assert!(!tree.cgroups.open(&path).exists());
    assert!(!tree.cgroups.open(&tree.top).exists());
}

#[test]
fn a_busy_cgroup_says_so_and_empty_parents_go() {
    let tree = Tree::new("busy");
    let cgroup = tree.create("a", &Resources::default());
    let mut child = place(&cgroup, cgroup.procs_files(), "exec sleep 1000");
    assert_eq!(cgroup.pids().unwrap(), [number(child.id())]);
    assert!(cgroup.remove().unwrap_err().to_string().contains("still has processes"));
    cgroup.kill().unwrap();
    child.wait().unwrap();
    cgroup.remove().unwrap();
    cgroup.remove_empty_parents(&tree.top);
    assert!(!tree.cgroups.open(&tree.top).exists());
}

/// `/dev/null` is allowed, `/dev/zero` is not: by the v1 controller, or by a program on v2.
#[test]
fn device_rules_hold() {
    let tree = Tree::new("devices");
    let allow_null = DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(1),
        minor: Some(3),
        access: DeviceAccess::ALL,
    };
    let deny_write = DeviceRule {
        allow: false,
        access: DeviceAccess { read: false, write: true, mknod: false },
        minor: Some(9),
        ..allow_null
    };
    let allow_random = DeviceRule { minor: Some(9), ..allow_null };
    let rules = vec![allow_null, allow_random, deny_write];
    let cgroup = tree.create("a", &Resources { devices: Some(rules), ..Resources::default() });
    let script = "ok() { eval \"$2\" 2>/dev/null; echo \"$1 $?\"; }; \
                  ok null 'exec 3</dev/null'; ok urandom '( exec 3</dev/urandom )'; \
                  ok urandom-w '( exec 3>/dev/urandom )'; ok zero '( exec 3</dev/zero )'";
    let child = place(&cgroup, cgroup.procs_files(), script);
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(output.contains("null 0") && output.contains("urandom 0"), "{output}");
    assert!(!output.contains("zero 0") && !output.contains("urandom-w 0"), "{output}");
}

/// The program of v2 is tried in the unified tree, also where v1's controller is in use.
#[test]
fn device_programs_hold_in_the_unified_tree() {
    let tree = Tree::new("bpf");
    if tree.cgroups.mode() == Mode::V1 {
        panic!("this machine has no unified tree");
    }
    let cgroup = tree.create("a", &Resources::default());
    let dir = cgroup.v2_dir().unwrap();
    let null = DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(1),
        minor: Some(3),
        access: DeviceAccess::ALL,
    };
    let script =
        "( exec 3</dev/zero ) 2>/dev/null; echo zero $?; ( exec 3</dev/null ); echo null $?";
    let all = DeviceRule { kind: DeviceKind::All, ..null };
    let none = DeviceRule { allow: false, ..all };
    for (rules, zero) in [
        (vec![null], false),
        (vec![DeviceRule { minor: None, ..null }], true),
        // What matches everything makes what is before it unreachable.
        (vec![none, null], false),
        (vec![null, none, all], true),
        (vec![all, none, null], false),
    ] {
        cgroups::testing_replace_device_program(&dir, &rules).unwrap();
        let child = place(&cgroup, vec![dir.join("cgroup.procs")], script);
        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(output.contains("zero 0"), zero, "{output}");
        assert!(output.contains("null 0"), "{output}");
    }
}

/// A process that is in v1's hierarchies and not in the unified tree is killed as well.
#[test]
fn what_is_in_v1_alone_is_killed_too() {
    let tree = Tree::new("v1");
    let cgroup = tree.create("a", &Resources::default());
    // Where v2 is alone there is nothing but the unified tree.
    let files = match tree.cgroups.mode() {
        Mode::Unified => cgroup.procs_files(),
        Mode::V1 | Mode::Hybrid => cgroup.v1_procs_files(),
    };
    let mut child = place(&cgroup, files, "exec sleep 1000");
    cgroup.kill().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
}

/// The end of one cgroup takes the parent along that another one is just being made in.
#[test]
fn making_and_removing_beside_each_other() {
    let tree = Tree::new("beside");
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let tree = &tree;
            scope.spawn(move || {
                for round in 0..30 {
                    let cgroup = tree.create(&format!("{worker}-{round}"), &Resources::default());
                    cgroup.remove().unwrap();
                    cgroup.remove_empty_parents(&tree.top);
                }
            });
        }
    });
    assert!(!tree.cgroups.open(&tree.top).exists());
}

/// A period that the quota before it does not allow.
#[test]
fn period_and_quota_change_together() {
    let tree = Tree::new("cpu");
    let cpu = |quota, period| Resources {
        cpu_quota_us: Some(quota),
        cpu_period_us: Some(period),
        ..Resources::default()
    };
    let parent = tree.create("a", &cpu(500_000, 1_000_000));
    let path = CgroupPath::new(parent.path().as_str(), "b").unwrap();
    let cgroup = tree.cgroups.create(&path, &cpu(400_000, 1_000_000)).unwrap().cgroup;
    cgroup.update(&cpu(2_000, 10_000)).unwrap();
    cgroup.update(&cpu(400_000, 1_000_000)).unwrap();
}
