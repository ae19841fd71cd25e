//! What a case works with: the calls of the CRI in few words.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cri_client::Code;
use cri_proto::v1::{
    Container, ContainerConfig, ContainerFilter, ContainerMetadata, ContainerState,
    ContainerStatus, ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest,
    ExecSyncResponse, Image, ImageSpec, ImageStatusRequest, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxFilter, PodSandboxMetadata, PodSandboxStatus, PodSandboxStatusRequest,
    PullImageRequest, RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
};
use testing::wait::patient;

use crate::catalog::BUSYBOX;
use crate::runtime::Runtime;

/// How long a container may take to do what it was told to.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The label that every sandbox of a case has.
pub const CASE_LABEL: &str = "e2e-case";

/// A case's view of the runtime.
pub struct Context {
    /// The runtime.
    pub runtime: Arc<Runtime>,
    name: &'static str,
    counter: AtomicU32,
}

/// A sandbox that runs.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// What was asked for.
    pub config: PodSandboxConfig,
}

impl Context {
    /// A view for a case.
    #[must_use]
    pub fn new(runtime: Arc<Runtime>, name: &'static str) -> Self {
        Self { runtime, name, counter: AtomicU32::new(0) }
    }

    /// The case's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A number that the case did not have yet.
    pub fn next(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Prints what the case measured, in one line.
    pub fn figure(&self, text: &str) {
        println!("figure {}: {text}", self.name);
    }

    /// A directory for the case on the host.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn directory(&self) -> Result<std::path::PathBuf> {
        // Of the run, not of the case: the second try of one finds nothing of its first.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        self.runtime.ground.make(&format!("cases/{}-{number}", self.name))
    }

    /// What the case may aim at, where it is an attack: see `Canary`.
    #[must_use]
    pub fn canary(&self) -> std::path::PathBuf {
        self.runtime.ground.path().join("canaries").join(self.name)
    }

