//! The store on a real file system, with real overlay mounts.
#![allow(clippy::unwrap_used)] // a test that fails here has failed

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use snapshots::{LayerState, SnapshotError, Snapshots, Usage};
use types::{ContainerId, DiffId, Digest, IdMapping, UserNamespace};

fn id(n: u8) -> DiffId {
    DiffId(Digest::from_bytes([n; 32]))
}

fn put(store: &Snapshots, n: u8, fill: impl FnOnce(&Path)) {
    let writer = store.begin_layer(id(n)).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer.dir()));
    fill(Path::new(&path));
    writer.commit().unwrap();
}

fn files_below(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_layer_is_there_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    let writer = store.begin_layer(id(1)).unwrap();
    assert!(!store.has_layer(&id(1)));
    drop(writer);
    assert_eq!(files_below(&dir.path().join("new")), 0);
    put(&store, 1, |root| fs::write(root.join("a"), "a").unwrap());
    // The second of two writers finds it there.
    put(&store, 1, |root| fs::write(root.join("b"), "b").unwrap());
    assert!(store.has_layer(&id(1)));
    assert_eq!(store.layer_usage(&id(1)), Some(Usage { bytes: 8192, inodes: 2 }));
    assert_eq!(files_below(&dir.path().join("new")), 0);
    let again = Snapshots::open(dir.path()).unwrap();
    assert_eq!(again.layers(), [id(1)]);
    assert_eq!(again.total_usage().bytes, 8192 + 4096, "with its seal");
}

/// Layers that are ready at the same time are sealed together: each is there, once, and
/// whole, also those that two have written.
#[test]
fn many_are_sealed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    let ready = std::sync::Barrier::new(24);
    std::thread::scope(|scope| {
        for n in 0..24_u8 {
            let (store, ready) = (&store, &ready);
            scope.spawn(move || {
                put(store, n % 16, |root| {
                    fs::write(root.join("f"), n.to_string()).unwrap();
                    ready.wait();
                });
                assert!(store.has_layer(&id(n % 16)), "{n} is answered and not there");
            });
        }
    });
    assert_eq!(store.layers().len(), 16);
    assert_eq!(files_below(&dir.path().join("new")), 0);
    drop(store);
    let store = Snapshots::open(dir.path()).unwrap();
    assert_eq!(store.layers().len(), 16);
    for n in 0..16 {
        assert_eq!(store.look_at_layer(&id(n)).unwrap(), LayerState::Whole, "{n}");
    }
}

/// What a crash can leave: files without a seal, a seal without files, things half written.
#[test]
fn what_a_crash_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    put(&store, 1, |_| ());
    put(&store, 2, |_| ());
    put(&store, 3, |_| ());
    drop(store);
    fs::remove_file(dir.path().join("seals").join(id(1).0.hex())).unwrap();
    fs::remove_dir_all(dir.path().join("layers").join(id(2).0.hex())).unwrap();
    fs::create_dir_all(dir.path().join("new/x/y")).unwrap();
    fs::create_dir_all(dir.path().join("trash/x/y")).unwrap();
    fs::create_dir_all(dir.path().join("active").join(ContainerId::random().as_str())).unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    assert_eq!(store.layers(), [id(3)]);
    for (place, left) in [("layers", 1), ("seals", 1), ("new", 0), ("trash", 0), ("active", 0)] {
        assert_eq!(files_below(&dir.path().join(place)), left, "{place}");
    }
}

#[test]
fn a_damaged_seal_throws_the_layer_away() {
    let dir = tempfile::tempdir().unwrap();
    put(&Snapshots::open(dir.path()).unwrap(), 1, |_| ());
    fs::write(dir.path().join("seals").join(id(1).0.hex()), "nonsense").unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    assert!(!store.has_layer(&id(1)));
    put(&store, 1, |_| ());
    assert!(store.has_layer(&id(1)), "and a new pull heals it");
}

