//! The rules of names, by example and by property.

use proptest::prelude::*;

use super::*;

fn id(n: u8) -> ImageId {
    ImageId(Digest::from_bytes([n; 32]))
}

fn manifest(n: u8) -> Digest {
    Digest::from_bytes([n | 0x80; 32])
}

fn new(n: u8, reference: &str) -> Image {
    let reference: Reference = reference.parse().unwrap();
    let repo_tags = match reference.version() {
        crate::reference::Version::Tag(_) => vec![reference.to_string()],
        crate::reference::Version::Digest(_) => vec![],
    };
    Image {
        id: id(n),
        repo_tags,
        repo_digests: vec![reference.at_digest(manifest(n))],
        manifest: manifest(n),
        size_bytes: 1,
        layers: vec![DiffId(Digest::from_bytes([n; 32]))],
        config: ImageConfig::default(),
        created_at_ns: 7,
        pinned: false,
    }
}

fn store(catalog: &mut Catalog, new: Image) {
    for record in catalog.plan(new, Vec::new()) {
        catalog.put(record);
    }
}

fn tags(catalog: &Catalog, n: u8) -> Vec<String> {
    catalog.get(&id(n).to_string()).unwrap().repo_tags.clone()
}

#[test]
fn by_tag_an_image_gets_both_names_and_by_digest_only_one() {
    let mut catalog = Catalog::default();
    store(&mut catalog, new(1, "busybox:1"));
    let image = catalog.get("busybox:1").unwrap();
    assert_eq!(image.repo_tags, ["docker.io/library/busybox:1"]);
    let by_digest = format!("docker.io/library/busybox@{}", manifest(1));
    assert_eq!(image.repo_digests, std::slice::from_ref(&by_digest));

    let mut catalog = Catalog::default();
    store(&mut catalog, new(1, &by_digest));
    let image = catalog.get(&by_digest).unwrap();
    assert!(image.repo_tags.is_empty());
    assert_eq!(image.repo_digests, [by_digest]);
    assert!(catalog.get("busybox").is_none());
}

#[test]
fn one_image_has_many_names_across_registries() {
    let mut catalog = Catalog::default();
    for name in ["a.io/x:1", "a.io/x:2", "b.io/y:1"] {
        store(&mut catalog, new(1, name));
    }
    assert_eq!(catalog.list().len(), 1);
    assert_eq!(tags(&catalog, 1), ["a.io/x:1", "a.io/x:2", "b.io/y:1"]);
    assert_eq!(catalog.get("b.io/y:1").unwrap().repo_digests.len(), 2);
    assert!(catalog.remove(catalog.find("a.io/x:2").unwrap()));
    assert!(catalog.list().is_empty() && catalog.get("b.io/y:1").is_none());
    assert!(!catalog.remove(id(1)));
}

#[test]
fn a_tag_that_moves_leaves_the_old_image() {
    let mut catalog = Catalog::default();
    store(&mut catalog, new(1, "x.io/a:latest"));
    store(&mut catalog, new(2, "x.io/a"));
    assert_eq!(catalog.get("x.io/a").unwrap().id, id(2));
    assert!(tags(&catalog, 1).is_empty());
    assert_eq!(catalog.get(&id(1).to_string()).unwrap().repo_digests.len(), 1);
}

