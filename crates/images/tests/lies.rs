//! Registries that lie, break or refuse: what is said then, and that nothing is left.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    Bed,
    fake::{Fake, Reply},
    made::{self, Layer, Made, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, tar},
};
use images::PullErrorKind as Kind;

/// Pulls what must fail, and checks that nothing is left of it.
async fn fails(bed: &Bed, name: &str, kind: Kind, words: &str) -> String {
    let error = bed.images.pull(name, None).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(words), "\"{words}\" is not in: {text}");
    assert!(!text.contains('\n') && text.len() < 1500, "{text}");
    assert!(bed.images.list().is_empty());
    bed.assert_tidy();
    text
}

#[tokio::test]
async fn wrong_bytes_are_refused() {
    let image = Made::new(&[Layer::file("f", "1")]);
    let layer = made::digest(&image.layers[0].stored);
    let stored = &image.layers[0].stored;
    let mut flipped = stored.clone();
    flipped[15] ^= 0x55;
    let longer = [&stored[..], b"more"].concat();
    let blob = format!("/v2/a/blobs/{layer}");
    let config = format!("/v2/a/blobs/{}", image.id());
    let by_digest = format!("/v2/a/manifests/{}", image.digest());
    let other = Made::with(&[], "other", OCI_MANIFEST).manifest;
    for (path, body, name, words) in [
        (&blob, &flipped[..], "a", format!("expected {layer}, got sha256:")),
        (&blob, &longer, "a", "size".into()),
        (&blob, &stored[..10], "a", "size".into()),
        (&config, b"{}", "a", "size".into()),
        (&config, &vec![b' '; image.config.len()], "a", format!("expected {}", image.id())),
        (&by_digest, &other, &format!("a@{}", image.digest()), image.digest()),
    ] {
        let (fake, bed) = (Fake::new(), Bed::new());
        fake.push("a", "latest", &image);
        fake.say(path, Reply::ok("application/octet-stream", body));
        fails(&bed, &fake.name(name), Kind::Mismatch, &words).await;
        assert!(bed.snapshots.layers().is_empty());
    }
}

#[tokio::test]
async fn layers_that_are_not_what_they_are_said_to_be_are_refused() {
    let good = Layer::file("f", "1");
    let mut wrong_diff_id = good.clone();
    wrong_diff_id.diff_id = made::digest(b"other");
    let mut wrong_type = good.clone();
    wrong_type.kind = format!("{}+zstd", made::OCI_LAYER);
    let mut trailing = good.clone();
    trailing.stored.extend(b"trailing");
    let not_tar = Layer::gzip(b"this is no tar file");
    for (layer, kind, words) in [
        (wrong_diff_id, Kind::Mismatch, "unpacked does not match its digest"),
        (wrong_type, Kind::InvalidImage, "is not what its bytes are"),
        (trailing, Kind::InvalidImage, "layer sha256:"),
        (not_tar, Kind::InvalidImage, "layer sha256:"),
    ] {
        let (fake, bed) = (Fake::new(), Bed::new());
        fake.push("a", "latest", &Made::new(&[layer]));
        fails(&bed, &fake.name("a"), kind, words).await;
    }
}

