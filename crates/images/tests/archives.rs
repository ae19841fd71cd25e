//! Loading from layouts and archives.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{
    Bed,
    made::{self, Layer, Made, OCI_INDEX, OCI_MANIFEST},
};
use images::PullErrorKind as Kind;

/// The files of an OCI layout.
fn layout(index: &[u8], images: &[&Made], extra: &[&[u8]]) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        ("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".into(), index.to_vec()),
    ];
    let mut blob = |bytes: &[u8]| {
        files.push((made::digest(bytes).replace("sha256:", "blobs/sha256/"), bytes.to_vec()));
    };
    for image in images {
        blob(&image.manifest);
        image.blobs.values().for_each(|bytes| blob(bytes));
    }
    extra.iter().for_each(|bytes| blob(bytes));
    files
}

fn named(image: &Made, key: &str, name: &str) -> serde_json::Value {
    let mut entry = image.entry("amd64");
    entry["annotations"] = serde_json::json!({ key: name });
    entry
}

fn write_dir(dir: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    for (name, bytes) in files {
        let path = dir.join("layout").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir.join("layout")
}

fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    made::tar(&files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect::<Vec<_>>())
}

fn write(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("archive");
    fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn layouts_are_loaded_in_all_their_wrappings() {
    let image = Made::with(
        &[Layer::file("f", "1"), Layer::zstd(&made::tar(&[("g", b"2")]))],
        "u",
        OCI_MANIFEST,
    );
    let foreign = Made::with(&[], "arm", OCI_MANIFEST);
    let index = made::index(&[
        foreign.entry("arm64"),
        named(&image, "org.opencontainers.image.ref.name", "example.io/app:v1"),
    ]);
    let files = layout(&index, &[&image], &[]);
    let plain = tar_of(&files);
    let work = tempfile::tempdir().unwrap();
    let paths: [&dyn Fn() -> PathBuf; 4] = [
        &|| write_dir(work.path(), &files),
        &|| write(work.path(), &plain),
        &|| write(work.path(), &made::gzip(&plain)),
        &|| write(work.path(), &made::zstd(&plain)),
    ];
    for path in paths {
        let bed = Bed::new();
        let loaded = bed.images.load(&path()).await.unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].names, ["example.io/app:v1"]);
        let stored = bed.images.get("example.io/app:v1").unwrap();
        assert_eq!(stored.id.to_string(), image.id());
        assert_eq!(stored.repo_digests, [format!("example.io/app@{}", image.digest())]);
        assert_eq!(bed.text(&stored, "g").as_deref(), Some("2"));
        bed.assert_tidy();
        assert_eq!(fs::read_dir(bed.dir.path().join("images/spool")).map_or(0, Iterator::count), 0);
    }
}

#[tokio::test]
async fn names_come_from_annotations_and_a_bare_tag_is_none() {
    for (key, name, expected) in [
        ("io.containerd.image.name", "docker.io/library/app:1", Some("docker.io/library/app:1")),
        ("org.opencontainers.image.ref.name", "app:1", Some("docker.io/library/app:1")),
        ("org.opencontainers.image.ref.name", "latest", None),
        ("org.opencontainers.image.ref.name", "NOT/A/NAME", None),
    ] {
        let image = Made::new(&[Layer::file("f", "1")]);
        let index = made::index(&[named(&image, key, name)]);
        let (work, bed) = (tempfile::tempdir().unwrap(), Bed::new());
        let path = write_dir(work.path(), &layout(&index, &[&image], &[]));
        let loaded = bed.images.load(&path).await.unwrap();
        assert_eq!(
            loaded[0].image.repo_tags,
            expected.iter().map(ToString::to_string).collect::<Vec<_>>()
        );
        assert!(bed.images.get(&image.id()).is_some());
    }
}

#[tokio::test]
async fn the_platform_is_chosen_in_a_nested_index() {
    let ours = Made::with(&[Layer::file("f", "ours")], "1", OCI_MANIFEST);
    let theirs = Made::with(&[Layer::file("f", "theirs")], "2", OCI_MANIFEST);
    let inner = made::index(&[theirs.entry("arm64"), ours.entry("amd64")]);
    let outer = made::index(&[serde_json::json!({
        "mediaType": OCI_INDEX, "digest": made::digest(&inner), "size": inner.len(),
    })]);
    let (work, bed) = (tempfile::tempdir().unwrap(), Bed::new());
    let path = write(work.path(), &tar_of(&layout(&outer, &[&ours, &theirs], &[&inner])));
    let loaded = bed.images.load(&path).await.unwrap();
    assert_eq!(loaded[0].image.id.to_string(), ours.id());
}

