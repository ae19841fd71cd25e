//! Writing images as an archive: an OCI layout that `docker load` takes too.
//!
//! Compressed layers that were kept go out as they came, with the image's own manifest.
//! Otherwise each layer's tar stream is made again from its files, which is checked by its
//! diff ID, and goes out uncompressed under a manifest that says so. The configuration is
//! the same either way, and so is the image's id.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
    sync::Arc,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use snapshots::LayerPin;
use types::{DiffId, Digest, Image};

use crate::{
    Images, PullError,
    error::chain,
    layer::digest_of,
    manifest::{self, Document},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Images that are ready to be written, and held until they are.
#[derive(Debug)]
pub struct Save {
    images: Vec<Prepared>,
    _pins: Vec<LayerPin>,
}

#[derive(Debug)]
struct Prepared {
    image: Arc<Image>,
    names: Vec<String>,
    config: String,
    manifest: String,
    manifest_type: String,
    layers: Vec<Source>,
}

/// Where a layer's bytes come from.
#[derive(Debug)]
enum Source {
    Kept { digest: Digest, size: u64 },
    Rebuilt { layer: DiffId, size: u64 },
}

impl Source {
    fn digest(&self) -> Digest {
        match self {
            Self::Kept { digest, .. } => *digest,
            Self::Rebuilt { layer, .. } => layer.0,
        }
    }
}

impl Images {
    /// Finds the images of names and ids, and holds them. Blocks, as far as layers have to
    /// be read to know how long they are.
    ///
    /// # Errors
    /// Fails where one is not there, or cannot be written.
    pub fn prepare_save(&self, names: &[String]) -> Result<Save, PullError> {
        if names.is_empty() {
            return Err(cannot("nothing", "no image is named"));
        }
        let mut save = Save { images: Vec::new(), _pins: Vec::new() };
        for name in names {
            let image = self.get(name).ok_or_else(|| PullError::NotFound {
                host: "this node".to_owned(),
                what: format!("image {name}"),
                message: "pull it first".to_owned(),
            })?;
            save._pins.push(self.layers.pin(&image.layers));
            match save.images.iter_mut().find(|other| other.image.id == image.id) {
                Some(same) => same.names.extend(asked_name(&image, name)),
                None => save.images.push(self.prepare(image, name)?),
            }
        }
        Ok(save)
    }

    fn prepare(&self, image: Arc<Image>, name: &str) -> Result<Prepared, PullError> {
        let documents = self
            .documents
            .get(image.id)
            .filter(|documents| digest_of(documents.config.as_bytes()) == image.id.0);
        let Some(documents) = documents else {
            return Err(cannot(name, "what it came with was not kept: pull it again"));
        };
        let names = asked_name(&image, name).into_iter().collect();
        let kept = self.kept_layers(&documents.manifest, &documents.manifest_type);
        let (manifest, manifest_type, layers) = match kept {
            Some(layers) => (documents.manifest, documents.manifest_type, layers),
            None => {
                let layers = image
                    .layers
                    .iter()
                    .map(|layer| self.measure(*layer))
                    .collect::<Result<Vec<_>, _>>()?;
                (new_manifest(&image, &documents.config, &layers), MANIFEST.to_owned(), layers)
            }
        };
        let config = documents.config;
        Ok(Prepared { image, names, config, manifest, manifest_type, layers })
    }

    /// The layers as they came, if all of them were kept.
    fn kept_layers(&self, manifest: &str, kind: &str) -> Option<Vec<Source>> {
        let parsed = manifest::parse("manifest", kind, manifest.as_bytes(), &self.limits).ok()?;
        let Document::Manifest(parsed) = parsed else { return None };
        let kept = |layer: &manifest::Descriptor| {
            let (digest, size) = (layer.digest, layer.size);
            let found = !self.content.find(digest, size).is_empty();
            found.then_some(Source::Kept { digest, size })
        };
        parsed.layers.iter().map(kept).collect()
    }

    /// Makes a layer's stream once, to know its length and that it is right.
    fn measure(&self, layer: DiffId) -> Result<Source, PullError> {
        let mut measured = Measure { hash: Sha256::new(), size: 0 };
        let what = format!("layer {layer}");
        let made = self.write_layer(layer, &mut measured);
        match made.map_err(|e| cannot(&what, &chain(&e)))? {
            false => Err(cannot(
                &what,
                "its stream cannot be made again: set images.keep_blobs, remove the image and pull it",
            )),
            true => {
                crate::layer::check_digest(
                    what,
                    layer.0,
                    Digest::from_bytes(measured.hash.finalize().into()),
                )?;
                Ok(Source::Rebuilt { layer, size: measured.size })
            }
        }
    }

    /// Writes the archive. Blocks.
    ///
    /// # Errors
    /// Fails where a layer is damaged, or nobody reads any more.
    pub fn save(&self, save: &Save, to: &mut dyn Write) -> Result<(), PullError> {
        let mut archive = Archive { to, written: BTreeSet::new() };
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for image in &save.images {
            for layer in &image.layers {
                self.save_layer(&mut archive, layer)?;
            }
            archive.blob(image.config.as_bytes())?;
            archive.blob(image.manifest.as_bytes())?;
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": save.images.iter().flat_map(entries).collect::<Vec<_>>(),
        });
        archive.file("index.json", index.to_string().as_bytes())?;
        let docker: Vec<Value> = save.images.iter().map(docker_entry).collect();
        archive.file("manifest.json", Value::from(docker).to_string().as_bytes())?;
        archive.end()
    }

    fn save_layer(&self, archive: &mut Archive<'_>, layer: &Source) -> Result<(), PullError> {
        let digest = layer.digest();
        if !archive.written.insert(digest) {
            return Ok(());
        }
        let what = format!("layer {digest}");
        match layer {
            Source::Kept { size, .. } => {
                let (_, file) = self
                    .content
                    .find(digest, *size)
                    .into_iter()
                    .next()
                    .ok_or_else(|| cannot(&what, "it is gone"))?;
                archive.header(&blob_path(digest), *size)?;
                archive.copy(&what, file, *size)
            }
            Source::Rebuilt { layer, size } => {
                archive.header(&blob_path(digest), *size)?;
                let mut counted = Counted { to: archive.to, count: 0 };
                self.write_layer(*layer, &mut counted).map_err(|e| cannot(&what, &chain(&e)))?;
                if counted.count != *size {
                    return Err(cannot(&what, "it has changed meanwhile"));
                }
                archive.pad(*size)
            }
        }
    }
}

