//! What cAdvisor asks of containerd, asked as cAdvisor does.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::containerd::services::containers::v1::containers_client::ContainersClient;
use cri_proto::containerd::services::containers::v1::{Container, GetContainerRequest};
use cri_proto::containerd::services::tasks::v1::GetRequest;
use cri_proto::containerd::services::tasks::v1::tasks_client::TasksClient;
use cri_proto::containerd::services::version::v1::version_client::VersionClient;
use cri_proto::containerd::v1::types::{Process, Status as TaskStatus};
use cri_proto::v1::{KeyValue, NamespaceMode};
use testing::{Daemon, DaemonOptions, Ground, cgroup};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::case;
use crate::case::{Case, Need};
use crate::catalog::BUSYBOX;
use crate::context::{Context, PATIENCE, Pod, equal, map, namespaces, until};
use crate::runtime::{Control, Kind, Runtime};

/// Where cAdvisor dials.
const DEFAULT_SOCKET: &str = "/run/containerd/containerd.sock";

pub(super) const CASES: &[Case] = &[
    case!("cadvisor.pods_and_containers", pods_and_containers),
    case!("cadvisor.network_figures", network_figures),
    case!("cadvisor.known_as_soon_as_its_cgroup", known_at_once).needs(&[Need::CgroupfsDriver]),
    case!("cadvisor.what_is_not_there", not_there),
    case!("cadvisor.reads_only", reads_only).ours(),
    case!("cadvisor.daemon_is_replaced", replaced).alone().ours(),
    case!("cadvisor.path_of_another", path_of_another).alone().ours(),
    case!("cadvisor.default_path", default_path).alone().ours(),
    case!("cadvisor.turned_off", turned_off).alone().ours(),
];

/// A connection as cAdvisor makes it.
struct Client {
    channel: Channel,
    namespace: &'static str,
}

impl Client {
    async fn dial(socket: PathBuf) -> Result<Self> {
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move {
                tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new)
            }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connector).await?;
        Ok(Self { channel, namespace: "k8s.io" })
    }

    /// To where the runtime answers cAdvisor.
    async fn of(c: &Context) -> Result<Self> {
        let socket = match &*c.runtime.control() {
            Control::Corten(daemon) => daemon.containerd_socket(),
            Control::Containerd(containerd) => containerd.socket(),
        };
        Self::dial(socket).await
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Ok(namespace) = self.namespace.parse() {
            request.metadata_mut().insert("containerd-namespace", namespace);
        }
        request
    }

    async fn version(&self) -> Result<String, Status> {
        let mut client = VersionClient::new(self.channel.clone());
        Ok(client.version(self.request(())).await?.into_inner().version)
    }

    async fn container(&self, id: &str) -> Result<Container, Status> {
        let mut client = ContainersClient::new(self.channel.clone());
        let request = self.request(GetContainerRequest { id: id.to_owned() });
        let answer = client.get(request).await?.into_inner();
        answer.container.ok_or_else(|| Status::internal("no container"))
    }

    async fn task(&self, id: &str) -> Result<Process, Status> {
        let mut client = TasksClient::new(self.channel.clone());
        let request = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
        let answer = client.get(self.request(request)).await?.into_inner();
        answer.process.ok_or_else(|| Status::internal("no process"))
    }
}

/// A pod with the labels that the kubelet gives.
fn labelled(c: &Context) -> Result<cri_proto::v1::PodSandboxConfig> {
    let mut config = c.pod()?;
    let metadata = config.metadata.clone().context("no metadata")?;
    config.labels.extend(map(&[
        ("io.kubernetes.pod.name", metadata.name.as_str()),
        ("io.kubernetes.pod.namespace", metadata.namespace.as_str()),
        ("io.kubernetes.pod.uid", metadata.uid.as_str()),
    ]));
    Ok(config)
}

fn label<'a>(container: &'a Container, key: &str) -> &'a str {
    container.labels.get(key).map_or("", String::as_str)
}

fn spec(container: &Container) -> Result<serde_json::Value> {
    let any = container.spec.as_ref().context("no specification")?;
    equal("its type", &*any.type_url, "types.containerd.io/opencontainers/runtime-spec/1/Spec")?;
    Ok(serde_json::from_slice(&any.value)?)
}

