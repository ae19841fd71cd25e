//! How bytes come: in ranges, again, a few at a time, and never twice.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use common::{
    Bed,
    fake::{AtATime, Fake, Reply, ranged},
    made::{self, DOCKER_MANIFEST, Layer, Made, tar},
};
use images::PullErrorKind as Kind;

/// Bytes that no compression makes small.
fn noise(seed: u32, count: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..count).map(|_| next()).collect()
}

fn large(seed: u32, count: u32) -> Made {
    let file = noise(seed, count);
    Made::with(&[Layer::gzip(&tar(&[("f", &file)]))], &seed.to_string(), DOCKER_MANIFEST)
}

fn in_ranges() -> Bed {
    Bed::with(|options| {
        options.network.range_min_bytes = 100_000;
        options.network.range_bytes = 50_000;
    })
}

fn ranges(fake: &Fake) -> Vec<String> {
    fake.asked().iter().filter_map(|a| a.header("range").map(ToOwned::to_owned)).collect()
}

#[tokio::test]
async fn a_large_layer_comes_in_ranges_each_once() {
    let (fake, bed) = (Fake::new(), in_ranges());
    let image = large(1, 600_000);
    let size = image.layers[0].stored.len();
    fake.push("a", "latest", &image);
    bed.images.pull(&fake.name("a"), None).await.unwrap();
    let mut asked = ranges(&fake);
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), size.div_ceil(50_000));
    assert_eq!(fake.count("/blobs/"), asked.len() + 1, "each once, and the configuration");
    assert_eq!(bed.images.counters().layer_bytes_fetched, size as u64);
    bed.assert_tidy();
}