#[tokio::test]
async fn what_is_no_image_is_refused() {
    let good = Made::new(&[Layer::file("f", "1")]);
    let mut more_layers = good.clone();
    more_layers = Made::of(
        &[good.layers[0].clone(), Layer::file("g", "2")],
        more_layers.config,
        OCI_MANIFEST,
    );
    let arm = made::index(&[good.entry("arm64")]);
    let deep: Vec<Vec<u8>> = (0..6)
        .scan(made::index(&[good.entry("amd64")]), |inner, _| {
            let this = inner.clone();
            *inner = made::index(&[serde_json::json!({
                "mediaType": OCI_INDEX, "digest": made::digest(&this), "size": this.len(),
            })]);
            Some(this)
        })
        .collect();
    let huge = vec![b' '; 5 << 20];
    let tags: [(&str, &str, &[u8], Kind, &str); 7] = [
        ("html", "text/html", b"<html>", Kind::InvalidImage, "text/html"),
        ("vague", "application/json", b"<html>", Kind::InvalidImage, "not a manifest"),
        ("empty", OCI_MANIFEST, b"", Kind::InvalidImage, "not a manifest"),
        ("huge", OCI_MANIFEST, &huge, Kind::Exhausted, "4194304 bytes"),
        ("arm", OCI_INDEX, &arm, Kind::InvalidImage, "linux/arm64"),
        ("deep", OCI_INDEX, &deep[5], Kind::Exhausted, "depth"),
        (
            "layers",
            OCI_MANIFEST,
            &more_layers.manifest,
            Kind::InvalidImage,
            "1 diff IDs for 2 layers",
        ),
    ];
    let (fake, bed) = (Fake::new(), Bed::new());
    fake.push("a", "latest", &good);
    for index in &deep {
        fake.manifest("a", &made::digest(index), OCI_INDEX, index);
    }
    for (tag, content_type, body, kind, words) in tags {
        fake.manifest("a", tag, content_type, body);
        fails(&bed, &fake.name(&format!("a:{tag}")), kind, words).await;
    }
    assert!(fake.asked().len() < 30, "{}", fake.asked().len());
}

/// What the manifest says of a length counts, whether the registry says the same, nothing, or
/// does not stop; and its own word for a digest counts for nothing.
#[tokio::test]
async fn lengths_and_digests_that_are_not_told_or_wrong_do_not_matter() {
    let image = Made::new(&[Layer::file("f", "1")]);
    let other = made::digest(b"other");
    let fake = Fake::new();
    fake.push("a", "latest", &image);
    for (path, kind, body) in fake_paths(&image) {
        let reply = Reply::ok(&kind, &body).untold().with("Docker-Content-Digest", &other);
        fake.say(&path, reply);
    }
    let bed = Bed::new();
    let pulled = bed.images.pull(&fake.name("a"), None).await.unwrap();
    assert_eq!(pulled.repo_digests, [fake.name(&format!("a@{}", image.digest()))]);
    assert_eq!(bed.text(&pulled, "f").as_deref(), Some("1"));

    let stored = &image.layers[0].stored;
    let endless = [&stored[..], &vec![0; 64 << 20]].concat();
    let path = format!("/v2/a/blobs/{}", made::digest(stored));
    let config = format!("/v2/a/blobs/{}", image.id());
    for (path, body, kind, words) in [
        (path, endless.clone(), Kind::Mismatch, "size"),
        (config, [&image.config[..], &endless].concat(), Kind::Exhausted, "limit"),
    ] {
        let (fake, bed) = (Fake::new(), Bed::new());
        fake.push("a", "latest", &image);
        fake.say(&path, Reply::ok("application/octet-stream", &body).untold());
        fails(&bed, &fake.name("a"), kind, words).await;
        assert!(bed.images.counters().layer_bytes_fetched < 1 << 20);
    }
}

/// Where an image's parts are, and what they are.
fn fake_paths(image: &Made) -> Vec<(String, String, Vec<u8>)> {
    let blobs = image.blobs.iter().map(|(digest, bytes)| {
        (format!("/v2/a/blobs/{digest}"), "application/octet-stream".to_owned(), bytes.clone())
    });
    let manifest = ["latest", &image.digest()].map(|name| {
        (format!("/v2/a/manifests/{name}"), image.manifest_kind.clone(), image.manifest.clone())
    });
    blobs.chain(manifest).collect()
}

/// A digest is no path, and one that is none is not asked for.
#[tokio::test]
async fn bad_digests_in_documents_are_refused_unasked() {
    let image = Made::new(&[Layer::file("f", "1")]);
    let text = String::from_utf8(image.manifest.clone()).unwrap();
    let (config, layer) = (image.id(), made::digest(&image.layers[0].stored));
    for bad in [
        "",
        "sha256:",
        "sha256:../../../../etc/passwd",
        "../../../etc/passwd",
        &format!("sha256:{}", "A".repeat(64)),
        &format!("sha256:{}", "a".repeat(63)),
        &format!("sha256:{}\\u0000", "a".repeat(64)),
        &format!("md5:{}", "a".repeat(32)),
    ] {
        let (fake, bed) = (Fake::new(), Bed::new());
        fake.push("a", "latest", &image);
        for digest in [&config, &layer] {
            fake.manifest("a", "latest", OCI_MANIFEST, text.replace(digest, bad).as_bytes());
            fails(&bed, &fake.name("a"), Kind::InvalidImage, "not a manifest").await;
        }
        let index = String::from_utf8(made::index(&[image.entry("amd64")])).unwrap();
        let index = index.replace(&image.digest(), bad);
        fake.manifest("a", "latest", OCI_INDEX, index.as_bytes());
        fails(&bed, &fake.name("a"), Kind::InvalidImage, "").await;
        assert_eq!(fake.asked().len(), 3, "{bad}: {:?}", fake.asked());
    }
}

