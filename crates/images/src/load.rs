//! Loading from archives: OCI layouts (`oci-layout`, `index.json`, `blobs/`) as
//! directories and tar files, and what `docker save` writes (`manifest.json`).

use std::{io::Read, path::Path, sync::Arc};

use serde::Deserialize;
use types::{Digest, Image, ImageId};

use crate::{
    Images, LoadedImage, PullError,
    archive::{Archive, bad, failed},
    documents::Documents,
    layer::{self, Wanted, check_digest, digest_of},
    manifest::{self, Compression, Config, Descriptor, Document, Manifest},
    policy::Policy,
    pull::New,
    reference::{Reference, Version},
};

/// The most images that one archive may bring.
const MAX_IMAGES: usize = 1024;
/// How deep indexes may lie in each other.
const MAX_DEPTH: usize = 3;

/// An image of an archive that is ready to be added.
pub(crate) struct Ready {
    new: New,
    names: Vec<String>,
}

impl Images {
    /// Loads all images of an archive.
    pub(crate) async fn load_from(
        self: &Arc<Self>,
        path: &Path,
    ) -> Result<Vec<LoadedImage>, PullError> {
        let (images, path) = (self.clone(), path.to_owned());
        let ready = tokio::task::spawn_blocking(move || {
            let mut archive = Archive::open(&images, &path)?;
            Policy::load(&images.options.policy)?.check_loaded("the archive")?;
            images.read_archive(&mut archive)
        })
        .await
        .map_err(|_| PullError::Aborted { reference: "the archive".to_owned() })??;
        let mut loaded = Vec::new();
        for (Ready { new, names }, pin) in ready {
            loaded.push(LoadedImage { image: self.add(new, pin).await?, names });
        }
        Ok(loaded)
    }

    /// Reads all images of an archive, and unpacks their layers.
    pub(crate) fn read_archive(
        &self,
        archive: &mut Archive,
    ) -> Result<Vec<(Ready, snapshots::LayerPin)>, PullError> {
        if archive.has("oci-layout") {
            return self.read_layout(archive);
        }
        if archive.has("manifest.json") {
            return self.read_docker(archive);
        }
        Err(bad("the archive", "it is neither an OCI layout nor what docker save writes"))
    }

    fn read_layout(
        &self,
        archive: &mut Archive,
    ) -> Result<Vec<(Ready, snapshots::LayerPin)>, PullError> {
        let limit = self.limits.max_manifest_bytes;
        let bytes = archive.read("index.json", limit)?;
        let Document::Index(entries) = manifest::parse("index.json", "", &bytes, &self.limits)?
        else {
            return Err(bad("index.json", "it is no index"));
        };
        let mut ready: Vec<(Ready, snapshots::LayerPin)> = Vec::new();
        check_count(entries.len())?;
        // An entry for another machine is passed over where there is one for this.
        let is_usable = |entry: &&Descriptor| {
            let platform = entry.platform.as_ref();
            entry.is_image() && platform.is_none_or(|p| self.options.platform.rank(p).is_some())
        };
        if !entries.iter().any(|entry| is_usable(&entry)) {
            manifest::choose("the archive", &entries, &self.options.platform)?;
        }
        for entry in entries.iter().filter(is_usable) {
            let (found, manifest) = self.descend(archive, entry)?;
            let config =
                self.read_config(archive, &blob_path(manifest.config.digest), &manifest.config)?;
            let pin = self.layers.pin(&config.diff_ids);
            for wanted in self.layers(&manifest, &config)? {
                self.install(archive, &blob_path(wanted.descriptor.digest), &wanted)?;
            }
            ready.push((self.ready(&manifest, &config, found, &names_of(entry), true), pin));
        }
        Ok(ready)
    }

    /// Follows an entry to a manifest for this machine.
    fn descend(
        &self,
        archive: &mut Archive,
        entry: &Descriptor,
    ) -> Result<(Digest, Box<Manifest>), PullError> {
        let mut at = entry.clone();
        for _ in 0..MAX_DEPTH {
            let what = format!("manifest {}", at.digest);
            let bytes = archive.read(&blob_path(at.digest), self.limits.max_manifest_bytes)?;
            check_digest(what.clone(), at.digest, digest_of(&bytes))?;
            match manifest::parse(&what, &at.media_type, &bytes, &self.limits)? {
                Document::Manifest(manifest) => return Ok((entry.digest, manifest)),
                Document::Index(entries) => {
                    at = manifest::choose(&what, &entries, &self.options.platform)?.clone();
                }
            }
        }
        Err(bad(format!("manifest {}", entry.digest), "its indexes are nested too deep"))
    }

    fn read_config(
        &self,
        archive: &mut Archive,
        path: &str,
        descriptor: &Descriptor,
    ) -> Result<Config, PullError> {
        let what = format!("configuration {}", descriptor.digest);
        let bytes = archive.read(path, self.limits.max_config_bytes)?;
        check_digest(what.clone(), descriptor.digest, digest_of(&bytes))?;
        manifest::parse_config(&what, &bytes)
    }