/// What `docker save` writes, in its old form: a directory a layer.
fn saved(image: &Made, tags: &[&str]) -> Vec<(String, Vec<u8>)> {
    let config = format!("{}.json", &image.id()[7..]);
    let layers: Vec<String> = (0..image.layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = serde_json::json!([{ "Config": config, "RepoTags": tags, "Layers": layers }]);
    let mut files: Vec<_> =
        layers.into_iter().zip(image.layers.iter().map(|l| l.stored.clone())).collect();
    files.push((config, image.config.clone()));
    files.push(("manifest.json".into(), serde_json::to_vec(&manifest).unwrap()));
    files
}

#[tokio::test]
async fn what_docker_saved_is_loaded() {
    let plain = Layer::plain(&made::tar(&[("f", b"1")]));
    let image = Made::new(&[plain, Layer::file("g", "2")]);
    let (work, bed) = (tempfile::tempdir().unwrap(), Bed::new());
    let path = write(work.path(), &tar_of(&saved(&image, &["app:1", "x.io/app:2"])));
    let loaded = bed.images.load(&path).await.unwrap();
    assert_eq!(loaded[0].names, ["docker.io/library/app:1", "x.io/app:2"]);
    let stored = bed.images.get("app:1").unwrap();
    assert_eq!((stored.id.to_string(), stored.repo_digests.len()), (image.id(), 0));
    assert_eq!(bed.text(&stored, "f").as_deref(), Some("1"));
}

#[tokio::test]
async fn bad_archives_are_refused() {
    let image = Made::new(&[Layer::file("f", "1")]);
    let index = made::index(&[image.entry("amd64")]);
    let damage = |part: &str, to: &[u8]| {
        let mut files = layout(&index, &[&image], &[]);
        let file = files.iter_mut().find(|(name, _)| name.contains(&part.replace("sha256:", "")));
        file.unwrap().1 = to.to_vec();
        tar_of(&files)
    };
    let layer = made::digest(&image.layers[0].stored);
    let flipped = {
        let mut b = image.layers[0].stored.clone();
        b[15] ^= 0x55;
        b
    };
    let mut missing = layout(&index, &[&image], &[]);
    missing.pop();
    let mut lying = saved(&image, &[]);
    lying.iter_mut().find(|(name, _)| name.ends_with(".json")).unwrap().1.push(b' ');
    let mut escaping = saved(&image, &[]);
    let manifest = escaping.last_mut().unwrap();
    manifest.1 = String::from_utf8(manifest.1.clone())
        .unwrap()
        .replace("0/layer.tar", "../../etc/passwd")
        .into_bytes();
    let arm = made::index(&[image.entry("arm64")]);
    for (bytes, kind) in [
        (b"not an archive".repeat(100), Kind::InvalidImage),
        (made::tar(&[("a", b"b")]), Kind::InvalidImage),
        (made::gzip(b"text"), Kind::InvalidImage),
        (b"BZh91AY".to_vec(), Kind::InvalidImage),
        (damage(&layer, &flipped), Kind::Mismatch),
        (damage(&layer, b"short"), Kind::Mismatch),
        (damage(&image.id(), b"{}"), Kind::Mismatch),
        (damage(&image.digest(), b"{}"), Kind::Mismatch),
        (damage("index.json", b"{}"), Kind::InvalidImage),
        (tar_of(&missing), Kind::InvalidImage),
        (tar_of(&lying), Kind::Mismatch),
        (tar_of(&escaping), Kind::InvalidImage),
        (tar_of(&layout(&arm, &[&image], &[])), Kind::InvalidImage),
    ] {
        let (work, bed) = (tempfile::tempdir().unwrap(), Bed::new());
        let error = bed.images.load(&write(work.path(), &bytes)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(bed.images.list().is_empty());
        bed.assert_tidy();
    }
    let error = Bed::new().images.load(Path::new("/nonexistent")).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}
