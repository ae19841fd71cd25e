//! Fuzz targets of all parsers of foreign bytes of this crate. See `testing::fuzz`.

use std::{io::Read, path::Path};

use testing::fuzz::fuzz;

use crate::{
    hosts_toml, manifest, options::ImageLimits, pipe::read_ahead, policy::Policy,
    reference::Reference, registries_conf::Registries, signature::Signature, token::Challenge,
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