    fn install(&self, archive: &mut Archive, path: &str, wanted: &Wanted) -> Result<(), PullError> {
        if self.layers.has(&wanted.diff_id) {
            return Ok(());
        }
        let source = archive.file(path)?;
        layer::install(&self.layers, wanted, source, || ())
    }

    fn ready(
        &self,
        manifest: &Manifest,
        config: &Config,
        digest: Digest,
        names: &[String],
        by_digest: bool,
    ) -> Ready {
        let references: Vec<Reference> = names.iter().filter_map(|n| n.parse().ok()).collect();
        let repo_tags: Vec<String> = references
            .iter()
            .filter(|r| matches!(r.version(), Version::Tag(_)))
            .map(ToString::to_string)
            .collect();
        let repo_digests = match by_digest {
            true => references.iter().map(|r| r.at_digest(digest)).collect(),
            false => Vec::new(),
        };
        let size: u64 = manifest.layers.iter().map(|l| l.size).sum();
        Ready {
            names: references.iter().map(ToString::to_string).collect(),
            new: New {
                blobs: manifest.layers.iter().map(|layer| layer.digest).collect(),
                documents: Documents {
                    manifest: manifest.text.clone(),
                    manifest_type: manifest.kind.clone(),
                    config: config.text.clone(),
                    signatures: Vec::new(),
                    loaded: true,
                },
                image: Image {
                    id: ImageId(manifest.config.digest),
                    repo_tags,
                    repo_digests,
                    manifest: digest,
                    size_bytes: size.saturating_add(manifest.config.size),
                    layers: config.diff_ids.clone(),
                    config: config.image.clone(),
                    created_at_ns: crate::now_ns(),
                    pinned: false,
                },
            },
        }
    }

    /// `docker save` has no manifests: sizes and digests are computed from the files.
    fn read_docker(
        &self,
        archive: &mut Archive,
    ) -> Result<Vec<(Ready, snapshots::LayerPin)>, PullError> {
        let bytes = archive.read("manifest.json", self.limits.max_manifest_bytes)?;
        let saved: Vec<Saved> =
            serde_json::from_slice(&bytes).map_err(|e| bad("manifest.json", e.to_string()))?;
        let mut ready: Vec<(Ready, snapshots::LayerPin)> = Vec::new();
        check_count(saved.len())?;
        for one in saved {
            let text = archive.read(&one.config, self.limits.max_config_bytes)?;
            check_name(&one.config, digest_of(&text))?;
            let config = manifest::parse_config(&one.config, &text)?;
            let pin = self.layers.pin(&config.diff_ids);
            let manifest = Manifest {
                text: String::new(),
                kind: String::new(),
                config: descriptor(digest_of(&text), text.len() as u64, String::new()),
                layers: one
                    .layers
                    .iter()
                    .map(|path| describe(archive, path))
                    .collect::<Result<_, _>>()?,
            };
            for (wanted, path) in self.layers(&manifest, &config)?.iter().zip(&one.layers) {
                self.install(archive, path, wanted)?;
            }
            let id = manifest.config.digest;
            ready.push((
                self.ready(&manifest, &config, id, &one.repo_tags.unwrap_or_default(), false),
                pin,
            ));
        }
        Ok(ready)
    }
}

fn check_count(images: usize) -> Result<(), PullError> {
    if images <= MAX_IMAGES {
        return Ok(());
    }
    let what = "the number of images of the archive".to_owned();
    Err(PullError::LimitExceeded { what, limit: MAX_IMAGES.to_string() })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn descriptor(digest: Digest, size: u64, media_type: String) -> Descriptor {
    Descriptor { media_type, digest, size, platform: None, annotations: None }
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The names of an entry. `ref.name` is often only a tag, which names no image.
fn names_of(entry: &Descriptor) -> Vec<String> {
    let Some(annotations) = &entry.annotations else { return Vec::new() };
    let full = annotations.get("io.containerd.image.name").cloned();
    let short = annotations
        .get("org.opencontainers.image.ref.name")
        .filter(|name| name.contains(['/', ':']))
        .cloned();
    full.or(short).into_iter().collect()
}

/// `docker save` names configurations by their digest.
fn check_name(path: &str, actual: Digest) -> Result<(), PullError> {
    let name = path.rsplit('/').next().unwrap_or_default();
    match format!("sha256:{}", name.trim_end_matches(".json")).parse() {
        Ok(expected) => check_digest(format!("configuration {path}"), expected, actual),
        Err(_) => Ok(()),
    }
}

/// The digest, size and kind of a layer's file.
fn describe(archive: &mut Archive, name: &str) -> Result<Descriptor, PullError> {
    use sha2::Digest as _;
    let mut source = archive.file(name)?;
    let mut head = Vec::new();
    source.by_ref().take(4).read_to_end(&mut head).map_err(failed(name))?;
    let compression = match head.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
        _ => Compression::None,
    };
    let mut hash = sha2::Sha256::new();
    hash.update(&head);
    let mut size = head.len() as u64;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = source.read(&mut buffer).map_err(failed(name))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        size += n as u64;
    }
    let suffix = match compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
    Ok(descriptor(Digest::from_bytes(hash.finalize().into()), size, media_type))
}
