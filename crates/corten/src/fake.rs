//! A CRI server in this process, with two pods, two containers and three images.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use cri_client::{Options, Timeouts};
use cri_proto::corten_v1::image_admin_server::{ImageAdmin, ImageAdminServer};
use cri_proto::corten_v1::{
    CheckRequest, CheckResponse, Finding, LoadRequest, LoadResponse, SaveRequest, SaveResponse,
};
use cri_proto::v1::image_service_server::{ImageService, ImageServiceServer};
use cri_proto::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use cri_proto::v1::*;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::cli::Cli;
use crate::output::Output;
use crate::session::Session;
use crate::settings::Settings;

type Answer<T> = Result<Response<T>, Status>;

/// What the clock of a test shows: 2023-11-14T22:13:20Z.
pub const NOW: i64 = 1_700_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

/// The ids of the pods and containers.
pub const POD_1: &str = "1111111111111111aaaaaaaaaaaaaaaa1111111111111111aaaaaaaaaaaaaaaa";
pub const POD_2: &str = "2222222222222222aaaaaaaaaaaaaaaa2222222222222222aaaaaaaaaaaaaaaa";
pub const CONTAINER_1: &str = "3333333333333333aaaaaaaaaaaaaaaa3333333333333333aaaaaaaaaaaaaaaa";
pub const CONTAINER_2: &str = "4444444444444444aaaaaaaaaaaaaaaa4444444444444444aaaaaaaaaaaaaaaa";
pub const IMAGE_1: &str = "sha256:5555555555555555aaaaaaaaaaaaaaaa5555555555555555aaaaaaaaaaaaaaaa";

/// The server; clones share what they noted.
#[derive(Clone, Default)]
pub struct Fake {
    /// The calls that change something, in order, as `Call argument`.
    pub calls: Arc<Mutex<Vec<String>>>,
    /// What CreateContainer was given.
    pub created: Arc<Mutex<Option<CreateContainerRequest>>>,
    /// What PullImage was given.
    pub pulled: Arc<Mutex<Vec<PullImageRequest>>>,
    pub log_path: Arc<Mutex<String>>,
}

/// What a command gave.
pub struct Ran {
    pub result: anyhow::Result<()>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// The output of a command that succeeded without a word on standard error.
    pub fn clean(self) -> String {
        if let Err(error) = self.result {
            panic!("the command failed: {error:#}\n{}", self.err);
        }
        assert_eq!(self.err, "");
        self.out
    }

    pub fn error(self) -> String {
        format!("{:#}", self.result.expect_err("the command succeeded"))
    }
}

/// A server and the directory that its socket is in.
pub struct Served {
    pub fake: Fake,
    pub dir: tempfile::TempDir,
    socket: PathBuf,
}

impl Served {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("s");
        let fake = Fake::default();
        let listener = UnixListener::bind(&socket).expect("bind");
        let (runtime, image, admin) = (fake.clone(), fake.clone(), fake.clone());
        // It ends with the test's async runtime.
        tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(RuntimeServiceServer::new(runtime))
                .add_service(ImageServiceServer::new(image))
                .add_service(ImageAdminServer::new(admin))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
        });
        Self { fake, dir, socket }
    }

    /// Writes a file beside the socket.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.calls.lock().expect("calls"))
    }

    /// Runs a command line, without the program's name.
    pub async fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, |_| {}).await
    }

    pub async fn run_with(&self, args: &[&str], change: impl FnOnce(&mut Settings)) -> Ran {
        let mut settings = settings(&self.socket);
        change(&mut settings);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let result = match Cli::try_parse_from([&["corten"], args].concat()) {
            Ok(cli) => {
                let session = Session::with_clock(settings, || NOW);
                let mut output = Output::new(&mut out, &mut err);
                crate::commands::dispatch(cli.command, &session, &mut output).await
            }
            Err(error) => Err(error.into()),
        };
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ran { result, out: text(out), err: text(err) }
    }
}

fn settings(socket: &Path) -> Settings {
    let endpoint = cri_client::Endpoint::try_from(socket).expect("an endpoint");
    let timeouts = Timeouts::all(std::time::Duration::from_secs(60));
    Settings {
        runtime_endpoint: endpoint.clone(),
        image_endpoint: endpoint,
        options: Options { timeouts, ..Options::default() },
        debug: false,
        pull_on_create: false,
        no_pull_on_run: false,
        warnings: Vec::new(),
    }
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn pods() -> Vec<PodSandbox> {
    let pod = |id: &str, name: &str, age, state: PodSandboxState, handler: &str| PodSandbox {
        id: id.into(),
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 1,
        }),
        state: state.into(),
        created_at: NOW - age * SECOND,
        labels: map(&[("app", name), ("tier", "front")]),
        annotations: HashMap::new(),
        runtime_handler: handler.into(),
    };
    vec![
        pod(POD_1, "web", 600, PodSandboxState::SandboxReady, ""),
        pod(POD_2, "batch", 7200, PodSandboxState::SandboxNotready, "runsc"),
    ]
}

