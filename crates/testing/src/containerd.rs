//! Debian's containerd on a ground, as judge of our tests.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::Ground;
use crate::program::{self, Program};

const PATIENCE: Duration = Duration::from_secs(30);

/// The image that containerd runs as pause; it must be in the registry.
pub const SANDBOX_IMAGE: &str = "registry.k8s.io/pause:3.6";

/// A running containerd with its CRI plugin.
pub struct Containerd {
    program: Option<Program>,
    directory: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

impl Containerd {
    /// Writes a configuration, starts containerd, and waits until it listens.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(ground: &Ground, certs_dir: &Path) -> Result<Self> {
        let directory = ground.make("containerd")?;
        let config = directory.join("config.toml");
        let conf_dir = write_network(ground, &directory)?;
        fs::write(&config, configuration(&directory, certs_dir, &conf_dir))
            .context("failed to write containerd's configuration")?;
        let mut containerd =
            Self { program: None, directory, config, log: ground.log("containerd") };
        containerd.launch()?;
        Ok(containerd)
    }

    /// Starts it again after it was killed.
    ///
    /// # Errors
    /// If it does not start.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.program.is_none(), "containerd is running");
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&self.config);
        let mut program = Program::start(&mut command, &self.log)?;
        let socket = self.socket();
        program.until(PATIENCE, "containerd's socket", || UnixStream::connect(&socket).is_ok())?;
        self.program = Some(program);
        Ok(())
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// If it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.program.take().context("containerd is not running")?.kill()
    }

    /// Whether it was started and not killed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.program.is_some()
    }

    /// The socket of both services.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    /// Its version, without Debian's suffix.
    ///
    /// # Errors
    /// If the program does not say it.
    pub fn version() -> Result<String> {
        let said = program::output(Command::new("containerd").arg("--version"))?;
        let version = said.split_whitespace().nth(2).context("containerd says no version")?;
        Ok(version.split('~').next().unwrap_or(version).to_owned())
    }
}

/// The chain that kubeadm's users have: bridge, addresses, ports.
///
/// # Errors
/// If it cannot be written.
pub fn write_network(ground: &Ground, directory: &Path) -> Result<PathBuf> {
    let conf_dir = directory.join("net.d");
    fs::create_dir_all(&conf_dir).context("failed to make the directory of networks")?;
    let text = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": ground.bridge(),
        "plugins": [
            {
                "type": "bridge",
                "bridge": ground.bridge(),
                "isGateway": true,
                "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": directory.join("addresses"),
                    "ranges": [[{ "subnet": ground.subnet() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    fs::write(conf_dir.join("10-test.conflist"), text.to_string())
        .context("failed to write the network")?;
    Ok(conf_dir)
}

fn configuration(directory: &Path, certs_dir: &Path, conf_dir: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
address = "{directory}/containerd.sock"

[ttrpc]
address = "{directory}/containerd.sock.ttrpc"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{SANDBOX_IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
stream_server_address = "127.0.0.1"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{}"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{}"
"#,
        certs_dir.display(),
        conf_dir.display(),
    )
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Shims outlive containerd; they die with what they hold.
        let root = self.directory.display().to_string();
        if let Some(program) = &mut self.program {
            let _ = program.kill();
        }
        crate::program::kill_marked("containerd-shim", &root);
    }
}
