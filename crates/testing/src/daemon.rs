//! Our daemon on a ground.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::audit::Scope;
use crate::program::{self, Program};
use crate::{Ground, cgroup, wait};

const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take to end: longer than it waits for calls in flight, which it says then.
const END: Duration = Duration::from_secs(60);

/// How long it stays for its sessions beside its successor: cases end them, not the time.
const SESSIONS_DRAIN: Duration = Duration::from_secs(60);

/// What may differ between daemons.
#[derive(Clone, Debug, Default)]
pub struct DaemonOptions {
    /// The program; `corten-monitor` is beside it.
    pub program: PathBuf,
    /// Where registry hosts are described.
    pub certs_dir: PathBuf,
    /// Where CNI configurations are; without it the built-in network is used.
    pub cni_conf_dir: Option<PathBuf>,
    /// Where cAdvisor is answered; without it in the daemon's directory.
    pub containerd_socket: Option<PathBuf>,
    /// Whether ImageService has a socket of its own.
    pub two_sockets: bool,
    /// Further tables of its configuration.
    pub tables: String,
    /// Where plugin programs are looked for before the system's.
    pub plugin_dir: Option<PathBuf>,
    /// Further lines of the configuration's section of the network.
    pub network: String,
    /// Who makes cgroups.
    pub driver: Driver,
    /// Whether its log has no more than a user's by default, as where times are measured.
    pub quiet: bool,
}

/// Who makes our daemon's cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// The daemon.
    #[default]
    Cgroupfs,
    /// systemd.
    Systemd,
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "cgroupfs" => Ok(Self::Cgroupfs),
            "systemd" => Ok(Self::Systemd),
            _ => Err(format!("{name} is neither cgroupfs nor systemd")),
        }
    }
}

/// A running `corten serve`; its pods and itself end when it is dropped.
pub struct Daemon {
    program: Option<Program>,
    options: DaemonOptions,
    config: PathBuf,
    directory: PathBuf,
    log: PathBuf,
    /// How much of its output there was when it was asked to end.
    logged: u64,
    cgroup: String,
}

impl Daemon {
    /// Writes a configuration, starts the daemon, and waits until it listens.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(ground: &Ground, name: &str, options: DaemonOptions) -> Result<Self> {
        let directory = ground.make(name)?;
        let config = directory.join("config.toml");
        let text = configuration(ground, &directory, &options);
        let driver = options.driver;
        fs::write(&config, text).context("failed to write the daemon's configuration")?;
        let mut daemon = Self {
            program: None,
            options,
            config,
            log: ground.log(name),
            logged: 0,
            directory,
            cgroup: own_cgroup(ground, driver),
        };
        daemon.launch()?;
        Ok(daemon)
    }

    /// Starts it again after it ended.
    ///
    /// # Errors
    /// If it does not start.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.program.is_none(), "the daemon is running");
        let mut command = self.command();
        command.env("RUST_BACKTRACE", "1");
        let mut program = Program::start(&mut command, &self.log)?;
        let sockets = [self.socket(), self.image_socket()];
        program.until(PATIENCE, "the daemon's sockets", || {
            sockets.iter().all(|socket| UnixStream::connect(socket).is_ok())
        })?;
        self.program = Some(program);
        Ok(())
    }

    /// The command that starts this daemon.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.options.program);
        command.arg("serve").arg("--config").arg(&self.config);
        command.arg("--root").arg(self.root()).arg("--state").arg(self.state());
        command.arg("--listen").arg(format!("unix://{}", self.socket().display()));
        if self.options.two_sockets {
            let image_listen = format!("unix://{}", self.image_socket().display());
            command.arg("--image-listen").arg(image_listen);
        }
        command
    }

    /// Kills it at once: SIGKILL.
    ///
    /// # Errors
    /// If it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.program.take().context("the daemon is not running")?.kill()
    }

    /// Asks it to end: SIGTERM.
    ///
    /// # Errors
    /// If it is not running.
    pub fn ask_to_end(&mut self) -> Result<()> {
        self.logged = fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
        self.program.as_mut().context("the daemon is not running")?.signal(Signal::TERM)
    }

    /// Waits for its end after it was asked to. It must be a good one: no call held it up to the
    /// last moment.
    ///
    /// # Errors
    /// If it does not end, or not so.
    pub fn ended(&mut self) -> Result<()> {
        let status = self.wait(END)?;
        ensure!(status.success(), "the daemon ended with {status}");
        let said = said(&self.log, self.logged);
        ensure!(!said.contains("still in flight"), "calls held the daemon's end up: {said}");
        Ok(())
    }

    /// Asks it to end and starts another one as soon as that may be, while the old one still has
    /// its streaming sessions. Gives the old one.
    ///
    /// # Errors
    /// If it lets no successor in.
    pub fn succeed(&mut self) -> Result<Program> {
        self.ask_to_end()?;
        let mut old = self.program.take().context("the daemon is not running")?;
        old.until(PATIENCE, "the successor to be let in", || {
            said(&self.log, self.logged).contains("a successor may start")
        })?;
        self.launch()?;
        Ok(old)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it is not running or does not end in time.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut program = self.program.take().context("the daemon is not running")?;
        program.wait(limit)
    }

    /// Its process.
    ///
    /// # Errors
    /// If it is not running.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.program.as_ref().context("the daemon is not running")?.pid())
    }

    /// The socket of RuntimeService.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("corten.sock")
    }

    /// The socket of ImageService.
    #[must_use]
    pub fn image_socket(&self) -> PathBuf {
        let two = self.options.two_sockets;
        if two { self.directory.join("images.sock") } else { self.socket() }
    }

    /// Where it answers cAdvisor.
    #[must_use]
    pub fn containerd_socket(&self) -> PathBuf {
        containerd_socket(&self.directory, &self.options)
    }

    /// Which images may be used: all, as long as there is no such file.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.directory.join("policy.json")
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.options.program
    }

    /// What outlives a reboot.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// What does not.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Its output so far.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What the leak audit looks at: everything of the ground, the addresses that the
    /// plugins have lent, and the daemon's files but for images and their layers,
    /// which are there to stay.
    #[must_use]
    pub fn audit_scope(&self, ground: &Ground) -> Scope {
        let mut scope = Scope::of(ground);
        scope.directories = vec![self.root(), self.state()];
        scope.directories.extend(["plugins", "pods", "run"].map(|name| ground.path().join(name)));
        let root = self.root();
        for kept in [
            "images/records/",
            "images/documents/",
            "snapshots/layers/",
            "snapshots/seals/",
            "snapshots/splits/",
        ] {
            scope.standing.push(format!("file {}/{kept}", root.display()));
        }
        // The group of the monitors is made with the first pod and shared by all.
        let monitors = match self.options.driver {
            Driver::Cgroupfs => "monitors",
            Driver::Systemd => "corten-monitors.scope",
        };
        scope.standing.push(format!("{}/{monitors}/", self.cgroup));
        scope.exact.push(format!("unit {monitors}"));
        scope.exact.push(format!("unit {}", ground.slice()));
        scope.exact.extend(own_groups(&self.cgroup));
        // The built-in network's addresses: the place and the last one given.
        for kept in ["", "/last_reserved_ip.0", "/lock"] {
            scope.exact.push(format!("file {}/cni/networks/corten{kept}", root.display()));
        }
        if let Ok(pid) = self.pid() {
            scope.standing.push(format!("process {pid} "));
        }
        let sockets = [self.socket(), self.image_socket(), self.containerd_socket()];
        for socket in sockets.iter().filter(|socket| socket.is_absolute()) {
            scope.standing.push(format!("socket {}", socket.display()));
        }
        scope
    }
}

