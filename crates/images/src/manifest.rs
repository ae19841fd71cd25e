//! Manifests, indexes and configurations: foreign JSON, read strictly. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use types::{DiffId, Digest, ImageConfig};

use crate::{
    PullError,
    error::one_line,
    options::ImageLimits,
    platform::{Named, Platform},
};

const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const SCHEMA1_TYPES: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
/// What registries say that do not know what they serve.
const VAGUE_TYPES: [&str; 4] =
    ["", "application/json", "application/octet-stream", "binary/octet-stream"];
/// Old versions of Docker pushed configurations as plain bytes.
const CONFIG_TYPES: [&str; 3] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
];

/// What a registry may answer a request for a manifest with.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

/// The most entries of an index: the largest known have a few dozen.
const MAX_INDEX_ENTRIES: usize = 1024;

/// A pointer to bytes (OCI image specification, `descriptor.md`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Named>,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    // `urls` is not read: bytes come from the registry that was asked, and no other.
}

/// A document that is one or the other.
#[derive(Debug)]
pub(crate) enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several, for different platforms.
    Index(Vec<Descriptor>),
}

/// One image's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    /// As it came.
    pub text: String,
    /// Its type.
    pub kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

fn bad(what: &str, reason: impl std::fmt::Display) -> PullError {
    PullError::InvalidImage { what: what.to_owned(), reason: one_line(&reason) }
}

/// Reads a manifest or an index that came with the type `content_type`, which may be
/// empty.
///
/// # Errors
/// Fails on what is neither, or both (CVE-2021-41190), or too large.
pub(crate) fn parse(
    what: &str,
    content_type: &str,
    bytes: &[u8],
    limits: &ImageLimits,
) -> Result<Document, PullError> {
    let announced = bare_type(content_type);
    check_type(what, &announced)?;
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|e| bad(what, format!("not a manifest: {e}")))?;
    let own = raw.media_type.as_deref().map(bare_type).unwrap_or_default();
    if raw.schema_version == 1 || raw.fs_layers.is_some() {
        return Err(schema1(what));
    }
    if raw.schema_version != 2 {
        return Err(bad(what, format!("unknown schema version {}", raw.schema_version)));
    }
    check_type(what, &own)?;
    let is_vague = |t: &str| VAGUE_TYPES.contains(&t);
    if !is_vague(&own) && !is_vague(&announced) && own != announced {
        return Err(bad(what, format!("it came as \"{announced}\" and says it is \"{own}\"")));
    }
    let kind = if is_vague(&announced) { own } else { announced };
    classify(what, &kind, raw, bytes, limits)
}

/// Returns a type without its parameters, in lower case.
fn bare_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn schema1(what: &str) -> PullError {
    bad(what, "the image has the old schema 1, which is not supported: push it anew")
}

fn check_type(what: &str, kind: &str) -> Result<(), PullError> {
    if SCHEMA1_TYPES.contains(&kind) {
        return Err(schema1(what));
    }
    let known = [&INDEX_TYPES[..], &MANIFEST_TYPES[..], &VAGUE_TYPES[..]].concat();
    if known.contains(&kind) {
        return Ok(());
    }
    Err(bad(what, format!("its type is \"{kind}\", which is no image's")))
}

/// The fields must be those of the one kind that the type says, where it says one.
fn classify(
    what: &str,
    kind: &str,
    raw: Raw,
    bytes: &[u8],
    limits: &ImageLimits,
) -> Result<Document, PullError> {
    let limit = |of: &str, found: usize, limit: usize| {
        let what = format!("the number of {of} of {what}");
        if found <= limit {
            return Ok(());
        }
        Err(PullError::LimitExceeded { what, limit: limit.to_string() })
    };
    match (raw.layers, raw.config, raw.manifests) {
        (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            Err(bad(what, "it could be read as a manifest and as an index"))
        }
        (layers, Some(config), None) if !INDEX_TYPES.contains(&kind) => {
            let layers = layers.unwrap_or_default();
            limit("layers", layers.len(), limits.max_layers)?;
            if !CONFIG_TYPES.contains(&config.media_type.as_str()) {
                let kind = &config.media_type;
                return Err(bad(what, format!("it is no image, but a \"{kind}\"")));
            }
            let text = String::from_utf8_lossy(bytes).into_owned();
            let is_vague = VAGUE_TYPES.contains(&kind);
            let kind = if is_vague { MANIFEST_TYPES[0] } else { kind }.to_owned();
            Ok(Document::Manifest(Box::new(Manifest { config, layers, text, kind })))
        }
        (None, None, Some(manifests)) if !MANIFEST_TYPES.contains(&kind) => {
            limit("images", manifests.len(), MAX_INDEX_ENTRIES)?;
            Ok(Document::Index(manifests))
        }
        _ => Err(bad(what, "it is neither a manifest nor an index")),
    }
}

