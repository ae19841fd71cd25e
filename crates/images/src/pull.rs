//! A pull: from a name to an image whose layers are all there.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;
use types::{Digest, Image, ImageId};

use crate::{
    Auth, Images, PullError,
    client::Registry,
    hosts,
    layer::{self, Wanted, check_digest, digest_of},
    manifest::{self, Config, Descriptor, Document, Manifest},
    progress::Tracker,
    reference::{Reference, Version},
};

/// How many documents lie between a name and a manifest at most: an index in an index
/// is already rare, and a chain is an attack.
const MAX_DEPTH: usize = 3;

impl Images {
    /// Fetches everything of an image and adds it.
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        reference: &Reference,
        auth: Option<Auth>,
        progress: &Arc<Tracker>,
    ) -> Result<Arc<Image>, PullError> {
        let dirs = self.options.certs_dirs.clone();
        let domain = reference.domain().to_owned();
        let hosts = tokio::task::spawn_blocking(move || hosts::for_domain(&dirs, &domain))
            .await
            .map_err(|_| PullError::Aborted { reference: reference.to_string() })??;
        let registry =
            Arc::new(Registry::new(self.connections.clone(), reference.clone(), hosts, auth));
        let found = self.resolve(&registry).await?;
        let config = self.config(&registry, &found.manifest.config).await?;
        let wanted = self.layers(&found.manifest, &config)?;
        progress.expect(wanted.len(), wanted.iter().map(|w| w.descriptor.size).sum());
        let pin = self.snapshots.pin(&config.diff_ids);
        self.fetch_layers(&registry, wanted, progress).await?;
        let added = self.add(image_of(reference, &found, &config)).await;
        drop(pin);
        added
    }

    /// Follows the name to a manifest, through indexes.
    async fn resolve(&self, registry: &Registry) -> Result<Found, PullError> {
        let reference = &registry.reference;
        let mut named = match reference.version() {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
        };
        let mut expected = match reference.version() {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some((*digest, None)),
        };
        let mut top = None;
        for _ in 0..MAX_DEPTH {
            let what = format!("manifest {named} of {}", reference.repository());
            let limit =
                usize::try_from(self.options.limits.max_manifest_bytes).unwrap_or(usize::MAX);
            let wanted = expected;
            let bytes = registry
                .document(
                    &format!("manifests/{named}"),
                    &what,
                    manifest::ACCEPT,
                    limit,
                    expected.is_none(),
                    |bytes| check_document(&what, bytes, wanted),
                )
                .await?;
            let digest = digest_of(&bytes);
            top.get_or_insert(digest);
            match manifest::parse(&what, &bytes, &self.options.limits)? {
                Document::Manifest(manifest) => {
                    return Ok(Found { manifest, named: top.unwrap_or(digest), digest });
                }
                Document::Index(entries) => {
                    let chosen =
                        manifest::choose(&reference.to_string(), &entries, &self.options.platform)?;
                    named = chosen.digest.to_string();
                    expected = Some((chosen.digest, Some(chosen.size)));
                }
            }
        }
        Err(PullError::LimitExceeded {
            what: format!("the depth of the indexes of {reference}"),
            limit: MAX_DEPTH.to_string(),
        })
    }

    async fn config(
        &self,
        registry: &Registry,
        descriptor: &Descriptor,
    ) -> Result<Config, PullError> {
        let what = format!("configuration {}", descriptor.digest);
        let limit = self.options.limits.max_config_bytes;
        if descriptor.size > limit {
            return Err(PullError::LimitExceeded { what, limit: format!("{limit} bytes") });
        }
        let path = format!("blobs/{}", descriptor.digest);
        let expected = Some((descriptor.digest, Some(descriptor.size)));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let bytes = registry
            .document(&path, &what, "*/*", limit, false, |bytes| {
                check_document(&what, bytes, expected)
            })
            .await?;
        manifest::parse_config(&what, &bytes)
    }

    /// Pairs layers with their diff IDs.
    pub(crate) fn layers(
        &self,
        manifest: &Manifest,
        config: &Config,
    ) -> Result<Vec<Wanted>, PullError> {
        if manifest.layers.len() != config.diff_ids.len() {
            return Err(PullError::InvalidImage {
                what: format!("configuration {}", manifest.config.digest),
                reason: format!(
                    "it has {} diff IDs for {} layers",
                    config.diff_ids.len(),
                    manifest.layers.len()
                ),
            });
        }
        let pairs = manifest.layers.iter().zip(&config.diff_ids);
        pairs
            .map(|(descriptor, diff_id)| {
                let limit = self.options.limits.max_layer_bytes;
                if descriptor.size > limit {
                    return Err(PullError::LimitExceeded {
                        what: format!("layer {}", descriptor.digest),
                        limit: format!("{limit} bytes"),
                    });
                }
                Ok(Wanted {
                    compression: descriptor.compression()?,
                    descriptor: descriptor.clone(),
                    diff_id: *diff_id,
                    limits: self.limits.clone(),
                })
            })
            .collect()
    }

    /// Fetches layers, a few at a time; the first that fails ends the others.
    async fn fetch_layers(
        self: &Arc<Self>,
        registry: &Arc<Registry>,
        wanted: Vec<Wanted>,
        progress: &Arc<Tracker>,
    ) -> Result<(), PullError> {
        let mut running = JoinSet::new();
        let mut waiting = wanted.into_iter();
        loop {
            while running.len() < self.options.max_parallel_layers {
                let Some(layer) = waiting.next() else { break };
                let (images, registry, progress) =
                    (self.clone(), registry.clone(), progress.clone());
                let timeout = self.connections.options().progress_timeout;
                running.spawn(async move {
                    layer::fetch(&registry, &images.snapshots, layer, &progress, timeout).await
                });
            }
            match running.join_next().await {
                None => return Ok(()),
                Some(Ok(result)) => result?,
                Some(Err(_)) => {
                    return Err(PullError::Aborted { reference: registry.reference.to_string() });
                }
            }
        }
    }

    /// Adds an image whose layers are all there.
    pub(crate) async fn add(self: &Arc<Self>, image: Image) -> Result<Arc<Image>, PullError> {
        let images = self.clone();
        let id = image.id;
        tokio::task::spawn_blocking(move || images.records.add(image))
            .await
            .map_err(|_| PullError::Aborted { reference: id.to_string() })?
            .map_err(|e| PullError::store(format!("record image {id}"), &e))
    }
}

