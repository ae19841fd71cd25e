//! Root file systems, mounts and devices.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use serde_json::json;
use sys::pidfd::Exit;

use crate::bench::{Bench, without_mount};
use crate::harness::Case;

pub const CASES: &[Case] = &[
    ("filesystems::writes_go_to_the_upper_layer", writes_go_to_the_upper_layer),
    ("filesystems::a_plain_directory_can_be_the_root", a_plain_directory_can_be_the_root),
    ("filesystems::the_root_can_be_readonly", the_root_can_be_readonly),
    ("filesystems::many_layers_are_mounted", many_layers_are_mounted),
    ("filesystems::layers_that_fit_no_call_are_mounted", layers_that_fit_no_call_are_mounted),
    ("filesystems::binds_have_their_options", binds_have_their_options),
    ("filesystems::bind_targets_are_made", bind_targets_are_made),
    ("filesystems::a_missing_source_is_told", a_missing_source_is_told),
    ("filesystems::propagation_is_as_asked", propagation_is_as_asked),
    ("filesystems::devices_are_there", devices_are_there),
    ("filesystems::dev_can_be_the_hosts", dev_can_be_the_hosts),
    ("filesystems::devices_without_a_mount_are_made", devices_without_a_mount_are_made),
];

fn writes_go_to_the_upper_layer() {
    let mut bench = Bench::new();
    fs::write(bench.path("top/over"), "top").expect("written");
    fs::write(bench.image("over"), "bottom").expect("written");
    let outcome = bench.run("cat /over; echo new > /new; rm /bin/wc; mount | grep ' on / '");
    assert!(outcome.stdout.starts_with("topoverlay on / type overlay"), "{outcome:?}");
    assert_eq!(fs::read_to_string(bench.path("upper/new")).expect("read"), "new\n");
    let whiteout = fs::symlink_metadata(bench.path("upper/bin/wc")).expect("whiteout");
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert!(bench.image("bin/wc").exists() && !bench.image("new").exists());
}

fn a_plain_directory_can_be_the_root() {
    let mut bench = Bench::new();
    bench.is_plain_root = true;
    let outcome = bench.run("echo new > /new; ls /");
    assert_eq!(outcome.exit, Exit::Code(0), "{outcome:?}");
    assert_eq!(fs::read_to_string(bench.image("new")).expect("read"), "new\n");
}

fn the_root_can_be_readonly() {
    let mut bench = Bench::new();
    bench.spec["root"]["readonly"] = json!(true);
    bench.spec["process"]["cwd"] = json!("/made");
    let outcome = bench.run("touch /x; echo x > /dev/shm/x && pwd");
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
    assert_eq!(outcome.stdout, "/made\n");
}

fn many_layers_are_mounted() {
    let bench = Bench::new();
    let mut lower = Vec::new();
    for number in 0..60 {
        let layer = bench.path(&format!("layer-{number}-with-a-long-name,and:a-comma"));
        fs::create_dir(&layer).expect("made");
        fs::write(layer.join(format!("file{number}")), "").expect("written");
        lower.push(layer);
    }
    lower.push(bench.path("lower"));
    let mut bench = bench;
    bench.layers = lower;
    let outcome = bench.run("ls / | grep -c file");
    assert_eq!(outcome.stdout, "60\n", "{outcome:?}");
}

/// A call for each layer, where the kernel has that, takes a path of 255 bytes; the old way takes
/// a page for all. Here neither can have the paths as they are.
fn layers_that_fit_no_call_are_mounted() {
    let mut bench = Bench::new();
    let outcome = with_long_paths(&mut bench).run("ls / | grep -c file; cat /top");
    assert_eq!(outcome.stdout, format!("{LONG_LAYERS}\n0"), "{outcome:?}");
}

/// How many layers of long paths a bench has: more than their paths would fit a page.
pub const LONG_LAYERS: usize = 200;

/// Puts layers on top of a bench's, each with a path that is too long for one call.
pub fn with_long_paths(bench: &mut Bench) -> &mut Bench {
    let deep = bench.path(&"d".repeat(150)).join("e".repeat(150));
    let mut layers = Vec::new();
    for number in 0..LONG_LAYERS {
        let layer = deep.join(format!("{number}:with,signs"));
        fs::create_dir_all(&layer).expect("made");
        fs::write(layer.join(format!("file{number}")), "").expect("written");
        fs::write(layer.join("top"), number.to_string()).expect("written");
        layers.push(layer);
    }
    layers.push(bench.path("lower"));
    bench.layers = layers;
    bench
}

fn binds_have_their_options() {
    let mut bench = Bench::new();
    let source = bench.path("canary");
    for (name, options) in [
        ("ro", json!(["rbind", "ro", "nosuid"])),
        ("rw", json!(["rbind", "rw"])),
        ("rro", json!(["bind", "rro", "noexec", "nodev"])),
    ] {
        let destination = format!("/volumes/{name}");
        bench.add_mount(json!({"destination": destination, "type": "bind",
            "source": source, "options": options}));
    }
    let outcome = bench.run(
        "touch /volumes/ro/x; touch /volumes/rro/x; touch /volumes/rw/y
         grep /volumes/ /proc/self/mountinfo",
    );
    assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{outcome:?}");
    let options: Vec<&str> =
        outcome.stdout.lines().filter_map(|line| line.split(' ').nth(5)).collect();
    assert_eq!(options, ["ro,nosuid,relatime", "rw,relatime", "ro,nodev,noexec,relatime"]);
    assert!(source.join("y").exists() && !source.join("x").exists());
}

