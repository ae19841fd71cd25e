//! Scopes, requirements and identities; signatures that OpenSSL has made.

use std::{io::Write as _, process::Command};

use base64::Engine as _;

use super::*;

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

fn policy(text: &str) -> Result<Policy, PullError> {
    Policy::parse(Path::new("/p.json"), text.as_bytes())
}

fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

fn digest(n: u8) -> Digest {
    Digest::from_bytes([n; 32])
}

#[test]
fn the_narrowest_scope_decides() {
    let text = r#"{"default":[{"type":"reject"}],"transports":{"docker":{
        "docker.io/library/busybox:1":[{"type":"reject"}],
        "docker.io/library/busybox":[{"type":"insecureAcceptAnything"}],
        "docker.io/library":[{"type":"reject"}],
        "x.io":[{"type":"insecureAcceptAnything"}],
        "x.io/bad":[{"type":"reject"}],
        "*.wild.io":[{"type":"insecureAcceptAnything"}],
        "h:5000":[{"type":"insecureAcceptAnything"}]
    },"oci-archive":{"":[{"type":"insecureAcceptAnything"}]}}}"#;
    let policy = policy(text).unwrap();
    for (name, allowed) in [
        ("busybox:1", false),
        ("busybox:2", true),
        ("alpine", false),
        ("docker.io/me/app", false),
        ("x.io/a/b:1", true),
        ("x.io/bad/c", false),
        ("x.io/badly", true),
        ("a.b.wild.io/x", true),
        ("wild.io/x", false),
        ("h:5000/a", true),
        ("y.io/a", false),
    ] {
        let result = policy.check(&reference(name), &[digest(1)], &[]);
        assert_eq!(result.is_ok(), allowed, "{name}");
        if let Err(error) = result {
            assert_eq!(error.kind(), crate::PullErrorKind::Denied);
            assert!(error.to_string().contains("/p.json"), "{error}");
        }
    }
    policy.check_loaded("x").unwrap();
}

