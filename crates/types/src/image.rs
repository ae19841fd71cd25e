//! What the runtime needs to know of an image.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DiffId, Digest, ImageId};

/// An image as it is stored: unpacked, verified, under all of its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of its configuration.
    pub id: ImageId,
    /// Its names with a tag, normalised: `docker.io/library/busybox:latest`.
    pub repo_tags: Vec<String>,
    /// Its names with the digest of the manifest that was pulled under them.
    pub repo_digests: Vec<String>,
    /// The digest of the manifest that was pulled last.
    pub manifest: Digest,
    /// What the CRI reports as the size: the compressed layers' and the configuration's bytes.
    pub size_bytes: u64,
    /// Its layers, the lowest first.
    pub layers: Vec<DiffId>,
    /// What its configuration asks of a container.
    pub config: ImageConfig,
    /// When it was first stored, in nanoseconds since 1970.
    pub created_at_ns: i64,
    /// Whether it must outlive the kubelet's garbage collection.
    pub pinned: bool,
}

/// The part of an image's configuration that shapes a container (OCI image
/// specification, `config.md`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group`, `uid:gid`, `uid:group`, `user:gid`, or empty.
    pub user: String,
    /// `NAME=value`; entries without `=` are dropped when the image is stored.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments, or the command where there is no entrypoint.
    pub cmd: Vec<String>,
    /// The working directory, or empty.
    pub working_dir: String,
    /// The signal that stops the container, or empty.
    pub stop_signal: String,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
    /// Its labels. They are shown, and never steer the runtime.
    pub labels: BTreeMap<String, String>,
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
}
