//! What is refused, and with which error.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod support;

use container_spec::{CgroupVersion, SpecError};
use support::Setup;
use types::{Device, HugepageLimit, Mount, Profile, Propagation};

type Change = fn(&mut Setup);
type Check = fn(&SpecError) -> bool;

fn mount(setup: &mut Setup) -> &mut Mount {
    setup.container.mounts = vec![Mount {
        host_path: "/a".to_owned(),
        container_path: "/b".to_owned(),
        ..Mount::default()
    }];
    &mut setup.container.mounts[0]
}

fn device(setup: &mut Setup) -> &mut Device {
    setup.container.devices = vec![Device {
        container_path: "/dev/x".to_owned(),
        host_path: "/dev/fuse".to_owned(),
        permissions: "rw".to_owned(),
    }];
    &mut setup.container.devices[0]
}

fn env(setup: &mut Setup, name: &str, value: &[u8]) {
    setup.container.envs = vec![(name.to_owned(), value.to_vec())];
}

fn refused(cases: &[(Change, Check)]) {
    for (at, (change, check)) in cases.iter().enumerate() {
        let mut setup = Setup::new();
        change(&mut setup);
        let error = setup.build().map(|_| ()).unwrap_err();
        assert!(check(&error), "case {at}: {error:?}");
        let text = error.to_string();
        assert!(!text.contains(['\n', '\r', '\0']) && text.len() < 300, "case {at}: {text}");
        assert!(error.is_invalid_argument() || matches!(error, SpecError::HostDevices { .. }));
    }
}

#[test]
fn processes() {
    refused(&[
        (
            |s| env(s, "HOME", b"a\nroot2:x:0:0"),
            |e| matches!(e, SpecError::Characters { what: "HOME", .. }),
        ),
        (|s| env(s, "HOME", b"a\r"), |e| matches!(e, SpecError::Characters { what: "HOME", .. })),
        (
            |s| s.image.env = vec!["HOME=a\nb".to_owned()],
            |e| matches!(e, SpecError::Characters { .. }),
        ),
        (|s| env(s, "A", b"\xff"), |e| matches!(e, SpecError::EnvNotText { name } if name == "A")),
        (|s| env(s, "A", b"a\0b"), |e| matches!(e, SpecError::Characters { .. })),
        (|s| env(s, "", b"a"), |e| matches!(e, SpecError::Empty { .. })),
        (|s| env(s, "A=B", b"a"), |e| matches!(e, SpecError::Characters { .. })),
        (|s| s.image.env = vec!["A=\0".to_owned()], |e| matches!(e, SpecError::Characters { .. })),
        (
            |s| s.container.command = vec!["a\0".to_owned()],
            |e| matches!(e, SpecError::Characters { .. }),
        ),
        (
            |s| s.container.args = vec!["x".repeat(7 << 20)],
            |e| matches!(e, SpecError::TooMany { .. }),
        ),
        (
            |s| s.container.working_dir = "tmp".to_owned(),
            |e| matches!(e, SpecError::NotAbsolute { .. }),
        ),
        (
            |s| s.image.working_dir = "../x".to_owned(),
            |e| matches!(e, SpecError::NotAbsolute { .. }),
        ),
        (
            |s| s.container.working_dir = "/a\0".to_owned(),
            |e| matches!(e, SpecError::Characters { .. }),
        ),
        (
            |s| s.container.metadata.name = "a\nb".to_owned(),
            |e| matches!(e, SpecError::Characters { .. }),
        ),
    ]);
}

fn ids(length: u32) -> types::IdMapping {
    types::IdMapping { host_id: 1000, container_id: 0, length }
}

#[test]
fn mounts() {
    refused(&[
        (
            |s| mount(s).container_path = "b".to_owned(),
            |e| matches!(e, SpecError::NotAbsolute { .. }),
        ),
        (
            |s| mount(s).container_path = "/x/..".to_owned(),
            |e| matches!(e, SpecError::MountOnRoot { .. }),
        ),
        (|s| mount(s).host_path = String::new(), |e| matches!(e, SpecError::NotAbsolute { .. })),
        (|s| mount(s).host_path = "/a\0".to_owned(), |e| matches!(e, SpecError::Characters { .. })),
        (
            |s| mount(s).recursive_read_only = true,
            |e| matches!(e, SpecError::RecursiveReadOnlyWritable { .. }),
        ),
        (
            |s| {
                *mount(s) = Mount {
                    readonly: true,
                    recursive_read_only: true,
                    propagation: Propagation::HostToContainer,
                    ..mount(s).clone()
                };
            },
            |e| matches!(e, SpecError::RecursiveReadOnlyPropagation { .. }),
        ),
        (
            |s| mount(s).mount_options = vec!["lowerdir=/".to_owned()],
            |e| matches!(e, SpecError::MountOption { .. }),
        ),
        (
            |s| mount(s).mount_options = vec!["sync".to_owned()],
            |e| matches!(e, SpecError::MountOption { .. }),
        ),
        (|s| mount(s).uid_mappings = vec![ids(10)], |e| matches!(e, SpecError::MountOwners { .. })),
        (
            |s| {
                let mount = mount(s);
                mount.uid_mappings = vec![ids(10)];
                mount.gid_mappings = vec![ids(0)];
            },
            |e| matches!(e, SpecError::MountOwners { .. }),
        ),
        (
            |s| {
                let mount = mount(s);
                mount.uid_mappings = vec![ids(1); 341];
                mount.gid_mappings = vec![ids(1)];
            },
            |e| matches!(e, SpecError::TooMany { .. }),
        ),
        (
            |s| s.container.mounts = vec![mount(s).clone(); 5000],
            |e| matches!(e, SpecError::TooMany { .. }),
        ),
        (
            |s| s.image.volumes = vec!["/v".to_owned(); 5000],
            |e| matches!(e, SpecError::TooMany { .. }),
        ),
        (
            |s| s.image.volumes = vec!["/v\0".to_owned()],
            |e| matches!(e, SpecError::Characters { .. }),
        ),
    ]);
}

