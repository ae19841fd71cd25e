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
    /// The file of containers-registries.conf(5); with drop-ins in `<file>.d`.
    pub registries_conf: PathBuf,
    /// The file of containers-policy.json(5).
    pub policy: PathBuf,
    /// How many layers of one pull are fetched and unpacked at a time.
    pub max_parallel_layers: usize,
    /// How long a pull goes on that nobody waits for.
    pub abandoned_timeout: Duration,
    /// Whether compressed layers are kept.
    pub keep_blobs: bool,
    /// From how many bytes on an interrupted layer is kept for the next pull.
    pub resume_min_bytes: u64,
    /// Content stores of others: directories with `blobs/sha256`.
    pub content_dirs: Vec<PathBuf>,
    /// Disk space that is held back for removals on a full disk.
    pub reserve_bytes: u64,
    /// How long an image that is pulled again is believed to be whole, without a look.
    pub believed_for: Duration,
    /// Names of images that must outlive the kubelet's garbage collection; `*` in them
    /// stands for anything.
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
            registries_conf: "/etc/containers/registries.conf".into(),
            policy: "/etc/containers/policy.json".into(),
            max_parallel_layers: 4,
            abandoned_timeout: Duration::from_secs(600),
            keep_blobs: false,
            resume_min_bytes: 64 << 20,
            content_dirs: Vec::new(),
            reserve_bytes: 16 << 20,
            believed_for: Duration::from_secs(3600),
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
    /// How many threads write a layer's small files beside the one that reads it.
    pub makers: usize,
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
            makers: makers(),
        }
    }
}

/// The processors beside the one that reads, and not more than help: names are made by
/// one thread.
fn makers() -> usize {
    std::thread::available_parallelism().map_or(0, |count| (count.get() - 1).min(3))
}

/// Times and tries on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkOptions {
    /// How long a connection may take to come up, TLS included.
    pub dial_timeout: Duration,
    /// The same for mirrors, after which there is somebody else to ask.
    pub mirror_dial_timeout: Duration,
    /// How long an answer, or its next bytes, may keep us waiting.
    pub progress_timeout: Duration,
    /// How many bytes of a body must come in that time: fewer are as good as none. So
    /// few that the slowest link has them, and a registry that drips is left.
    pub min_progress_bytes: u64,
    /// How long a mirror that is down is not asked again; it doubles each time.
    pub mirror_rest: Duration,
    /// The longest of these pauses.
    pub max_mirror_rest: Duration,
    /// How many downloads run at a time, of all pulls.
    pub max_downloads: usize,
    /// How many of them run at a time from one registry.
    pub max_downloads_per_registry: usize,
    /// From how many bytes on a blob is fetched in ranges.
    pub range_min_bytes: u64,
    /// How many bytes one range has.
    pub range_bytes: u64,
    /// How many ranges of one blob are fetched at a time.
    pub max_ranges: usize,
    /// How many bytes of ranges wait in memory, of all pulls: what came before its turn.
    pub range_memory_bytes: u64,
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
            mirror_dial_timeout: Duration::from_secs(2),
            progress_timeout: Duration::from_secs(60),
            min_progress_bytes: 1024,
            mirror_rest: Duration::from_secs(30),
            max_mirror_rest: Duration::from_secs(600),
            max_downloads: 16,
            max_downloads_per_registry: 8,
            range_min_bytes: 32 << 20,
            range_bytes: 8 << 20,
            max_ranges: 4,
            range_memory_bytes: 64 << 20,
            attempts: 5,
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(20),
        }
    }
}
