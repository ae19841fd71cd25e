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

    /// Removes the results of containers that `wanted` does not want, of all networks.
    pub(crate) fn retain(&self, wanted: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let failed = |source| files::failed("list", &self.dir, source);
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let named = name.strip_suffix(INTERFACE).and_then(|name| name.strip_suffix('-'));
            let id = named.and_then(|name| Some(name.rsplit_once('-')?.1));
            if id.is_some_and(|id| !wanted(id)) {
                files::remove(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, network: &str, container_id: &str) -> PathBuf {
        self.dir.join(format!("{network}-{container_id}-{INTERFACE}"))
    }
}
