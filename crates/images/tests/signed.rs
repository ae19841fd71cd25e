//! Signatures that another program has made: an image and, by a key of each curve, what
//! `skopeo copy --sign-by-sigstore-private-key` (1.13.3, which Debian's is too old for and
//! has switched off) attached to it in a registry, as the files of `signed/`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, path::PathBuf};

use common::{
    Bed,
    fake::Fake,
    made::{Layer, Made, OCI_MANIFEST, digest},
};
use images::PullErrorKind as Kind;

/// The name that it was signed for.
const NAME: &str = "registry.example/signed:1";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/signed").join(name)
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

/// A manifest and its blobs, byte by byte.
fn stored(manifest: Vec<u8>, blobs: [Vec<u8>; 2]) -> Made {
    let blobs = blobs.into_iter().map(|bytes| (digest(&bytes), bytes));
    Made {
        blobs: blobs.collect::<BTreeMap<_, _>>(),
        manifest,
        manifest_kind: OCI_MANIFEST.into(),
        config: Vec::new(),
        layers: Vec::new(),
    }
}

fn image() -> Made {
    stored(file("image.manifest.json"), [file("image.config.json"), file("image.layer.tar.gz")])
}

fn signature(key: &str) -> Made {
    let part = |name: &str| file(&format!("{key}.{name}.json"));
    stored(part("manifest"), [part("config"), part("payload")])
}

/// Serves an image and a signature of it, and has a policy that wants it signed by a key.
fn serve(image: &Made, signed: &Made, key: &str) -> (Fake, Bed) {
    let (fake, bed) = (Fake::new(), Bed::new());
    bed.hosts("registry.example", &format!("server = \"http://{}\"\n", fake.address));
    fake.push("signed", "1", image);
    // It lies where the signed image's digest says, whatever is under the tag.
    let place = format!("{}.sig", self::image().digest().replace(':', "-"));
    fake.push("signed", &place, signed);
    bed.write(
        "policy.json",
        &format!(
            r#"{{"default":[{{"type":"reject"}}],"transports":{{"docker":{{"registry.example":[{{"type":"sigstoreSigned","keyPath":"{}"}}]}}}}}}"#,
            path(&format!("{key}.pub")).display()
        ),
    );
    (fake, bed)
}

async fn refused(image: &Made, signed: &Made, key: &str, name: &str) -> String {
    let (_fake, bed) = serve(image, signed, key);
    let error = bed.images.pull(name, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(bed.images.list().is_empty());
    error.to_string()
}

#[tokio::test]
async fn skopeos_signatures_are_accepted() {
    for key in ["p256", "p384"] {
        let (_fake, bed) = serve(&image(), &signature(key), key);
        let pulled = bed.images.pull(NAME, None).await.unwrap();
        assert_eq!(pulled.manifest.to_string(), image().digest());
        bed.images.check_use(&pulled, NAME).unwrap();
    }
}

#[tokio::test]
async fn what_was_tampered_with_is_refused() {
    for (key, other) in [("p256", "p384"), ("p384", "p256")] {
        let (image, signed) = (image(), signature(key));
        // Another key, another name, another image under the tag.
        assert!(refused(&image, &signed, other, NAME).await.contains("no key"));
        let elsewhere = "registry.example/signed:2";
        let (fake, bed) = serve(&image, &signed, key);
        fake.push("signed", "2", &image);
        let error = bed.images.pull(elsewhere, None).await.unwrap_err().to_string();
        assert!(error.contains(NAME), "{error}");
        let moved = Made::new(&[Layer::file("f", "another")]);
        assert!(refused(&moved, &signed, key, NAME).await.contains("no signature"));
        // Another image, for which the signature is given out.
        let (fake, bed) = serve(&moved, &signed, key);
        fake.push("signed", &format!("{}.sig", moved.digest().replace(':', "-")), &signed);
        let error = bed.images.pull(NAME, None).await.unwrap_err().to_string();
        assert!(error.contains(&image.digest()), "{error}");
        // The payload changed, with digests that fit; and then one letter of the signature.
        let payload = String::from_utf8(file(&format!("{key}.payload.json"))).unwrap();
        let forged = payload.replace(&image.digest(), &moved.digest()).into_bytes();
        let manifest = String::from_utf8(signed.manifest.clone()).unwrap();
        let manifest = manifest.replace(&digest(payload.as_bytes()), &digest(&forged));
        let config = file(&format!("{key}.config.json"));
        let forged = stored(manifest.into_bytes(), [config, forged]);
        assert!(refused(&image, &forged, key, NAME).await.contains("no key"));
        let manifest = String::from_utf8(signed.manifest.clone()).unwrap();
        let begun = manifest.find("/signature\":\"").unwrap() + "/signature\":\"".len() + 20;
        let mut manifest = manifest.into_bytes();
        manifest[begun] = if manifest[begun] == b'A' { b'B' } else { b'A' };
        let changed = Made { manifest, ..signed };
        assert!(refused(&image, &changed, key, NAME).await.contains("no key"));
    }
}