async fn pods_and_containers(c: &Context) -> Result<()> {
    let client = Client::of(c).await?;
    ensure!(!client.version().await?.is_empty(), "no version");
    let pod = c.run_pod(labelled(c)?).await?;
    let mut config = c.waiting();
    config.labels.insert("io.kubernetes.container.name".to_owned(), "web".to_owned());
    config.labels.insert("io.cri-containerd.kind".to_owned(), "sandbox".to_owned());
    config.envs = vec![KeyValue { key: "COLOUR".to_owned(), value: b"a=b".to_vec() }];
    let id = c.create(&pod, &config).await?;
    let created = client.container(&id).await?;
    equal("before its start", code(client.task(&id).await), Some(Code::NotFound))?;
    c.start(&id).await?;

    let sandbox = client.container(&pod.id).await?;
    equal("the sandbox", &*sandbox.id, &*pod.id)?;
    equal("its kind", label(&sandbox, "io.cri-containerd.kind"), "sandbox")?;
    let uid = pod.config.metadata.as_ref().map_or("", |metadata| &*metadata.uid);
    equal("its pod", label(&sandbox, "io.kubernetes.pod.uid"), uid)?;
    let annotations = &spec(&sandbox)?["annotations"];
    let kind = annotations["io.kubernetes.cri.container-type"].as_str();
    equal("its type", kind, Some("sandbox"))?;

    let container = client.container(&id).await?;
    equal("the container", &*container.id, &*id)?;
    equal("its times", &container.created_at, &created.created_at)?;
    ensure!(container.created_at.is_some_and(|time| time.seconds > 0), "no time");
    equal("its kind", label(&container, "io.cri-containerd.kind"), "container")?;
    equal("its name", label(&container, "io.kubernetes.container.name"), "web")?;
    let status = c.status(&id).await?;
    let image = status.image.map(|image| image.image).unwrap_or_default();
    equal("its image", &container.image, &image)?;
    let written = spec(&container)?;
    let annotations = &written["annotations"];
    let kind = annotations["io.kubernetes.cri.container-type"].as_str();
    equal("its type", kind, Some("container"))?;
    let sandbox = annotations["io.kubernetes.cri.sandbox-id"].as_str();
    equal("its sandbox", sandbox, Some(&*pod.id))?;
    let env = written["process"]["env"].as_array().context("no environment")?;
    ensure!(env.contains(&"COLOUR=a=b".into()), "{env:?}");

    let process = client.task(&id).await?;
    equal("its state", process.status(), TaskStatus::Running)?;
    let own = fs::read_link(format!("/proc/{}/ns/mnt", process.pid))?;
    let inside = c.sh(&id, "readlink /proc/1/ns/mnt").await?;
    equal("the process", own.to_string_lossy(), inside)?;
    c.stop(&id, 0).await?;
    if c.runtime.kind == Kind::Corten {
        let ended = client.task(&id).await?;
        equal("ended", (ended.status(), ended.exit_status), (TaskStatus::Stopped, 137))?;
        ensure!(ended.exited_at.is_some() && ended.pid == 0, "{ended:?}");
    }
    c.remove(&id).await?;
    equal("removed", code(client.container(&id).await), Some(Code::NotFound))
}

fn code<T>(result: Result<T, Status>) -> Option<Code> {
    result.err().map(|status| status.code())
}

/// The received bytes of `eth0` as a process' network namespace has them.
fn received(text: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
    let figure = line.and_then(|line| line.split_whitespace().next()).context("no eth0")?;
    Ok(figure.parse()?)
}

/// The sandbox's process counts what the pod's containers receive, in every mode of the PID
/// namespace, and lives in a cgroup named by the sandbox.
async fn network_figures(c: &Context) -> Result<()> {
    let client = Client::of(c).await?;
    for mode in [NamespaceMode::Container, NamespaceMode::Pod, NamespaceMode::Node] {
        let mut config = labelled(c)?;
        namespaces(&mut config)?.pid = mode.into();
        let pod = c.run_pod(config).await?;
        let pid = sandbox_process(&client, &pod).await?;
        let container = c.run(&pod, &c.waiting()).await?;
        let before = received(&fs::read_to_string(format!("/proc/{pid}/net/dev"))?)?;
        // Nobody listens there; what comes back is counted all the same.
        let address = c.address(&pod).await?;
        let target = std::net::SocketAddr::new(address.parse()?, 9);
        let tried = tokio::net::TcpStream::connect(target);
        let _ = tokio::time::timeout(PATIENCE, tried).await;
        until(PATIENCE, "the figures to agree", || async {
            let inside = received(&c.sh(&container, "cat /proc/net/dev").await?)?;
            let outside = received(&fs::read_to_string(format!("/proc/{pid}/net/dev"))?)?;
            Ok((outside > before && inside == outside).then_some(()))
        })
        .await?;
        c.stop(&container, 0).await?;
        equal("later", sandbox_process(&client, &pod).await?, pid)?;
        c.stop_pod(&pod.id).await?;
        equal("stopped", code(client.task(&pod.id).await), Some(Code::NotFound))?;
    }
    Ok(())
}

