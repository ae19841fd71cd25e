//! A pull: from a name to an image whose layers are all there.

use std::sync::Arc;

use bytes::Bytes;
use snapshots::LayerPin;
use tokio::{sync::Semaphore, task::JoinSet};
use tracing::Instrument as _;
use types::{DiffId, Digest, Image, ImageId};

use crate::{
    Auth, Images, PullError, attachments,
    documents::Documents,
    error::one_line,
    fetch,
    gate::Turn,
    hosts,
    layer::{Wanted, check_digest, digest_of},
    manifest::{self, Config, Descriptor, Document, Manifest},
    policy::Policy,
    progress::Tracker,
    reference::{Reference, Version},
    registry::{Fetched, Registry, Request},
    signature::Signature,
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
        let (policy, hosts) = self.configured(reference).await?;
        let registry =
            Arc::new(Registry::new(self.connections.clone(), reference.clone(), hosts, auth));
        let found = self.resolve(&registry).await?;
        let signatures = self.judge(&policy, &registry, &found).await?;
        let config = self.config(&registry, &found.manifest.config).await?;
        self.check_platform(reference, &found, &config)?;
        let wanted = self.layers(&found.manifest, &config)?;
        progress.expect(wanted.len(), wanted.iter().map(|w| w.descriptor.size).sum());
        let pin = self.layers.pin(&config.diff_ids);
        self.heal(&config.diff_ids).await?;
        self.check_space(reference, &wanted)?;
        self.fetch_layers(&registry, wanted, progress).await?;
        let new = New {
            image: image_of(reference, &found, &config),
            blobs: found.manifest.layers.iter().map(|layer| layer.digest).collect(),
            documents: Documents {
                manifest: found.manifest.text,
                manifest_type: found.manifest.kind,
                config: config.text,
                signatures,
                loaded: false,
            },
        };
        self.add(new, pin).await
    }

    /// Reads what the configuration says of an image: they are small files, and what an
    /// administrator has changed counts from the next pull on.
    async fn configured(
        self: &Arc<Self>,
        reference: &Reference,
    ) -> Result<(Policy, Vec<hosts::Host>), PullError> {
        let (images, reference) = (self.clone(), reference.clone());
        let aborted = reference.to_string();
        let work = move || {
            let policy = Policy::load(&images.options.policy)?;
            let registries = images.read_registries()?;
            let hosts = hosts::for_image(&images.options.certs_dirs, &registries, &reference)?;
            Ok((policy, hosts))
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| PullError::Aborted { reference: aborted })?
    }

    /// Judges an image before anything of it is fetched. Returns its signatures, for the
    /// judgement when a container is made of it.
    async fn judge(
        &self,
        policy: &Policy,
        registry: &Registry,
        found: &Found,
    ) -> Result<Vec<Signature>, PullError> {
        let digests = found.digests();
        let signatures = match policy.wants_signatures(&registry.reference) {
            true => attachments::fetch(registry, &digests, &self.limits).await?,
            false => Vec::new(),
        };
        policy.check(&registry.reference, &digests, &signatures)?;
        Ok(signatures)
    }

    /// Looks at the layers that are there, unless that was done lately, and forgets those
    /// that are damaged: they are fetched anew.
    async fn heal(self: &Arc<Self>, layers: &[DiffId]) -> Result<(), PullError> {
        let (images, layers) = (self.clone(), layers.to_vec());
        let work = move || images.forget_damaged(&layers);
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| PullError::Aborted { reference: "the look at the layers".to_owned() })?
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
        let mut unnamed = false;
        for _ in 0..MAX_DEPTH {
            let (path, wanted) = (format!("manifests/{named}"), expected);
            let what = format!("manifest {named} of {}", reference.repository());
            let request = Request::new(&path, &what, manifest::ACCEPT);
            let limits = &self.options.limits;
            let by_tag = expected.is_none();
            let (digest, document) = registry
                .document(request, limits.max_manifest_bytes, by_tag, |fetched| {
                    let digest = check_document(&what, &fetched.bytes, wanted)?;
                    let Fetched { content_type, bytes } = fetched;
                    Ok((digest, manifest::parse(&what, content_type, bytes, limits)?))
                })
                .await?;
            top.get_or_insert(digest);
            match document {
                Document::Manifest(manifest) => {
                    return Ok(Found { manifest, named: top.unwrap_or(digest), digest, unnamed });
                }
                Document::Index(entries) => {
                    let chosen =
                        manifest::choose(&reference.to_string(), &entries, &self.options.platform)?;
                    unnamed = chosen.platform.is_none();
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
        // One download for all that ask at the same time, and none for what is on disk.
        let _one = self.gate.alone(descriptor.digest).await;
        if let Some(bytes) = self.known_config(descriptor) {
            return manifest::parse_config(&what, &bytes);
        }
        let path = format!("blobs/{}", descriptor.digest);
        let request = Request::new(&path, &what, "*/*");
        let expected = Some((descriptor.digest, Some(descriptor.size)));
        let (config, bytes) = registry
            .document(request, limit, false, |fetched| {
                check_document(&what, &fetched.bytes, expected)?;
                Ok((manifest::parse_config(&what, &fetched.bytes)?, fetched.bytes.clone()))
            })
            .await?;
        self.recent.put(descriptor.digest, bytes);
        Ok(config)
    }

    /// A configuration that is at hand: of an image that is there, of one that is being
    /// pulled, or in another program's store.
    fn known_config(&self, descriptor: &Descriptor) -> Option<Bytes> {
        let of_image = || {
            let documents = self.documents.get(ImageId(descriptor.digest))?;
            let bytes = Bytes::from(documents.config.into_bytes());
            (digest_of(&bytes) == descriptor.digest).then_some(bytes)
        };
        let elsewhere =
            || self.content.read_document(descriptor.digest, descriptor.size).map(Bytes::from);
        self.recent.get(&descriptor.digest).or_else(of_image).or_else(elsewhere)
    }

    /// An index's entry that names no platform is taken on trust, and may then be for
    /// another machine. An image that stands alone was asked for as it is.
    fn check_platform(
        &self,
        reference: &Reference,
        found: &Found,
        config: &Config,
    ) -> Result<(), PullError> {
        let named = &config.platform;
        if named.architecture.is_empty() || self.options.platform.rank(named).is_some() {
            return Ok(());
        }
        if found.unnamed {
            return Err(PullError::NoPlatform {
                reference: reference.to_string(),
                wanted: self.options.platform.to_string(),
                offered: one_line(named),
            });
        }
        tracing::warn!(image = %reference, platform = %one_line(named), "the image is for another machine");
        Ok(())
    }

    /// Fails before the first byte where the disk cannot hold what is to come.
    fn check_space(&self, reference: &Reference, wanted: &[Wanted]) -> Result<(), PullError> {
        let missing = wanted.iter().filter(|layer| !self.layers.has(&layer.diff_id));
        let needed = missing.fold(0_u64, |sum, layer| sum.saturating_add(layer.descriptor.size));
        // What the kernel does not tell is found out by writing.
        let available =
            || self.layers.snapshots().filesystem().map_or(u64::MAX, |disk| disk.available_bytes);
        let mut free = available();
        if needed > free {
            // What other pulls have begun and left makes room first.
            self.content.drop_partials();
            free = available();
        }
        if needed <= free {
            return Ok(());
        }
        Err(PullError::NoSpace {
            what: reference.to_string(),
            reason: format!("its layers have {needed} bytes even when compressed, {free} are free"),
        })
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
                    counters: self.counters.clone(),
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
        let slots = Arc::new(Semaphore::new(self.options.max_parallel_layers.max(1)));
        for layer in wanted {
            let (images, registry, progress) = (self.clone(), registry.clone(), progress.clone());
            let slots = slots.clone();
            let work = async move {
                let turn = Turn::of(slots).await;
                fetch::fetch(&images, &registry, layer, &progress, &turn).await
            };
            running.spawn(work.in_current_span());
        }
        while let Some(ended) = running.join_next().await {
            let aborted = || PullError::Aborted { reference: registry.reference.to_string() };
            ended.map_err(|_| aborted())??;
        }
        Ok(())
    }

    /// Adds an image whose layers are all there, and held until it has its record.
    pub(crate) async fn add(
        self: &Arc<Self>,
        new: New,
        pin: LayerPin,
    ) -> Result<Arc<Image>, PullError> {
        let images = self.clone();
        let id = new.image.id;
        let add = move || {
            let New { image, documents, blobs } = new;
            let added = images
                .documents
                .put(image.id, documents)
                .and_then(|()| images.records.add(image, blobs));
            images.layers.release(pin);
            added
        };
        tokio::task::spawn_blocking(add)
            .await
            .map_err(|_| PullError::Aborted { reference: id.to_string() })?
            .map_err(|e| PullError::store(format!("record image {id}"), &e))
    }
}

/// An image that is to be added.
#[derive(Debug)]
pub(crate) struct New {
    pub image: Image,
    /// What it came with.
    pub documents: Documents,
    /// Its layers as they were stored.
    pub blobs: Vec<Digest>,
}

/// A manifest, and by which digests it was reached.
struct Found {
    manifest: Box<Manifest>,
    /// What the name stands for: the index's digest where there is one.
    named: Digest,
    digest: Digest,
    /// The index does not say for which platform it is.
    unnamed: bool,
}

impl Found {
    /// The manifest's digest, and that of the index that led to it.
    fn digests(&self) -> Vec<Digest> {
        let mut digests = vec![self.digest, self.named];
        digests.dedup();
        digests
    }
}

fn check_document(
    what: &str,
    bytes: &[u8],
    expected: Option<(Digest, Option<u64>)>,
) -> Result<Digest, PullError> {
    let digest = digest_of(bytes);
    let Some((expected, size)) = expected else { return Ok(digest) };
    let actual = bytes.len() as u64;
    if let Some(expected) = size.filter(|size| *size != actual) {
        return Err(PullError::SizeMismatch { what: what.to_owned(), expected, actual });
    }
    check_digest(what.to_owned(), expected, digest)?;
    Ok(digest)
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
