//! What a case works with: a root file system, a spec to change, a run to look at.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use launch::{
    ContainerLaunch, ExecLaunch, LaunchError, Launching, PidNamespace, Placement, Rootfs, Started,
    Stdio, start_container, start_exec,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};
use sys::pidfd::Exit;

use crate::harness::kill;

/// How long a container of a case may take.
const RUN_TIMEOUT: Duration = Duration::from_secs(30);

/// Directories of a case, removed with it.
pub struct Bench {
    dir: tempfile::TempDir,
    /// The spec that `run` uses.
    pub spec: Value,
    /// The PID namespace that `run` uses; `None` is a new one.
    pub pidns: Option<OwnedFd>,
    /// `cgroup.procs` files.
    pub procs_files: Vec<PathBuf>,
    /// The directory of a v2 cgroup.
    pub into_cgroup: Option<OwnedFd>,
    /// The layers of the overlay, the topmost first.
    pub layers: Vec<PathBuf>,
    /// Use the plain directory as the root instead of an overlay.
    pub is_plain_root: bool,
}

/// A process that ended.
#[derive(Debug)]
pub struct Outcome {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
    pub notices: Vec<String>,
}

/// A process that runs.
pub struct Running {
    pub launching: Launching,
    pub started: Started,
    stdout: File,
    stderr: File,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("corten-launch-").tempdir().expect("made");
        let mut bench = Self {
            spec: default_spec(),
            pidns: None,
            procs_files: Vec::new(),
            into_cgroup: None,
            layers: Vec::new(),
            is_plain_root: false,
            dir,
        };
        for name in ["bundle", "target", "upper", "work", "canary", "lower", "top"] {
            fs::create_dir(bench.path(name)).expect("made");
        }
        bench.layers = vec![bench.path("top"), bench.path("lower")];
        bench.fill_lower();
        bench
    }

    /// A path in the case's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path in the lower layer, which is the image.
    pub fn image(&self, name: &str) -> PathBuf {
        self.path("lower").join(name)
    }

    /// The directory that nothing may be made in.
    pub fn assert_canary_untouched(&self) {
        let found: Vec<_> = fs::read_dir(self.path("canary")).expect("read").collect();
        assert!(found.is_empty(), "the canary was touched: {found:?}");
    }

    /// Sets the command to a shell script.
    pub fn script(&mut self, script: &str) -> &mut Self {
        self.spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        self
    }

    /// Adds a mount to the spec.
    pub fn add_mount(&mut self, mount: Value) -> &mut Self {
        self.spec["mounts"].as_array_mut().expect("mounts").push(mount);
        self
    }

    /// Runs a script to its end, which must be a start.
    pub fn run(&mut self, script: &str) -> Outcome {
        self.script(script).run_spec().expect("started")
    }

    /// Runs the spec to its end.
    pub fn run_spec(&self) -> Result<Outcome, LaunchError> {
        self.start().map(Running::finish)
    }

    /// Starts the spec; its standard input is empty.
    pub fn start(&self) -> Result<Running, LaunchError> {
        let text = serde_json::to_vec(&self.spec).expect("text");
        fs::write(self.path("bundle/config.json"), text).expect("written");
        let (out, err) = (pipe(), pipe());
        let stdio =
            Stdio::Pipes { stdin: None, stdout: Some(out.1.as_fd()), stderr: Some(err.1.as_fd()) };
        let launching = start_container(&self.request(stdio))?;
        drop((out.1, err.1));
        settle(launching, out.0, err.0)
    }

    /// Starts the spec on a terminal.
    pub fn start_on_terminal(&mut self) -> Result<(Launching, Started), LaunchError> {
        self.spec["process"]["terminal"] = json!(true);
        let text = serde_json::to_vec(&self.spec).expect("text");
        fs::write(self.path("bundle/config.json"), text).expect("written");
        let mut launching = start_container(&self.request(Stdio::Terminal))?;
        let started = wait_for_start(&mut launching)?;
        Ok((launching, started))
    }

    /// Runs a script in a container that runs.
    pub fn exec(&self, container: &Running, script: &str) -> Result<Outcome, LaunchError> {
        let mut process = self.spec["process"].clone();
        process["args"] = json!(["/bin/sh", "-c", script]);
        self.exec_process(container, &process)
    }

    /// Runs a process in a container that runs.
    pub fn exec_process(
        &self,
        container: &Running,
        process: &Value,
    ) -> Result<Outcome, LaunchError> {
        let (out, err) = (pipe(), pipe());
        let stdio =
            Stdio::Pipes { stdin: None, stdout: Some(out.1.as_fd()), stderr: Some(err.1.as_fd()) };
        let launching = start_exec(&self.exec_request(container, process, stdio))?;
        drop((out.1, err.1));
        settle(launching, out.0, err.0).map(Running::finish)
    }

    /// Asks for a process in a container that runs.
    pub fn exec_request<'a>(
        &'a self,
        container: &'a Running,
        process: &Value,
        stdio: Stdio<'a>,
    ) -> ExecLaunch<'a> {
        ExecLaunch {
            init_pid: container.launching.pid,
            init_pidfd: container.launching.pidfd.as_fd(),
            bundle: self.path("bundle"),
            process: serde_json::to_vec(process).expect("text"),
            cgroup: self.placement(),
            stdio,
        }
    }

    fn request<'a>(&'a self, stdio: Stdio<'a>) -> ContainerLaunch<'a> {
        let rootfs = if self.is_plain_root {
            Rootfs::Dir(self.path("lower"))
        } else {
            Rootfs::Overlay {
                lower: self.layers.clone(),
                upper: self.path("upper"),
                work: self.path("work"),
            }
        };
        ContainerLaunch {
            bundle: self.path("bundle"),
            rootfs,
            rootfs_target: self.path("target"),
            pid: self.pidns.as_ref().map_or(PidNamespace::New, |ns| PidNamespace::Join(ns.as_fd())),
            cgroup: self.placement(),
            stdio,
        }
    }

    fn placement(&self) -> Placement<'_> {
        let into_cgroup = self.into_cgroup.as_ref().map(AsFd::as_fd);
        Placement { procs_files: self.procs_files.clone(), into_cgroup }
    }

    fn fill_lower(&self) {
        for name in ["bin", "etc", "tmp", "root"] {
            fs::create_dir(self.image(name)).expect("made");
        }
        fs::copy("/bin/busybox", self.image("bin/busybox")).expect("busybox-static is installed");
        for applet in APPLETS {
            symlink("busybox", self.image("bin").join(applet)).expect("linked");
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
        fs::write(self.image("etc/passwd"), passwd).expect("written");
    }
}

