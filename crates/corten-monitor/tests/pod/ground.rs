//! What a case stands on: a state directory, a root file system, cgroups, a monitor.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use monitor_client::{
    CgroupPlacement, ContainerPhase, ContainerPid, Event, Events, ExecCgroup, ExecOutput, ExecSync,
    Exit, KillCgroup, LogTarget, MakeSandbox, Monitor, MonitorError, MonitorProgram, Monitors,
    Notice, OomFile, OomFileKind, ReaperRequest, Rootfs, StartContainer, Started,
};
use serde_json::{Value, json};
use types::{ContainerId, SandboxId};

/// How long a case waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

const CGROUPS: &str = "/sys/fs/cgroup";

/// A case's place. Dropped, it takes everything away.
pub struct Ground {
    pub dir: tempfile::TempDir,
    pub sandbox: SandboxId,
    pub monitors: Monitors,
    cgroups: Vec<PathBuf>,
}

/// A monitor and what it tells.
#[derive(Debug)]
pub struct Pod {
    pub monitor: Monitor,
    pub events: Events,
}

impl Ground {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("corten-monitor-").tempdir().expect("made");
        for name in ["state", "logs", "image"] {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        fill_image(&dir.path().join("image"));
        // Another build of it, the static one, can be put to the same tests.
        let built = PathBuf::from(env!("CARGO_BIN_EXE_corten-monitor"));
        let program = std::env::var_os("CORTEN_MONITOR").map_or(built, PathBuf::from);
        let program = MonitorProgram::load(&program);
        let monitors = Monitors::new(program.expect("loaded"));
        let mut ground = Self { dir, sandbox: SandboxId::random(), monitors, cgroups: Vec::new() };
        ground.cgroups = ground.make_cgroups();
        ground
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Starts the monitor.
    pub async fn spawn(&self) -> Pod {
        let spawned =
            self.monitors.spawn(&self.sandbox, &self.state(), &CgroupPlacement::default()).await;
        let (monitor, events) = spawned.expect("spawned");
        Pod { monitor, events }
    }

    /// Connects to the monitor as a new daemon does.
    pub async fn adopt(&self) -> Result<Pod, MonitorError> {
        let (monitor, events) = self.monitors.adopt(&self.sandbox, &self.state()).await?;
        Ok(Pod { monitor, events })
    }

    /// A container that runs a shell script, in a PID namespace of its own.
    pub fn container(&self, script: &str) -> StartContainer {
        let id = ContainerId::random();
        let home = self.path(id.as_str());
        for name in ["", "upper", "work", "root"] {
            fs::create_dir(home.join(name)).expect("made");
        }
        let text = serde_json::to_vec(&spec(script)).expect("text");
        fs::write(home.join("config.json"), text).expect("written");
        let group = |mount: &Path| mount.join(self.group()).join(id.as_str());
        let mut oom_files = Vec::new();
        let (mut procs_files, mut kill) = (Vec::new(), KillCgroup::default());
        for mount in hierarchies() {
            let dir = group(&mount);
            make_cgroup(&dir);
            procs_files.push(dir.join("cgroup.procs"));
            if dir.join("cgroup.kill").exists() {
                kill.kill_file = Some(dir.join("cgroup.kill"));
            }
            if dir.join("memory.oom_control").exists() {
                let path = dir.join("memory.oom_control");
                oom_files.push(OomFile { path, kind: OomFileKind::V1OomControl });
            } else if dir.join("memory.events").exists() {
                oom_files
                    .push(OomFile { path: dir.join("memory.events"), kind: OomFileKind::V2Events });
            }
        }
        kill.procs_file = procs_files.last().cloned();
        StartContainer {
            rootfs: Rootfs::Overlay {
                lower: vec![self.path("image")],
                upper: home.join("upper"),
                work: home.join("work"),
            },
            rootfs_target: home.join("root"),
            bundle: home,
            pid: ContainerPid::New,
            cgroup: CgroupPlacement { procs_files, v2_dir: None },
            oom_files,
            kill,
            log: Some(LogTarget {
                directory: self.path("logs"),
                file: format!("{}/0.log", id.short()).into(),
                max_line: 0,
                max_bytes: 0,
                max_files: 0,
            }),
            tty: false,
            stdin: false,
            stdin_once: false,
            program: None,
            id,
        }
    }

    /// The sandbox with every namespace of its own.
    pub fn sandbox(&self) -> MakeSandbox {
        MakeSandbox {
            given: false,
            user: None,
            sandbox: self.sandbox.clone(),
            net: Some(self.path("ns/net")),
            ipc: Some(self.path("ns/ipc")),
            uts: Some(self.path("ns/uts")),
            hostname: "corten-pod".to_owned(),
            sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned())].into(),
            reaper: Some(ReaperRequest::default()),
        }
    }

    /// The cgroups of an exec session.
    pub fn exec_cgroup(&self, container: &ContainerId) -> ExecCgroup {
        let mut cgroup = ExecCgroup::default();
        for mount in hierarchies() {
            let dir = mount.join(self.group()).join(container.as_str());
            if dir.join("cgroup.kill").exists() {
                let session = format!("exec-{}", monitor_client::ExecId::random());
                cgroup.dir = Some(dir.join(session));
            } else {
                cgroup.procs_files.push(dir.join("cgroup.procs"));
            }
        }
        cgroup
    }

    /// The container's log: stream, tag and text of each line.
    pub fn log(&self, container: &ContainerId) -> Vec<String> {
        let path = self.path("logs").join(container.short()).join("0.log");
        let text = fs::read_to_string(path).expect("read");
        text.lines().map(|line| line[31..].to_owned()).collect()
    }

    fn group(&self) -> String {
        format!("corten-test-{}", self.sandbox.short())
    }

    fn make_cgroups(&self) -> Vec<PathBuf> {
        let dirs: Vec<PathBuf> =
            hierarchies().into_iter().map(|mount| mount.join(self.group())).collect();
        dirs.iter().for_each(|dir| make_cgroup(dir));
        dirs
    }

    fn unpin(&self) {
        for name in ["user", "net", "ipc", "uts"] {
            let _ = rustix::mount::unmount(
                self.path("ns").join(name),
                rustix::mount::UnmountFlags::DETACH,
            );
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for dir in &self.cgroups {
            end_cgroup(dir);
        }
        self.unpin();
    }
}