    /// A sandbox to ask for: private network and IPC, a PID namespace a container.
    ///
    /// # Errors
    /// If its log directory cannot be made.
    pub fn pod(&self) -> Result<PodSandboxConfig> {
        let uid = format!("{}-{}", self.name.replace(['.', '_'], "-"), self.next());
        let logs = format!("logs/pods/{uid}");
        // A case that is tried once more begins to count anew, and finds its first try's logs.
        let _ = std::fs::remove_dir_all(self.runtime.ground.path().join(&logs));
        let logs = self.runtime.ground.make(&logs)?;
        let namespaces =
            NamespaceOption { pid: NamespaceMode::Container.into(), ..NamespaceOption::default() };
        let security = LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces),
            ..LinuxSandboxSecurityContext::default()
        };
        Ok(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: uid.clone(),
                uid,
                namespace: "e2e".to_owned(),
                attempt: 0,
            }),
            log_directory: logs.display().to_string(),
            labels: map(&[(CASE_LABEL, self.name)]),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(security),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        })
    }

    /// Runs a sandbox.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn run_pod(&self, config: PodSandboxConfig) -> Result<Pod> {
        self.run_pod_by("", config).await
    }

    /// Runs a sandbox by a runtime handler.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn run_pod_by(&self, handler: &str, config: PodSandboxConfig) -> Result<Pod> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let id = self.runtime.pods.run_pod_sandbox(request).await?.pod_sandbox_id;
        ensure!(!id.is_empty(), "the sandbox has no id");
        Ok(Pod { id, config })
    }

    /// Runs a sandbox as [`Self::pod`] has it.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn plain_pod(&self) -> Result<Pod> {
        self.run_pod(self.pod()?).await
    }

    /// A container to ask for: a shell script in busybox.
    #[must_use]
    pub fn script(&self, script: &str) -> ContainerConfig {
        self.command(&["sh", "-c", script])
    }

    /// A container that waits.
    #[must_use]
    pub fn waiting(&self) -> ContainerConfig {
        // Not `sleep`, which cases look for; a shell as first process obeys SIGTERM
        // only by a trap.
        self.script("trap 'exit 0' TERM; tail -f /dev/null & wait")
    }

    /// A container to ask for: a command in busybox.
    #[must_use]
    pub fn command(&self, command: &[&str]) -> ContainerConfig {
        let name = format!("container-{}", self.next());
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.clone(), attempt: 0 }),
            image: Some(image_spec(BUSYBOX)),
            command: strings(command),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources::default()),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        pid: NamespaceMode::Container.into(),
                        ..NamespaceOption::default()
                    }),
                    ..LinuxContainerSecurityContext::default()
                }),
            }),
            ..ContainerConfig::default()
        }
    }

    /// Creates a container.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn create(&self, pod: &Pod, config: &ContainerConfig) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config.clone()),
            sandbox_config: Some(pod.config.clone()),
        };
        let id = self.runtime.pods.create_container(request).await?.container_id;
        ensure!(!id.is_empty(), "the container has no id");
        Ok(id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn start(&self, id: &str) -> Result<()> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.runtime.pods.start_container(request).await?;
        Ok(())
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn run(&self, pod: &Pod, config: &ContainerConfig) -> Result<String> {
        let id = self.create(pod, config).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// Runs a waiting container in a sandbox of its own.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn waiting_container(&self) -> Result<(Pod, String)> {
        let pod = self.plain_pod().await?;
        let id = self.run(&pod, &self.waiting()).await?;
        Ok((pod, id))
    }

    /// Runs a container to its end and gives what it wrote to standard output.
    ///
    /// # Errors
    /// As the runtime says, or if the container fails.
    pub async fn output(&self, pod: &Pod, config: &ContainerConfig) -> Result<String> {
        let id = self.run(pod, config).await?;
        let status = self.exited(&id).await?;
        let log = crate::logs::read(pod, config)?;
        ensure!(status.exit_code == 0, "exit code {}: {}", status.exit_code, log.text());
        Ok(log.of("stdout").trim_end().to_owned())
    }

    /// Stops a container.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn stop(&self, id: &str, grace_s: i64) -> Result<()> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: grace_s };
        self.runtime.pods.stop_container(request).await?;
        Ok(())
    }

    /// Removes a container.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        self.runtime.pods.remove_container(request).await?;
        Ok(())
    }

    /// Stops a sandbox.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn stop_pod(&self, id: &str) -> Result<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.pods.stop_pod_sandbox(request).await?;
        Ok(())
    }

    /// Removes a sandbox.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn remove_pod(&self, id: &str) -> Result<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.pods.remove_pod_sandbox(request).await?;
        Ok(())
    }

    /// A container's status.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn status(&self, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime.pods.container_status(request).await?;
        answer.status.context("the container has no status")
    }

    /// A sandbox's status.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn pod_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime.pods.pod_sandbox_status(request).await?;
        answer.status.context("the sandbox has no status")
    }

    /// A sandbox's first address.
    ///
    /// # Errors
    /// As the runtime says, or if it has none.
    pub async fn address(&self, pod: &Pod) -> Result<String> {
        let status = self.pod_status(&pod.id).await?;
        let address = status.network.map(|network| network.ip).unwrap_or_default();
        ensure!(!address.is_empty(), "the sandbox has no address");
        Ok(address)
    }

    /// Waits until a container has ended.
    ///
    /// # Errors
    /// If it does not.
    pub async fn exited(&self, id: &str) -> Result<ContainerStatus> {
        until(PATIENCE, "the container's end", || async {
            let status = self.status(id).await?;
            Ok((status.state() == ContainerState::ContainerExited).then_some(status))
        })
        .await
    }

    /// Runs a command in a container; its time is longer where the machine is slow.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn exec_for(
        &self,
        id: &str,
        command: &[&str],
        timeout_s: i64,
    ) -> Result<ExecSyncResponse> {
        let timeout = match u64::try_from(timeout_s) {
            Ok(seconds) => i64::try_from(patient(Duration::from_secs(seconds)).as_secs())?,
            Err(_) => timeout_s,
        };
        let container_id = id.to_owned();
        let request = ExecSyncRequest { container_id, cmd: strings(command), timeout };
        Ok(self.runtime.pods.exec_sync(request).await?)
    }

    /// Runs a script in a container and gives its output without the last newline.
    ///
    /// # Errors
    /// As the runtime says, or if the script fails.
    pub async fn sh(&self, id: &str, script: &str) -> Result<String> {
        let answer = self.exec_for(id, &["sh", "-c", script], 30).await?;
        let error = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(answer.exit_code == 0, "{script}: exit code {}: {error}", answer.exit_code);
        Ok(String::from_utf8_lossy(&answer.stdout).trim_end().to_owned())
    }

    /// Pulls an image and gives what the runtime calls it.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn pull(&self, name: &str) -> Result<String> {
        let request =
            PullImageRequest { image: Some(image_spec(name)), ..PullImageRequest::default() };
        let limit = patient(Duration::from_secs(120));
        let answer = tokio::time::timeout(limit, self.runtime.images.pull_image(request)).await;
        let reference = answer.context("the pull does not end")??.image_ref;
        ensure!(!reference.is_empty(), "the pulled image has no reference");
        Ok(reference)
    }

    /// What the runtime knows of an image.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn image(&self, name: &str) -> Result<Option<Image>> {
        let request = ImageStatusRequest { image: Some(image_spec(name)), verbose: false };
        Ok(self.runtime.images.image_status(request).await?.image)
    }

    /// The same, where there must be one.
    ///
    /// # Errors
    /// As the runtime says, or if there is none.
    pub async fn present(&self, name: &str) -> Result<Image> {
        self.image(name).await?.with_context(|| format!("there is no image {name}"))
    }

    /// Removes an image.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        let request = RemoveImageRequest { image: Some(image_spec(name)) };
        self.runtime.images.remove_image(request).await?;
        Ok(())
    }

    /// The case's containers that match.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn containers(&self, filter: ContainerFilter) -> Result<Vec<Container>> {
        Ok(self.runtime.pods.containers(Some(filter)).await?)
    }

    /// Stops and removes all sandboxes of the case.
    ///
    /// # Errors
    /// As the runtime says.
    pub async fn clean_up(&self) -> Result<()> {
        let filter = PodSandboxFilter {
            label_selector: map(&[(CASE_LABEL, self.name)]),
            ..PodSandboxFilter::default()
        };
        for pod in self.runtime.pods.pod_sandboxes(Some(filter)).await? {
            self.stop_pod(&pod.id).await?;
            self.remove_pod(&pod.id).await?;
        }
        Ok(())
    }
}

