//! A runtime under test.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cri_client::{Endpoint, ImageClient, Options, RuntimeClient, Timeouts};
use testing::audit::Scope;
use testing::wait::patient;
use testing::{Containerd, Daemon, DaemonOptions, Driver, Ground};

use crate::catalog::Catalog;

/// Longer than any call should take on a busy machine; cases that are about time
/// have limits of their own.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Our program: a daemon, and the command line for any runtime.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says once which program is ours.
pub fn set_command_line(program: PathBuf) {
    PROGRAM.get_or_init(|| program);
}

/// Our program as a command line.
///
/// # Errors
/// If it was not said which it is.
pub fn command_line() -> Result<&'static Path> {
    PROGRAM.get().map(PathBuf::as_path).context("it was not said which program is ours")
}

/// Which runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Corten,
    /// Debian's.
    Containerd,
}

/// The process behind the socket.
pub enum Control {
    /// Ours.
    Corten(Box<Daemon>),
    /// Debian's.
    Containerd(Containerd),
}

/// A runtime that runs, and the clients that talk to it.
pub struct Runtime {
    /// Which.
    pub kind: Kind,
    /// Where it stands.
    pub ground: Arc<Ground>,
    /// What can be pulled.
    pub catalog: Arc<Catalog>,
    /// Its `RuntimeService`.
    pub pods: RuntimeClient,
    /// Its `ImageService`.
    pub images: ImageClient,
    control: Mutex<Control>,
}

impl Runtime {
    /// Starts ours with the network plugins that containerd has too.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn corten(
        ground: Arc<Ground>,
        catalog: Arc<Catalog>,
        program: &Path,
        driver: Driver,
    ) -> Result<Self> {
        let network = testing::write_network(&ground, &ground.make("plugins")?)?;
        let options = DaemonOptions {
            program: program.to_owned(),
            certs_dir: catalog.registry.certs_dir().to_owned(),
            cni_conf_dir: Some(network),
            tables: tables(&ground)?,
            driver,
            ..DaemonOptions::default()
        };
        let daemon = Daemon::start(&ground, "corten", options)?;
        Self::connect(Kind::Corten, ground, catalog, Control::Corten(Box::new(daemon))).await
    }

    /// Starts Debian's containerd.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn containerd(ground: Arc<Ground>, catalog: Arc<Catalog>) -> Result<Self> {
        let containerd = Containerd::start(&ground, catalog.registry.certs_dir())?;
        Self::connect(Kind::Containerd, ground, catalog, Control::Containerd(containerd)).await
    }

    /// Connects to what runs already.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn connect(
        kind: Kind,
        ground: Arc<Ground>,
        catalog: Arc<Catalog>,
        control: Control,
    ) -> Result<Self> {
        let (socket, image_socket) = control.sockets();
        let (pods, images) = clients(&socket, &image_socket).await?;
        Ok(Self { kind, ground, catalog, pods, images, control: Mutex::new(control) })
    }

    /// The process behind the socket.
    pub fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket of `RuntimeService`.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.control().sockets().0
    }

    /// Our daemon's log.
    ///
    /// # Errors
    /// If the runtime is another.
    pub fn daemon_log(&self) -> Result<PathBuf> {
        match &*self.control() {
            Control::Corten(daemon) => Ok(daemon.log().to_owned()),
            Control::Containerd(_) => bail!("the runtime is not ours"),
        }
    }

    /// What the leak audit looks at.
    #[must_use]
    pub fn audit_scope(&self) -> Scope {
        match &*self.control() {
            Control::Corten(daemon) => daemon.audit_scope(&self.ground),
            Control::Containerd(_) => Scope::of(&self.ground),
        }
    }

    /// Kills the runtime's daemon at once.
    ///
    /// # Errors
    /// If it is not running.
    pub fn kill(&self) -> Result<()> {
        match &mut *self.control() {
            Control::Corten(daemon) => daemon.kill(),
            Control::Containerd(containerd) => containerd.kill(),
        }
    }

    /// Has our daemon end, and waits until it has.
    ///
    /// # Errors
    /// If it does not, or is held up.
    pub fn end(&self) -> Result<()> {
        self.with_daemon(Daemon::ask_to_end)?;
        self.with_daemon(Daemon::ended)
    }

    /// Starts the daemon again if a case left it dead.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn revive(&self) -> Result<()> {
        let running = match &*self.control() {
            Control::Corten(daemon) => daemon.pid().is_ok(),
            Control::Containerd(containerd) => containerd.is_running(),
        };
        if running { Ok(()) } else { self.launch().await }
    }

    /// Starts the daemon again and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn launch(&self) -> Result<()> {
        match &mut *self.control() {
            Control::Corten(daemon) => daemon.launch()?,
            Control::Containerd(containerd) => containerd.launch()?,
        }
        let (socket, image_socket) = self.control().sockets();
        clients(&socket, &image_socket).await?;
        // Our own clients dial again only after a pause that grows with failures.
        self.settle().await
    }

    /// Waits until our own clients have dialled again.
    ///
    /// # Errors
    /// If they have not after a while.
    pub async fn settle(&self) -> Result<()> {
        crate::context::until(Duration::from_secs(30), "the clients to dial again", || async {
            let pods = self.pods.list_pod_sandbox(cri_proto::v1::ListPodSandboxRequest::default());
            let images = self.images.image_fs_info(cri_proto::v1::ImageFsInfoRequest {});
            Ok((pods.await.is_ok() && images.await.is_ok()).then_some(()))
        })
        .await
    }

    /// Our daemon. What is done with it may block, and the clients' connections go on: a daemon
    /// that is asked to end waits for them.
    ///
    /// # Errors
    /// If it is another.
    pub fn with_daemon<T>(&self, act: impl FnOnce(&mut Daemon) -> Result<T>) -> Result<T> {
        tokio::task::block_in_place(|| match &mut *self.control() {
            Control::Corten(daemon) => act(daemon),
            Control::Containerd(_) => bail!("this is not our daemon"),
        })
    }
}