fn containers() -> Vec<Container> {
    let container =
        |id: &str, pod: &str, name: &str, image: &str, age, state: ContainerState| Container {
            id: id.into(),
            pod_sandbox_id: pod.into(),
            metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(ImageSpec { image: image.into(), ..ImageSpec::default() }),
            image_ref: IMAGE_1.into(),
            state: state.into(),
            created_at: NOW - age * SECOND,
            // Only the first was made by a kubelet.
            labels: match id {
                CONTAINER_1 => map(&[
                    ("io.kubernetes.pod.name", "web"),
                    ("io.kubernetes.pod.namespace", "default"),
                ]),
                _ => HashMap::new(),
            },
            annotations: HashMap::new(),
            image_id: IMAGE_1.into(),
        };
    vec![
        container(CONTAINER_2, POD_1, "init", "busybox:1.36", 500, ContainerState::ContainerExited),
        container(CONTAINER_1, POD_1, "server", IMAGE_1, 5, ContainerState::ContainerRunning),
    ]
}

fn images() -> Vec<Image> {
    let id = |c: char| format!("sha256:{}", c.to_string().repeat(64));
    let digest = |name: &str, c: char| format!("{name}@{}", id(c));
    let image = |id: String, tags: &[&str], digests: Vec<String>, size| Image {
        id,
        repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        repo_digests: digests,
        size,
        ..Image::default()
    };
    let mut pinned = image(id('7'), &[], vec![], 700);
    pinned.pinned = true;
    vec![
        image(
            IMAGE_1.into(),
            &["docker.io/library/busybox:1.36", "localhost:5000/busybox:latest"],
            vec![digest("docker.io/library/busybox", '9')],
            4_261_550,
        ),
        image(id('6'), &[], vec![digest("registry.k8s.io/pause", '8')], 750_123),
        pinned,
    ]
}