/// The sandbox's process, which is in the cgroup that has the sandbox's name.
async fn sandbox_process(client: &Client, pod: &Pod) -> Result<u32> {
    let process = client.task(&pod.id).await?;
    equal("its state", process.status(), TaskStatus::Running)?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid))?;
    ensure!(groups.contains(&pod.id), "it is in {groups}");
    Ok(process.pid)
}

/// cAdvisor asks when it sees a cgroup; who is not known then has no labels for ever.
async fn known_at_once(c: &Context) -> Result<()> {
    let client = Client::of(c).await?;
    let hierarchies = cgroup::hierarchies()?;
    let memory = hierarchies.iter().find(|path| path.ends_with("memory")).or(hierarchies.first());
    let memory = memory.context("no hierarchy")?;
    for _ in 0..5 {
        let mut config = labelled(c)?;
        let parent = format!("{}/cadvisor-{}", c.runtime.ground.cgroup(), c.next());
        config.linux.as_mut().context("no settings of Linux")?.cgroup_parent = parent.clone();
        let directory = PathBuf::from(format!("{}{parent}", memory.display()));
        let seen = async {
            let id = until(PATIENCE, "the sandbox's cgroup", || async {
                // Seen as soon as may be: the waiting of other cases is too long.
                let soon = std::time::Instant::now() + Duration::from_millis(50);
                while std::time::Instant::now() < soon {
                    if let Some(id) = first_group(&directory) {
                        return Ok(Some(id));
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(None)
            })
            .await?;
            let container = client.container(&id).await?;
            equal("its kind", label(&container, "io.cri-containerd.kind"), "sandbox")?;
            // Its process comes a little later; cAdvisor asks again.
            let process = until(Duration::from_secs(3), "its process", || async {
                Ok(client.task(&id).await.ok())
            })
            .await?;
            Ok((id, process.pid))
        };
        let (pod, (id, pid)) = tokio::try_join!(c.run_pod(config), seen)?;
        equal("the sandbox", &*id, &*pod.id)?;
        equal("its process", sandbox_process(&client, &pod).await?, pid)?;
    }
    Ok(())
}

/// The first group below a directory whose name is an id.
fn first_group(directory: &Path) -> Option<String> {
    let names = fs::read_dir(directory).ok()?.flatten();
    let mut names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.find(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

async fn not_there(c: &Context) -> Result<()> {
    let mut client = Client::of(c).await?;
    let (pod, id) = c.waiting_container().await?;
    let missing = "0".repeat(64);
    // The CRI knows an object by the beginning of its id; these calls do not.
    for id in [&*missing, "", &id[..12], &pod.id[..12]] {
        equal(id, code(client.task(id).await), Some(Code::NotFound))?;
    }
    for id in [&*missing, &id[..12], &pod.id[..12]] {
        let status = client.container(id).await.err().context("it is there")?;
        equal("the code", status.code(), Code::NotFound)?;
        ensure!(status.message().contains("not found"), "{}", status.message());
    }
    client.namespace = "moby";
    equal("the container", code(client.container(&id).await), Some(Code::NotFound))?;
    equal("the task", code(client.task(&id).await), Some(Code::NotFound))?;
    client.namespace = "";
    equal("no namespace", code(client.container(&id).await), Some(Code::FailedPrecondition))
}

/// Nothing else of containerd's is served; the CRI's socket answers the same.
async fn reads_only(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let other = Client::of(c).await?;
    let main = Client::dial(c.runtime.socket()).await?;
    for client in [&main, &other] {
        equal("the container", client.container(&id).await?, other.container(&id).await?)?;
        equal("the process", client.task(&pod.id).await?, other.task(&pod.id).await?)?;
        for path in [
            "/containerd.services.containers.v1.Containers/List",
            "/containerd.services.containers.v1.Containers/Delete",
            "/containerd.services.tasks.v1.Tasks/Kill",
            "/containerd.services.images.v1.Images/List",
        ] {
            let mut raw = tonic::client::Grpc::new(client.channel.clone());
            raw.ready().await?;
            let path = http::uri::PathAndQuery::from_static(path);
            let codec = tonic_prost::ProstCodec::<GetContainerRequest, ()>::default();
            let request = client.request(GetContainerRequest { id: id.clone() });
            let refused = raw.unary(request, path.clone(), codec).await;
            equal(path.as_str(), code(refused), Some(Code::Unimplemented))?;
        }
    }
    c.sh(&id, "true").await.map(drop)
}

async fn replaced(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let client = Client::of(c).await?;
    let before = (client.task(&pod.id).await?, client.task(&id).await?);
    let path = c.runtime.with_daemon(|daemon| Ok(daemon.containerd_socket()))?;
    equal("its mode", fs::metadata(&path)?.permissions().mode() & 0o777, 0o600)?;

    c.runtime.kill()?;
    ensure!(path.exists(), "a killed daemon took its socket away");
    c.runtime.launch().await?;
    let client = Client::of(c).await?;
    equal("after a kill", (client.task(&pod.id).await?, client.task(&id).await?), before.clone())?;

    c.runtime.end()?;
    ensure!(!path.exists(), "the socket outlives its daemon");
    c.runtime.launch().await?;
    let client = Client::of(c).await?;
    equal("after an end", (client.task(&pod.id).await?, client.task(&id).await?), before.clone())?;

    // Without its process a pod goes on; only the figures of its network are gone.
    let pid = rustix::process::Pid::from_raw(i32::try_from(before.0.pid)?).context("no number")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    until(PATIENCE, "the process' end to be known", || async {
        Ok((code(client.task(&pod.id).await) == Some(Code::NotFound)).then_some(()))
    })
    .await?;
    c.sh(&id, "true").await?;
    let status = c.pod_status(&pod.id).await?;
    equal("the pod", status.state(), cri_proto::v1::PodSandboxState::SandboxReady)
}

/// Another daemon that answers cAdvisor at a path.
async fn at(c: &Context, socket: &Path) -> Result<Context> {
    let program = c.runtime.with_daemon(|daemon| Ok(daemon.command().get_program().to_owned()))?;
    let ground = Arc::new(Ground::new()?);
    let options = DaemonOptions {
        program: program.into(),
        certs_dir: c.runtime.catalog.registry.certs_dir().to_owned(),
        containerd_socket: Some(socket.to_owned()),
        ..DaemonOptions::default()
    };
    let daemon = Daemon::start(&ground, "cadvisor", options)?;
    let catalog = Arc::clone(&c.runtime.catalog);
    let runtime =
        Runtime::connect(Kind::Corten, ground, catalog, Control::Corten(Box::new(daemon))).await?;
    Ok(Context::new(Arc::new(runtime), "cadvisor"))
}

async fn path_of_another(c: &Context) -> Result<()> {
    let directory = c.directory()?.join("made");
    let path = directory.join("containerd.sock");
    // Nobody's: the directory comes and goes with the daemon.
    let other = at(c, &path).await?;
    Client::of(&other).await?.version().await?;
    equal("its mode", fs::metadata(&directory)?.permissions().mode() & 0o777, 0o711)?;
    other.runtime.end()?;
    ensure!(!directory.exists(), "the directory outlives the daemon");

    // Somebody's: it stays theirs.
    fs::create_dir(&directory)?;
    let listener = UnixListener::bind(&path)?;
    let file = fs::metadata(&path)?.ino();
    let other = at(c, &path).await?;
    let log = fs::read_to_string(other.runtime.daemon_log()?)?;
    let lines: Vec<_> = log.lines().filter(|line| line.contains("cAdvisor")).collect();
    ensure!(lines.len() == 1 && lines[0].contains("is in use"), "{lines:?}");
    other.runtime.end()?;
    equal("the file", fs::metadata(&path)?.ino(), file)?;
    UnixStream::connect(&path)?;
    drop(listener);

    // A dead one's: it is replaced, and the directory that was there stays.
    let path = directory.join("dead.sock");
    drop(UnixListener::bind(&path)?);
    let other = at(c, &path).await?;
    Client::of(&other).await?.version().await?;
    other.runtime.end()?;
    ensure!(!path.exists() && directory.exists(), "the wrong thing is left");
    Ok(())
}

/// The path that cAdvisor dials unless it is told another one. Where somebody has it, it must
/// stay theirs.
async fn default_path(c: &Context) -> Result<()> {
    let path = Path::new(DEFAULT_SOCKET);
    let there = path.parent().is_some_and(Path::exists);
    let taken = UnixStream::connect(path).is_ok();
    let other = at(c, path).await?;
    if !taken {
        let version = Client::dial(path.to_owned()).await?.version().await?;
        let status = cri_proto::v1::VersionRequest::default();
        equal("the version", version, other.runtime.pods.version(status).await?.runtime_version)?;
    }
    other.runtime.end()?;
    equal("who listens", UnixStream::connect(path).is_ok(), taken)?;
    equal("the directory", path.parent().is_some_and(Path::exists), there)
}

/// Without the setting a pod has no process of its own.
async fn turned_off(c: &Context) -> Result<()> {
    let other = at(c, Path::new("")).await?;
    other.pull(BUSYBOX).await?;
    let (pod, id) = other.waiting_container().await?;
    let client = Client::dial(other.runtime.socket()).await?;
    equal("the sandbox", code(client.task(&pod.id).await), Some(Code::NotFound))?;
    equal("the container", client.task(&id).await?.status(), TaskStatus::Running)?;
    other.clean_up().await
}