fn bind_targets_are_made() {
    let mut bench = Bench::new();
    let file = bench.path("hosts");
    fs::write(&file, "content").expect("written");
    // A dangling link, as images have for resolv.conf, is followed inside the root.
    symlink("../run/made/stub", bench.image("etc/resolv.conf")).expect("linked");
    symlink("/tmp", bench.image("etc/link")).expect("linked");
    for destination in ["/etc/hosts", "/etc/resolv.conf", "/a/b/../c/file", "/etc/link/file"] {
        bench.add_mount(json!({"destination": destination, "type": "bind", "source": file,
            "options": ["bind", "ro"]}));
    }
    let outcome = bench.run("cat /etc/hosts /run/made/stub /a/c/file /tmp/file");
    assert_eq!(outcome.stdout, "content".repeat(4), "{outcome:?}");
    let made = bench.path("upper/etc/hosts");
    assert_eq!(fs::metadata(made).expect("made").len(), 0);
}

fn a_missing_source_is_told() {
    let mut bench = Bench::new();
    bench.add_mount(json!({"destination": "/x", "type": "bind", "source": "/no/such/source",
        "options": ["rbind"]}));
    let error = bench.run_spec().expect_err("missing");
    assert_eq!(
        error.to_string(),
        "failed to open the mount source /no/such/source: no such file or directory"
    );
}

/// In a mount namespace of the case's own, so that the machine's mounts are not touched.
fn propagation_is_as_asked() {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    sys::namespace::unshare(sys::namespace::NewNamespaces { mount: true, ..Default::default() })
        .expect("unshared");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).expect("private");
    let mut bench = Bench::new();
    let source = bench.path("volume");
    fs::create_dir(&source).expect("made");
    mount("tmpfs", &source, "tmpfs", MountFlags::empty(), None).expect("mounted");
    fs::create_dir_all(source.join("sub")).expect("made");
    let add = |bench: &mut Bench, how: &str| {
        let mount = json!({"destination": "/volume", "type": "bind", "source": source,
            "options": ["rbind", how]});
        bench.add_mount(mount);
    };
    let good = bench.spec.clone();
    add(&mut bench, "rshared");
    let error = bench.run_spec().expect_err("not shared");
    let expected = format!("is mounted on {} but it is not a shared mount", source.display());
    assert!(error.to_string().contains(&expected), "{error}");

    mount_change(&source, MountPropagationFlags::SHARED).expect("shared");
    for (how, tag, travels_out) in
        [("rshared", "shared:", true), ("rslave", "master:", false), ("rprivate", "", false)]
    {
        bench.spec = good.clone();
        let caps = json!(["CAP_SYS_ADMIN"]);
        bench.spec["process"]["capabilities"] =
            json!({"bounding": caps, "effective": caps, "permitted": caps});
        add(&mut bench, how);
        let outcome =
            bench.run("mount -t tmpfs inner /volume/sub; grep /volume /proc/self/mountinfo");
        let line = outcome.stdout.lines().next().expect("line");
        let fields = line.split(" - ").next().expect("fields");
        assert!(fields.contains(tag), "{how}: {line}");
        assert_eq!(fields.contains("shared:"), how == "rshared", "{how}: {line}");
        let host = fs::read_to_string("/proc/self/mountinfo").expect("read");
        let name = source.join("sub").to_string_lossy().into_owned();
        assert_eq!(host.contains(&name), travels_out, "{how}");
        let root = bench.path("target").to_string_lossy().into_owned();
        assert!(!host.contains(&root), "the root never travels");
        if travels_out {
            rustix::mount::unmount(&name, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
        }
    }
    rustix::mount::unmount(&source, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
}

fn devices_are_there() {
    let mut bench = Bench::new();
    bench.spec["linux"]["devices"] = json!([
        {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640,
         "uid": 7, "gid": 8},
        {"path": "/dev/pipe", "type": "p", "major": 0, "minor": 0},
    ]);
    let outcome = bench.run(
        "stat -c '%n %t:%T %a %u:%g' /dev/null /dev/zero /dev/full /dev/random /dev/urandom \
            /dev/tty /dev/net/tun
         for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; test -p /dev/pipe && echo p
         echo x > /dev/null && head -c 2 /dev/zero | wc -c; readlink /dev/core",
    );
    // As runc does it: where the kernel has it.
    let core = if Path::new("/proc/kcore").exists() { "/proc/kcore\n" } else { "" };
    let expected = format!(
        "/dev/null 1:3 666 0:0\n/dev/zero 1:5 666 0:0\n/dev/full 1:7 666 0:0\n\
        /dev/random 1:8 666 0:0\n/dev/urandom 1:9 666 0:0\n/dev/tty 5:0 666 0:0\n\
        /dev/net/tun a:c8 640 7:8\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n\
        /proc/self/fd/2\npts/ptmx\np\n2\n{core}"
    );
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
}

fn dev_can_be_the_hosts() {
    let mut bench = Bench::new();
    let dev = bench.path("dev");
    fs::create_dir(&dev).expect("made");
    for part in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        without_mount(&mut bench.spec, part);
    }
    bench.add_mount(json!({"destination": "/dev", "type": "bind", "source": dev,
        "options": ["rbind"]}));
    let outcome = bench.run("ls -A /dev");
    assert_eq!((outcome.exit, outcome.stdout.as_str()), (Exit::Code(0), ""), "{outcome:?}");
}

fn devices_without_a_mount_are_made() {
    let mut bench = Bench::new();
    for part in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        without_mount(&mut bench.spec, part);
    }
    let outcome = bench.run("echo x > /dev/null; stat -c %t:%T /dev/null");
    assert_eq!(outcome.stdout, "1:3\n", "{outcome:?}");
}
