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
    Manifest(Manifest),
    /// Several, for different platforms.
    Index(Vec<Descriptor>),
}

/// One image's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
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

/// Reads a manifest or an index.
///
/// # Errors
/// Fails on what is neither, or both (CVE-2021-41190), or too large.
pub(crate) fn parse(what: &str, bytes: &[u8], limits: &ImageLimits) -> Result<Document, PullError> {
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|e| bad(what, format!("not a manifest: {e}")))?;
    if raw.schema_version == 1 || raw.fs_layers.is_some() {
        return Err(bad(
            what,
            "the image has the old schema 1, which is not supported: push it anew",
        ));
    }
    if raw.schema_version != 2 {
        return Err(bad(what, format!("unknown schema version {}", raw.schema_version)));
    }
    let says_index =
        raw.media_type.as_deref().map(|m| m.contains("index") || m.contains("manifest.list"));
    match (raw.layers, raw.config, raw.manifests) {
        (Some(layers), Some(config), None) if says_index != Some(true) => {
            if layers.len() > limits.max_layers {
                return Err(PullError::LimitExceeded {
                    what: format!("the number of layers of {what}"),
                    limit: limits.max_layers.to_string(),
                });
            }
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        (None, None, Some(manifests)) if says_index != Some(false) => {
            if manifests.len() > MAX_INDEX_ENTRIES {
                return Err(PullError::LimitExceeded {
                    what: format!("the number of images in {what}"),
                    limit: MAX_INDEX_ENTRIES.to_string(),
                });
            }
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
    let ranked = index.iter().filter_map(|d| {
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
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
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
    Ok(Config { image, diff_ids: raw.rootfs.diff_ids.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> String {
        Digest::from_bytes([n; 32]).to_string()
    }

    fn read(text: &str) -> Result<Document, PullError> {
        parse("it", text.as_bytes(), &ImageLimits::default())
    }

    #[test]
    fn documents_are_told_apart_and_confusion_is_refused() {
        let d = format!(r#"{{"mediaType":"x","digest":"{}","size":1}}"#, digest(1));
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
            media_type: String::new(),
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
        let index = [
            entry(1, None),
            entry(2, Some(("linux", "arm64"))),
            entry(3, Some(("linux", "amd64"))),
        ];
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
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                Some(Compression::Gzip),
            ),
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
}
