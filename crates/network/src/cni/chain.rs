//! ADD, DEL, CHECK, STATUS and GC of a whole chain of plugins.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    NetworkList,
    config::{Plugin, Version},
    exec::{self, Call, find_program},
    result,
};
use crate::{INTERFACE, NetworkError, PluginFailure, namespace};

/// What is the same for all plugins of a chain.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub(crate) container_id: String,
    pub(crate) netns: PathBuf,
    /// CNI_ARGS.
    pub(crate) arguments: Vec<(String, String)>,
    /// Arguments that plugins ask for by their capabilities.
    pub(crate) capabilities: Map<String, Value>,
}

/// A chain and how it is run.
#[derive(Debug)]
pub(crate) struct Chain<'a> {
    pub(crate) list: &'a NetworkList,
    pub(crate) runtime: &'a Runtime,
    pub(crate) bin_dirs: &'a [PathBuf],
    pub(crate) limit: Duration,
}

/// Attachments that are valid, for GC: containers' ids and interfaces.
pub(crate) type Attachments = Vec<(String, String)>;

/// Where plugins look for them: the specification had another name at first.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// A failed ADD, with the result of the last plugin that succeeded.
#[derive(Debug)]
pub(crate) struct ChainFailure {
    pub(crate) error: NetworkError,
    pub(crate) result: Option<Value>,
}

