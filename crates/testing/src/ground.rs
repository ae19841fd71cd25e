//! The place of one test run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{cgroup, network};

/// Set by people who share the machine with other runs: the audit then looks only
/// at what bears a ground's names.
pub const SHARED: &str = "CORTEN_TEST_SHARED";

/// Set to keep a ground's directory, logs included.
pub const KEEP: &str = "CORTEN_TEST_KEEP";

/// A directory, names and an address range that nothing else uses.
pub struct Ground {
    directory: Option<TempDir>,
    path: PathBuf,
    number: u32,
}

impl Ground {
    /// Makes a ground.
    ///
    /// # Errors
    /// If its directory cannot be made.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Process numbers are unique among runs, the counter within one.
        let number = (process::id() * 4 + NEXT.fetch_add(1, Ordering::Relaxed)) % 65_536;
        let directory = tempfile::Builder::new()
            .prefix("corten-test-")
            .tempdir()
            .context("failed to make the ground's directory")?;
        let path = directory.path().to_owned();
        let directory = if std::env::var_os(KEEP).is_some() {
            eprintln!("kept: {}", directory.keep().display());
            None
        } else {
            Some(directory)
        };
        let ground = Self { directory, path, number };
        for name in ["logs", "pods", "run/netns"] {
            ground.make(name)?;
        }
        Ok(ground)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("failed to make {}", path.display()))?;
        Ok(path)
    }

    /// Where a program of this ground writes its output.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.path.join("logs").join(format!("{name}.log"))
    }

    /// The name of the pods' bridge.
    #[must_use]
    pub fn bridge(&self) -> String {
        format!("cortent{:x}", self.number)
    }

    /// The pods' addresses: a /24 of 198.18.0.0/15, the range for tests of networks
    /// (RFC 2544), so that no real network is shadowed.
    #[must_use]
    pub fn subnet(&self) -> String {
        format!("{}0/24", self.subnet_prefix())
    }

    /// What the pods' addresses begin with.
    #[must_use]
    pub fn subnet_prefix(&self) -> String {
        let number = self.number % 512;
        format!("198.{}.{}.", 18 + number / 256, number % 256)
    }

    /// The cgroup under which this ground's pods are, in all hierarchies.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("/corten-test-{}", self.number)
    }

    /// The slice of systemd's under which this ground's pods are, where it makes cgroups.
    #[must_use]
    pub fn slice(&self) -> String {
        format!("cortentest{}.slice", self.number)
    }

    /// Whether the audit may take the whole machine as ours.
    #[must_use]
    pub fn exclusive(&self) -> bool {
        std::env::var_os(SHARED).is_none()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // A failed test leaves mounts; nothing below a mount may be removed by path.
        cgroup::remove_tree(&self.cgroup());
        network::remove_links(&self.bridge());
        network::remove_table(&self.bridge());
        let unmounted = crate::audit::unmount_below(&self.path);
        if let (Err(error), Some(directory)) = (unmounted, self.directory.take()) {
            eprintln!("kept {}: {error:#}", directory.keep().display());
        }
    }
}