#[test]
fn only_what_nobody_needs_is_collected() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    for n in 1..=6 {
        put(&store, n, |_| ());
    }
    let container = ContainerId::random();
    store.prepare(&container, &[id(2)]).unwrap();
    store.hold(&container, &[id(6), id(2)]).unwrap();
    assert!(matches!(store.hold(&container, &[id(9)]), Err(SnapshotError::MissingLayer(_))));
    let pin = store.pin(&[id(3)]);
    let keep = HashSet::from([id(4)]);
    let report = store.collect(&keep).unwrap();
    assert_eq!(report.removed, [id(1), id(5)]);
    assert_eq!(report.freed.bytes, 8192);
    drop(pin);
    // After a restart the container still holds its layer.
    drop(store);
    let store = Snapshots::open(dir.path()).unwrap();
    assert_eq!(store.collect(&keep).unwrap().removed, [id(3)]);
    store.remove(&container).unwrap();
    assert_eq!(store.actives(), []);
    assert_eq!(store.collect(&HashSet::new()).unwrap().removed, [id(2), id(4), id(6)]);
    assert_eq!(files_below(&dir.path().join("layers")), 0);
}

#[test]
fn a_containers_snapshot_has_the_images_root_and_is_removed_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    put(&store, 1, |_| ());
    put(&store, 2, |root| {
        fs::set_permissions(root, fs::Permissions::from_mode(0o711)).unwrap();
        std::os::unix::fs::chown(root, Some(7), Some(8)).unwrap();
    });
    let container = ContainerId::random();
    let active = store.prepare(&container, &[id(1), id(2)]).unwrap();
    assert_eq!(active.lower.len(), 2);
    assert!(active.lower[0].ends_with(id(2).0.hex()), "the topmost comes first");
    let meta = fs::metadata(&active.upper).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o711, 7, 8));
    assert_eq!(store.prepare(&container, &[id(1), id(2)]).unwrap(), active, "asked again");
    assert!(matches!(store.prepare(&container, &[id(1)]), Err(SnapshotError::Exists(_))));
    assert_eq!(store.get(&container), Some(active.clone()));
    fs::write(active.upper.join("big"), vec![1; 100_000]).unwrap();
    assert!(store.usage(&container).unwrap().bytes >= 100_000);
    // As overlayfs leaves it: a directory that nobody may enter.
    fs::create_dir(active.work.join("work")).unwrap();
    fs::set_permissions(active.work.join("work"), fs::Permissions::from_mode(0o000)).unwrap();
    store.remove(&container).unwrap();
    store.remove(&container).unwrap();
    assert!(store.get(&container).is_none() && store.actives().is_empty());
    assert_eq!(files_below(&dir.path().join("active")), 0);
}

#[test]
fn in_a_user_namespace_the_root_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    put(&store, 1, |root| std::os::unix::fs::chown(root, Some(7), Some(70_000)).unwrap());
    let ids = |host_id| vec![IdMapping { host_id, container_id: 0, length: 65_536 }];
    let user = UserNamespace { uids: ids(100_000), gids: ids(200_000) };
    let active = store.prepare_for(&ContainerId::random(), &[id(1)], Some(&user)).unwrap();
    let meta = fs::metadata(&active.upper).unwrap();
    // A group that the namespace does not have becomes its root's.
    assert_eq!((meta.uid(), meta.gid()), (100_007, 200_000));
}

#[test]
fn a_missing_layer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    let error = store.prepare(&ContainerId::random(), &[id(9)]).unwrap_err();
    assert!(matches!(error, SnapshotError::MissingLayer(layer) if layer == id(9)));
    assert!(store.actives().is_empty());
}

/// Files of the image are read as the container would see them, never the host's.
#[test]
fn files_are_viewed_through_all_layers_and_never_outside() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    put(&store, 1, |root| {
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "lower").unwrap();
        fs::write(root.join("etc/group"), "group").unwrap();
        symlink("/etc/shadow", root.join("etc/outside")).unwrap();
        symlink("../../../../../../etc/group", root.join("etc/up")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("etc/fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        symlink("/proc/self/mem", root.join("etc/magic")).unwrap();
    });
    put(&store, 2, |root| {
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "upper").unwrap();
    });
    let view = |path: &str| store.view_file(&[id(1), id(2)], Path::new(path), 1024);
    assert_eq!(view("etc/passwd").unwrap().unwrap(), b"upper");
    assert_eq!(view("/etc/group").unwrap().unwrap(), b"group");
    assert_eq!(view("etc/up").unwrap().unwrap(), b"group", "dots end at the image's root");
    assert_eq!(view("etc/outside").unwrap(), None);
    assert_eq!(view("etc/magic").unwrap(), None);
    assert_eq!(view("no/such").unwrap(), None);
    assert!(matches!(view("etc/fifo"), Err(SnapshotError::NotRegular { .. })));
    assert!(matches!(view("etc"), Err(SnapshotError::NotRegular { .. })));
    let short = store.view_file(&[id(1), id(2)], Path::new("etc/passwd"), 4);
    assert!(matches!(short, Err(SnapshotError::TooLong { .. })));
    assert_eq!(store.view_file(&[], Path::new("etc/passwd"), 10).unwrap(), None);
    assert_eq!(store.view_file(&[id(1)], Path::new("etc/passwd"), 10).unwrap().unwrap(), b"lower");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*dir.path().to_string_lossy()), "nothing is in the host's table");
    // What is healed is read anew.
    store.forget_layer(&id(1)).unwrap();
    let gone = store.view_file(&[id(1)], Path::new("etc/passwd"), 10);
    assert!(matches!(gone, Err(SnapshotError::MissingLayer(_))));
    put(&store, 1, |root| {
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "healed").unwrap();
    });
    assert_eq!(store.view_file(&[id(1)], Path::new("etc/passwd"), 10).unwrap().unwrap(), b"healed");
}