impl Fake {
    fn note(&self, call: &str, argument: &str) {
        self.calls.lock().expect("calls").push(format!("{call} {argument}"));
    }
}

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn version(&self, request: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "v2.0".into(),
            runtime_api_version: request.into_inner().version,
        }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let condition = |kind: &str, status, reason: &str| RuntimeCondition {
            r#type: kind.into(),
            status,
            reason: reason.into(),
            message: String::new(),
        };
        let info = match request.into_inner().verbose {
            true => map(&[("config", r#"{"root":"/r","n":1}"#), ("note", "\"hello\"")]),
            false => HashMap::new(),
        };
        Ok(Response::new(StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", true, ""),
                    condition("NetworkReady", false, "NoNetwork"),
                ],
            }),
            info,
            runtime_handlers: vec![RuntimeHandler {
                name: "runc".into(),
                features: Some(RuntimeHandlerFeatures {
                    recursive_read_only_mounts: true,
                    user_namespaces: false,
                }),
            }],
            features: Some(RuntimeFeatures::default()),
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<RuntimeConfigRequest>,
    ) -> Answer<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
        Ok(Response::new(RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn list_pod_sandbox(
        &self,
        r: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let filter = r.into_inner().filter.unwrap_or_default();
        let mut items = pods();
        items.retain(|pod| {
            pod.id.starts_with(&filter.id)
                && filter.state.as_ref().is_none_or(|state| state.state == pod.state)
                && filter.label_selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v))
        });
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn pod_sandbox_status(
        &self,
        r: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let id = r.into_inner().pod_sandbox_id;
        let pod = pods().into_iter().find(|pod| pod.id.starts_with(&id));
        let pod = pod.ok_or_else(|| Status::not_found(format!("no pod {id}")))?;
        let status = PodSandboxStatus {
            id: pod.id,
            metadata: pod.metadata,
            state: pod.state,
            created_at: pod.created_at,
            network: Some(PodSandboxNetworkStatus {
                ip: "10.88.0.2".into(),
                additional_ips: vec![PodIp { ip: "fd00::2".into() }],
            }),
            labels: pod.labels,
            ..PodSandboxStatus::default()
        };
        Ok(Response::new(PodSandboxStatusResponse {
            status: Some(status),
            info: map(&[("info", r#"{"pid":42}"#)]),
            ..PodSandboxStatusResponse::default()
        }))
    }

    async fn run_pod_sandbox(
        &self,
        r: Request<RunPodSandboxRequest>,
    ) -> Answer<RunPodSandboxResponse> {
        let request = r.into_inner();
        let name = request.config.and_then(|config| config.metadata).unwrap_or_default().name;
        self.note("RunPodSandbox", &format!("{name} {:?}", request.runtime_handler));
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: "new-pod".into() }))
    }

    async fn stop_pod_sandbox(
        &self,
        r: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        self.note("StopPodSandbox", &r.into_inner().pod_sandbox_id);
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        r: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        self.note("RemovePodSandbox", &r.into_inner().pod_sandbox_id);
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn create_container(
        &self,
        r: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let request = r.into_inner();
        self.note("CreateContainer", &request.pod_sandbox_id);
        *self.created.lock().expect("created") = Some(request);
        Ok(Response::new(CreateContainerResponse { container_id: "new-container".into() }))
    }

    async fn start_container(
        &self,
        r: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let id = r.into_inner().container_id;
        self.note("StartContainer", &id);
        let created = self.created.lock().expect("created");
        let config = created.as_ref().and_then(|request| request.config.as_ref());
        if id == "bad" || config.is_some_and(|config| config.command == ["bad"]) {
            return Err(Status::invalid_argument("exec: \"bad\": not found"));
        }
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn update_container_resources(
        &self,
        r: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = r.into_inner();
        let linux = request.linux.unwrap_or_default();
        let what = format!(
            "{} {} {} {} {:?}",
            request.container_id,
            linux.memory_limit_in_bytes,
            linux.cpu_shares,
            linux.cpu_quota,
            linux.cpuset_cpus
        );
        self.note("UpdateContainerResources", &what);
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn stop_container(
        &self,
        r: Request<StopContainerRequest>,
    ) -> Answer<StopContainerResponse> {
        let request = r.into_inner();
        self.note("StopContainer", &format!("{} {}", request.container_id, request.timeout));
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        r: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        self.note("RemoveContainer", &r.into_inner().container_id);
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        r: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let filter = r.into_inner().filter.unwrap_or_default();
        let mut containers = containers();
        containers.retain(|container| {
            container.id.starts_with(&filter.id)
                && container.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
                && filter.state.as_ref().is_none_or(|state| state.state == container.state)
        });
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        r: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let request = r.into_inner();
        let found = containers().into_iter().find(|c| c.id.starts_with(&request.container_id));
        let container = found
            .ok_or_else(|| Status::not_found(format!("no container {}", request.container_id)))?;
        let status = ContainerStatus {
            id: container.id.clone(),
            metadata: container.metadata.clone(),
            state: container.state,
            created_at: container.created_at,
            started_at: container.created_at + SECOND,
            finished_at: if container.state() == ContainerState::ContainerExited {
                container.created_at + 3 * SECOND
            } else {
                0
            },
            exit_code: if container.id == CONTAINER_2 { 3 } else { 0 },
            image: container.image,
            labels: HashMap::from([("app".into(), "web".into())]),
            log_path: self.log_path.lock().expect("log path").clone(),
            image_id: IMAGE_1.into(),
            ..ContainerStatus::default()
        };
        let info = match request.verbose {
            true => map(&[("info", r#"{"pid":7,"runtimeSpec":{"hostname":"web"}}"#)]),
            false => HashMap::new(),
        };
        Ok(Response::new(ContainerStatusResponse { status: Some(status), info }))
    }

    async fn exec_sync(&self, r: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = r.into_inner();
        self.note("ExecSync", &format!("{:?} {}", request.cmd, request.timeout));
        let exit_code = if request.cmd == ["false"] { 1 } else { 0 };
        Ok(Response::new(ExecSyncResponse {
            stdout: b"out\n".to_vec(),
            stderr: b"err\n".to_vec(),
            exit_code,
        }))
    }

    async fn list_container_stats(
        &self,
        _: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let value = |value| Some(UInt64Value { value });
        let stats = ContainerStats {
            attributes: Some(ContainerAttributes {
                id: CONTAINER_1.into(),
                metadata: Some(ContainerMetadata { name: "server".into(), attempt: 0 }),
                ..ContainerAttributes::default()
            }),
            cpu: Some(CpuUsage { usage_nano_cores: value(15_300_000), ..CpuUsage::default() }),
            memory: Some(MemoryUsage {
                working_set_bytes: value(5_300_000),
                ..MemoryUsage::default()
            }),
            writable_layer: Some(FilesystemUsage {
                used_bytes: value(20_480),
                inodes_used: value(7),
                ..FilesystemUsage::default()
            }),
            ..ContainerStats::default()
        };
        Ok(Response::new(ListContainerStatsResponse { stats: vec![stats] }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let value = |value| Some(UInt64Value { value });
        let interface = NetworkInterfaceUsage {
            name: "eth0".into(),
            rx_bytes: value(1_000),
            tx_bytes: value(2_000_000),
            ..NetworkInterfaceUsage::default()
        };
        let linux = LinuxPodSandboxStats {
            cpu: Some(CpuUsage { usage_nano_cores: value(15_300_000), ..CpuUsage::default() }),
            network: Some(NetworkUsage {
                default_interface: Some(interface),
                ..NetworkUsage::default()
            }),
            process: Some(ProcessUsage { process_count: value(3), ..ProcessUsage::default() }),
            ..LinuxPodSandboxStats::default()
        };
        let stats = PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: POD_1.into(),
                metadata: Some(PodSandboxMetadata {
                    name: "web".into(),
                    namespace: "default".into(),
                    ..PodSandboxMetadata::default()
                }),
                ..PodSandboxAttributes::default()
            }),
            linux: Some(linux),
            ..PodSandboxStats::default()
        };
        Ok(Response::new(ListPodSandboxStatsResponse { stats: vec![stats] }))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<BoxStream<ContainerEventResponse>> {
        let event = ContainerEventResponse {
            container_id: CONTAINER_1.into(),
            container_event_type: ContainerEventType::ContainerStartedEvent.into(),
            created_at: NOW,
            ..ContainerEventResponse::default()
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(event)]))))
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        let usage = FilesystemUsage {
            timestamp: NOW,
            fs_id: Some(FilesystemIdentifier { mountpoint: "/var/lib/fake".into() }),
            used_bytes: Some(UInt64Value { value: 12_345_678 }),
            inodes_used: Some(UInt64Value { value: 99 }),
        };
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![usage],
            container_filesystems: Vec::new(),
        }))
    }

    async fn list_images(&self, r: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let name = r.into_inner().filter.and_then(|filter| filter.image).unwrap_or_default().image;
        let mut images = images();
        images.retain(|image| name.is_empty() || image.repo_tags.contains(&name));
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn image_status(&self, r: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let ImageStatusRequest { image, verbose } = r.into_inner();
        let name = image.unwrap_or_default().image;
        let matches = |image: &Image| {
            image.id == name || image.repo_tags.iter().any(|tag| tag.ends_with(&name))
        };
        let image = images().into_iter().find(matches);
        let mut info = HashMap::new();
        if verbose && image.is_some() {
            let layers = r#"{"layers":["sha256:aaaaaaaaaaaaaaaa","sha256:bbbbbbbbbbbbbbbb"],"layerBytes":[1000,2000000]}"#;
            info.insert("info".to_owned(), layers.to_owned());
        }
        Ok(Response::new(ImageStatusResponse { image, info }))
    }

    async fn pull_image(&self, r: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let request = r.into_inner();
        self.note("PullImage", &request.image.clone().unwrap_or_default().image);
        self.pulled.lock().expect("pulled").push(request);
        Ok(Response::new(PullImageResponse { image_ref: IMAGE_1.into() }))
    }

    async fn remove_image(&self, r: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        self.note("RemoveImage", &r.into_inner().image.unwrap_or_default().image);
        Ok(Response::new(RemoveImageResponse {}))
    }
}

#[tonic::async_trait]
impl ImageAdmin for Fake {
    async fn load(&self, request: Request<Streaming<LoadRequest>>) -> Answer<LoadResponse> {
        let mut stream = request.into_inner();
        let mut bytes = 0;
        while let Some(piece) = stream.message().await? {
            bytes += piece.data.len();
        }
        Ok(Response::new(LoadResponse { images: vec![format!("of-{bytes}-bytes")] }))
    }

    type SaveStream = BoxStream<SaveResponse>;

    async fn save(&self, request: Request<SaveRequest>) -> Answer<Self::SaveStream> {
        let pieces = request.into_inner().images.into_iter().map(|image| match image.as_str() {
            "none" => Err(Status::not_found("image none not found")),
            _ => Ok(SaveResponse { data: image.into_bytes() }),
        });
        let pieces: Vec<_> = pieces.collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn check(&self, request: Request<CheckRequest>) -> Answer<CheckResponse> {
        let CheckRequest { read, repair } = request.into_inner();
        let action = if repair { "removed" } else { "repair removes it" };
        let finding = Finding {
            what: "layer sha256:1".into(),
            problem: "its files are others".into(),
            action: action.into(),
        };
        Ok(Response::new(CheckResponse {
            images: 3,
            layers: 5,
            layers_read: if read { 5 } else { 0 },
            blobs: 0,
            findings: if read || repair { vec![finding] } else { Vec::new() },
        }))
    }
}
