//! Arbitrary requests and images: no panic, and what must hold of every spec.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod support;

use std::path::{Component, Path};

use proptest::prelude::*;
use support::Setup;
use types::{Device, Mount};

fn path() -> impl Strategy<Value = String> {
    prop_oneof![6 => "(/(a|b|c|\\.\\.|\\.|dev|etc|hosts|shm|proc)){0,5}/?", 1 => "\\PC{0,10}"]
}

fn mount() -> impl Strategy<Value = Mount> {
    (path(), path(), any::<bool>(), any::<bool>()).prop_map(|(host, container, readonly, rro)| {
        Mount {
            host_path: format!("/{host}"),
            container_path: container,
            readonly,
            recursive_read_only: rro && readonly,
            ..Mount::default()
        }
    })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,10}", "[A-Z_]{1,12}", any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn mounts_never_leave_the_root_nor_hide_what_lies_in_them(
        mounts in prop::collection::vec(mount(), 0..8),
        volumes in prop::collection::vec(path(), 0..6),
    ) {
        let mut setup = Setup::new();
        setup.container.mounts = mounts;
        setup.image.volumes = volumes;
        let Ok(built) = setup.build() else { return Ok(()) };
        let targets: Vec<&Path> = built.spec.mounts().iter().flatten().map(|m| m.destination().as_path()).collect();
        for (at, target) in targets.iter().enumerate() {
            prop_assert!(target.is_absolute() && *target != Path::new("/"));
            prop_assert!(target.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_))));
            // The kernel's file systems come first and may be hidden by a mount that was asked for.
            let kernel = ["/dev", "/proc", "/sys"].iter().any(|top| target.starts_with(top));
            for later in &targets[at + 1..] {
                prop_assert!(kernel || target == later || !target.starts_with(later), "{target:?} {later:?}");
            }
        }
        for volume in &built.volumes {
            prop_assert!(volume.host_path.starts_with("/var/lib/corten/v"));
            prop_assert_eq!(volume.host_path.components().count(), 6);
        }
    }

    #[test]
    fn no_request_panics(
        texts in prop::collection::vec(text(), 12),
        value in prop::collection::vec(any::<u8>(), 0..20),
        number in any::<i64>(),
    ) {
        let mut setup = Setup::new();
        let mut texts = texts.into_iter();
        let mut next = move || texts.next().unwrap();
        setup.container.command = vec![next()];
        setup.container.working_dir = next();
        setup.container.envs = vec![(next(), value)];
        setup.image.env = vec![next(), next()];
        setup.container.security.capabilities.add = vec![next()];
        setup.container.security.masked_paths = vec![next()];
        setup.container.devices =
            vec![Device { host_path: next(), container_path: next(), permissions: next() }];
        setup.container.resources.cpuset_cpus = next();
        setup.container.resources.oom_score_adj = number;
        setup.container.resources.cpu_shares = number;
        match setup.build() {
            Ok(built) => {
                let process = built.spec.process().as_ref().unwrap();
                for text in process.args().iter().chain(process.env().iter()).flatten() {
                    prop_assert!(!text.contains('\0'));
                }
            }
            Err(error) => prop_assert!(!error.to_string().contains(['\n', '\r', '\0'])),
        }
    }
}
