//! Images made up on the spot.

use std::{collections::BTreeMap, io::Write as _};

use sha2::{Digest as _, Sha256};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

/// A layer as it is stored.
#[derive(Clone)]
pub struct Layer {
    pub kind: String,
    pub stored: Vec<u8>,
    pub diff_id: String,
}

impl Layer {
    pub fn plain(tar: &[u8]) -> Self {
        Self { kind: OCI_LAYER.into(), stored: tar.to_vec(), diff_id: digest(tar) }
    }

    pub fn gzip(tar: &[u8]) -> Self {
        Self { kind: format!("{OCI_LAYER}+gzip"), stored: gzip(tar), ..Self::plain(tar) }
    }

    pub fn zstd(tar: &[u8]) -> Self {
        Self { kind: format!("{OCI_LAYER}+zstd"), stored: zstd(tar), ..Self::plain(tar) }
    }

    /// A layer with one file.
    pub fn file(name: &str, text: &str) -> Self {
        Self::gzip(&tar(&[(name, text.as_bytes())]))
    }
}

/// An image: its blobs, its manifest and configuration among them.
#[derive(Clone)]
pub struct Made {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub manifest: Vec<u8>,
    pub manifest_kind: String,
    pub config: Vec<u8>,
    pub layers: Vec<Layer>,
}

impl Made {
    pub fn new(layers: &[Layer]) -> Self {
        Self::with(layers, "", OCI_MANIFEST)
    }

    /// Makes an image whose configuration has a user, so that it differs from others.
    pub fn with(layers: &[Layer], user: &str, manifest_kind: &str) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id.clone()).collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": { "User": user, "Env": ["A=b"], "Cmd": ["/bin/true"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = serde_json::to_vec(&config).unwrap();
        Self::of(layers, config, manifest_kind)
    }

    pub fn of(layers: &[Layer], config: Vec<u8>, manifest_kind: &str) -> Self {
        let entry = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": manifest_kind,
            "config": entry(OCI_CONFIG, &config),
            "layers": layers.iter().map(|l| entry(&l.kind, &l.stored)).collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let mut blobs: BTreeMap<_, _> =
            layers.iter().map(|l| (digest(&l.stored), l.stored.clone())).collect();
        blobs.insert(digest(&config), config.clone());
        let layers = layers.to_vec();
        Self { blobs, manifest, manifest_kind: manifest_kind.into(), config, layers }
    }

    pub fn id(&self) -> String {
        digest(&self.config)
    }

    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// An entry of an index.
    pub fn entry(&self, architecture: &str) -> serde_json::Value {
        serde_json::json!({
            "mediaType": self.manifest_kind, "digest": self.digest(), "size": self.manifest.len(),
            "platform": { "os": "linux", "architecture": architecture },
        })
    }
}

pub fn index(entries: &[serde_json::Value]) -> Vec<u8> {
    let index =
        serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    serde_json::to_vec(&index).unwrap()
}