impl Pod {
    pub async fn start(&self, wanted: &StartContainer) -> Started {
        self.monitor.start_container(wanted.clone()).await.expect("started")
    }

    /// Waits for a container's end and acknowledges it.
    pub async fn exit_of(&mut self, wanted: &ContainerId) -> Exit {
        loop {
            match self.event().await {
                Event::Notice(Notice::ContainerExited { container, exit })
                    if container == *wanted =>
                {
                    self.monitor.ack_exit(wanted).await.expect("acknowledged");
                    return exit;
                }
                Event::Lost { .. } => panic!("the monitor is lost"),
                Event::Notice(_) => {}
            }
        }
    }

    pub async fn event(&mut self) -> Event {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("something happens").expect("the monitor lives")
    }

    /// Starts a container and waits for its end.
    pub async fn run(&mut self, wanted: &StartContainer) -> Exit {
        self.start(wanted).await;
        self.exit_of(&wanted.id).await
    }

    /// Runs a script in a container.
    pub async fn exec(
        &self,
        ground: &Ground,
        container: &ContainerId,
        script: &str,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, MonitorError> {
        let wanted = ExecSync {
            container: container.clone(),
            timeout,
            cgroup: ground.exec_cgroup(container),
            output_limit: 1 << 20,
        };
        let process = serde_json::to_vec(&spec(script)["process"]).expect("text");
        self.monitor.exec_sync(&wanted, &process).await
    }

    /// Kills what runs and ends the monitor.
    pub async fn end(mut self) {
        let state = self.monitor.state().await.expect("state");
        for container in state.containers {
            if let ContainerPhase::Exited(_) = container.phase {
                self.monitor.ack_exit(&container.id).await.expect("acknowledged");
                continue;
            }
            let _ = self.monitor.signal(&container.id, 9, true).await;
            self.exit_of(&container.id).await;
        }
        self.monitor.shutdown().await.expect("shut down");
        while !matches!(self.event().await, Event::Lost { dead: true }) {}
    }
}

/// Waits until something is true.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sets one of the spec's values in a container's bundle.
pub fn change_spec(wanted: &StartContainer, change: impl FnOnce(&mut Value)) {
    let path = wanted.bundle.join("config.json");
    let text = fs::read(&path).expect("read");
    let mut spec = serde_json::from_slice(&text).expect("parsed");
    change(&mut spec);
    fs::write(path, serde_json::to_vec(&spec).expect("text")).expect("written");
}

fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read");
    let mounts = table.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let point = place.split(' ').nth(4)?;
        (kind.starts_with("cgroup") && point.starts_with(CGROUPS)).then(|| PathBuf::from(point))
    });
    // The unified tree comes last.
    let (v2, mut v1): (Vec<_>, Vec<_>) =
        mounts.partition(|mount| mount.join("cgroup.controllers").exists());
    v1.extend(v2);
    v1
}

fn make_cgroup(dir: &Path) {
    fs::create_dir(dir).expect("made");
    // A new v1 cpuset has no processors.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let parent = dir.parent().expect("has one").join(file);
        if dir.join("tasks").exists()
            && let Ok(value) = fs::read_to_string(parent)
        {
            let _ = fs::write(dir.join(file), value);
        }
    }
}

/// Kills what is in a cgroup of ours and removes it.
fn end_cgroup(dir: &Path) {
    for _ in 0..1000 {
        for child in fs::read_dir(dir).into_iter().flatten().flatten() {
            if child.path().is_dir() {
                end_cgroup(&child.path());
            }
        }
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in
            procs.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => return,
        }
    }
}

fn fill_image(image: &Path) {
    for name in ["bin", "etc", "tmp", "proc", "dev"] {
        fs::create_dir(image.join(name)).expect("made");
    }
    fs::copy("/bin/busybox", image.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", image.join("bin").join(applet)).expect("linked");
    }
}

const APPLETS: [&str; 17] = [
    "sh", "cat", "echo", "sleep", "true", "kill", "seq", "head", "yes", "grep", "setsid", "tty",
    "stty", "dd", "ps", "readlink", "hostname",
];

fn spec(script: &str) -> Value {
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    })
}
