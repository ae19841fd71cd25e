//! OCI image layouts.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// How layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

/// An image that can be written to a layout.
#[derive(Clone, Debug)]
pub struct Image {
    /// The layers' archives, the lowest first.
    pub layers: Vec<Vec<u8>>,
    /// How they are stored.
    pub compression: Compression,
    /// The configuration's `config`: `Env`, `Cmd`, `User` and so on.
    pub config: Value,
    /// The processor.
    pub architecture: String,
}

impl Image {
    /// An image of gzip layers for this machine.
    #[must_use]
    pub fn new(layers: Vec<Vec<u8>>, config: Value) -> Self {
        Self { layers, compression: Compression::Gzip, config, architecture: "amd64".to_owned() }
    }

    /// The same image with a configuration key changed.
    #[must_use]
    pub fn with(&self, key: &str, value: Value) -> Self {
        let mut image = self.clone();
        image.config[key] = value;
        image
    }

    /// The same image with another layer on top.
    #[must_use]
    pub fn with_layer(&self, layer: Vec<u8>) -> Self {
        let mut image = self.clone();
        image.layers.push(layer);
        image
    }

    /// The same image with its layers stored otherwise.
    #[must_use]
    pub fn stored(&self, compression: Compression) -> Self {
        Self { compression, ..self.clone() }
    }
}

/// The digest of bytes, with its algorithm.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A directory in the form of the OCI image layout.
pub struct Layout {
    path: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// Makes an empty layout.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn new(path: &Path) -> Result<Self> {
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs)
            .with_context(|| format!("failed to make {}", blobs.display()))?;
        write(&path.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let layout = Self { path: path.to_owned(), manifests: Vec::new() };
        layout.write_index()?;
        Ok(layout)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds an image under a tag; gives the manifest's digest.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn add(&mut self, tag: &str, image: &Image) -> Result<String> {
        let descriptor = self.manifest(image)?;
        self.tag(tag, descriptor)
    }

    /// Adds an index of images, one a platform; gives the index's digest.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn add_index(&mut self, tag: &str, images: &[Image]) -> Result<String> {
        let mut manifests = Vec::new();
        for image in images {
            let mut descriptor = self.manifest(image)?;
            descriptor["platform"] = json!({ "os": "linux", "architecture": image.architecture });
            manifests.push(descriptor);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        let descriptor = self.blob(INDEX, index.to_string().as_bytes())?;
        self.tag(tag, descriptor)
    }

    fn tag(&mut self, tag: &str, mut descriptor: Value) -> Result<String> {
        let digest = descriptor["digest"].as_str().unwrap_or_default().to_owned();
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        self.manifests.push(descriptor);
        self.write_index()?;
        Ok(digest)
    }

    fn write_index(&self) -> Result<()> {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests });
        write(&self.path.join("index.json"), index.to_string().as_bytes())
    }

    fn manifest(&self, image: &Image) -> Result<Value> {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &image.layers {
            diff_ids.push(digest(layer));
            layers.push(self.layer(layer, image.compression)?);
        }
        let history: Vec<Value> = layers
            .iter()
            .map(|_| json!({ "created": "2024-01-01T00:00:00Z", "created_by": "test" }))
            .collect();
        let config = json!({
            "created": "2024-01-01T00:00:00Z",
            "os": "linux",
            "architecture": image.architecture,
            "config": image.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(CONFIG, config.to_string().as_bytes())?,
            "layers": layers,
        });
        self.blob(MANIFEST, manifest.to_string().as_bytes())
    }

    fn layer(&self, archive: &[u8], compression: Compression) -> Result<Value> {
        let base = "application/vnd.oci.image.layer.v1.tar";
        match compression {
            Compression::Plain => self.blob(base, archive),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(archive).context("failed to compress a layer")?;
                let bytes = encoder.finish().context("failed to compress a layer")?;
                self.blob(&format!("{base}+gzip"), &bytes)
            }
            Compression::Zstd => {
                let bytes = zstd::encode_all(archive, 1).context("failed to compress a layer")?;
                self.blob(&format!("{base}+zstd"), &bytes)
            }
        }
    }

    fn blob(&self, kind: &str, bytes: &[u8]) -> Result<Value> {
        let digest = digest(bytes);
        let name = digest.trim_start_matches("sha256:");
        write(&self.path.join("blobs/sha256").join(name), bytes)?;
        Ok(json!({ "mediaType": kind, "digest": digest, "size": bytes.len() }))
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("failed to write {}", path.display()))
}
