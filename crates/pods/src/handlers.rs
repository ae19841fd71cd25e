//! Runtime handlers: what a RuntimeClass names.
//!
//! The native handler starts containers itself. Any other one is a program with runc's command
//! line, configured by name, behind the same monitor. What such a program can do it says itself
//! (`features`), asked once at start; one that does not say gets nothing beyond the ordinary.
//! Owners are mapped for it, by the monitor: no program needs to know how.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use cgroups::Driver;
use monitor_client::Program;
use serde_json::Value;
use tracing::{info, warn};
use types::{Mount, NamespaceOptions, PidMode, Propagation, SandboxConfig};

use crate::{
    DEFAULT_HANDLER,
    error::{Error, Result},
    service::{Inner, Pods},
};

/// How long a program has to say what it can do.
const FEATURES_LIMIT: Duration = Duration::from_secs(5);
/// The longest description of what a program can do.
const MAX_FEATURES_BYTES: usize = 1 << 20;

/// A handler that runs a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// The program, absolute.
    pub program: PathBuf,
    /// Options before each command.
    pub options: Vec<String>,
    /// Which annotations of pods and containers the program sees: names, or beginnings of
    /// names that end in `*`.
    pub annotations: Vec<String>,
    /// How long the program may take.
    pub timeout: Duration,
    /// What it can do.
    pub features: HandlerFeatures,
}

/// What a handler can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandlerFeatures {
    /// Mounts that are read-only with all that is below them.
    pub recursive_read_only: bool,
    /// User namespaces, where the machine has them.
    pub user_namespaces: bool,
}

/// Has a program of runc's command line ask systemd for its cgroups.
const SYSTEMD_OPTION: &str = "--systemd-cgroup";

impl Handler {
    /// Describes a handler, and asks its program what it can do. A program that is not there
    /// (yet), or does not answer, is logged.
    pub async fn ask(
        name: &str,
        program: PathBuf,
        options: Vec<String>,
        annotations: Vec<String>,
        timeout: Duration,
    ) -> Self {
        let features = match features(&program).await {
            Ok(features) => {
                info!(handler = name, program = %program.display(), ?features, "runtime handler");
                features
            }
            Err(why) => {
                warn!(handler = name, program = %program.display(), "the program does not say what it can do: {why}");
                HandlerFeatures::default()
            }
        };
        Self { program, options, annotations, timeout, features }
    }

    /// What the monitor is to run; the program keeps what it knows below `root`.
    pub(crate) fn program(&self, root: &Path, driver: Driver) -> Program {
        let mut options = self.options.clone();
        // Then it makes the scope by itself.
        if driver == Driver::Systemd && !options.iter().any(|o| o == SYSTEMD_OPTION) {
            options.push(SYSTEMD_OPTION.to_owned());
        }
        options.extend(["--root".to_owned(), root.display().to_string()]);
        let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        Program { path: self.program.clone(), options, timeout_ms }
    }

    /// The annotations that the program may see.
    pub(crate) fn seen<'a>(
        &self,
        all: impl Iterator<Item = (&'a String, &'a String)>,
    ) -> BTreeMap<String, String> {
        let allowed = |name: &str| {
            self.annotations.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == pattern,
            })
        };
        all.filter(|(name, _)| allowed(name)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// Fails where the program cannot be run.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        let runnable = std::fs::metadata(&self.program)
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        if runnable {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "the program of runtime handler \"{name}\", {}, is not there or not executable",
            self.program.display()
        )))
    }
}

/// Asks a program for its features (OCI runtime specification, `features.md`).
async fn features(program: &Path) -> std::result::Result<HandlerFeatures, String> {
    let mut command = tokio::process::Command::new(program);
    command
        .arg("features")
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(FEATURES_LIMIT, command.output())
        .await
        .map_err(|_| format!("it did not answer within {} s", FEATURES_LIMIT.as_secs()))?
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("`features` failed: {}", output.status));
    }
    if output.stdout.len() > MAX_FEATURES_BYTES {
        return Err("its answer is too long".to_owned());
    }
    let value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    Ok(read_features(&value))
}

fn read_features(value: &Value) -> HandlerFeatures {
    let holds = |pointer: &str, wanted: &str| {
        let list = value.pointer(pointer).and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|entry| entry == wanted))
    };
    HandlerFeatures {
        recursive_read_only: holds("/mountOptions", "rro") && crate::supports_recursive_read_only(),
        user_namespaces: holds("/linux/namespaces", "user"),
    }
}

