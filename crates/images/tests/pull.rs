//! Pulls that succeed: what is stored, and under which names.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    Bed,
    fake::{Fake, Reply},
    made::{self, DOCKER_MANIFEST, Layer, Made, tar},
};
use types::DiffId;

#[tokio::test]
async fn all_kinds_of_layers_are_unpacked() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let big = "x".repeat(300_000);
    let mut two_members = Layer::gzip(&tar(&[("members", big.as_bytes())]));
    let half = tar(&[("members", big.as_bytes())]);
    two_members.stored = [made::gzip(&half[..1000]), made::gzip(&half[1000..])].concat();
    let image = Made::new(&[
        Layer::plain(&tar(&[("plain", b"1"), ("both", b"lower")])),
        Layer::gzip(&tar(&[("gzip", b"2"), ("both", b"upper")])),
        Layer::zstd(&tar(&[("zstd", b"3")])),
        two_members,
    ]);
    fake.push("a/b", "v1", &image);
    let pulled = bed.images.pull(&fake.name("a/b:v1"), None).await.unwrap();
    assert_eq!(pulled.id.to_string(), image.id());
    assert_eq!(pulled.repo_tags, [fake.name("a/b:v1")]);
    assert_eq!(pulled.repo_digests, [fake.name(&format!("a/b@{}", image.digest()))]);
    let size: usize =
        image.config.len() + image.layers.iter().map(|l| l.stored.len()).sum::<usize>();
    assert_eq!(pulled.size_bytes, size as u64);
    assert_eq!(pulled.config.env, ["A=b"]);
    for (path, text) in
        [("plain", "1"), ("gzip", "2"), ("zstd", "3"), ("both", "upper"), ("members", &big)]
    {
        assert_eq!(bed.text(&pulled, path).as_deref(), Some(text), "{path}");
    }
    assert!(bed.images.fs_usage().bytes >= 300_000);
    bed.assert_tidy();
    let bed = bed.again();
    assert_eq!(bed.images.get(&image.id()), Some(pulled));
}

#[tokio::test]
async fn an_image_is_pulled_by_digest_and_through_indexes() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let ours = Made::with(&[Layer::file("f", "ours")], "1", DOCKER_MANIFEST);
    let theirs = Made::with(&[Layer::file("f", "theirs")], "2", DOCKER_MANIFEST);
    fake.push("m", "single", &ours);
    let index = made::index(&[theirs.entry("arm64"), ours.entry("amd64")]);
    let outer = made::index(&[serde_json::json!({
        "mediaType": made::OCI_INDEX, "digest": made::digest(&index), "size": index.len(),
    })]);
    fake.manifest("m", &made::digest(&index), made::OCI_INDEX, &index);
    fake.manifest("m", "multi", made::OCI_INDEX, &outer);
    let by_digest = fake.name(&format!("m@{}", ours.digest()));
    let pulled = bed.images.pull(&by_digest, None).await.unwrap();
    assert_eq!((pulled.repo_tags.len(), &pulled.repo_digests[..]), (0, &[by_digest.clone()][..]));
    let pulled = bed.images.pull(&fake.name("m:multi"), None).await.unwrap();
    assert_eq!(pulled.id.to_string(), ours.id());
    assert_eq!(pulled.repo_tags, [fake.name("m:multi")]);
    let mut expected = vec![by_digest, fake.name(&format!("m@{}", made::digest(&outer)))];
    expected.sort();
    assert_eq!(pulled.repo_digests, expected);
    assert_eq!(fake.count("/blobs/"), 2, "the second pull needs neither");
}

#[tokio::test]
async fn layers_are_fetched_once_for_all_images_and_all_callers() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let shared = Layer::file("shared", "s");
    let one = Made::with(
        &[shared.clone(), shared.clone(), Layer::file("one", "1")],
        "1",
        DOCKER_MANIFEST,
    );
    let two = Made::with(&[shared.clone(), Layer::file("two", "2")], "2", DOCKER_MANIFEST);
    fake.push("one", "latest", &one);
    fake.push("two", "latest", &two);
    let mut pulls = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (images, name) = (bed.images.clone(), fake.name(["one", "two"][n % 2]));
        pulls.spawn(async move { images.pull(&name, None).await.unwrap().id.to_string() });
    }
    let mut ids = pulls.join_all().await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 2);
    for layer in one.layers.iter().chain(&two.layers) {
        assert_eq!(fake.count(&made::digest(&layer.stored)), 1);
    }
    assert_eq!(fake.count("/manifests/latest"), 2, "one pull for all who ask for the same");
    bed.assert_tidy();
}

