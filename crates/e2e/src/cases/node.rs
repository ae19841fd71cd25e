//! Version, Status and RuntimeConfig.

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{CgroupDriver, RuntimeConfigRequest, StatusRequest, VersionRequest};

use crate::case;
use crate::case::{Case, Need};
use crate::context::{Context, equal};

pub(super) const CASES: &[Case] = &[
    case!("node.version_has_all_fields", version),
    case!("node.status_is_ready", status),
    case!("node.verbose_status_has_the_configuration", verbose),
    case!("node.cgroup_driver_is_told", driver)
        .needs(&[Need::CgroupfsDriver])
        .differs("1.6 has no RuntimeConfig"),
    case!("node.handlers_and_features_are_told", features).differs("1.6 has no such fields"),
    case!("node.log_names_request_pod_and_container", log).ours(),
];

async fn version(c: &Context) -> Result<()> {
    let version = c.runtime.pods.version(VersionRequest::default()).await?;
    equal("the version", &version.version, "0.1.0")?;
    equal("the interface's version", &version.runtime_api_version, "v1")?;
    ensure!(!version.runtime_name.is_empty(), "no name");
    ensure!(!version.runtime_version.is_empty(), "no version");
    Ok(())
}

async fn status(c: &Context) -> Result<()> {
    let answer = c.runtime.pods.status(StatusRequest { verbose: false }).await?;
    ensure!(answer.info.is_empty(), "information that was not asked for");
    let conditions = answer.status.context("no status")?.conditions;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        let found = conditions.iter().find(|condition| condition.r#type == wanted);
        let found = found.with_context(|| format!("no condition {wanted}"))?;
        ensure!(found.status, "{wanted} is false: {} {}", found.reason, found.message);
    }
    Ok(())
}

async fn verbose(c: &Context) -> Result<()> {
    let answer = c.runtime.pods.status(StatusRequest { verbose: true }).await?;
    let config = answer.info.get("config").context("no configuration")?;
    let config: serde_json::Value = serde_json::from_str(config)?;
    ensure!(config.is_object(), "the configuration is {config}");
    Ok(())
}

async fn driver(c: &Context) -> Result<()> {
    let answer = c.runtime.pods.runtime_config(RuntimeConfigRequest {}).await?;
    let driver = answer.linux.context("nothing about Linux")?.cgroup_driver();
    equal("the driver", driver, CgroupDriver::Cgroupfs)
}

async fn features(c: &Context) -> Result<()> {
    let answer = c.runtime.pods.status(StatusRequest { verbose: false }).await?;
    ensure!(answer.runtime_handlers.iter().any(|h| h.name.is_empty()), "no default handler");
    ensure!(answer.features.is_some(), "no features");
    Ok(())
}

/// A line says which request it belongs to, and which pod and container it is about.
async fn log(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    c.exec_for(&id, &["/no/such/command"], 10).await.err().context("it was executed")?;
    c.stop(&id, 0).await?;
    c.remove(&id).await?;
    let text = std::fs::read_to_string(c.runtime.daemon_log()?)?;
    let about = |container: &str, rpc: &str| {
        let marks = [container.to_owned(), format!("rpc=\"{rpc}\""), pod.id.clone()];
        let is_it = |line: &&str| marks.iter().all(|mark| line.contains(mark.as_str()));
        let line = text.lines().find(is_it);
        let line = line.with_context(|| format!("no line of {rpc} names {container}"))?;
        ensure!(line.contains("request="), "no request in {line}");
        let metadata = pod.config.metadata.as_ref().context("no metadata")?;
        let name = format!("pod={}/{}", metadata.namespace, metadata.name);
        ensure!(line.contains(&name), "no {name} in {line}");
        Ok(())
    };
    about("", "RunPodSandbox")?;
    for rpc in ["CreateContainer", "StartContainer", "ExecSync", "StopContainer", "RemoveContainer"]
    {
        about(&id, rpc)?;
    }
    Ok(())
}