/// Refuses what a program cannot do where owners are mapped for it. It sees copies of the host's
/// mounts then, from which nothing spreads back; and a PID namespace that its container is to
/// join, or to see by a procfs, must belong to the container's user namespace.
pub(crate) fn check_mapped(
    name: &str,
    mounts: &[Mount],
    namespaces: &NamespaceOptions,
) -> Result<()> {
    let refused = |what: String| {
        Err(Error::Invalid(format!("runtime handler \"{name}\" does not support {what}")))
    };
    let mapped = mounts.iter().find(|mount| !mount.uid_mappings.is_empty());
    let spreads = |mount: &&Mount| mount.propagation == Propagation::Bidirectional;
    if let (Some(mapped), Some(spreading)) = (mapped, mounts.iter().find(spreads)) {
        return refused(format!(
            "mapped owners (of the mount on {}) beside bidirectional propagation (of the mount on {})",
            mapped.container_path, spreading.container_path
        ));
    }
    let shares = match namespaces.pid {
        PidMode::Pod => "the pod's",
        PidMode::Node => "the node's",
        PidMode::Container | PidMode::Target(_) => return Ok(()),
    };
    match namespaces.user {
        Some(_) => refused(format!("{shares} PID namespace in a user namespace")),
        None => Ok(()),
    }
}

impl Inner {
    /// The handler that runs a program for a sandbox, or `None` for the native one.
    pub(crate) fn handler(&self, config: &SandboxConfig) -> Result<Option<&Handler>> {
        let name = &config.runtime_handler;
        if name.is_empty() || name == DEFAULT_HANDLER {
            return Ok(None);
        }
        let known = self.options.handlers.get(name);
        known.map(Some).ok_or_else(|| Error::NoHandler(name.clone()))
    }
}

impl Pods {
    /// The handlers with a program, by name, and what they can do.
    pub fn handlers(&self) -> Vec<(String, HandlerFeatures)> {
        let all = self.inner.options.handlers.iter();
        all.map(|(name, handler)| (name.clone(), handler.features)).collect()
    }
}

#[cfg(test)]
mod tests {
    use types::{IdMapping, UserNamespace};

    use super::*;

    fn handler(annotations: &[&str]) -> Handler {
        Handler {
            program: "/usr/bin/runc".into(),
            options: vec!["--systemd-cgroup".to_owned()],
            annotations: annotations.iter().map(|a| (*a).to_owned()).collect(),
            timeout: Duration::from_secs(30),
            features: HandlerFeatures::default(),
        }
    }

    #[test]
    fn a_program_sees_the_annotations_that_are_allowed() {
        let all: BTreeMap<String, String> =
            ["run.oci.a", "run.oci.b", "exact", "exactly", "org.systemd.property.X"]
                .map(|name| (name.to_owned(), "1".to_owned()))
                .into();
        let seen =
            |patterns: &[&str]| handler(patterns).seen(all.iter()).into_keys().collect::<Vec<_>>();
        assert!(seen(&[]).is_empty());
        assert_eq!(seen(&["run.oci.*", "exact"]), ["exact", "run.oci.a", "run.oci.b"]);
    }

    #[test]
    fn features_are_read_as_the_specification_has_them() {
        let rro = serde_json::json!({ "ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"] });
        assert_eq!(read_features(&rro).recursive_read_only, crate::supports_recursive_read_only());
        let users = serde_json::json!({ "linux": { "namespaces": ["ipc", "user"] } });
        assert!(read_features(&users).user_namespaces);
        assert_eq!(read_features(&serde_json::json!({})), HandlerFeatures::default());
        assert_eq!(read_features(&serde_json::json!([])), HandlerFeatures::default());
    }

    #[test]
    fn what_a_program_cannot_do_beside_mapped_owners_is_refused() {
        let ids = vec![IdMapping { host_id: 1000, container_id: 0, length: 10 }];
        let user = UserNamespace { uids: ids.clone(), gids: ids.clone() };
        let of = |pid: PidMode, user: Option<UserNamespace>, mounts: Vec<Mount>| {
            let namespaces = NamespaceOptions { pid, user, ..NamespaceOptions::default() };
            check_mapped("runc", &mounts, &namespaces).map_err(|error| error.to_string())
        };
        let mapped = Mount { uid_mappings: ids, ..Mount::default() };
        let spreads = Mount { propagation: Propagation::Bidirectional, ..Mount::default() };
        of(PidMode::Pod, None, vec![mapped.clone()]).unwrap();
        of(PidMode::Node, None, vec![spreads.clone()]).unwrap();
        of(PidMode::Container, Some(user.clone()), vec![mapped.clone()]).unwrap();
        let error = of(PidMode::Pod, None, vec![mapped, spreads]).unwrap_err();
        assert!(error.contains("\"runc\" does not support mapped owners"), "{error}");
        for pid in [PidMode::Pod, PidMode::Node] {
            let error = of(pid, Some(user.clone()), vec![]).unwrap_err();
            assert!(error.contains("PID namespace in a user namespace"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_program_that_says_nothing_gets_nothing() {
        for program in ["/bin/true", "/bin/false", "/no/such/program"] {
            let asked = Handler::ask("x", program.into(), vec![], vec![], FEATURES_LIMIT).await;
            assert_eq!(asked.features, HandlerFeatures::default());
        }
        assert!(
            handler(&[])
                .program("/r".as_ref(), Driver::Cgroupfs)
                .options
                .ends_with(&["--root".to_owned(), "/r".to_owned()])
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let gone = Handler { program: "/no/such/runc".into(), ..handler(&[]) };
        let error = gone.check("kata").unwrap_err().to_string();
        assert!(error.contains("kata") && error.contains("/no/such/runc"), "{error}");
    }
}