/// Indexes of indexes of indexes, each with many entries, and one that leads to itself: the way to
/// one image is short, however often a client asks for it.
#[tokio::test]
async fn graphs_of_indexes_cost_little() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let leaf = Made::new(&[Layer::file("f", "1")]);
    fake.push("a", "leaf", &leaf);
    let entry = |index: &[u8], os: &str| {
        serde_json::json!({
            "mediaType": OCI_INDEX, "digest": made::digest(index), "size": index.len(),
            "platform": { "os": os, "architecture": "amd64" },
        })
    };
    let mut fan = made::index(&vec![leaf.entry("amd64"); 16]);
    for _ in 0..5 {
        fake.manifest("a", &made::digest(&fan), OCI_INDEX, &fan);
        fan = made::index(&vec![entry(&fan, "linux"); 16]);
    }
    fake.manifest("a", "fan", OCI_INDEX, &fan);
    // No index has its own digest in it, but a registry can say so.
    let wanted = made::digest(b"itself");
    let itself = serde_json::json!({
        "mediaType": OCI_INDEX, "digest": wanted, "size": 1,
        "platform": { "os": "linux", "architecture": "amd64" },
    });
    let itself = made::index(&[itself]);
    for name in ["self", &wanted] {
        fake.manifest("a", name, OCI_INDEX, &itself);
    }
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        fails(&bed, &fake.name("a:fan"), Kind::Exhausted, "depth").await;
        fails(&bed, &fake.name("a:self"), Kind::Mismatch, "size").await;
    }
    assert!(fake.asked().len() <= 20 * 6, "{}", fake.asked().len());
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn bombs_are_stopped() {
    let bomb = Layer::gzip(&tar(&[("zeros", &vec![0; 3 << 20])]));
    let names: Vec<String> = (0..20).map(|n| format!("f{n}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let many = Layer::gzip(&tar(&files));
    for (layer, words) in [(bomb, "unpacked"), (many, "10")] {
        let fake = Fake::new();
        let bed = Bed::with(|options| {
            options.limits.expansion_free_bytes = 1 << 20;
            options.limits.max_expansion = 10;
            options.limits.layer.max_entries = 10;
        });
        fake.push("a", "latest", &Made::new(&[layer]));
        fails(&bed, &fake.name("a"), Kind::Exhausted, words).await;
        assert!(bed.snapshots.layers().is_empty());
    }
}

#[tokio::test]
async fn what_cannot_fit_is_not_begun() {
    let (fake, bed) = (Fake::new(), Bed::with(|options| options.limits.max_layer_bytes = u64::MAX));
    let image = Made::new(&[Layer::file("f", "1")]);
    fake.push("a", "latest", &image);
    let text = String::from_utf8(image.manifest).unwrap();
    let size = format!("\"size\":{}", image.layers[0].stored.len());
    let text = text.replace(&size, &format!("\"size\":{}", 1_u64 << 60));
    fake.manifest("a", "latest", OCI_MANIFEST, text.as_bytes());
    fails(&bed, &fake.name("a"), Kind::Exhausted, "no space").await;
    assert_eq!(fake.count(&made::digest(&image.layers[0].stored)), 0);
}

#[tokio::test]
async fn the_registrys_own_words_are_repeated() {
    let (fake, bed) = (Fake::new(), Bed::new());
    fails(&bed, &fake.name("gone"), Kind::NotFound, "MANIFEST_UNKNOWN: manifest unknown").await;
    let denied = br#"{"errors":[{"code":"DENIED","message":"requested access\nis denied"}]}"#;
    fake.say("/v2/secret/manifests/latest", Reply::status(403).body(denied));
    let words = "(403): DENIED: requested access is denied";
    fails(&bed, &fake.name("secret"), Kind::Unauthorized, words).await;
    fake.say("/v2/busy/manifests/latest", Reply::status(503).body(b"down for repair"));
    fails(&bed, &fake.name("busy"), Kind::RegistryUnavailable, "down for repair").await;
    assert_eq!(fake.count("/busy/"), 5);
    fake.say("/v2/odd/manifests/latest", Reply::status(418));
    fails(&bed, &fake.name("odd"), Kind::Refused, "418").await;
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable() {
    let bed = Bed::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let name = format!("{address}/a:b");
    fails(&bed, &name, Kind::RegistryUnavailable, "onnection refused").await;
    fails(&bed, "no-such-host.invalid/a:b", Kind::RegistryUnavailable, "no-such-host.invalid")
        .await;
    // TLS towards a registry that speaks none.
    let fake = Fake::new();
    bed.hosts("tls.example", &format!("server = \"https://{}\"", fake.address));
    fails(&bed, "tls.example/a:b", Kind::RegistryUnavailable, "tls.example").await;
}

#[tokio::test]
async fn a_registry_that_stops_sending_is_unavailable() {
    let fake = Fake::new();
    let bed = Bed::with(|options| {
        options.network.progress_timeout = std::time::Duration::from_millis(50);
        options.network.attempts = 2;
    });
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = std::sync::Mutex::new(receiver);
    fake.first(move |_| {
        let _ = receiver.lock().unwrap().recv();
        None
    });
    fails(&bed, &fake.name("a"), Kind::RegistryUnavailable, "nothing came").await;
    drop(sender);
}

#[tokio::test]
async fn a_bad_name_is_the_callers_fault() {
    let bed = Bed::new();
    for name in ["", "UPPER", "a b", "http://x/y"] {
        fails(&bed, name, Kind::InvalidArgument, "invalid image name").await;
    }
}

/// A layer that breaks off in the middle of a frame holds up nothing that comes after it.
#[tokio::test]
async fn after_broken_layers_ten_pulls_are_quick() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let noise: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
    let tar = tar(&[("noise", &noise)]);
    for (name, mut layer) in [("gzip", Layer::gzip(&tar)), ("zstd", Layer::zstd(&tar))] {
        layer.stored.truncate(layer.stored.len() / 2);
        fake.push(name, "latest", &Made::new(&[layer]));
        for _ in 0..6 {
            fails(&bed, &fake.name(name), Kind::InvalidImage, "layer sha256:").await;
        }
    }
    let begun = std::time::Instant::now();
    for n in 0..10 {
        let name = format!("good{n}");
        fake.push(&name, "latest", &Made::new(&[Layer::file("f", &name)]));
        bed.images.pull(&fake.name(&name), None).await.unwrap();
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
}

/// Where a manifest says that a layer lies is nobody's business but the registry's.
#[tokio::test]
async fn addresses_in_manifests_are_not_asked() {
    let (fake, elsewhere, bed) = (Fake::new(), Fake::new(), Bed::new());
    let mut image = Made::new(&[Layer::file("f", "1")]);
    let manifest = String::from_utf8(image.manifest).unwrap();
    let urls = format!("\"urls\":[\"http://{}/x\"],\"mediaType\":\"{OCI_LAYER}", elsewhere.address);
    let manifest = manifest.replace(&format!("\"mediaType\":\"{OCI_LAYER}"), &urls);
    assert!(manifest.contains("urls"));
    image.manifest = manifest.into_bytes();
    fake.push("a", "latest", &image);
    bed.images.pull(&fake.name("a"), None).await.unwrap();
    image.blobs.remove(&made::digest(&image.layers[0].stored));
    fake.push("b", "latest", &image);
    let bed = Bed::new();
    fails(&bed, &fake.name("b"), Kind::NotFound, "layer sha256:").await;
    assert!(elsewhere.asked().is_empty());
}
