//! Saving images, and what others make of it; signatures that others made.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{ops::Add as _, path::Path, process::Command};

use common::{
    Bed,
    fake::Fake,
    made::{self, DOCKER_MANIFEST, Layer, Made, OCI_MANIFEST, tar},
};
use images::PullErrorKind as Kind;

fn save(bed: &Bed, names: &[String], to: &Path) {
    let save = bed.images.prepare_save(names).unwrap();
    let mut file = std::fs::File::create(to).unwrap();
    bed.images.save(&save, &mut file).unwrap();
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn image() -> Made {
    let files = [("f", &b"one"[..]), ("g", &[7; 5000]), ("d/h", b"")];
    Made::with(
        &[Layer::gzip(&tar(&files)), Layer::zstd(&tar(&[("f", b"two")]))],
        "1000",
        DOCKER_MANIFEST,
    )
}

#[tokio::test]
async fn a_saved_image_is_the_same_for_us_and_for_others() {
    for keep in [false, true] {
        let fake = Fake::new();
        let bed = Bed::with(|options| options.keep_blobs = keep);
        let image = image();
        fake.push("a", "v1", &image);
        fake.push("b", "v1", &Made::with(&image.layers[..1], "b", OCI_MANIFEST));
        for name in ["a:v1", "b:v1"] {
            bed.images.pull(&fake.name(name), None).await.unwrap();
        }
        let archive = bed.dir.path().join("saved.tar");
        save(&bed, &[fake.name("a:v1"), fake.name("b:v1")], &archive);
        // Each layer once, though two images have it.
        let listing = run(Command::new("tar").arg("tf").arg(&archive));
        let blobs = listing.lines().filter(|l| l.starts_with("blobs/")).count();
        assert_eq!(blobs, 2 + 2 * 2, "{listing}");
        let other = Bed::new();
        let loaded = other.images.load(&archive).await.unwrap();
        assert_eq!(loaded.len(), 2);
        let ours = other.images.get(&fake.name("a:v1")).unwrap();
        assert_eq!(ours.id.to_string(), image.id(), "the id is the configuration's");
        assert_eq!(other.text(&ours, "f").as_deref(), Some("two"));
        if keep {
            assert_eq!(ours.manifest.to_string(), image.digest(), "as it came");
        }
        let name = fake.name("a:v1");
        // skopeo, and by it the layout that umoci unpacks. In a layout it knows OCI's types
        // only, and what was kept has Docker's.
        if !keep {
            let copied = bed.dir.path().join("copied");
            run(Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--quiet"])
                .arg(format!("oci-archive:{}:{name}", archive.display()))
                .arg(format!("oci:{}:t", copied.display())));
            let bundle = bed.dir.path().join("bundle");
            let image = format!("{}:t", copied.display());
            run(Command::new("umoci")
                .args(["unpack", "--rootless", "--image", &image])
                .arg(&bundle));
            assert_eq!(std::fs::read_to_string(bundle.join("rootfs/f")).unwrap(), "two");
            assert_eq!(std::fs::read(bundle.join("rootfs/g")).unwrap(), [7; 5000]);
        }
        let inspected = run(Command::new("skopeo")
            .args(["inspect", "--config", "--raw"])
            .arg(format!("docker-archive:{}:{name}", archive.display())));
        assert!(inspected.contains("\"User\":\"1000\""), "{inspected}");
    }
}

#[tokio::test]
async fn what_cannot_be_saved_is_said() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let error = bed.images.prepare_save(&[fake.name("none")]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(bed.images.prepare_save(&[]).is_err());
    // An entry that replaced an earlier one of its layer: the earlier one's bytes are gone.
    let twice = Layer::gzip(&tar(&[("f", b"first"), ("f", b"second")]));
    fake.push("a", "latest", &Made::new(&[twice]));
    bed.images.pull(&fake.name("a"), None).await.unwrap();
    let error = bed.images.prepare_save(&[fake.name("a")]).unwrap_err();
    assert!(error.to_string().contains("images.keep_blobs"), "{error}");
    // Damage is not passed on.
    let image = image();
    fake.push("b", "latest", &image);
    let pulled = bed.images.pull(&fake.name("b"), None).await.unwrap();
    std::fs::write(bed.layer_dir(pulled.layers[0]).join("f"), "two").unwrap();
    let error = bed.images.prepare_save(&[fake.name("b")]).unwrap_err();
    assert_eq!(error.kind(), Kind::Mismatch, "{error}");
}

/// A key pair of OpenSSL's.
fn keys(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let run_in = |arguments: &[&str]| run(Command::new("openssl").current_dir(dir).args(arguments));
    run_in(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "key"]);
    run_in(&["pkey", "-in", "key", "-pubout", "-out", "pub"]);
}

