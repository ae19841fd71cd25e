//! How the image service is set up.

use std::{path::PathBuf, time::Duration};

use crate::platform::Platform;

/// How the image service is set up.
#[derive(Debug, Clone)]
pub struct ImagesOptions {
    /// Where the records lie; made where it is missing. The layers lie in the
    /// snapshot store.
    pub root: PathBuf,
    /// Directories with `<host[:port]>/hosts.toml`; the first that knows a host wins.
    pub certs_dirs: Vec<PathBuf>,
    /// How many layers of one pull are fetched and unpacked at a time.
    pub max_parallel_layers: usize,
    /// Names of images that must outlive the kubelet's garbage collection.
    pub pinned: Vec<String>,
    /// For which platform images are chosen.
    pub platform: Platform,
    /// What one image may cost.
    pub limits: ImageLimits,
    /// Times and tries on the network.
    pub network: NetworkOptions,
}

impl ImagesOptions {
    /// Returns the defaults for a store below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            certs_dirs: vec!["/etc/corten/certs.d".into(), "/etc/containerd/certs.d".into()],
            max_parallel_layers: 4,
            pinned: Vec::new(),
            platform: Platform::host(),
            limits: ImageLimits::default(),
            network: NetworkOptions::default(),
        }
    }
}

/// What one image may cost. The defaults admit every image that is known to be in
/// use, with room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of a manifest or index; registries themselves take no more than 4 MiB.
    pub max_manifest_bytes: u64,
    /// Bytes of an image's configuration; 8 MiB is what other runtimes take.
    pub max_config_bytes: u64,
    /// Layers of an image; overlayfs stacks 500 and no builder makes more than 127.
    pub max_layers: usize,
    /// Bytes of one layer as it is fetched. Layers with models in them reach 30 GiB.
    pub max_layer_bytes: u64,
    /// Up to how many bytes a layer may unpack to, whatever it is made from.
    pub expansion_free_bytes: u64,
    /// How many times its fetched size a layer may unpack to beyond that: real
    /// layers stay below 30, bombs are at 1000.
    pub max_expansion: u64,
    /// What one unpacked layer may hold.
    pub layer: layers::Limits,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            max_manifest_bytes: 4 << 20,
            max_config_bytes: 8 << 20,
            max_layers: 500,
            max_layer_bytes: 64 << 30,
            expansion_free_bytes: 1 << 30,
            max_expansion: 200,
            layer: layers::Limits::default(),
        }
    }
}

/// Times and tries on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkOptions {
    /// How long a connection may take to come up, TLS included.
    pub dial_timeout: Duration,
    /// How long an answer, or its next bytes, may keep us waiting.
    pub progress_timeout: Duration,
    /// How often a request is tried in all, where trying again can help.
    pub attempts: u32,
    /// The pause before the second try; it doubles with each.
    pub backoff: Duration,
    /// The longest pause, also where a registry asks for a longer one.
    pub max_backoff: Duration,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            dial_timeout: Duration::from_secs(30),
            progress_timeout: Duration::from_secs(60),
            attempts: 5,
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(20),
        }
    }
}
