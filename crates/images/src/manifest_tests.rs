//! What is taken as a manifest, and what is not.

use proptest::prelude::*;

use super::*;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn digest(n: u8) -> String {
    Digest::from_bytes([n; 32]).to_string()
}

fn read(text: &str) -> Result<Document, PullError> {
    parse("it", "", text.as_bytes(), &ImageLimits::default())
}

#[test]
fn documents_are_told_apart_and_confusion_is_refused() {
    let d = format!(r#"{{"mediaType":"{}","digest":"{}","size":1}}"#, CONFIG_TYPES[0], digest(1));
    let manifest = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d}]}}"#);
    assert!(matches!(read(&manifest).unwrap(), Document::Manifest(m) if m.layers.len() == 1));
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{d}]}}"#);
    assert!(matches!(read(&index).unwrap(), Document::Index(i) if i.len() == 1));
    let long = format!(
        r#"{{"schemaVersion":2,"config":{d},"layers":[{}]}}"#,
        vec![d.as_str(); 501].join(",")
    );
    for refused in [
        "<html>not found</html>",
        "[]",
        "{}",
        r#"{"schemaVersion":2}"#,
        r#"{"schemaVersion":1,"fsLayers":[]}"#,
        &format!(r#"{{"schemaVersion":2,"config":{d},"layers":[],"manifests":[]}}"#),
        &format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","config":{d},"layers":[]}}"#
        ),
        &format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[{d}]}}"#
        ),
        r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":1}]}"#,
        &long,
    ] {
        assert!(read(refused).is_err(), "{refused:.100}");
    }
}

#[test]
fn the_best_platform_is_chosen() {
    let entry = |n: u8, platform: Option<(&str, &str)>| Descriptor {
        media_type: MANIFEST_TYPES[0].into(),
        digest: Digest::from_bytes([n; 32]),
        size: 1,
        platform: platform.map(|(os, architecture)| Named {
            os: os.into(),
            architecture: architecture.into(),
            variant: String::new(),
        }),
        annotations: None,
    };
    let amd64 = Platform::of("amd64", &["v1"]);
    let index =
        [entry(1, None), entry(2, Some(("linux", "arm64"))), entry(3, Some(("linux", "amd64")))];
    assert_eq!(choose("x", &index, &amd64).unwrap().digest, Digest::from_bytes([3; 32]));
    assert_eq!(choose("x", &index[..2], &amd64).unwrap().digest, Digest::from_bytes([1; 32]));
    let error = choose("x", &index[1..2], &amd64).unwrap_err().to_string();
    assert!(error.contains("linux/arm64") && error.contains("linux/amd64"), "{error}");
}

#[test]
fn media_types_tell_the_compression() {
    for (kind, expected) in [
        ("application/vnd.oci.image.layer.v1.tar", Some(Compression::None)),
        ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Compression::Gzip)),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Compression::Zstd)),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Compression::Gzip)),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Compression::Gzip)),
        ("application/vnd.docker.image.rootfs.diff.tar", Some(Compression::None)),
        ("text/html", None),
        ("", None),
    ] {
        let d = Descriptor {
            media_type: kind.into(),
            digest: Digest::from_bytes([0; 32]),
            size: 0,
            platform: None,
            annotations: None,
        };
        assert_eq!(d.compression().ok(), expected, "{kind}");
    }
}

#[test]
fn a_configuration_with_nulls_is_read_and_bare_names_leave_the_environment() {
    let text = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"diff_ids":["{}"]}},
            "config":{{"Env":["A=b","NOEQ","*","=x"],"Cmd":null,"Volumes":{{"/v":{{}}}},"User":"1:2"}}}}"#,
        digest(1)
    );
    let config = parse_config("it", text.as_bytes()).unwrap();
    assert_eq!(config.image.env, ["A=b"]);
    assert_eq!(config.image.volumes, ["/v"]);
    assert_eq!(config.diff_ids.len(), 1);
    assert!(parse_config("it", br#"{"os":"windows","rootfs":{}}"#).is_err());
    assert!(parse_config("it", br#"{"os":"linux"}"#).is_err());
}

fn manifest(layer: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{}","size":2}},
        "layers":[{{"mediaType":"{layer}","digest":"{}","size":3,"urls":["http://169.254.169.254/x"]}}],
        "annotations":null,"subject":{{"digest":"bad"}}}}"#,
        CONFIG_TYPES[0],
        digest(1),
        digest(2)
    )
}

#[test]
fn the_announced_type_counts() {
    let good = manifest(LAYER);
    let read = |kind: &str, text: &str| parse("it", kind, text.as_bytes(), &ImageLimits::default());
    for kind in [MANIFEST_TYPES[0], MANIFEST_TYPES[1], "", "application/json; charset=utf-8"] {
        assert!(matches!(read(kind, &good), Ok(Document::Manifest(_))), "{kind}");
    }
    let lying = good.replacen('{', &format!(r#"{{"mediaType":"{}","#, INDEX_TYPES[0]), 1);
    let twice = good.replacen("\"layers\"", "\"layers\":[],\"layers\"", 1);
    let both = good.replacen("\"layers\"", "\"manifests\":[],\"layers\"", 1);
    let negative = good.replacen("\"size\":2", "\"size\":-2", 1);
    let helm = good.replacen(CONFIG_TYPES[0], "application/vnd.cncf.helm.config.v1+json", 1);
    let deep = "[".repeat(100_000);
    for (kind, text, reason) in [
        ("text/html", "<html>", "text/html"),
        (INDEX_TYPES[0], good.as_str(), "neither"),
        (MANIFEST_TYPES[0], &lying, "came as"),
        (SCHEMA1_TYPES[1], "{}", "schema 1"),
        ("", &twice, "duplicate field"),
        ("", &both, "could be read"),
        ("", &negative, "not a manifest"),
        ("", &helm, "helm"),
        ("", &deep, "not a manifest"),
    ] {
        let error = read(kind, text).unwrap_err().to_string();
        assert!(error.contains(reason), "{kind} {reason}: {error}");
        assert!(error.len() < 1000 && !error.contains('\n'), "{error}");
    }
}

#[test]
fn attestations_are_no_images() {
    let entry = |n: u8, kind: &str| Descriptor {
        media_type: kind.into(),
        digest: Digest::from_bytes([n; 32]),
        size: 1,
        platform: None,
        annotations: None,
    };
    let mut attestation = entry(1, MANIFEST_TYPES[0]);
    attestation.annotations =
        Some(BTreeMap::from([("vnd.docker.reference.type".into(), "attestation-manifest".into())]));
    let index = [attestation, entry(2, "text/plain"), entry(3, MANIFEST_TYPES[1])];
    let amd64 = Platform::of("amd64", &["v1"]);
    assert_eq!(choose("x", &index, &amd64).unwrap().digest, Digest::from_bytes([3; 32]));
    assert!(choose("x", &index[..2], &amd64).is_err());
}

proptest! {
    #[test]
    fn whatever_comes_is_answered(kind in ".{0,40}", text in "[{}\\[\\]\",:a-z0-9]{0,200}") {
        let _ = parse("it", &kind, text.as_bytes(), &ImageLimits::default());
        let _ = parse_config("it", text.as_bytes());
    }
}