/// Overlayfs heeds the mark in every directory but the root.
#[test]
fn an_opaque_root_hides_what_lies_below() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    put(&store, 1, |root| fs::write(root.join("hidden"), "").unwrap());
    put(&store, 2, |root| {
        fs::write(root.join("seen"), "").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(root, "trusted.overlay.opaque", b"y", flags).unwrap();
    });
    put(&store, 3, |_| ());
    drop(store);
    let store = Snapshots::open(dir.path()).unwrap();
    let layers = [id(1), id(2), id(3)];
    assert_eq!(store.prepare(&ContainerId::random(), &layers).unwrap().lower.len(), 2);
    assert_eq!(store.view_file(&layers, Path::new("hidden"), 10).unwrap(), None);
    assert!(store.view_file(&layers, Path::new("seen"), 10).unwrap().is_some());
    // What is hidden is still the image's, and in use.
    assert!(store.collect(&HashSet::new()).unwrap().removed.is_empty());
}

/// A layer that is written again while it is collected is not taken along.
#[test]
fn collecting_and_writing_at_once_never_lose_a_sealed_layer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..50 {
                let pin = store.pin(&[id(1)]);
                if !store.has_layer(&id(1)) {
                    put(&store, 1, |root| fs::write(root.join("a"), "a").unwrap());
                }
                let path = Path::new("a");
                assert_eq!(store.view_file(&[id(1)], path, 10).unwrap().unwrap(), b"a");
                drop(pin);
            }
        });
        while !writer.is_finished() {
            assert_eq!(store.collect(&HashSet::new()).unwrap().failed, 0);
        }
    });
}

#[test]
fn a_changed_layer_is_found_forgotten_and_healed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    let fill = |root: &Path| fs::write(root.join("a"), "whole").unwrap();
    put(&store, 1, fill);
    let place = dir.path().join("layers").join(id(1).0.hex());
    assert_eq!(store.look_at_layer(&id(1)).unwrap(), LayerState::Whole);
    assert_eq!(store.look_at_layer(&id(2)).unwrap(), LayerState::Missing);
    let store = Snapshots::open(dir.path()).unwrap();
    assert_eq!(store.look_at_layer(&id(1)).unwrap(), LayerState::Whole, "after a restart too");

    // What a container runs on stays where it is mounted, and goes with the container.
    let container = ContainerId::random();
    store.prepare(&container, &[id(1)]).unwrap();
    fs::write(place.join("a"), "").unwrap();
    assert!(matches!(store.look_at_layer(&id(1)).unwrap(), LayerState::Damaged(_)));
    let mounted = fs::File::open(&place).unwrap();
    store.forget_layer(&id(1)).unwrap();
    assert!(!store.has_layer(&id(1)));
    put(&store, 1, fill);
    assert_eq!(store.look_at_layer(&id(1)).unwrap(), LayerState::Whole);
    assert_eq!(fs::read_to_string(place.join("a")).unwrap(), "whole");
    let old = format!("/proc/self/fd/{}/a", std::os::fd::AsRawFd::as_raw_fd(&mounted));
    assert!(fs::exists(&old).unwrap());
    let store = Snapshots::open(dir.path()).unwrap();
    assert!(fs::exists(&old).unwrap(), "a restart does not take it away");
    store.remove(&container).unwrap();
    store.collect(&HashSet::from([id(1)])).unwrap();
    assert_eq!(files_below(&dir.path().join("old")), 0);
    fs::remove_dir_all(&place).unwrap();
    assert!(matches!(store.look_at_layer(&id(1)).unwrap(), LayerState::Damaged(_)));
}