#[test]
fn what_is_not_understood_forbids() {
    for text in [
        "",
        "{}",
        r#"{"default":[]}"#,
        r#"{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]}"#,
        r#"{"default":[{"type":"sigstoreSigned","fulcio":{}}]}"#,
        r#"{"default":[{"type":"insecureAcceptAnything","extra":1}]}"#,
        r#"{"default":[{"type":"reject"}],"more":1}"#,
        r#"{"default":[{"type":"reject"}],"transports":{"docker":{"x":[]}}}"#,
    ] {
        let error = policy(text).unwrap_err();
        assert_eq!(error.kind(), crate::PullErrorKind::Denied, "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let missing = Policy::load(&dir.path().join("none")).unwrap();
    missing.check(&reference("a"), &[], &[]).unwrap();
    let unreadable = Policy::load(dir.path()).unwrap_err();
    assert_eq!(unreadable.kind(), crate::PullErrorKind::Denied);
}

/// A key pair of OpenSSL's, and signatures by it.
struct Signer {
    dir: tempfile::TempDir,
}

impl Signer {
    fn new(kind: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| {
            let output =
                Command::new("openssl").current_dir(dir.path()).args(arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run(&[&["genpkey", "-out", "key"], kind].concat());
        run(&["pkey", "-in", "key", "-pubout", "-out", "pub"]);
        Self { dir }
    }

    fn sign(&self, payload: &str) -> Signature {
        let path = self.dir.path().join("payload");
        std::fs::File::create(&path).unwrap().write_all(payload.as_bytes()).unwrap();
        let is_edwards = std::fs::read(self.dir.path().join("pub")).unwrap().len() < 120;
        let arguments: &[&str] = match is_edwards {
            true => &["pkeyutl", "-sign", "-inkey", "key", "-rawin", "-in", "payload"],
            false => &["dgst", "-sha256", "-sign", "key", "payload"],
        };
        let output =
            Command::new("openssl").current_dir(self.dir.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Signature { payload: payload.to_owned(), signature: BASE64.encode(output.stdout) }
    }

    fn requirement(&self, identity: &str) -> String {
        let path = self.dir.path().join("pub");
        format!(
            r#"{{"default":[{{"type":"sigstoreSigned","keyPath":"{}","signedIdentity":{identity}}}]}}"#,
            path.display()
        )
    }
}

fn payload(reference: &str, digest: Digest, kind: &str) -> String {
    format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"{reference}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":null}}"#
    )
}

const COSIGN: &str = "cosign container image signature";
const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const ANY: &str = r#"{"type":"matchRepository"}"#;

#[test]
fn signatures_of_all_kinds_of_keys_are_checked() {
    for kind in [
        P256,
        P384,
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        &["-algorithm", "ED25519"],
    ] {
        let signer = Signer::new(kind);
        let good = signer.sign(&payload("x.io/a", digest(1), COSIGN));
        let policy = policy(&signer.requirement(ANY)).unwrap();
        assert!(policy.wants_signatures(&reference("x.io/a")));
        policy.check(&reference("x.io/a"), &[digest(1)], std::slice::from_ref(&good)).unwrap();
        let mut changed = good;
        changed.payload = changed.payload.replace("x.io/a", "x.io/b");
        assert!(policy.check(&reference("x.io/b"), &[digest(1)], &[changed]).is_err(), "{kind:?}");
    }
}

#[test]
fn a_signature_is_for_one_image_under_one_name_by_one_key() {
    let (signer, stranger) = (Signer::new(P256), Signer::new(P256));
    let policy = policy(&signer.requirement(ANY)).unwrap();
    let good = signer.sign(&payload("x.io/a:1", digest(1), COSIGN));
    let check = |name: &str, manifest: u8, signatures: &[Signature]| {
        policy.check(&reference(name), &[digest(9), digest(manifest)], signatures)
    };
    check("x.io/a:1", 1, std::slice::from_ref(&good)).unwrap();
    check("x.io/a:1", 1, &[stranger.sign(&good.payload), good.clone()]).unwrap();
    for (name, manifest, signatures, words) in [
        ("x.io/a:1", 1, vec![], "no signature"),
        ("x.io/a:1", 2, vec![good.clone()], "it is for sha256:0101"),
        ("x.io/b:1", 1, vec![good.clone()], "x.io/a:1"),
        ("x.io/a:1", 1, vec![stranger.sign(&good.payload)], "no key"),
        ("x.io/a:1", 1, vec![signer.sign(&payload("x.io/a", digest(1), "atomic"))], "atomic"),
        ("x.io/a:1", 1, vec![signer.sign("{}")], "malformed"),
        ("x.io/a:1", 1, vec![Signature { signature: "%".into(), ..good }], "no key"),
    ] {
        let error = check(name, manifest, &signatures).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn names_must_fit_as_the_policy_says() {
    let at = format!("x.io/a@{}", digest(1));
    for (identity, name, signed, expected) in [
        (r#"{"type":"matchExact"}"#, "x.io/a:1", "x.io/a:1", true),
        (r#"{"type":"matchExact"}"#, "x.io/a:1", "x.io/a:2", false),
        (r#"{"type":"matchExact"}"#, "x.io/a:latest", "x.io/a", false),
        (r#"{"type":"matchExact"}"#, &at, "x.io/a:1", false),
        (r#"{"type":"matchRepoDigestOrExact"}"#, &at, "x.io/a:1", true),
        (r#"{"type":"matchRepoDigestOrExact"}"#, "x.io/a:1", "x.io/a:2", false),
        (ANY, "x.io/a:1", "x.io/a", true),
        (ANY, "x.io/a:1", "x.io/ab", false),
        (r#"{"type":"exactReference","dockerReference":"y.io/o:1"}"#, "x.io/a:1", "y.io/o:1", true),
        (
            r#"{"type":"exactReference","dockerReference":"y.io/o:1"}"#,
            "x.io/a:1",
            "y.io/o:2",
            false,
        ),
        (r#"{"type":"exactRepository","dockerRepository":"y.io/o"}"#, "x.io/a:1", "y.io/o:7", true),
        (
            r#"{"type":"remapIdentity","prefix":"m.io/x","signedPrefix":"x.io"}"#,
            "m.io/x/a:1",
            "x.io/a:1",
            true,
        ),
        (
            r#"{"type":"remapIdentity","prefix":"m.io/x","signedPrefix":"x.io"}"#,
            "m.io/xa:1",
            "x.io/a:1",
            false,
        ),
        (ANY, "x.io/a:1", "NOT A NAME", false),
    ] {
        let identity: Identity = serde_json::from_str(identity).unwrap();
        assert_eq!(
            identity.fits(&reference(name), signed),
            expected,
            "{identity:?} {name} {signed}"
        );
    }
}

#[test]
fn keys_come_from_data_too_and_bad_ones_are_named() {
    let signer = Signer::new(P256);
    let pem = std::fs::read(signer.dir.path().join("pub")).unwrap();
    let text = format!(
        r#"{{"default":[{{"type":"sigstoreSigned","keyDatas":["{}"],"signedIdentity":{ANY}}}]}}"#,
        BASE64.encode(&pem)
    );
    let good = signer.sign(&payload("x.io/a", digest(1), COSIGN));
    policy(&text)
        .unwrap()
        .check(&reference("x.io/a"), &[digest(1)], std::slice::from_ref(&good))
        .unwrap();
    for (key, words) in [
        (r#""keyPath":"/nonexistent""#, "/nonexistent"),
        (r#""keyData":"AAAA""#, "no public key"),
        (r#""keyData":"%""#, "base64"),
        (r#""keyPaths":[]"#, "no key"),
    ] {
        let text = format!(r#"{{"default":[{{"type":"sigstoreSigned",{key}}}]}}"#);
        let policy = policy(&text).unwrap();
        let error = policy
            .check(&reference("x.io/a"), &[digest(1)], std::slice::from_ref(&good))
            .unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_comes_is_answered(bytes in proptest::collection::vec(0_u8.., 0..300)) {
        let _ = PublicKey::of_pem(&bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = policy(&text);
        let _ = Signature { payload: text.clone(), signature: text }.claim();
    }

    #[test]
    fn damaged_keys_are_answered(at in 0_usize..91, to in 0_u8..) {
        // A P-256 key in DER, with one byte changed.
        let mut der = vec![0x30, 0x59, 0x30, 0x13, 0x06, 0x07];
        der.extend([0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08]);
        der.extend([0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04]);
        der.resize(91, 7);
        der[at] = to;
        let body = BASE64.encode(&der);
        let _ = PublicKey::of_pem(format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n").as_bytes());
    }
}
