//! Images are whole or absent: damage is found, told and healed; what is reported is what
//! the disk has; what is needed stays.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use common::{
    Bed,
    fake::Fake,
    made::{DOCKER_MANIFEST, Layer, Made, tar},
};
use images::{FsckOptions, PullErrorKind as Kind};
use proptest::prelude::*;
use types::{ContainerId, DiffId};

const READ: FsckOptions = FsckOptions { read: true, repair: false };
const REPAIR: FsckOptions = FsckOptions { read: true, repair: true };

fn image(seed: &str) -> Made {
    let shared = Layer::file("shared", "s");
    Made::with(&[shared, Layer::file("own", seed)], seed, DOCKER_MANIFEST)
}

fn diff_id(layer: &Layer) -> DiffId {
    layer.diff_id.parse().unwrap()
}

/// Changes a file's bytes and nothing else of it.
fn rot(path: &Path) {
    let times = std::fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(path, bytes).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(times).unwrap();
}

#[tokio::test]
async fn a_pull_heals_what_a_look_finds() {
    let fake = Fake::new();
    let bed = Bed::with(|options| options.believed_for = Duration::ZERO);
    let image = image("1");
    fake.push("a", "latest", &image);
    let name = fake.name("a");
    bed.images.pull(&name, None).await.unwrap();
    let own = bed.layer_dir(diff_id(&image.layers[1]));
    type Damage = fn(&Path);
    let damages: [Damage; 4] = [
        |own| std::fs::write(own.join("own"), "").unwrap(),
        |own| std::fs::remove_file(own.join("own")).unwrap(),
        |own| std::fs::remove_dir_all(own).unwrap(),
        |own| std::fs::write(own.join("more"), "x").unwrap(),
    ];
    for damage in damages {
        damage(&own);
        let pulled = bed.images.pull(&name, None).await.unwrap();
        assert_eq!(bed.text(&pulled, "own").as_deref(), Some("1"));
        assert!(!own.join("more").exists());
    }
    assert_eq!(bed.images.counters().layers_damaged, 4);
    assert_eq!(
        fake.count(&common::made::digest(&image.layers[0].stored)),
        1,
        "only what is damaged"
    );
}

#[tokio::test]
async fn after_a_power_cut_only_whole_images_are_there() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let (good, bad) = (image("good"), image("bad"));
    fake.push("good", "latest", &good);
    fake.push("bad", "latest", &bad);
    for name in ["good", "bad"] {
        bed.images.pull(&fake.name(name), None).await.unwrap();
    }
    // What journals can leave of a file that was not synced.
    let own = bed.layer_dir(diff_id(&bad.layers[1]));
    std::fs::File::options().write(true).open(own.join("own")).unwrap().set_len(0).unwrap();
    let bed = bed.again();
    assert_eq!(bed.images.list().len(), 2);
    assert_eq!(bed.images.verify().unwrap(), 1);
    assert_eq!(bed.images.list().len(), 1);
    assert!(bed.images.get(&fake.name("bad")).is_none());
    let pulled = bed.images.pull(&fake.name("bad"), None).await.unwrap();
    assert_eq!(bed.text(&pulled, "own").as_deref(), Some("bad"));
    assert_eq!(bed.images.verify().unwrap(), 0);
}

/// Where the store keeps what it knows of images and layers.
const KEPT: [&str; 4] =
    ["images/records", "images/documents", "snapshots/seals", "snapshots/splits"];

/// What can become of a file.
fn damages(path: &Path) -> Vec<Box<dyn Fn()>> {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let (path, bytes) = (path.to_owned(), std::fs::read(path).unwrap());
    let mut all: Vec<Box<dyn Fn()>> = Vec::new();
    // The records' own tests do this at every length and byte.
    let step = (bytes.len() / 5).max(1);
    for at in (0..bytes.len()).step_by(step) {
        let (to, cut) = (path.clone(), bytes[..at].to_vec());
        all.push(Box::new(move || std::fs::write(&to, &cut).unwrap()));
        let (to, mut flipped) = (path.clone(), bytes.clone());
        flipped[at] ^= 0x20;
        all.push(Box::new(move || std::fs::write(&to, &flipped).unwrap()));
    }
    let replace = |with: fn(&Path)| -> Box<dyn Fn()> {
        let to = path.clone();
        Box::new(move || {
            std::fs::remove_file(&to).unwrap();
            with(&to);
        })
    };
    all.push(replace(|_| {}));
    all.push(replace(|to| std::fs::create_dir(to).unwrap()));
    all.push(replace(|to| std::os::unix::fs::symlink("/etc/passwd", to).unwrap()));
    all.push(replace(|to| std::os::unix::fs::symlink("/dev/zero", to).unwrap()));
    all.push(replace(|to| mknodat(CWD, to, FileType::Fifo, Mode::RUSR, 0).unwrap()));
    all.push(replace(|to| std::fs::File::create(to).unwrap().set_len(1 << 30).unwrap()));
    all
}