/// What `cosign sign` attaches to an image (its specification, SIGNATURE_SPEC.md).
fn sign(fake: &Fake, repository: &str, tag: &str, image: &Made, keys: &Path) {
    use base64::Engine as _;
    let name = fake.name(&format!("{repository}:{tag}"));
    let payload = serde_json::json!({
        "critical": {
            "identity": { "docker-reference": name },
            "image": { "docker-manifest-digest": image.digest() },
            "type": "cosign container image signature",
        },
        "optional": null,
    });
    let payload = serde_json::to_vec(&payload).unwrap();
    std::fs::write(keys.join("payload"), &payload).unwrap();
    let output = Command::new("openssl")
        .current_dir(keys)
        .args(["dgst", "-sha256", "-sign", "key", "payload"])
        .output()
        .unwrap();
    let signature = base64::engine::general_purpose::STANDARD.encode(output.stdout);
    let layer = Layer {
        kind: "application/vnd.dev.cosign.simplesigning.v1+json".into(),
        diff_id: made::digest(&payload),
        stored: payload,
    };
    let mut signed = Made::new(&[layer]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&signed.manifest).unwrap();
    manifest["layers"][0]["annotations"] =
        serde_json::json!({ "dev.cosignproject.cosign/signature": signature });
    signed.manifest = serde_json::to_vec(&manifest).unwrap();
    fake.push(repository, &image.digest().replace(':', "-").add(".sig"), &signed);
}

/// Judged at the pull, and again when a container is made.
#[tokio::test]
async fn signatures_are_checked_at_the_pull_and_at_the_use() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let image = image();
    for repository in ["signed", "plain", "stolen", "moved"] {
        fake.push(repository, "1", &image);
    }
    let (mine, other) = (bed.dir.path().join("mine"), bed.dir.path().join("other"));
    keys(&mine);
    keys(&other);
    sign(&fake, "signed", "1", &image, &mine);
    sign(&fake, "stolen", "1", &image, &other);
    // The tag moves to another image after the signature.
    sign(&fake, "moved", "1", &image, &mine);
    fake.push("moved", "1", &Made::with(&image.layers, "0", OCI_MANIFEST));
    let policy = |keys: &Path| {
        format!(
            r#"{{"default":[{{"type":"reject"}}],"transports":{{"docker":{{"{}":[{{"type":"sigstoreSigned","keyPath":"{}"}}]}}}}}}"#,
            fake.address,
            keys.join("pub").display()
        )
    };
    bed.write("policy.json", &policy(&mine));
    let pulled = bed.images.pull(&fake.name("signed:1"), None).await.unwrap();
    for (name, words) in
        [("plain:1", "no signature"), ("stolen:1", "no key"), ("moved:1", "no signature")]
    {
        let before = fake.count("/blobs/");
        let error = bed.images.pull(&fake.name(name), None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert!(fake.count("/blobs/") <= before + 1, "no layer is fetched");
    }
    assert_eq!(bed.images.list().len(), 1);
    let (name, id) = (fake.name("signed:1"), pulled.id.to_string());
    bed.images.check_use(&pulled, &name).unwrap();
    // Without the registry, and after a restart.
    let bed = bed.again();
    bed.images.check_use(&pulled, &id).unwrap();
    // The policy changes: what is there is judged anew.
    bed.write("policy.json", &policy(&other));
    let error = bed.images.check_use(&pulled, &name).unwrap_err();
    assert!(error.to_string().contains("no key"), "{error}");
    assert_eq!(bed.images.pull(&name, None).await.unwrap_err().kind(), Kind::Denied);
    // What is not understood forbids.
    for broken in [r#"{"default":[{"type":"reject"}]}"#, "nonsense", "{}"] {
        bed.write("policy.json", broken);
        assert_eq!(bed.images.check_use(&pulled, &id).unwrap_err().kind(), Kind::Denied);
        assert_eq!(bed.images.pull(&name, None).await.unwrap_err().kind(), Kind::Denied);
    }
    let archive = bed.dir.path().join("saved.tar");
    save(&bed, std::slice::from_ref(&name), &archive);
    assert_eq!(bed.images.load(&archive).await.unwrap_err().kind(), Kind::Denied);
    bed.write("policy.json", r#"{"default":[{"type":"insecureAcceptAnything"}]}"#);
    bed.images.load(&archive).await.unwrap();
    bed.images.check_use(&pulled, &id).unwrap();
}
