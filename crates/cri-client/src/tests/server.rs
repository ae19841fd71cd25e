//! A server that speaks the versions it is told, and notes what it is asked.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use cri_proto::corten_v1::image_admin_server::{ImageAdmin, ImageAdminServer};
use cri_proto::corten_v1::{
    CheckRequest, CheckResponse, LoadRequest, LoadResponse, SaveRequest, SaveResponse,
};
use cri_proto::v1::image_service_server::{ImageService, ImageServiceServer};
use cri_proto::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use cri_proto::v1::*;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service;

use crate::{Endpoint, Options, Timeouts};

/// What a test's server serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Serves {
    pub(crate) v1: bool,
    pub(crate) v1alpha2: bool,
}

impl Serves {
    pub(crate) const V1: Self = Self { v1: true, v1alpha2: false };
    pub(crate) const V1ALPHA2: Self = Self { v1: false, v1alpha2: true };
    pub(crate) const BOTH: Self = Self { v1: true, v1alpha2: true };
    pub(crate) const NEITHER: Self = Self { v1: false, v1alpha2: false };
}

#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) paths: Arc<Mutex<Vec<String>>>,
    pub(crate) authority: Arc<Mutex<String>>,
    pub(crate) unavailable: Arc<AtomicBool>,
    pub(crate) streams: Arc<AtomicBool>,
    pub(crate) deadline: Arc<Mutex<String>>,
}

impl Fake {
    pub(crate) fn take_paths(&self) -> Vec<String> {
        std::mem::take(&mut self.paths.lock().expect("paths"))
    }
}

fn container(id: &str) -> Container {
    Container { id: id.to_owned(), ..Container::default() }
}

use tonic::codegen::BoxStream;
#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn version(
        &self,
        request: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        if self.unavailable.load(Ordering::SeqCst) {
            return Err(Status::unavailable("still recovering"));
        }
        let runtime_api_version = request.into_inner().version;
        Ok(Response::new(VersionResponse { runtime_api_version, ..VersionResponse::default() }))
    }

    async fn container_status(
        &self,
        _: Request<ContainerStatusRequest>,
    ) -> Result<Response<ContainerStatusResponse>, Status> {
        Err(Status::not_found("no container abc"))
    }

    /// Never answers.
    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Result<Response<StartContainerResponse>, Status> {
        let value = request.metadata().get("grpc-timeout").expect("a deadline");
        *self.deadline.lock().expect("deadline") = value.to_str().expect("text").to_owned();
        std::future::pending().await
    }

    async fn list_containers(
        &self,
        _: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        Ok(Response::new(ListContainersResponse { containers: vec![container("unary")] }))
    }

    async fn stream_containers(
        &self,
        _: Request<StreamContainersRequest>,
    ) -> Result<Response<BoxStream<StreamContainersResponse>>, Status> {
        if !self.streams.load(Ordering::SeqCst) {
            return Err(Status::unimplemented("no streams here"));
        }
        let parts =
            ["a", "b"].map(|id| Ok(StreamContainersResponse { containers: vec![container(id)] }));
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Result<Response<BoxStream<ContainerEventResponse>>, Status> {
        let one = ContainerEventResponse { container_id: "a".into(), ..Default::default() };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(one)]))))
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn image_fs_info(
        &self,
        _: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        Ok(Response::new(ImageFsInfoResponse::default()))
    }

    async fn list_images(
        &self,
        _: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let images = vec![Image { id: "sha256:1".into(), ..Image::default() }];
        Ok(Response::new(ListImagesResponse { images }))
    }
}

#[tonic::async_trait]
impl ImageAdmin for Fake {
    async fn load(
        &self,
        request: Request<Streaming<LoadRequest>>,
    ) -> Result<Response<LoadResponse>, Status> {
        let mut stream = request.into_inner();
        let mut data = Vec::new();
        while let Some(piece) = stream.message().await? {
            data.extend(piece.data);
        }
        let text = String::from_utf8(data).map_err(|_| Status::invalid_argument("not text"))?;
        Ok(Response::new(LoadResponse { images: vec![text] }))
    }

    type SaveStream = BoxStream<SaveResponse>;

    async fn save(
        &self,
        request: Request<SaveRequest>,
    ) -> Result<Response<Self::SaveStream>, Status> {
        let pieces = request.into_inner().images.into_iter();
        let pieces = pieces.map(|name| Ok(SaveResponse { data: name.into_bytes() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let layers_read = u64::from(request.into_inner().read);
        Ok(Response::new(CheckResponse { layers_read, ..CheckResponse::default() }))
    }
}

/// Lets through the versions served, and notes the paths asked for.
#[derive(Clone)]
struct Gate<S> {
    inner: S,
    serves: Serves,
    fake: Fake,
}

impl<S, B> Service<http::Request<B>> for Gate<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        let path = request.uri().path().to_owned();
        self.fake.paths.lock().expect("paths").push(path.clone());
        *self.fake.authority.lock().expect("authority") =
            request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let served = match path.strip_prefix("/runtime.v1alpha2.") {
            Some(call) if self.serves.v1alpha2 => format!("/runtime.v1.{call}"),
            Some(_) => "/absent/Call".to_owned(),
            None if path.starts_with("/runtime.v1.") && !self.serves.v1 => "/absent/Call".into(),
            None => path,
        };
        *request.uri_mut() = served.parse().expect("a path");
        self.inner.call(request)
    }
}

/// A running server; it ends with [`Running::stop`].
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    path: PathBuf,
}

impl Running {
    pub(crate) fn start(path: &Path, serves: Serves, fake: &Fake) -> Self {
        let listener = UnixListener::bind(path).expect("bind");
        let (stop, stopped) = oneshot::channel::<()>();
        let (runtime, image, admin, gate) =
            (fake.clone(), fake.clone(), fake.clone(), fake.clone());
        let task = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .layer(tower::layer::layer_fn(move |inner| Gate {
                    inner,
                    serves,
                    fake: gate.clone(),
                }))
                .add_service(RuntimeServiceServer::new(runtime))
                .add_service(ImageServiceServer::new(image))
                .add_service(ImageAdminServer::new(admin))
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
                    stopped.await.ok();
                })
                .await
                .expect("serve");
        });
        Self { stop, task, path: path.to_owned() }
    }

    /// Closes all connections and removes the socket.
    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("the server runs");
        self.task.await.expect("the server ends");
        std::fs::remove_file(&self.path).expect("remove the socket");
    }
}

pub(crate) fn endpoint(path: &Path) -> Endpoint {
    Endpoint::try_from(path).expect("an endpoint")
}

/// Limits that a slow machine does not reach by itself.
pub(crate) fn patient() -> Options {
    Options { timeouts: Timeouts::all(Duration::from_secs(60)), ..Options::default() }
}