#[test]
fn privileges() {
    refused(&[
        (
            |s| s.container.security.privileged = true,
            |e| matches!(e, SpecError::PrivilegedInUnprivilegedSandbox),
        ),
        (
            |s| s.container.security.capabilities.add = vec!["FLY".to_owned()],
            |e| matches!(e, SpecError::UnknownCapability { name } if name == "FLY"),
        ),
        (
            |s| s.container.security.capabilities.drop = vec!["CAP_CAP_KILL".to_owned()],
            |e| matches!(e, SpecError::UnknownCapability { .. }),
        ),
        (
            |s| s.container.security.capabilities.add_ambient = vec![String::new()],
            |e| matches!(e, SpecError::UnknownCapability { .. }),
        ),
        (
            |s| {
                s.host_capabilities.remove("CAP_SYS_RESOURCE");
                s.container.security.capabilities.add = vec!["SYS_RESOURCE".to_owned()];
            },
            |e| matches!(e, SpecError::CapabilityUnavailable { name } if name == "CAP_SYS_RESOURCE"),
        ),
        (
            |s| s.container.security.seccomp = Some(Profile::Localhost("x".to_owned())),
            |e| matches!(e, SpecError::NoSeccompProfile { .. }),
        ),
        (
            |s| {
                s.localhost = Some(oci_spec::runtime::LinuxSeccomp::default());
                s.container.security.seccomp = Some(Profile::Localhost(String::new()));
            },
            |e| matches!(e, SpecError::NoSeccompProfile { .. }),
        ),
        (
            |s| s.container.security.apparmor = Some(Profile::Localhost(String::new())),
            |e| matches!(e, SpecError::Empty { .. }),
        ),
        (
            |s| s.container.security.masked_paths = vec!["proc".to_owned()],
            |e| matches!(e, SpecError::NotAbsolute { .. }),
        ),
    ]);
}

#[test]
fn devices() {
    refused(&[
        (
            |s| device(s).permissions = "rwx".to_owned(),
            |e| matches!(e, SpecError::DevicePermissions { .. }),
        ),
        (
            |s| device(s).permissions = "rwmrwm".to_owned(),
            |e| matches!(e, SpecError::DevicePermissions { .. }),
        ),
        (
            |s| device(s).host_path = "/dev/none".to_owned(),
            |e| matches!(e, SpecError::NoDevice { .. }),
        ),
        (|s| device(s).host_path = "/etc".to_owned(), |e| matches!(e, SpecError::NoDevice { .. })),
        (
            |s| device(s).host_path = "dev/fuse".to_owned(),
            |e| matches!(e, SpecError::NotAbsolute { .. }),
        ),
        (
            |s| device(s).container_path = "x".to_owned(),
            |e| matches!(e, SpecError::NotAbsolute { .. }),
        ),
        (
            |s| device(s).host_path = "/dev/broken".to_owned(),
            |e| matches!(e, SpecError::HostDevices { .. }),
        ),
    ]);
}

#[test]
fn limits() {
    let page = |size: &str| vec![HugepageLimit { page_size: size.to_owned(), limit_bytes: 1 }];
    for size in ["", "MB", "2", "2mb", "-2MB", "2MB/../x", "2 MB"] {
        let mut setup = Setup::new();
        setup.container.resources.hugepage_limits = page(size);
        assert!(matches!(setup.build(), Err(SpecError::Characters { .. })), "{size}");
    }
    for file in
        ["cgroup.procs", "memory", "../memory.max", "memory.", ".max", "memory..max", "a/b.c", ""]
    {
        let mut setup = Setup::new();
        setup.cgroup_version = CgroupVersion::V2;
        setup.container.resources.unified.insert(file.to_owned(), "1".to_owned());
        assert!(matches!(setup.build(), Err(SpecError::Characters { .. })), "{file}");
    }
    refused(&[
        (|s| s.container.resources.oom_score_adj = 1001, |e| matches!(e, SpecError::Range { .. })),
        (|s| s.container.resources.oom_score_adj = -1001, |e| matches!(e, SpecError::Range { .. })),
        (|s| s.container.resources.cpu_shares = -1, |e| matches!(e, SpecError::Range { .. })),
        (
            |s| s.container.resources.memory_limit_bytes = -2,
            |e| matches!(e, SpecError::Range { .. }),
        ),
        (
            |s| s.container.resources.cpuset_cpus = "0\n1".to_owned(),
            |e| matches!(e, SpecError::Characters { .. }),
        ),
        (
            |s| {
                s.container.resources.unified.insert("memory.max".to_owned(), "1".to_owned());
            },
            |e| matches!(e, SpecError::UnifiedOnV1),
        ),
    ]);
}
