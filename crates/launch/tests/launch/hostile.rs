//! Images that try to lead us out of their root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::bench::Bench;
use crate::harness::Case;

pub const CASES: &[Case] = &[
    ("hostile::links_at_the_kernels_places_are_refused", links_at_the_kernels_places_are_refused),
    ("hostile::dev_as_a_link_stays_inside", dev_as_a_link_stays_inside),
    ("hostile::mount_targets_stay_inside", mount_targets_stay_inside),
    ("hostile::working_directories_stay_inside", working_directories_stay_inside),
    ("hostile::masked_paths_through_links_stay_inside", masked_paths_through_links_stay_inside),
    ("hostile::nothing_covers_proc", nothing_covers_proc),
    ("hostile::a_false_proc_is_not_written", a_false_proc_is_not_written),
    ("hostile::a_false_devpts_gives_no_terminal", a_false_devpts_gives_no_terminal),
    ("hostile::a_strange_passwd_does_not_block", a_strange_passwd_does_not_block),
    ("hostile::devices_of_the_image_are_not_believed", devices_of_the_image_are_not_believed),
];

/// Replaces what the image has at a path by a link.
fn link(bench: &Bench, target: impl AsRef<Path>, name: &str) {
    symlink(target, bench.image(name)).expect("linked");
}

fn links_at_the_kernels_places_are_refused() {
    for name in ["proc", "sys"] {
        for target in ["canary", "/tmp", "../../../.."] {
            let mut bench = Bench::new();
            let target = if target == "canary" { bench.path(target) } else { target.into() };
            link(&bench, target, name);
            bench.script("true");
            let error = bench.run_spec().expect_err(name);
            let expected = format!("a link or a file is in the way of /{name}");
            assert!(error.to_string().starts_with(&expected), "{error}");
            bench.assert_canary_untouched();
        }
    }
}

fn dev_as_a_link_stays_inside() {
    for target in ["canary", "../../../../../../../../tmp", "/"] {
        let mut bench = Bench::new();
        let target = if target == "canary" { bench.path(target) } else { target.into() };
        link(&bench, target, "dev");
        bench.script("test -c /dev/null");
        // Refused or inside; what matters is that the host has nothing of it.
        drop(bench.run_spec());
        bench.assert_canary_untouched();
    }
}

fn mount_targets_stay_inside() {
    let source = tempfile::Builder::new().prefix("corten-launch-source-").tempdir().expect("made");
    fs::write(source.path().join("here"), "").expect("written");
    for (target, destination) in [
        ("canary", "/l"),
        ("canary", "/l/new/dir"),
        ("/", "/l"),
        ("../../../../../../../..", "/l/tmp"),
        ("..", "/l/../../x"),
        ("/proc/self/root", "/l"),
        ("/proc/1/cwd", "/l/x"),
    ] {
        let mut bench = Bench::new();
        let target = if target == "canary" { bench.path(target) } else { target.into() };
        link(&bench, target, "l");
        bench.add_mount(json!({"destination": destination, "type": "bind",
            "source": source.path(), "options": ["bind"]}));
        bench.script("cat /proc/self/mountinfo");
        if let Ok(outcome) = bench.run_spec() {
            let name = source.path().to_string_lossy().into_owned();
            assert!(outcome.stdout.contains(&name), "{destination}: {outcome:?}");
        }
        bench.assert_canary_untouched();
        let host = fs::read_to_string("/proc/self/mountinfo").expect("read");
        assert!(!host.contains("corten-launch-source-"), "{destination}");
    }
}

fn working_directories_stay_inside() {
    for descriptor in 3..20 {
        let mut bench = Bench::new();
        bench.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{descriptor}"));
        bench.script("pwd");
        let error = bench.run_spec().expect_err("a descriptor is no directory");
        assert!(error.to_string().contains("working directory"), "{error}");
    }
    let mut bench = Bench::new();
    link(&bench, bench.path("canary"), "a");
    bench.spec["process"]["cwd"] = json!("/a/b");
    let outcome = bench.run("touch x; pwd");
    assert!(outcome.stdout.ends_with("/b\n"), "{outcome:?}");
    bench.assert_canary_untouched();
}

