//! Debian's docker-registry on loopback, and the directory that sends names to it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::Ground;
use crate::program::{self, Program};

const PATIENCE: Duration = Duration::from_secs(20);

/// The hosts whose names are served from loopback.
pub const MIRRORED: [&str; 3] = ["docker.io", "registry.k8s.io", "ghcr.io"];

/// A registry, empty at first.
pub struct Registry {
    program: Program,
    address: SocketAddr,
    storage: PathBuf,
    certs_dir: PathBuf,
}

impl Registry {
    /// Starts an empty registry on a free port.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(ground: &Ground) -> Result<Self> {
        Self::start_with(ground, None)
    }

    /// Starts a registry that has what another one has left in its directory.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_with(ground: &Ground, contents: Option<&Path>) -> Result<Self> {
        let address = free_port()?;
        let storage = ground.make("registry")?;
        if let Some(contents) = contents {
            copy_tree(contents, &storage)?;
        }
        let config = ground.path().join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"{address}\"}}\n",
            storage.display()
        );
        fs::write(&config, text).context("failed to write the registry's configuration")?;
        let mut command = Command::new("docker-registry");
        let log = ground.log("registry");
        let mut program = Program::start(command.arg("serve").arg(config), &log)?;
        program.until(PATIENCE, "the registry", || answers(address))?;
        let certs_dir = ground.make("certs.d")?;
        for host in MIRRORED {
            write_mirror(&certs_dir, host, address)?;
        }
        Ok(Self { program, address, storage, certs_dir })
    }

    /// Where it listens: `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory of `<host>/hosts.toml`.
    #[must_use]
    pub fn certs_dir(&self) -> &Path {
        &self.certs_dir
    }

    /// Puts an image of an OCI layout under a name: `library/busybox:latest`.
    ///
    /// # Errors
    /// If skopeo fails.
    pub fn push(&self, layout: &Path, tag: &str, name: &str) -> Result<()> {
        let from = format!("oci:{}:{tag}", layout.display());
        self.copy(&from, name, &["--all", "--preserve-digests"])
    }

    /// The same with Docker's media types.
    ///
    /// # Errors
    /// If skopeo fails.
    pub fn push_as_docker(&self, layout: &Path, tag: &str, name: &str) -> Result<()> {
        let from = format!("oci:{}:{tag}", layout.display());
        self.copy(&from, name, &["--format", "v2s2"])
    }

    fn copy(&self, from: &str, name: &str, options: &[&str]) -> Result<()> {
        let to = format!("docker://{}/{name}", self.address);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        program::output(skopeo.args(options).args([from, &to]))?;
        Ok(())
    }

    /// Copies what it holds to a directory, for [`Self::start_with`].
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn save(&self, to: &Path) -> Result<()> {
        copy_tree(&self.storage, to)
    }

    /// The digest that the registry has for a name.
    ///
    /// # Errors
    /// If skopeo fails.
    pub fn digest(&self, name: &str) -> Result<String> {
        let from = format!("docker://{}/{name}", self.address);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["inspect", "--raw", "--tls-verify=false", &from]);
        let manifest = program::output(&mut skopeo)?;
        Ok(crate::image::digest(manifest.as_bytes()))
    }

    /// Ends it: from here on connections are refused.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn stop(&mut self) -> Result<()> {
        self.program.kill()
    }
}

/// Sends a host's name to an address without TLS.
///
/// # Errors
/// If the file cannot be written.
pub fn write_mirror(certs_dir: &Path, host: &str, address: SocketAddr) -> Result<()> {
    let directory = certs_dir.join(host);
    fs::create_dir_all(&directory)
        .with_context(|| format!("failed to make {}", directory.display()))?;
    let text = format!(
        "server = \"http://{address}\"\n\n\
         [host.\"http://{address}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
    );
    fs::write(directory.join("hosts.toml"), text)
        .with_context(|| format!("failed to write the mirror of {host}"))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("failed to make {}", to.display()))?;
    program::output(
        Command::new("cp").args(["--archive", "--no-target-directory"]).args([from, to]),
    )
    .map(drop)
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to find a port")?;
    listener.local_addr().context("failed to find a port")
}

fn answers(address: SocketAddr) -> bool {
    let asked = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start.ends_with(b"200"))
    };
    asked().unwrap_or(false)
}
