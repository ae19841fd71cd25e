//! Results of ADD in libcni's cache format, which other tools read
//! (`results/<network>-<container>-<interface>`, kind `cniCacheV1`).

use std::path::{Path, PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{NetworkList, Runtime};
use crate::{INTERFACE, NetworkError, files};

/// The cache's directory.
#[derive(Debug)]
pub(crate) struct ResultCache {
    dir: PathBuf,
}

impl ResultCache {
    pub(crate) fn new(cache_dir: &Path) -> Self {
        Self { dir: cache_dir.join("results") }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the result of an ADD.
    pub(crate) fn store(
        &self,
        list: &NetworkList,
        runtime: &Runtime,
        result: &Value,
    ) -> Result<(), NetworkError> {
        let entry = json!({
            "kind": "cniCacheV1",
            "containerId": runtime.container_id,
            "config": BASE64_STANDARD.encode(list.raw.to_string()),
            "ifName": INTERFACE,
            "networkName": list.name,
            "netns": runtime.netns,
            "cniArgs": runtime.arguments,
            "capabilityArgs": runtime.capabilities,
            "result": result,
        });
        let path = self.path(&list.name, &runtime.container_id);
        files::write(&path, entry.to_string().as_bytes(), files::Strength::Process)
    }

    /// Removes the result of a container.
    pub(crate) fn remove(&self, network: &str, container_id: &str) -> Result<(), NetworkError> {
        files::remove(&self.path(network, container_id))
    }

    fn path(&self, network: &str, container_id: &str) -> PathBuf {
        self.dir.join(format!("{network}-{container_id}-{INTERFACE}"))
    }
}