fn cannot(what: &str, reason: &str) -> PullError {
    PullError::Store { step: format!("save {what}"), reason: reason.to_owned() }
}

/// The name under which an image goes out: the one by which it was asked for. Asked for by
/// its id, it has all of its tags.
fn asked_name(image: &Image, asked: &str) -> Vec<String> {
    let normal = asked.parse::<crate::reference::Reference>().map(|r| r.to_string());
    match normal {
        Ok(name) if image.repo_tags.contains(&name) => vec![name],
        _ => image.repo_tags.clone(),
    }
}

fn new_manifest(image: &Image, config: &str, layers: &[Source]) -> String {
    let layer = |source: &Source| {
        let size = match source {
            Source::Kept { size, .. } | Source::Rebuilt { size, .. } => *size,
        };
        json!({ "mediaType": LAYER, "digest": source.digest(), "size": size })
    };
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": image.id, "size": config.len() },
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
    .to_string()
}

/// An entry of the index for each name, or one without.
fn entries(image: &Prepared) -> Vec<Value> {
    let entry = json!({
        "mediaType": image.manifest_type,
        "digest": digest_of(image.manifest.as_bytes()),
        "size": image.manifest.len(),
        "platform": {
            "os": "linux",
            "architecture": image.image.config.architecture,
        },
    });
    if image.names.is_empty() {
        return vec![entry];
    }
    let named = |name: &String| {
        let mut entry = entry.clone();
        entry["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name,
        });
        entry
    };
    image.names.iter().map(named).collect()
}

fn docker_entry(image: &Prepared) -> Value {
    json!({
        "Config": blob_path(image.image.id.0),
        "RepoTags": image.names,
        "Layers": image.layers.iter().map(|l| blob_path(l.digest())).collect::<Vec<_>>(),
    })
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A tar file that is being written.
struct Archive<'a> {
    to: &'a mut dyn Write,
    written: BTreeSet<Digest>,
}

const BLOCK: usize = 512;

impl Archive<'_> {
    fn failed(error: &io::Error) -> PullError {
        cannot("the images", &chain(error))
    }

    fn header(&mut self, name: &str, size: u64) -> Result<(), PullError> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).map_err(|e| Self::failed(&e))?;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        self.to.write_all(header.as_bytes()).map_err(|e| Self::failed(&e))
    }

    fn pad(&mut self, size: u64) -> Result<(), PullError> {
        let zeros = [0; BLOCK];
        let missing = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.to.write_all(&zeros[..missing]).map_err(|e| Self::failed(&e))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), PullError> {
        self.header(name, bytes.len() as u64)?;
        self.to.write_all(bytes).map_err(|e| Self::failed(&e))?;
        self.pad(bytes.len() as u64)
    }

    fn blob(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        let digest = digest_of(bytes);
        match self.written.insert(digest) {
            true => self.file(&blob_path(digest), bytes),
            false => Ok(()),
        }
    }

    fn copy(&mut self, what: &str, file: File, size: u64) -> Result<(), PullError> {
        let copied = io::copy(&mut file.take(size), self.to).map_err(|e| Self::failed(&e))?;
        if copied != size {
            return Err(cannot(what, "it is shorter than it was"));
        }
        self.pad(size)
    }

    fn end(self) -> Result<(), PullError> {
        self.to.write_all(&[0; 2 * BLOCK]).map_err(|e| Self::failed(&e))
    }
}

struct Measure {
    hash: Sha256,
    size: u64,
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Counted<'a> {
    to: &'a mut dyn Write,
    count: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