impl Running {
    /// Reads all output, waits for the end and reaps.
    pub fn finish(self) -> Outcome {
        let deadline = Instant::now() + RUN_TIMEOUT;
        let mut texts = [Vec::new(), Vec::new()];
        let mut files = [Some(self.stdout), Some(self.stderr)];
        while files.iter().any(Option::is_some) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                kill(&self.launching.pidfd);
                panic!("no end after {RUN_TIMEOUT:?}: {texts:?}");
            }
            for index in readable(&files, left) {
                let mut buffer = [0; 4096];
                let file = files[index].as_mut().expect("open");
                match file.read(&mut buffer).expect("read") {
                    0 => files[index] = None,
                    length => texts[index].extend_from_slice(&buffer[..length]),
                }
            }
        }
        let exit = sys::pidfd::wait_and_reap(&self.launching.pidfd).expect("reaped");
        let [stdout, stderr] = texts.map(|text| String::from_utf8(text).expect("text"));
        Outcome { exit, stdout, stderr, notices: self.started.notices }
    }

    /// Kills it, and waits for its end.
    pub fn stop(self) -> Outcome {
        kill(&self.launching.pidfd);
        self.finish()
    }

    /// Waits until the container has written a line.
    pub fn wait_for_output(&mut self) -> String {
        assert!(crate::harness::wait_readable(&self.stdout, RUN_TIMEOUT), "no output");
        let mut buffer = [0; 256];
        let length = self.stdout.read(&mut buffer).expect("read");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }
}

fn readable(files: &[Option<File>; 2], timeout: Duration) -> Vec<usize> {
    let open: Vec<(usize, &File)> =
        files.iter().enumerate().filter_map(|(i, f)| Some((i, f.as_ref()?))).collect();
    let mut polled: Vec<_> = open.iter().map(|(_, f)| PollFd::new(f, PollFlags::IN)).collect();
    let timeout = Timespec::try_from(timeout).expect("in range");
    rustix::event::poll(&mut polled, Some(&timeout)).expect("polled");
    let ready = open.iter().zip(&polled).filter(|(_, p)| !p.revents().is_empty());
    ready.map(|((index, _), _)| *index).collect()
}

fn settle(
    mut launching: Launching,
    stdout: OwnedFd,
    stderr: OwnedFd,
) -> Result<Running, LaunchError> {
    match wait_for_start(&mut launching) {
        Ok(started) => {
            Ok(Running { launching, started, stdout: stdout.into(), stderr: stderr.into() })
        }
        Err(error) => {
            // A child that failed must end of itself.
            sys::pidfd::wait_and_reap(&launching.pidfd).expect("reaped");
            Err(error)
        }
    }
}

/// Polls as the monitor's loop does.
pub fn wait_for_start(launching: &mut Launching) -> Result<Started, LaunchError> {
    loop {
        if let Some(result) = launching.poll() {
            return result;
        }
        let ready = crate::harness::wait_readable(launching.status_fd(), RUN_TIMEOUT);
        assert!(ready, "neither started nor failed");
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).expect("pipe")
}

/// A mount of the spec that is removed from it.
pub fn without_mount(spec: &mut Value, destination: &str) {
    let mounts = spec["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|mount| mount["destination"] != destination);
}

/// The line of `/proc/self/status` that starts with this.
pub fn status_of<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim()
}

/// The path of a file as the host's root, for comparisons.
pub fn read_link(path: impl AsRef<Path>) -> String {
    fs::read_link(path).expect("read").to_string_lossy().into_owned()
}

const APPLETS: [&str; 28] = [
    "chmod", "chown", "sh", "cat", "ls", "id", "pwd", "env", "grep", "stat", "sleep", "echo",
    "readlink", "mount", "hostname", "touch", "mkdir", "rm", "test", "true", "kill", "ps", "tty",
    "head", "wc", "stty", "umount", "ln",
];

const DEFAULT_CAPABILITIES: [&str; 5] =
    ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"];

fn default_spec() -> Value {
    let caps = DEFAULT_CAPABILITIES;
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"},
        "hostname": "corten-test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network"}, {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/version", "/proc/acpi", "/proc/scsi",
                "/sys/firmware", "/proc/not-there"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                "/proc/sysrq-trigger"],
        },
    })
}

/// Mounts a tmpfs that spreads.
pub fn mount_shared(path: &Path) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    mount("tmpfs", path, "tmpfs", MountFlags::empty(), None).expect("mounted");
    mount_change(path, MountPropagationFlags::SHARED).expect("shared");
}