/// What a log has after its first bytes.
fn said(log: &Path, from: u64) -> String {
    let log = fs::read(log).unwrap_or_default();
    let new = log.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
    String::from_utf8_lossy(new).into_owned()
}

/// The parent group itself, in each hierarchy.
fn own_groups(group: &str) -> Vec<String> {
    let mounts = cgroup::hierarchies().unwrap_or_default();
    mounts.iter().map(|mount| format!("cgroup {}{group}/", mount.display())).collect()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(program) = &mut self.program {
            let _ = program.kill();
        }
        // Pods outlive the daemon, as they must; not the test.
        cgroup::remove_tree(&self.cgroup);
        if self.options.driver == Driver::Systemd {
            let slice = self.cgroup.trim_start_matches('/');
            let _ = program::output(Command::new("systemctl").args(["stop", slice]));
        }
    }
}

fn own_cgroup(ground: &Ground, driver: Driver) -> String {
    match driver {
        Driver::Cgroupfs => ground.cgroup(),
        Driver::Systemd => format!("/{}", ground.slice()),
    }
}

fn containerd_socket(directory: &Path, options: &DaemonOptions) -> PathBuf {
    options.containerd_socket.clone().unwrap_or_else(|| directory.join("containerd.sock"))
}

fn configuration(ground: &Ground, directory: &Path, options: &DaemonOptions) -> String {
    let nowhere = directory.join("no-cni");
    let conf_dir = options.cni_conf_dir.as_deref().unwrap_or(&nowhere).display().to_string();
    let (driver, parent) = match options.driver {
        Driver::Cgroupfs => ("cgroupfs", ground.cgroup()),
        Driver::Systemd => ("systemd", ground.slice()),
    };
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let mut bin_dirs = vec![PathBuf::from("/usr/lib/cni")];
    bin_dirs.splice(..0, options.plugin_dir.clone());
    let bin_dirs: Vec<String> = bin_dirs.iter().map(|dir| quoted(dir)).collect();
    let level = if options.quiet { "info" } else { "debug" };
    // A table that a test gives takes the place of this one.
    let streaming = if options.tables.contains("[streaming]") {
        String::new()
    } else {
        format!("[streaming]\ndrain_timeout_s = {}\n\n", wait::patient(SESSIONS_DRAIN).as_secs())
    };
    format!(
        "[log]\nlevel = {level:?}\n\n[server]\ncontainerd_socket = {}\n\n[images]\ncerts_dirs = [{}]\npolicy = {}\n\
         registries_conf = {}\n\n\
         [network]\nconf_dir = {conf_dir:?}\nbin_dirs = [{}]\n\
         netns_dir = {}\nbridge = {:?}\nsubnet = {:?}\n{}\n\n\
         {streaming}[cgroups]\ndriver = {driver:?}\nparent = {parent:?}\n{}",
        quoted(&containerd_socket(directory, options)),
        quoted(&options.certs_dir),
        quoted(&directory.join("policy.json")),
        quoted(&directory.join("registries.conf")),
        bin_dirs.join(", "),
        quoted(&ground.path().join("run/netns")),
        ground.bridge(),
        ground.subnet(),
        options.network,
        options.tables,
    )
}