#[tokio::test]
async fn a_pull_goes_on_when_its_caller_leaves() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let image = Made::new(&[Layer::file("f", "1")]);
    fake.push("a", "latest", &image);
    let name = fake.name("a");
    // The first poll starts it, and then nobody waits.
    let once = tokio::time::timeout(std::time::Duration::ZERO, bed.images.pull(&name, None)).await;
    assert!(once.is_err());
    bed.images.pull(&name, None).await.unwrap();
    assert_eq!(fake.count("/manifests/"), 1);
}

#[tokio::test]
async fn names_move_and_images_go_with_their_layers() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let shared = Layer::file("shared", "s");
    let old = Made::with(&[shared.clone(), Layer::file("old", "1")], "1", DOCKER_MANIFEST);
    let new = Made::with(&[shared.clone(), Layer::file("new", "2")], "2", DOCKER_MANIFEST);
    fake.push("a", "latest", &old);
    bed.images.pull(&fake.name("a"), None).await.unwrap();
    fake.push("a", "latest", &new);
    fake.push("b", "other", &new);
    bed.images.pull(&fake.name("a"), None).await.unwrap();
    bed.images.pull(&fake.name("b:other"), None).await.unwrap();
    let of_old = bed.images.get(&old.id()).unwrap();
    assert_eq!((of_old.repo_tags.len(), of_old.repo_digests.len()), (0, 1));
    let of_new = bed.images.get(&fake.name("a")).unwrap();
    assert_eq!(of_new.id.to_string(), new.id());
    assert_eq!(of_new.repo_tags, [fake.name("a:latest"), fake.name("b:other")]);

    let has = |layer: &Layer| bed.snapshots.has_layer(&layer.diff_id.parse::<DiffId>().unwrap());
    let mut removals = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (images, name) = (bed.images.clone(), fake.name("b:other"));
        removals.spawn(async move {
            let removed = images.remove(&name).await.unwrap();
            assert!(images.get(&name).is_none());
            removed
        });
    }
    let removed = removals.join_all().await;
    assert_eq!(removed.iter().flatten().count(), 1);
    assert_eq!(bed.images.list().len(), 1);
    assert!(has(&shared) && has(&old.layers[1]) && !has(&new.layers[1]));
    bed.images.remove(&old.id()[..20]).await.unwrap();
    assert!(!has(&shared) && bed.snapshots.layers().is_empty());
    assert_eq!(bed.images.fs_usage().bytes, 0);
    bed.images.remove("never/was").await.unwrap();
    bed.assert_tidy();
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_and_removals_may_race() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let shared = Layer::file("shared", "s");
    for n in 0..3 {
        let own = Layer::file("own", &n.to_string());
        let image = Made::with(&[shared.clone(), own], &n.to_string(), DOCKER_MANIFEST);
        fake.push(&format!("i{n}"), "latest", &image);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6 {
        let (images, snapshots) = (bed.images.clone(), bed.snapshots.clone());
        let name = fake.name(&format!("i{}", n % 3));
        tasks.spawn(async move {
            for _ in 0..15 {
                if n < 3 {
                    images.pull(&name, None).await.unwrap();
                } else {
                    images.remove(&name).await.unwrap();
                }
                for image in images.list() {
                    // Listed before and after the look at its layers: then they were there.
                    let whole = image.layers.iter().all(|layer| snapshots.has_layer(layer));
                    let still = images.get(&image.id.to_string());
                    assert!(whole || still.is_none_or(|now| !std::sync::Arc::ptr_eq(&now, &image)));
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for image in bed.images.list() {
        assert_eq!(bed.text(&image, "shared").as_deref(), Some("s"));
    }
    bed.assert_tidy();
}

#[tokio::test]
async fn a_broken_download_goes_on_from_where_it_broke() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let noise: Vec<u8> =
        (0..400_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    let image = Made::new(&[Layer::plain(&tar(&[("f", &noise)]))]);
    fake.push("a", "latest", &image);
    let (blob, bytes) = (made::digest(&image.layers[0].stored), image.layers[0].stored.clone());
    let cut = bytes.clone();
    fake.first(move |asked| {
        let is_first = asked.path.contains(&blob) && asked.header("range").is_none();
        is_first.then(|| Reply::ok("application/octet-stream", &cut).cut(150_000))
    });
    bed.images.pull(&fake.name("a"), None).await.unwrap();
    let ranges: Vec<_> =
        fake.asked().iter().filter_map(|a| a.header("range").map(ToOwned::to_owned)).collect();
    assert_eq!(ranges.len(), 1);
    assert_ne!(ranges[0], "bytes=0-");
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let (fake, bed) = (Fake::new(), Bed::new());
    fake.push("a", "latest", &Made::new(&[Layer::file("f", "1")]));
    let count = std::sync::atomic::AtomicUsize::new(0);
    fake.first(move |_| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        [Some(Reply::status(503)), Some(Reply::status(429).with("Retry-After", "0")), None]
            .get(n)
            .cloned()
            .flatten()
    });
    bed.images.pull(&fake.name("a"), None).await.unwrap();
}