/// Whatever becomes of what is known of an image: the store opens, soon, what it lists is whole,
/// and a pull heals it.
#[tokio::test]
async fn whatever_becomes_of_a_record_a_pull_heals_it() {
    let fake = Fake::new();
    let mut bed = Bed::new();
    let image = image("1");
    fake.push("a", "latest", &image);
    let name = fake.name("a");
    bed.images.pull(&name, None).await.unwrap();
    let mut tried = 0;
    for place in KEPT {
        let dir = bed.dir.path().join(place);
        let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(!files.is_empty(), "{place}");
        for file in files {
            for damage in damages(&file) {
                damage();
                let begun = std::time::Instant::now();
                bed = bed.again();
                assert!(begun.elapsed() < Duration::from_secs(5), "{place}");
                for listed in bed.images.list() {
                    assert_eq!(bed.text(&listed, "own").as_deref(), Some("1"), "{place}");
                }
                let pulled = bed.images.pull(&name, None).await.unwrap();
                assert_eq!(bed.text(&pulled, "own").as_deref(), Some("1"), "{place}");
                bed.assert_tidy();
                tried += 1;
                // The next one damages what is whole.
                bed.images.remove(&name).await.unwrap();
                bed.images.pull(&name, None).await.unwrap();
                assert!(file.is_file(), "{} is not written anew", file.display());
            }
        }
    }
    assert!(tried > 80, "{tried}");
}

#[tokio::test]
async fn fsck_finds_tells_and_repairs() {
    let fake = Fake::new();
    let bed = Bed::with(|options| options.keep_blobs = true);
    let (one, two) = (image("one"), image("two"));
    fake.push("one", "latest", &one);
    fake.push("two", "latest", &two);
    for name in ["one", "two"] {
        bed.images.pull(&fake.name(name), None).await.unwrap();
    }
    let whole = bed.images.fsck(READ).unwrap();
    assert_eq!((whole.images, whole.layers, whole.layers_read, whole.blobs), (2, 3, 3, 3));
    assert_eq!(whole.findings, []);

    // Bits that rot change neither size nor time: only reading finds them.
    rot(&bed.layer_dir(diff_id(&one.layers[1])).join("own"));
    assert_eq!(bed.images.fsck(FsckOptions::default()).unwrap().findings, []);
    let blob = common::made::digest(&two.layers[1].stored);
    rot(&bed.dir.path().join("images/content/blobs/sha256").join(&blob[7..]));
    let found = bed.images.fsck(READ).unwrap();
    let whats: Vec<_> = found.findings.iter().map(|f| f.what.clone()).collect();
    assert_eq!(whats, [format!("layer {}", one.layers[1].diff_id), format!("blob {blob}")]);
    assert!(found.findings[0].problem.contains("its files make sha256:"), "{found:?}");
    assert_eq!(bed.images.list().len(), 2, "nothing is done unasked");

    let repaired = bed.images.fsck(REPAIR).unwrap();
    assert_eq!(repaired.findings.len(), 2);
    assert!(repaired.findings[0].action.contains(&one.id()), "{repaired:?}");
    assert!(bed.images.get(&fake.name("one")).is_none());
    assert_eq!(bed.images.fsck(READ).unwrap().findings, []);
    let pulled = bed.images.pull(&fake.name("one"), None).await.unwrap();
    assert_eq!(bed.text(&pulled, "own").as_deref(), Some("one"));
}

#[tokio::test]
async fn a_container_runs_on_while_its_layer_is_healed() {
    let fake = Fake::new();
    let bed = Bed::with(|options| options.believed_for = Duration::ZERO);
    let image = image("1");
    fake.push("a", "latest", &image);
    let pulled = bed.images.pull(&fake.name("a"), None).await.unwrap();
    let container = ContainerId::random();
    bed.snapshots.prepare(&container, &pulled.layers).unwrap();
    let own = bed.layer_dir(diff_id(&image.layers[1]));
    let below = std::fs::File::open(&own).unwrap();
    let below = format!("/proc/self/fd/{}/own", std::os::fd::AsRawFd::as_raw_fd(&below));
    std::fs::write(own.join("extra"), "damage").unwrap();
    bed.images.pull(&fake.name("a"), None).await.unwrap();
    assert!(!own.join("extra").exists());
    assert_eq!(std::fs::read_to_string(below).unwrap(), "1", "what it is mounted on is there");
    bed.images.remove(&fake.name("a")).await.unwrap();
    assert!(bed.snapshots.has_layer(&pulled.layers[0]), "its layers stay");
}