#[tokio::test]
async fn registries_without_ranges_do_too() {
    type Lie = fn(Reply) -> Reply;
    let lies: [Lie; 3] = [
        // All of it, whatever was asked for.
        |reply| reply,
        // Refused.
        |_| Reply::status(400),
        |_| Reply::status(416),
    ];
    for lie in lies {
        for from in [0, 2] {
            let (fake, bed) = (Arc::new(Fake::new()), in_ranges());
            let image = large(1, 400_000);
            fake.push("a", "latest", &image);
            let (layer, bytes) =
                (made::digest(&image.layers[0].stored), image.layers[0].stored.clone());
            let count = AtomicUsize::new(0);
            fake.first(move |asked| {
                let range = asked.header("range").filter(|_| asked.path.contains(&layer))?;
                let whole = Reply::ok("application/octet-stream", &bytes);
                let n = count.fetch_add(1, SeqCst);
                Some(if n < from { ranged(whole, Some(range)) } else { lie(whole) })
            });
            let pulled = bed.images.pull(&fake.name("a"), None).await;
            // One that begins with ranges and then refuses them breaks its word.
            match pulled {
                Ok(image) => assert!(bed.text(&image, "none").is_none()),
                Err(error) => assert!(from > 0 && error.kind() == Kind::Refused, "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_range_that_breaks_goes_on_and_a_lie_is_found() {
    let image = large(1, 600_000);
    let (layer, bytes) = (made::digest(&image.layers[0].stored), image.layers[0].stored.clone());
    for lying in [false, true] {
        let (fake, bed) = (Fake::new(), in_ranges());
        fake.push("a", "latest", &image);
        let (layer, bytes, count) = (layer.clone(), bytes.clone(), AtomicUsize::new(0));
        fake.first(move |asked| {
            let range = asked.header("range").filter(|_| asked.path.contains(&layer))?;
            let n = count.fetch_add(1, SeqCst);
            let mut reply = ranged(Reply::ok("application/octet-stream", &bytes), Some(range));
            if lying && n == 2 {
                reply.body[7] ^= 1;
            }
            Some(if !lying && n % 3 == 1 { reply.cut(20_000) } else { reply })
        });
        match bed.images.pull(&fake.name("a"), None).await {
            Ok(_) => assert!(!lying),
            Err(error) => {
                assert!(lying && error.kind() == Kind::Mismatch, "{error}");
                assert!(bed.images.list().is_empty() && bed.snapshots.layers().is_empty());
            }
        }
        bed.assert_tidy();
    }
}

#[tokio::test]
async fn an_interrupted_layer_goes_on_in_the_next_process() {
    let fake = Fake::new();
    let keep = |options: &mut images::ImagesOptions| {
        options.resume_min_bytes = 1;
        options.network.attempts = 1;
    };
    let bed = Bed::with(keep);
    let image = large(3, 500_000);
    fake.push("a", "latest", &image);
    let (layer, bytes) = (made::digest(&image.layers[0].stored), image.layers[0].stored.clone());
    let is_dead = Arc::new(AtomicBool::new(true));
    let dead = is_dead.clone();
    let of_layer = layer.clone();
    fake.first(move |asked| {
        if !asked.path.contains(&of_layer) || !dead.load(SeqCst) {
            return None;
        }
        match asked.header("range") {
            None => Some(Reply::ok("application/octet-stream", &bytes).cut(200_000)),
            Some(_) => Some(Reply::status(404)),
        }
    });
    bed.images.pull(&fake.name("a"), None).await.unwrap_err();
    assert!(bed.images.fs_usage().bytes > 50_000, "what has come is reported");
    let bed = bed.again_with(keep);
    is_dead.store(false, SeqCst);
    let before = fake.asked().len();
    let pulled = bed.images.pull(&fake.name("a"), None).await.unwrap();
    let after = fake.asked();
    let mut of_layer = after[before..].iter().filter(|asked| asked.path.contains(&layer));
    let range = of_layer.next().unwrap().header("range").unwrap().to_owned();
    let from: u64 = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
    assert!(from >= 50_000, "{range}");
    assert!(of_layer.next().is_none());
    assert!(bed.images.counters().resumes >= 1);
    assert_eq!(pulled.id.to_string(), image.id());
    let left = std::fs::read_dir(bed.dir.path().join("images/content/partial")).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn what_was_left_and_is_wrong_costs_one_try_only() {
    let fake = Fake::new();
    let bed = Bed::with(|options| options.resume_min_bytes = 1);
    let image = large(3, 300_000);
    fake.push("a", "latest", &image);
    let hex = made::digest(&image.layers[0].stored)[7..].to_owned();
    let path = bed.dir.path().join("images/content/partial").join(hex);
    std::fs::write(&path, vec![b'x'; 1000]).unwrap();
    bed.images.pull(&fake.name("a"), None).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn kept_layers_and_other_stores_need_no_registry() {
    let fake = Fake::new();
    let bed = Bed::with(|options| options.keep_blobs = true);
    let image = large(4, 50_000);
    fake.push("a", "latest", &image);
    bed.images.pull(&fake.name("a"), None).await.unwrap();
    let layer = made::digest(&image.layers[0].stored);
    let blobs = bed.dir.path().join("images/content");
    assert_eq!(fake.count(&layer), 1);
    // A second node that reads the first one's store.
    let other = Bed::with(|options| options.content_dirs = vec![blobs.clone()]);
    other.images.pull(&fake.name("a"), None).await.unwrap();
    assert_eq!(fake.count(&layer), 1);
    // One that lies is left for the registry.
    let path = blobs.join("blobs/sha256").join(&layer[7..]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let other = Bed::with(|options| options.content_dirs = vec![blobs]);
    other.images.pull(&fake.name("a"), None).await.unwrap();
    assert_eq!(fake.count(&layer), 2);
    bed.images.remove(&fake.name("a")).await.unwrap();
    assert!(!path.exists(), "and goes with the image");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pulls_are_one_and_cancelling_most_harms_none() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let image = Made::new(&[Layer::file("f", "1"), Layer::file("g", "2")]);
    fake.push("a", "latest", &image);
    fake.push("b", "latest", &image);
    fake.first(|_| {
        std::thread::sleep(Duration::from_millis(30));
        None
    });
    let pulls: Vec<_> = (0..100)
        .map(|n| {
            let (images, name) =
                (bed.images.clone(), fake.name(if n % 2 == 0 { "a" } else { "b" }));
            tokio::spawn(async move { images.pull(&name, None).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(40)).await;
    for (n, pull) in pulls.into_iter().enumerate() {
        if n < 90 {
            pull.abort();
        } else {
            assert_eq!(pull.await.unwrap().unwrap().id.to_string(), image.id());
        }
    }
    for digest in image.blobs.keys() {
        assert_eq!(fake.count(digest), 1, "one download of each blob");
    }
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_ends_after_a_time() {
    let fake = Fake::new();
    let bed = Bed::with(|options| options.abandoned_timeout = Duration::from_millis(100));
    fake.push("a", "latest", &Made::new(&[Layer::file("f", "1")]));
    let is_stuck = Arc::new(AtomicBool::new(true));
    let stuck = is_stuck.clone();
    fake.first(move |_| {
        while stuck.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    });
    let name = fake.name("a");
    let wait = |time| tokio::time::timeout(time, bed.images.pull(&name, None));
    assert!(wait(Duration::from_millis(20)).await.is_err());
    assert_eq!(bed.images.pulls().len(), 1, "it goes on at first");
    assert_eq!(bed.images.pulls_of(&name).len(), 1);
    let begun = Instant::now();
    while !bed.images.pulls().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bed.images.counters().pulls_abandoned, 1);
    is_stuck.store(false, SeqCst);
    bed.images.pull(&name, None).await.unwrap();
    bed.images.pull(&fake.name("none"), None).await.unwrap_err();
    let (counters, outcomes) = (bed.images.counters(), bed.images.outcomes());
    assert_eq!((outcomes.succeeded.total(), outcomes.failed.total()), (1, 2));
    assert!(outcomes.failed.sum >= Duration::from_millis(100));
    let failures: Vec<_> = outcomes.failures.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(failures, [&("not_found", 1), &("abandoned", 1)]);
    assert_eq!(counters.pulls_failed, 2);
}

#[tokio::test]
async fn downloads_are_bounded_for_each_registry_and_for_all() {
    for (of_all, of_each) in [(16, 2), (3, 10)] {
        let bed = Bed::with(|options| {
            options.max_parallel_layers = 10;
            options.network.max_downloads = of_all;
            options.network.max_downloads_per_registry = of_each;
        });
        let at_all = AtATime::default();
        let mut pulls = tokio::task::JoinSet::new();
        let mut counts = Vec::new();
        for registry in 0..2 {
            let fake = Fake::new();
            let layer = |n: usize| Layer::file("f", &format!("{registry} {n}"));
            fake.push("a", "latest", &Made::new(&(0..10).map(layer).collect::<Vec<_>>()));
            let (here, all) = (AtATime::default(), at_all.clone());
            counts.push(here.clone());
            fake.first(move |asked| {
                if asked.path.contains("/blobs/") {
                    let _here = here.enter();
                    all.pass(Duration::from_millis(30));
                }
                None
            });
            let (images, name) = (bed.images.clone(), fake.name("a"));
            pulls.spawn(async move { images.pull(&name, None).await.map(drop) });
        }
        while let Some(pulled) = pulls.join_next().await {
            pulled.unwrap().unwrap();
        }
        let each: Vec<_> = counts.iter().map(AtATime::most).collect();
        assert!(each.iter().all(|most| *most <= of_each), "{of_each}: {each:?}");
        assert_eq!(at_all.most(), of_all.min(2 * of_each), "{each:?}");
    }
}

#[tokio::test]
async fn a_registry_that_drips_is_left_and_a_slow_one_is_not() {
    let blob = Layer::gzip(&tar(&[("f", &noise(7, 300))]));
    for (min, each, good) in [(1000, 20, false), (1, 2, true)] {
        let fake = Fake::new();
        let bed = Bed::with(|options| {
            options.network.progress_timeout = Duration::from_millis(200);
            options.network.min_progress_bytes = min;
            options.network.attempts = 1;
        });
        let image = Made::new(std::slice::from_ref(&blob));
        fake.push("a", "latest", &image);
        let (layer, bytes) = (made::digest(&blob.stored), blob.stored.clone());
        fake.first(move |asked| {
            asked.path.contains(&layer).then(|| {
                let whole = Reply::ok("application/octet-stream", &bytes);
                ranged(whole, asked.header("range")).drip(Duration::from_millis(each))
            })
        });
        match bed.images.pull(&fake.name("a"), None).await {
            Ok(_) => assert!(good),
            Err(error) => {
                assert!(!good && error.kind() == Kind::RegistryUnavailable, "{error}");
                assert!(error.to_string().contains("bytes came in"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_long_pause_is_left_to_the_client() {
    let (fake, bed) = (Fake::new(), Bed::new());
    fake.first(|_| Some(Reply::status(429).with("Retry-After", "3600").body(b"slow down")));
    let error = bed.images.pull(&fake.name("a"), None).await.unwrap_err();
    assert_eq!((fake.asked().len(), error.kind()), (1, Kind::RegistryUnavailable));
    assert!(error.to_string().contains("slow down: it asks to come back in 3600 s"), "{error}");
    // A short one is kept to.
    let fake = Fake::new();
    fake.push("a", "latest", &Made::new(&[Layer::file("f", "1")]));
    let count = AtomicUsize::new(0);
    fake.first(move |_| {
        (count.fetch_add(1, SeqCst) == 0).then(|| Reply::status(503).with("Retry-After", "1"))
    });
    let begun = Instant::now();
    bed.images.pull(&fake.name("a"), None).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn progress_is_told_while_it_goes_on() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let image = Made::new(&[Layer::file("f", "1"), Layer::file("g", "2")]);
    fake.push("a", "latest", &image);
    let is_stuck = Arc::new(AtomicBool::new(true));
    let (stuck, layer) = (is_stuck.clone(), made::digest(&image.layers[1].stored));
    fake.first(move |asked| {
        while asked.path.contains(&layer) && stuck.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    });
    let (images, name) = (bed.images.clone(), fake.name("a"));
    let pull = tokio::spawn(async move { images.pull(&name, None).await });
    let begun = Instant::now();
    let now = loop {
        assert!(begun.elapsed() < Duration::from_secs(10));
        match bed.images.pulls_of(&fake.name("a")).pop() {
            Some(now) if now.layers_done == 1 => break now,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let sizes: Vec<u64> = image.layers.iter().map(|l| l.stored.len() as u64).collect();
    assert_eq!((now.layers_total, now.bytes_total), (2, sizes.iter().sum()));
    assert_eq!(now.bytes_done, sizes[0]);
    is_stuck.store(false, SeqCst);
    pull.await.unwrap().unwrap();
    let counters = bed.images.counters();
    assert_eq!((counters.pulls_succeeded, counters.layers_unpacked), (1, 2));
    assert!(counters.named().iter().any(|(name, value)| *name == "requests" && *value >= 4));
}