/// Looks at a condition until it gives a value.
///
/// # Errors
/// If it fails, or the time is over.
pub async fn until<T, F: Future<Output = Result<Option<T>>>>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) -> Result<T> {
    let limit = patient(limit);
    let looking = async {
        loop {
            if let Some(value) = condition().await? {
                return Ok(value);
            }
            tokio::time::sleep(testing::wait::interval()).await;
        }
    };
    match tokio::time::timeout(limit, looking).await {
        Ok(result) => result,
        Err(_) => bail!("waited {limit:?} in vain for {what}"),
    }
}

/// Fails unless two values are equal.
///
/// # Errors
/// If they are not.
pub fn equal<T: std::fmt::Debug + PartialEq<U>, U: std::fmt::Debug>(
    what: &str,
    got: T,
    wanted: U,
) -> Result<()> {
    ensure!(got == wanted, "{what} is {got:?} instead of {wanted:?}");
    Ok(())
}

/// The code of an error that must be; `Ok` where there must be none is wrong too.
///
/// # Errors
/// If there is no error, or it is not the runtime's.
pub fn code<T>(result: Result<T>) -> Result<Code> {
    let error = refusal(result)?;
    let known = error.downcast_ref::<cri_client::Error>();
    known.map(cri_client::Error::code).context("the error is not the runtime's")
}

/// The error that must be.
///
/// # Errors
/// If there is none.
pub fn refusal<T>(result: Result<T>) -> Result<anyhow::Error> {
    match result {
        Ok(_) => bail!("it was not refused"),
        Err(error) => Ok(error),
    }
}

/// A map of text.
#[must_use]
pub fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Owned text.
#[must_use]
pub fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// An image by name.
#[must_use]
pub fn image_spec(name: &str) -> ImageSpec {
    ImageSpec { image: name.to_owned(), ..ImageSpec::default() }
}

/// The security context of a container to ask for.
///
/// # Errors
/// If it has none.
pub fn security(config: &mut ContainerConfig) -> Result<&mut LinuxContainerSecurityContext> {
    let linux = config.linux.as_mut().context("the container has no Linux part")?;
    linux.security_context.as_mut().context("the container has no security context")
}

/// The resources of a container to ask for.
///
/// # Errors
/// If it has none.
pub fn resources(config: &mut ContainerConfig) -> Result<&mut LinuxContainerResources> {
    let linux = config.linux.as_mut().context("the container has no Linux part")?;
    linux.resources.as_mut().context("the container has no resources")
}

/// The namespaces of a sandbox to ask for.
///
/// # Errors
/// If it has none.
pub fn namespaces(config: &mut PodSandboxConfig) -> Result<&mut NamespaceOption> {
    let linux = config.linux.as_mut().context("the sandbox has no Linux part")?;
    let security = linux.security_context.as_mut().context("the sandbox has no security")?;
    security.namespace_options.as_mut().context("the sandbox has no namespaces")
}