/// The disk space below a directory, as du(1) has it.
fn du(dir: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "--block-size=1"]).arg(dir).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_is_reported_is_what_the_disk_has() {
    let fake = Fake::new();
    let bed = Bed::with(|options| options.keep_blobs = true);
    let files: Vec<(String, Vec<u8>)> =
        (0..400).map(|n| (format!("d{}/f{n}", n % 7), vec![b'x'; n * 37])).collect();
    let files: Vec<_> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let layers = [Layer::gzip(&tar(&files[..200])), Layer::zstd(&tar(&files[200..]))];
    fake.push("a", "latest", &Made::new(&layers));
    fake.push("b", "latest", &image("b"));
    for name in ["a", "b"] {
        bed.images.pull(&fake.name(name), None).await.unwrap();
    }
    for again in [false, true] {
        let bed_dir = bed.dir.path().to_owned();
        let actual = du(&bed_dir.join("snapshots")) + du(&bed_dir.join("images"));
        let told = bed.images.fs_usage().bytes;
        let off = told.abs_diff(actual);
        assert!(off * 20 <= actual, "told {told}, du says {actual} (again: {again})");
        if !again {
            bed.images.remove(&fake.name("b")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_being_fetched_is_reported() {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    };
    let (fake, bed) = (Fake::new(), Bed::new());
    let big = Layer::plain(&tar(&[("big", &vec![b'x'; 3 << 20])]));
    fake.push("a", "latest", &Made::new(std::slice::from_ref(&big)));
    let is_stuck = Arc::new(AtomicBool::new(true));
    let (stuck, digest, bytes) = (is_stuck.clone(), big.diff_id.clone(), big.stored.clone());
    fake.first(move |asked| {
        if !asked.path.contains(&digest) || !stuck.load(SeqCst) {
            return None;
        }
        match asked.header("range") {
            None => Some(common::fake::Reply::ok("x", &bytes).cut(2 << 20)),
            Some(_) => {
                while stuck.load(SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                None
            }
        }
    });
    let (images, name) = (bed.images.clone(), fake.name("a"));
    let pull = tokio::spawn(async move { images.pull(&name, None).await });
    let begun = std::time::Instant::now();
    while bed.images.fs_usage().bytes < 3 << 19 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", bed.images.fs_usage());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(bed.images.fs_usage().bytes < 3 << 20);
    is_stuck.store(false, SeqCst);
    pull.await.unwrap().unwrap();
    let told = bed.images.fs_usage().bytes;
    assert!((3 << 20..4 << 20).contains(&told), "{told}");
}

#[tokio::test]
async fn images_are_pinned_by_name_pattern_and_id() {
    let fake = Fake::new();
    let (one, two) = (image("one"), image("two"));
    for (pattern, pinned) in [
        (fake.name("one:latest"), [true, false]),
        (fake.name("one"), [true, false]),
        (fake.name("*:latest"), [true, true]),
        (two.id(), [false, true]),
        ("*/other:*".to_owned(), [false, false]),
    ] {
        let bed = Bed::with(|options| options.pinned = vec![pattern.clone()]);
        fake.push("one", "latest", &one);
        fake.push("two", "latest", &two);
        for (name, expected) in ["one", "two"].iter().zip(pinned) {
            let pulled = bed.images.pull(&fake.name(name), None).await.unwrap();
            assert_eq!(pulled.pinned, expected, "{pattern} {name}");
        }
    }
}

/// On a file system without a free block everything can be listed and removed, and that
/// makes room. It is mounted where nobody else sees it.
#[test]
fn a_full_disk_does_not_keep_images_from_being_removed() {
    let program = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let script = "truncate -s 64M \"$1/image\" && mkfs.ext4 -q -O ^has_journal \"$1/image\" \
                  && mkdir \"$1/mount\" && mount -o loop \"$1/image\" \"$1/mount\" \
                  && TMPDIR=\"$1/mount\" exec \"$0\" --exact on_a_small_disk --ignored --nocapture";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(program)
        .arg(dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
#[ignore = "run by a_full_disk_does_not_keep_images_from_being_removed"]
async fn on_a_small_disk() {
    let fake = Fake::new();
    let bed = Bed::with(|options| options.reserve_bytes = 1 << 20);
    let root = bed.dir.path().to_owned();
    let big = Layer::gzip(&tar(&[("big", &vec![b'x'; 8 << 20])]));
    fake.push("big", "latest", &Made::with(&[big], "big", DOCKER_MANIFEST));
    let too_big = Layer::gzip(&tar(&[("big", &vec![b'y'; 80 << 20])]));
    fake.push("huge", "latest", &Made::with(&[too_big], "huge", DOCKER_MANIFEST));
    bed.images.pull(&fake.name("big"), None).await.unwrap();
    let free = || {
        let stat = rustix::fs::statvfs(&root).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    // A pull that does not fit leaves nothing, and others whole.
    let before = free();
    let error = bed.images.pull(&fake.name("huge"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{error}");
    assert!(error.to_string().contains("o space left"), "{error}");
    bed.assert_tidy();
    assert!(free().abs_diff(before) < 1 << 20, "{} {before}", free());
    // To the last block.
    let mut filler = std::fs::File::create(root.join("filler")).unwrap();
    for step in [1 << 20, 4096, 1] {
        while std::io::Write::write_all(&mut filler, &vec![1; step]).is_ok() {}
    }
    assert_eq!(free(), 0);
    assert_eq!(bed.images.list().len(), 1);
    assert!(bed.images.get(&fake.name("big")).is_some());
    let error = bed.images.pull(&fake.name("huge"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{error}");
    bed.images.remove(&fake.name("big")).await.unwrap();
    assert!(bed.images.list().is_empty());
    // Less what the file system keeps for root.
    assert!(free() > 4 << 20, "{}", free());
    drop(filler);
    std::fs::remove_file(root.join("filler")).unwrap();
    bed.images.pull(&fake.name("big"), None).await.unwrap();
}

/// What the interleavings do.
#[derive(Debug, Clone)]
enum Step {
    Pull(usize),
    Remove(usize),
    Run(usize),
    Stop(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0..4_usize;
    prop_oneof![
        4 => n.clone().prop_map(Step::Pull),
        3 => n.clone().prop_map(Step::Remove),
        2 => n.clone().prop_map(Step::Run),
        2 => n.prop_map(Step::Stop),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]
    /// Whatever happens in whatever order, partly at the same time: listed images and
    /// running containers have their layers, and in the end nothing is left.
    #[test]
    fn what_is_needed_stays_and_nothing_else(
        rounds in proptest::collection::vec(proptest::collection::vec(step(), 1..4), 1..8)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(interleave(rounds));
    }
}

async fn interleave(rounds: Vec<Vec<Step>>) {
    let fake = Fake::new();
    let mut bed = Bed::new();
    let shared: Vec<Layer> = (0..3).map(|n| Layer::file("shared", &n.to_string())).collect();
    for n in 0..4 {
        let layers = [
            shared[n % 3].clone(),
            shared[(n + 1) % 3].clone(),
            Layer::file("own", &n.to_string()),
        ];
        fake.push(
            &format!("i{n}"),
            "latest",
            &Made::with(&layers, &n.to_string(), DOCKER_MANIFEST),
        );
    }
    let mut running: BTreeMap<usize, (ContainerId, Vec<DiffId>)> = BTreeMap::new();
    for round in rounds {
        let mut tasks = tokio::task::JoinSet::new();
        let mut restart = false;
        for step in round {
            let images = bed.images.clone();
            match step {
                Step::Pull(n) => {
                    let name = fake.name(&format!("i{n}"));
                    tasks.spawn(async move { images.pull(&name, None).await.map(drop).unwrap() });
                }
                Step::Remove(n) => {
                    let name = fake.name(&format!("i{n}"));
                    tasks.spawn(async move { images.remove(&name).await.map(drop).unwrap() });
                }
                Step::Run(n) => {
                    let Some(image) = images.get(&fake.name(&format!("i{n}"))) else { continue };
                    let id = ContainerId::random();
                    // It may be removed just now; then it cannot be run, and that is all.
                    if bed.snapshots.prepare(&id, &image.layers).is_ok()
                        && let Some((old, _)) = running.insert(n, (id, image.layers.clone()))
                    {
                        bed.snapshots.remove(&old).unwrap();
                    }
                }
                Step::Stop(n) => {
                    if let Some((id, _)) = running.remove(&n) {
                        bed.snapshots.remove(&id).unwrap();
                    }
                }
                Step::Restart => restart = true,
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        if restart {
            bed = bed.again();
        }
        let needed = bed.images.list().into_iter().flat_map(|image| image.layers.clone());
        let needed: Vec<_> = needed.chain(running.values().flat_map(|(_, l)| l.clone())).collect();
        for layer in needed {
            assert!(bed.snapshots.has_layer(&layer) && bed.layer_dir(layer).is_dir());
        }
    }
    for (id, _) in running.values() {
        bed.snapshots.remove(id).unwrap();
    }
    for image in bed.images.list() {
        bed.images.remove(&image.id.to_string()).await.unwrap();
    }
    let bed = bed.again();
    assert!(bed.snapshots.layers().is_empty());
    bed.assert_tidy();
}
