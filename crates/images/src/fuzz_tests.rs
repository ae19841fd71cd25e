//! Fuzz targets of all parsers of foreign bytes of this crate. See `testing::fuzz`.

use std::{io::Read, path::Path};

use testing::fuzz::fuzz;

use snapshots::Snapshots;

use crate::{
    Auth, Images, ImagesOptions,
    answer::{registry_text, retry_after},
    archive::Archive,
    hosts_toml,
    layer::digest_of,
    manifest,
    options::ImageLimits,
    pipe::read_ahead,
    policy::Policy,
    reference::Reference,
    registries_conf::Registries,
    signature::{PublicKey, Signature},
    token::{Challenge, read_answer},
};

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn manifests_indexes_and_configurations() {
    let entry = |kind: &str| {
        format!(
            r#"{{"mediaType":"{kind}","digest":"{DIGEST}","size":7,"annotations":{{"a":"b"}},"platform":{{"os":"linux","architecture":"amd64"}}}}"#
        )
    };
    let (config, layer) = (
        entry("application/vnd.oci.image.config.v1+json"),
        entry("application/vnd.oci.image.layer.v1.tar+gzip"),
    );
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        entry("application/vnd.oci.image.manifest.v1+json")
    );
    let image = format!(
        r#"{{"os":"linux","architecture":"amd64","config":{{"User":"u","Env":["A=b"],"Volumes":{{"/v":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}}}}"#
    );
    let deep = "[".repeat(5000);
    let limits = ImageLimits::default();
    fuzz("manifest", &seeds(&[&manifest, &index, &image, &deep]), |bytes| {
        for kind in ["", "application/vnd.oci.image.index.v1+json"] {
            if let Ok(manifest::Document::Manifest(found)) =
                manifest::parse("x", kind, bytes, &limits)
            {
                found.layers.iter().for_each(|layer| drop(layer.compression()));
            }
        }
        let _ = manifest::parse_config("x", bytes);
    });
}

#[test]
fn configurations_of_registries() {
    let hosts = "server = \"https://x\"\n[host.\"http://y\"]\ncapabilities = [\"pull\"]\nclient = [[\"a\", \"b\"]]\ndial_timeout = \"1s\"\n[host.\"http://y\".header]\na = [\"b\"]";
    let conf = "[[registry]]\nprefix = \"*.x.io\"\n[[registry.mirror]]\nlocation = \"y\"\n[aliases]\na = \"b.io/c\"";
    let policy = r#"{"default":[{"type":"sigstoreSigned","keyData":"AAAA","signedIdentity":{"type":"remapIdentity","prefix":"a","signedPrefix":"b"}}],"transports":{"docker":{"x":[{"type":"reject"}]}}}"#;
    let reference: Reference = "a.x.io/b:1".parse().unwrap();
    fuzz("registries", &seeds(&[hosts, conf, policy]), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = hosts_toml::parse(Path::new("/x"), &text, "x.io");
        if let Ok(registries) = Registries::parse(Path::new("/x"), &text) {
            let _ = registries.rule_for(&reference).map(|rule| rule.hosts(&reference, true));
            let _ = registries.candidates("a");
        }
        if let Ok(policy) = Policy::parse(Path::new("/x"), bytes) {
            let signature = Signature { payload: text.into_owned(), signature: "AAAA".into() };
            let _ = policy.check(&reference, &[], &[signature]);
        }
    });
}

#[test]
fn names_challenges_and_claims() {
    let claim = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"x/y:1"}},"image":{{"docker-manifest-digest":"{DIGEST}"}},"type":"cosign container image signature"}}}}"#
    );
    let name = format!("x.io:5000/a/b:1@{DIGEST}");
    let challenge = "Bearer realm=\"https://a/t\",service=x,scope=\"repository:a:pull\"";
    fuzz("words", &seeds(&[&claim, &name, challenge, "[::1]:5000/a"]), |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let _ = text.parse::<Reference>();
        let _ = Challenge::parse(&text);
        let _ = Signature { payload: text.clone(), signature: text }.claim();
    });
}

/// Compressed streams, and what is unpacked of them, up to a bounded length.
#[test]
fn compressed_streams() {
    use std::io::Write as _;
    let text = b"some text ".repeat(500);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).unwrap();
    let seeds = [gzip.finish().unwrap(), zstd::stream::encode_all(text.as_slice(), 1).unwrap()];
    let bounded = |reader: &mut dyn Read| {
        let mut sink = Vec::new();
        let _ = reader.take(1 << 20).read_to_end(&mut sink);
    };
    fuzz("streams", &seeds, |bytes| {
        bounded(&mut flate2::bufread::MultiGzDecoder::new(bytes));
        if let Ok(mut reader) = zstd::stream::read::Decoder::with_buffer(bytes) {
            bounded(&mut reader);
        }
        read_ahead(bytes, |ahead| bounded(ahead));
    });
}

/// What registries and token servers answer, credentials, digests and keys.
#[test]
fn answers_credentials_and_keys() {
    let token = r#"{"token":"","access_token":"abc","expires_in":300}"#;
    let refusal = r#"{"errors":[{"code":"DENIED","message":"no","detail":{}}]}"#;
    let key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    let texts =
        [token, refusal, key, "dXNlcjpwYXNz", DIGEST, "Wed, 21 Oct 2015 07:28:00 GMT", "120"];
    fuzz("answers", &seeds(&texts), |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let _ = read_answer(bytes);
        assert!(!registry_text(bytes).contains('\n'), "the registry's words are several lines");
        let _ = retry_after(&text, std::time::UNIX_EPOCH);
        let _ = text.parse::<types::Digest>().map(|digest| assert_eq!(digest.to_string(), text));
        let _ = PublicKey::of_pem(bytes);
        let server_address = text.clone();
        let auth = Auth { auth: text, server_address, ..Auth::default() };
        let _ = (auth.is_for("x.io"), auth.credentials());
    });
}

/// A tar file of these files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// OCI layouts and docker's archives, compressed or not. The images have no layers: those
/// are the business of another target.
#[test]
fn archives_of_images() {
    let config = br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"}}"#;
    let id = digest_of(config);
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{id}","size":{}}},"layers":[]}}"#,
        config.len()
    );
    let digest = digest_of(manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"x.io/a:1"}}}}]}}"#,
        manifest.len()
    );
    let blob = |digest: types::Digest| format!("blobs/sha256/{}", digest.hex());
    let long = format!("{}/config.json", "d".repeat(120));
    let saved = format!(r#"[{{"Config":"{long}","RepoTags":["x.io/a:1"],"Layers":[]}}]"#);
    let layout = archive(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json", index.as_bytes()),
        (&blob(digest), manifest.as_bytes()),
        (&blob(id), config),
    ]);
    let docker = archive(&[("manifest.json", saved.as_bytes()), (&long, config)]);
    let compressed = zstd::stream::encode_all(layout.as_slice(), 1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
    let mut options = ImagesOptions::new(dir.path().join("images"));
    options.reserve_bytes = 0;
    let images = Images::open(options, snapshots).unwrap();
    let path = dir.path().join("archive");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Archive::open(&images, &path).and_then(|mut found| images.read_archive(&mut found))
    };
    for seed in [&layout, &docker, &compressed] {
        assert_eq!(read(seed).map(|ready| ready.len()).unwrap(), 1);
    }
    fuzz("archive", &[layout, docker, compressed], |bytes| drop(read(bytes)));
}