#[test]
fn images_are_found_by_id_name_and_prefix() {
    let mut catalog = Catalog::default();
    store(&mut catalog, new(0xab, "cafe:1"));
    store(&mut catalog, new(0xac, "x.io/abad:latest"));
    let hex = id(0xab).0.hex();
    for (text, expected) in [
        (format!("sha256:{hex}"), Some(id(0xab))),
        (hex.clone(), Some(id(0xab))),
        (hex[..12].to_owned(), Some(id(0xab))),
        (format!("sha256:{}", &hex[..12]), Some(id(0xab))),
        ("aba".to_owned(), None),
        ("abab".to_owned(), Some(id(0xab))),
        ("cafe:1".to_owned(), Some(id(0xab))),
        ("docker.io/library/cafe:1".to_owned(), Some(id(0xab))),
        (format!("cafe:1@{}", manifest(0xab)), Some(id(0xab))),
        (format!("cafe:other@{}", manifest(0xab)), Some(id(0xab))),
        (format!("other@{}", manifest(0xab)), None),
        ("cafe".to_owned(), None),
        ("x.io/abad".to_owned(), Some(id(0xac))),
        (String::new(), None),
        ("f".repeat(64), None),
    ] {
        assert_eq!(catalog.find(&text), expected, "{text}");
    }
    // A name goes before a prefix, and a prefix of two images is none.
    store(&mut catalog, new(0xca, "x.io/b"));
    store(&mut catalog, new(1, "caca"));
    assert_eq!(catalog.find("caca"), Some(id(1)));
    let mut twin = new(2, "x.io/twin");
    let mut bytes = [0xab; 32];
    bytes[31] = 0;
    twin.id = ImageId(Digest::from_bytes(bytes));
    store(&mut catalog, twin);
    assert_eq!(catalog.find(&hex[..12]), None);
}

#[test]
fn images_are_pinned_by_exact_name_or_id() {
    let hex = id(3).0.hex();
    let mut catalog = Catalog::new(&["busybox".into(), "x.io/a:1".into(), hex]);
    for (n, name) in [(1, "busybox"), (2, "busybox:1"), (3, "x.io/z"), (4, "x.io/a:1")] {
        store(&mut catalog, new(n, name));
    }
    let pinned = |n| catalog.get(&id(n).to_string()).unwrap().pinned;
    assert_eq!([1, 2, 3, 4].map(pinned), [true, false, true, true]);
}

fn restore(disk: &BTreeMap<ImageId, ImageRecord>, reverse: bool) -> Catalog {
    let mut restored = Catalog::default();
    let mut records: Vec<_> = disk.values().cloned().collect();
    if reverse {
        records.reverse();
    }
    for record in records {
        restored.put(record);
    }
    restored
}

proptest! {
    /// Whatever is stored and removed in whatever order: names are unique, they lead
    /// to the image that was stored last under them, and the records alone restore the
    /// tags, in any order, and after a crash with any tail of a plan missing.
    #[test]
    fn names_stay_unique(
        steps in prop::collection::vec((0_u8..4, 0_u8..4, any::<bool>(), any::<bool>()), 1..40),
        reverse in any::<bool>(),
    ) {
        let mut catalog = Catalog::default();
        let mut disk: BTreeMap<ImageId, ImageRecord> = BTreeMap::new();
        let mut expected: BTreeMap<String, ImageId> = BTreeMap::new();
        for (n, tag, removes, crashes) in steps {
            if removes {
                catalog.remove(id(n));
                disk.remove(&id(n));
                expected.retain(|_, holder| *holder != id(n));
                continue;
            }
            let name = format!("x.io/a:{tag}");
            for (i, record) in catalog.plan(new(n, &name), Vec::new()).into_iter().enumerate() {
                if i == 0 || !crashes {
                    disk.insert(record.id, record.clone());
                }
                catalog.put(record);
            }
            if crashes {
                catalog = restore(&disk, reverse);
                disk = catalog.records().map(|record| (record.id, record.clone())).collect();
            }
            expected.insert(name, id(n));
        }
        let restored = restore(&disk, reverse);
        for catalog in [&catalog, &restored] {
            let mut seen = BTreeMap::new();
            for image in catalog.list() {
                for tag in &image.repo_tags {
                    prop_assert!(seen.insert(tag.clone(), image.id).is_none());
                    prop_assert_eq!(catalog.find(tag), Some(image.id));
                }
            }
            prop_assert_eq!(&seen, &expected);
        }
    }
}