fn masked_paths_through_links_stay_inside() {
    let mut bench = Bench::new();
    link(&bench, bench.path("canary"), "secret");
    link(&bench, "/proc/self/root", "magic");
    bench.spec["linux"]["maskedPaths"] = json!(["/secret"]);
    bench.spec["linux"]["readonlyPaths"] = json!(["/secret", "/tmp"]);
    let outcome = bench.run("touch /tmp/x");
    assert!(outcome.stderr.contains("Read-only"), "{outcome:?}");
    fs::write(bench.path("canary/x"), "").expect("the host's directory is as it was");
    bench.spec["linux"]["maskedPaths"] = json!(["/magic"]);
    bench.run_spec().expect_err("a magic link is never followed");
}

fn nothing_covers_proc() {
    let mut bench = Bench::new();
    let good = bench.spec.clone();
    let file = bench.path("file");
    fs::write(&file, "content").expect("written");
    for destination in ["/proc/self/attr/exec", "/proc/sys/kernel/shmmax", "/proc/version"] {
        bench.spec = good.clone();
        bench.add_mount(json!({"destination": destination, "type": "bind", "source": file,
            "options": ["bind"]}));
        let error = bench.run_spec().expect_err(destination);
        assert!(error.to_string().contains("is inside /proc"), "{error}");
    }
    bench.spec = good;
    bench.add_mount(json!({"destination": "/proc/uptime", "type": "bind", "source": file,
        "options": ["bind"]}));
    assert_eq!(bench.run("cat /proc/uptime").stdout, "content");
}

/// What we write to a procfs goes to one of our own, whatever lies at the container's `/proc`.
fn a_false_proc_is_not_written() {
    let mut bench = Bench::new();
    let canary = bench.path("canary");
    let false_proc = bench.path("proc");
    for dir in ["sys/kernel", "self/attr/apparmor", "self/fd"] {
        fs::create_dir_all(false_proc.join(dir)).expect("made");
    }
    symlink(canary.join("sysctl"), false_proc.join("sys/kernel/shmmni")).expect("linked");
    for name in ["self/attr/exec", "self/attr/apparmor/exec", "self/oom_score_adj"] {
        symlink(canary.join("label"), false_proc.join(name)).expect("linked");
    }
    crate::bench::without_mount(&mut bench.spec, "/proc");
    let mount = json!({"destination": "/proc", "type": "bind", "source": false_proc,
        "options": ["bind"]});
    bench.spec["mounts"].as_array_mut().expect("mounts").insert(0, mount);
    bench.spec["linux"]["sysctl"] = json!({"kernel.shmmni": "77"});
    bench.spec["linux"]["maskedPaths"] = json!([]);
    bench.spec["linux"]["readonlyPaths"] = json!([]);
    bench.add_mount(json!({"destination": "/real", "type": "proc", "source": "proc"}));
    let outcome = bench.run("cat /real/sys/kernel/shmmni");
    assert_eq!(outcome.stdout, "77\n", "{outcome:?}");
    bench.assert_canary_untouched();
}

fn a_false_devpts_gives_no_terminal() {
    let mut bench = Bench::new();
    crate::bench::without_mount(&mut bench.spec, "/dev/pts");
    let false_pts = bench.path("pts");
    fs::create_dir(&false_pts).expect("made");
    fs::write(false_pts.join("ptmx"), "").expect("written");
    bench.add_mount(json!({"destination": "/dev/pts", "type": "bind", "source": false_pts,
        "options": ["bind"]}));
    bench.script("true");
    let error = bench.start_on_terminal().expect_err("false");
    assert!(error.to_string().contains("is not a devpts"), "{error}");
}

fn a_strange_passwd_does_not_block() {
    let mut bench = Bench::new();
    let passwd = bench.image("etc/passwd");
    fs::remove_file(&passwd).expect("removed");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &passwd,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .expect("made");
    assert_eq!(bench.run("echo $HOME").stdout, "/\n");
    fs::remove_file(&passwd).expect("removed");
    symlink("/dev/zero", &passwd).expect("linked");
    assert_eq!(bench.run("echo $HOME").stdout, "/\n");
}

fn devices_of_the_image_are_not_believed() {
    let mut bench = Bench::new();
    for part in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        crate::bench::without_mount(&mut bench.spec, part);
    }
    fs::create_dir(bench.image("dev")).expect("made");
    fs::write(bench.image("dev/null"), "a file").expect("written");
    bench.script("true");
    let error = bench.run_spec().expect_err("another file");
    assert_eq!(error.to_string(), "/dev/null exists and is another file");
}