/// A manifest, and by which digests it was reached.
struct Found {
    manifest: Manifest,
    /// What the name stands for: the index's digest where there is one.
    named: Digest,
    digest: Digest,
}

fn check_document(
    what: &str,
    bytes: Bytes,
    expected: Option<(Digest, Option<u64>)>,
) -> Result<Bytes, PullError> {
    let Some((digest, size)) = expected else { return Ok(bytes) };
    let actual = bytes.len() as u64;
    if let Some(expected) = size.filter(|size| *size != actual) {
        return Err(PullError::SizeMismatch { what: what.to_owned(), expected, actual });
    }
    check_digest(what.to_owned(), digest, digest_of(&bytes))?;
    Ok(bytes)
}

fn image_of(reference: &Reference, found: &Found, config: &Config) -> Image {
    let tag = match reference.version() {
        Version::Tag(_) => vec![reference.to_string()],
        Version::Digest(_) => Vec::new(),
    };
    let compressed: u64 = found.manifest.layers.iter().map(|l| l.size).sum();
    Image {
        id: ImageId(found.manifest.config.digest),
        repo_tags: tag,
        repo_digests: vec![reference.at_digest(found.named)],
        manifest: found.digest,
        size_bytes: compressed.saturating_add(found.manifest.config.size),
        layers: config.diff_ids.clone(),
        config: config.image.clone(),
        created_at_ns: crate::now_ns(),
        pinned: false,
    }
}