/// Chooses the image of an index that fits this machine best.
///
/// # Errors
/// Fails where none fits, and says what there is.
pub(crate) fn choose<'a>(
    reference: &str,
    index: &'a [Descriptor],
    platform: &Platform,
) -> Result<&'a Descriptor, PullError> {
    let ranked = index.iter().filter(|d| d.is_image()).filter_map(|d| {
        // An entry without a platform is for whoever takes it, but after all others.
        let rank = d.platform.as_ref().map_or(Some(usize::MAX), |named| platform.rank(named))?;
        Some((rank, d))
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, d)| d).ok_or_else(|| {
        let mut offered: Vec<String> =
            index.iter().filter_map(|d| Some(d.platform.as_ref()?.to_string())).collect();
        offered.truncate(20);
        PullError::NoPlatform {
            reference: reference.to_owned(),
            wanted: platform.to_string(),
            offered: if offered.is_empty() {
                "nothing".to_owned()
            } else {
                one_line(&offered.join(", "))
            },
        }
    })
}

impl Descriptor {
    /// Attestations and other artifacts stand in indexes beside the images.
    pub fn is_image(&self) -> bool {
        let kind = bare_type(&self.media_type);
        let is_document =
            INDEX_TYPES.contains(&kind.as_str()) || MANIFEST_TYPES.contains(&kind.as_str());
        let annotations = self.annotations.as_ref();
        is_document && annotations.is_none_or(|a| !a.contains_key("vnd.docker.reference.type"))
    }

    /// How the media type says that the layer is compressed.
    ///
    /// # Errors
    /// Fails on types that are no layer of an image.
    pub(crate) fn compression(&self) -> Result<Compression, PullError> {
        let kind = self.media_type.as_str();
        let is_layer = kind.starts_with("application/vnd.oci.image.layer.")
            || kind.starts_with("application/vnd.docker.image.rootfs.");
        match kind.rsplit_once(['+', '.']).map(|(_, suffix)| suffix) {
            Some("gzip") if is_layer => Ok(Compression::Gzip),
            Some("zstd") if is_layer => Ok(Compression::Zstd),
            Some("tar") if is_layer => Ok(Compression::None),
            _ => Err(bad(
                &format!("layer {}", self.digest),
                format!("unknown media type \"{kind}\""),
            )),
        }
    }
}

/// An image's configuration, as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub image: ImageConfig,
    pub diff_ids: Vec<DiffId>,
    /// For which machine the image is; empty where it does not say.
    pub platform: Named,
    /// As it came.
    pub text: String,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<RawContainer>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<DiffId>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawContainer {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
}

/// Reads an image's configuration.
///
/// # Errors
/// Fails on what is no configuration of a Linux image.
pub(crate) fn parse_config(what: &str, bytes: &[u8]) -> Result<Config, PullError> {
    let raw: RawConfig = serde_json::from_slice(bytes)
        .map_err(|e| bad(what, format!("not a configuration: {e}")))?;
    if !raw.os.is_empty() && raw.os != "linux" {
        return Err(bad(what, format!("the image is for {}", raw.os)));
    }
    let platform = Named {
        os: "linux".to_owned(),
        architecture: raw.architecture.clone(),
        variant: raw.variant.unwrap_or_default(),
    };
    let container = raw.config.unwrap_or_default();
    let image = ImageConfig {
        user: container.user.unwrap_or_default(),
        // An entry without a value must never take the daemon's own (podman CVE-2026-57231).
        env: container
            .env
            .unwrap_or_default()
            .into_iter()
            .filter(|e| e.find('=').is_some_and(|at| at > 0))
            .collect(),
        entrypoint: container.entrypoint.unwrap_or_default(),
        cmd: container.cmd.unwrap_or_default(),
        working_dir: container.working_dir.unwrap_or_default(),
        stop_signal: container.stop_signal.unwrap_or_default(),
        volumes: container.volumes.unwrap_or_default().into_keys().collect(),
        labels: container.labels.unwrap_or_default(),
        os: raw.os,
        architecture: raw.architecture,
    };
    // What is JSON is text.
    let text = String::from_utf8_lossy(bytes).into_owned();
    Ok(Config { image, diff_ids: raw.rootfs.diff_ids.unwrap_or_default(), platform, text })
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