impl Control {
    fn sockets(&self) -> (PathBuf, PathBuf) {
        match self {
            Self::Corten(daemon) => (daemon.socket(), daemon.image_socket()),
            Self::Containerd(containerd) => (containerd.socket(), containerd.socket()),
        }
    }
}

/// Where the cases' vendors describe their devices.
pub const CDI_DIRS: [&str; 2] = ["cdi/etc", "cdi/run"];

/// Debian's runtime programs, as far as they work here, as handlers of the same names.
#[must_use]
pub fn programs() -> Vec<(&'static str, &'static str)> {
    let mut all = vec![("runc", "/usr/sbin/runc")];
    // Debian's crun refuses machines with both versions of cgroups.
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if unified && Path::new("/usr/bin/crun").exists() {
        all.insert(0, ("crun", "/usr/bin/crun"));
    }
    all
}

/// How long a handler's program may take, as it is where nothing is said.
const PROGRAM_LIMIT: Duration = Duration::from_secs(30);

/// What the daemon allows at most.
const MAX_PROGRAM_LIMIT: Duration = Duration::from_secs(45);

/// The handlers of the cases: Debian's runtime programs, a program that never ends and one that is not
/// there; and directories for vendors' devices.
fn tables(ground: &Ground) -> Result<String> {
    let hangs = ground.path().join("hangs");
    // It does not say what it can do either.
    std::fs::write(&hangs, "#!/bin/sh\n[ \"$1\" = features ] && exit 1\nsleep 1000\n")?;
    std::fs::set_permissions(&hangs, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let limit = patient(PROGRAM_LIMIT).min(MAX_PROGRAM_LIMIT).as_secs();
    let programs = programs().into_iter().map(|(name, program)| {
        format!(
            "[handlers.{name}]\nprogram = {program:?}\nannotations = [\"allowed.*\"]\n\
             timeout_s = {limit}\n\n"
        )
    });
    let programs: String = programs.collect();
    let dirs = CDI_DIRS.map(|dir| ground.path().join(dir).display().to_string());
    Ok(format!(
        "\n[containers]\ncdi_spec_dirs = {dirs:?}\n\n\
         {programs}\
         [handlers.hangs]\nprogram = {:?}\ntimeout_s = 1\n\n\
         [handlers.missing]\nprogram = \"/no/such/program\"\n",
        hangs.display().to_string(),
    ))
}

/// Connects once the services answer: containerd's come up after its socket.
async fn clients(socket: &Path, image_socket: &Path) -> Result<(RuntimeClient, ImageClient)> {
    let options = Options { timeouts: Timeouts::all(patient(CALL_LIMIT)), ..Options::default() };
    let (socket, image_socket) = (Endpoint::try_from(socket)?, Endpoint::try_from(image_socket)?);
    crate::context::until(Duration::from_secs(30), "the services to answer", || async {
        let pods = RuntimeClient::connect(socket.clone(), options).await;
        let images = ImageClient::connect(image_socket.clone(), options).await;
        Ok(pods.ok().zip(images.ok()))
    })
    .await
    .context("the runtime does not answer")
}
