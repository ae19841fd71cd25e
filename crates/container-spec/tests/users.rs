//! User namespaces: what is asked, and what the specification says of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod support;

use container_spec::{SpecError, sysctls, validate_sandbox};
use serde_json::json;
use support::Setup;
use types::{IdMapping, Mount, Propagation, UserNamespace};

fn range(container_id: u32, host_id: u32, length: u32) -> IdMapping {
    IdMapping { host_id, container_id, length }
}

fn usual() -> UserNamespace {
    let ids = vec![range(0, 100_000, 65_536)];
    UserNamespace { uids: ids.clone(), gids: ids }
}

/// A pod and its container with a user namespace.
fn setup(user: UserNamespace) -> Setup {
    let mut setup = Setup::new();
    setup.sandbox.security.namespaces.user = Some(user.clone());
    setup.container.security.namespaces.user = Some(user);
    setup
}

#[test]
fn the_pods_namespace_is_joined() {
    let spec = setup(usual()).json();
    let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!({ "type": "user", "path": "/run/corten/s/user" })));
    let wanted = json!([{ "hostID": 100_000, "containerID": 0, "size": 65_536 }]);
    assert_eq!(spec["linux"]["uidMappings"], wanted);
    assert_eq!(spec["linux"]["gidMappings"], wanted);
    let without = Setup::new().json();
    assert!(!without["linux"]["namespaces"].to_string().contains("user"));
    assert!(without["linux"]["uidMappings"].is_null());
}

#[test]
fn terminals_have_their_group_where_the_pod_has_it() {
    let terminals = |setup: &Setup| {
        let spec = setup.json();
        let mounts = spec["mounts"].as_array().unwrap().clone();
        mounts.into_iter().find(|m| m["destination"] == "/dev/pts").unwrap()["options"].to_string()
    };
    assert!(terminals(&setup(usual())).contains("gid=5"));
    let mut small = usual();
    small.gids[0].length = 5;
    let mut setup = setup(small);
    (setup.user.uid, setup.user.gid) = (0, 0);
    setup.user.additional_gids.clear();
    assert!(!terminals(&setup).contains("gid"));
}

#[test]
fn ids_that_are_not_mapped_are_refused() {
    let mut setup = setup(usual());
    setup.user.uid = 65_536;
    let error = setup.build().unwrap_err();
    assert!(matches!(error, SpecError::NotInUserNamespace { what: "user", id: 65_536 }));
    setup.user.uid = 65_535;
    setup.build().unwrap();
    setup.user.additional_gids = vec![7, 70_000];
    let error = setup.build().unwrap_err();
    assert!(matches!(error, SpecError::NotInUserNamespace { what: "group", id: 70_000 }));
    assert!(error.is_invalid_argument());
}

#[test]
fn a_container_has_its_pods_namespace() {
    let mut other = usual();
    other.uids[0].host_id += 1;
    for container in [None, Some(other)] {
        let mut setup = setup(usual());
        setup.container.security.namespaces.user = container;
        assert!(matches!(setup.build(), Err(SpecError::OtherUserNamespace)));
    }
    let mut setup = setup(usual());
    setup.sandbox.security.namespaces.user = None;
    assert!(matches!(setup.build(), Err(SpecError::OtherUserNamespace)));
}

#[test]
fn one_range_with_root_in_it() {
    let good = || vec![range(0, 100_000, 65_536)];
    let check = |uids: Vec<IdMapping>, gids: Vec<IdMapping>| {
        let sandbox = setup(UserNamespace { uids, gids }).sandbox;
        validate_sandbox(&sandbox)
    };
    check(good(), good()).unwrap();
    check(vec![range(0, 1000, 1)], vec![range(0, u32::MAX - 1, 1)]).unwrap();
    for wrong in [
        vec![],
        vec![range(0, 1000, 10), range(10, 2000, 10)],
        vec![range(1, 1000, 10)],
        vec![range(0, 1000, 0)],
        vec![range(0, u32::MAX, 1)],
        vec![range(0, 1, u32::MAX)],
    ] {
        for (uids, gids) in [(wrong.clone(), good()), (good(), wrong.clone())] {
            let error = check(uids, gids).unwrap_err();
            assert!(matches!(error, SpecError::UserNamespace { .. }), "{wrong:?}: {error}");
        }
    }
}

#[test]
fn mounts_do_not_spread_to_the_host() {
    let mut setup = setup(usual());
    setup.container.mounts = vec![Mount {
        host_path: "/a".to_owned(),
        container_path: "/b".to_owned(),
        propagation: Propagation::HostToContainer,
        ..Mount::default()
    }];
    setup.build().unwrap();
    setup.container.mounts[0].propagation = Propagation::Bidirectional;
    assert!(matches!(setup.build(), Err(SpecError::PropagationFromUserNamespace { .. })));
}

#[test]
fn the_networks_defaults_are_set_in_it_too() {
    let sandbox = setup(usual()).sandbox;
    assert_eq!(sysctls(&sandbox).unwrap()["net.ipv4.ping_group_range"], "0 2147483647");
}