impl Chain<'_> {
    /// Looks whether every program is there.
    pub(crate) fn find_programs(&self, command: &'static str) -> Result<(), NetworkError> {
        find_programs(self.list, self.bin_dirs).map_err(|(plugin, source)| NetworkError::Plugin {
            plugin: plugin.to_owned(),
            network: self.list.name.clone(),
            command,
            source,
        })
    }

    /// Runs ADD plugin by plugin, each with the result of the one before.
    pub(crate) async fn add(&self) -> Result<Value, ChainFailure> {
        self.add_to(None).await
    }

    /// Runs ADD of plugins that follow others, whose result is there.
    pub(crate) async fn add_to(&self, mut previous: Option<Value>) -> Result<Value, ChainFailure> {
        let deadline = Instant::now() + self.limit;
        for plugin in &self.list.plugins {
            let added = self
                .run(plugin, "ADD", previous.as_ref(), deadline)
                .await
                .and_then(|stdout| result::parse(&stdout));
            match added {
                Ok(result) => previous = Some(result),
                Err(failure) => {
                    let error = self.failed(plugin, "ADD", failure);
                    return Err(ChainFailure { error, result: previous });
                }
            }
        }
        Ok(previous.unwrap_or_default())
    }

    /// Runs DEL in the reverse order. A plugin that fails does not keep the others from
    /// cleaning up; the first failure is returned.
    pub(crate) async fn delete(&self, result: Option<&Value>) -> Result<(), NetworkError> {
        let start = Instant::now();
        // Earlier versions know no result at DEL.
        let result = result.filter(|_| self.list.version >= Version::V0_4_0);
        let count = u32::try_from(self.list.plugins.len()).unwrap_or(u32::MAX);
        let mut first = Ok(());
        for (plugin, turn) in self.list.plugins.iter().rev().zip(1..) {
            // One that hangs leaves the others their share of the time.
            let deadline = start + self.limit * turn / count;
            if let Err(failure) = self.run(plugin, "DEL", result, deadline).await {
                let error = self.failed(plugin, "DEL", failure);
                first = first.and(Err(error));
            }
        }
        first
    }

    /// Runs CHECK, where the list's version has it and the list does not forbid it.
    pub(crate) async fn check(&self, result: &Value) -> Result<(), NetworkError> {
        if self.list.version < Version::V0_4_0 || self.list.disable_check {
            return Ok(());
        }
        let deadline = Instant::now() + self.limit;
        for plugin in &self.list.plugins {
            self.run(plugin, "CHECK", Some(result), deadline)
                .await
                .map_err(|failure| self.failed(plugin, "CHECK", failure))?;
        }
        Ok(())
    }

    /// Asks the plugins whether they could serve an ADD (STATUS), where the list's version
    /// has it.
    pub(crate) async fn status(&self) -> Result<(), NetworkError> {
        if self.list.version < Version::V1_1_0 {
            return Ok(());
        }
        let deadline = Instant::now() + self.limit;
        for plugin in &self.list.plugins {
            let conf = self.network_configuration(plugin);
            self.call(plugin, "STATUS", conf, deadline)
                .await
                .map_err(|failure| self.failed(plugin, "STATUS", failure))?;
        }
        Ok(())
    }

    /// Lets the plugins remove what belongs to no valid attachment (GC), where the list's
    /// version has it and the list does not forbid it. A plugin that fails does not keep
    /// the others from cleaning up; the first failure is returned.
    pub(crate) async fn collect_garbage(&self, valid: &Attachments) -> Result<(), NetworkError> {
        if self.list.version < Version::V1_1_0 || self.list.disable_gc {
            return Ok(());
        }
        let deadline = Instant::now() + self.limit;
        let attachments: Vec<Value> = valid
            .iter()
            .map(|(container, interface)| json!({ "containerID": container, "ifname": interface }))
            .collect();
        let mut first = Ok(());
        for plugin in &self.list.plugins {
            let mut conf = self.network_configuration(plugin);
            for key in VALID_ATTACHMENTS {
                conf.insert(key.to_owned(), json!(attachments));
            }
            if let Err(failure) = self.call(plugin, "GC", conf, deadline).await {
                let error = self.failed(plugin, "GC", failure);
                first = first.and(Err(error));
            }
        }
        first
    }

    async fn run(
        &self,
        plugin: &Plugin,
        command: &'static str,
        previous: Option<&Value>,
        deadline: Instant,
    ) -> Result<Vec<u8>, PluginFailure> {
        self.call(plugin, command, self.configuration(plugin, previous), deadline).await
    }

    async fn call(
        &self,
        plugin: &Plugin,
        command: &'static str,
        conf: Map<String, Value>,
        deadline: Instant,
    ) -> Result<Vec<u8>, PluginFailure> {
        let path = find_program(&plugin.kind, self.bin_dirs)?;
        exec::run(Call {
            path: &path,
            environment: self.environment(command),
            stdin: Value::Object(conf).to_string().into_bytes(),
            deadline,
        })
        .await
    }

    fn environment(&self, command: &'static str) -> Vec<(&'static str, String)> {
        let runtime = self.runtime;
        let pairs: Vec<_> =
            runtime.arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let dirs: Vec<_> = self.bin_dirs.iter().map(|dir| dir.to_string_lossy()).collect();
        if matches!(command, "STATUS" | "GC") {
            // They are about the network, not about a container.
            return vec![("CNI_COMMAND", command.to_owned()), ("CNI_PATH", dirs.join(":"))];
        }
        vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", runtime.container_id.clone()),
            ("CNI_NETNS", namespace_argument(command, &runtime.netns)),
            ("CNI_IFNAME", INTERFACE.to_owned()),
            ("CNI_ARGS", pairs.join(";")),
            ("CNI_PATH", dirs.join(":")),
        ]
    }

    /// The plugin's own configuration with the list's name and version.
    fn network_configuration(&self, plugin: &Plugin) -> Map<String, Value> {
        let mut conf = plugin.conf.clone();
        conf.insert("name".to_owned(), json!(self.list.name));
        conf.insert("cniVersion".to_owned(), json!(self.list.version.as_str()));
        conf
    }

    /// The plugin's own configuration with all that the specification adds to it.
    fn configuration(&self, plugin: &Plugin, previous: Option<&Value>) -> Map<String, Value> {
        let mut conf = self.network_configuration(plugin);
        let asked: Map<String, Value> = plugin
            .capabilities
            .iter()
            .filter_map(|name| Some((name.clone(), self.runtime.capabilities.get(name)?.clone())))
            .collect();
        if !asked.is_empty() {
            conf.insert("runtimeConfig".to_owned(), Value::Object(asked));
        }
        if let Some(previous) = previous {
            conf.insert("prevResult".to_owned(), previous.clone());
        }
        conf
    }

    fn failed(
        &self,
        plugin: &Plugin,
        command: &'static str,
        source: PluginFailure,
    ) -> NetworkError {
        NetworkError::Plugin {
            plugin: plugin.kind.clone(),
            network: self.list.name.clone(),
            command,
            source,
        }
    }
}

/// Looks whether every program of a list is there, and returns the type of the first one
/// that is not.
pub(crate) fn find_programs<'a>(
    list: &'a NetworkList,
    dirs: &[PathBuf],
) -> Result<(), (&'a str, PluginFailure)> {
    for plugin in &list.plugins {
        find_program(&plugin.kind, dirs).map_err(|failure| (plugin.kind.as_str(), failure))?;
    }
    Ok(())
}

/// A namespace that is gone must not be named at DEL: plugins then clean up without it.
fn namespace_argument(command: &str, netns: &Path) -> String {
    if command == "DEL" && !namespace::exists(netns) {
        return String::new();
    }
    netns.to_string_lossy().into_owned()
}
