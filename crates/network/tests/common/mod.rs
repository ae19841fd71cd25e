//! A host of the tests' own: a network namespace, so that nothing of the machine's
//! network is touched, and pods and further hosts as namespaces beside it.
#![allow(dead_code, reason = "every test program uses its part")]

pub mod scene;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use network::{AttachRequest, DetachRequest, Network, NetworkOptions};
use rustix::{
    mount::{UnmountFlags, unmount},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tempfile::TempDir;
use types::{PortMapping, Protocol, SandboxId};

/// How long a connection may take that is expected to come about.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long one is waited for that is expected not to.
pub const IMPATIENCE: Duration = Duration::from_millis(700);

/// A pinned network namespace.
pub struct Namespace {
    pub path: PathBuf,
}

impl Namespace {
    pub fn new(path: PathBuf) -> Self {
        File::create(&path).expect("the pin can be made");
        let status = Command::new("unshare")
            .arg(format!("--net={}", path.display()))
            .arg("true")
            .status()
            .expect("unshare (util-linux) can be run");
        assert!(status.success(), "a network namespace can be made: tests run as root");
        Self { path }
    }

    /// Runs on a thread inside; its children and further threads are inside too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let pin = File::open(&self.path).expect("the pin is there");
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(pin.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("the namespace can be entered");
                work()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a shell command inside and returns what it prints.
    pub fn sh(&self, script: &str) -> String {
        self.run(|| {
            let output = Command::new("sh").args(["-ec", script]).output().expect("sh runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{script}: {said}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// Serves `text` to all who connect, until the test ends.
    pub fn serve(&self, address: &str, text: &str) {
        let listener = self.run(|| TcpListener::bind(address).expect("the address can be bound"));
        let text = text.to_owned();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let peer = stream.peer_addr().map(|peer| peer.ip().to_string());
                let _ = write!(stream, "{text} {}", peer.unwrap_or_default());
            }
        });
    }

    /// Answers datagrams with `text`.
    pub fn serve_udp(&self, address: &str, text: &str) {
        let socket = self.run(|| UdpSocket::bind(address).expect("the address can be bound"));
        let text = text.to_owned();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(text.as_bytes(), peer);
            }
        });
    }

    /// Connects and returns what the server says.
    pub fn fetch(&self, address: &str, patience: Duration) -> std::io::Result<String> {
        let address: SocketAddr = address.parse().expect("an address with a port");
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&address, patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    pub fn ask_udp(&self, address: &str) -> String {
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"?", address).unwrap();
            let mut buffer = [0; 64];
            let (length, peer) = socket.recv_from(&mut buffer).expect("an answer comes");
            assert_eq!(peer.to_string(), address, "the answer comes from where was asked");
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// A host with directories of its own.
pub struct Lab {
    pub host: Namespace,
    pub dir: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let host = Namespace::new(dir.path().join("host.netns"));
        host.sh("ip link set lo up");
        std::fs::create_dir(dir.path().join("net.d")).unwrap();
        Self { host, dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn options(&self) -> NetworkOptions {
        let mut options = NetworkOptions::under(&self.path("root"));
        options.conf_dir = self.path("net.d");
        let builtin = options.builtin.as_mut().unwrap();
        builtin.subnets = vec!["10.213.0.0/24".parse().unwrap()];
        builtin.bridge = "corten-t0".to_owned();
        options.table = "corten_test".to_owned();
        options
    }

    /// Runs asynchronous work as the daemon of this host.
    pub fn daemon<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(work())
        })
    }

    pub fn pod(&self, name: &str) -> Pod {
        let netns = Namespace::new(self.path(&format!("{name}.netns")));
        Pod { id: SandboxId::random(), name: name.to_owned(), netns, ports: Vec::new() }
    }

    /// The host after the power went: nothing in the kernel, everything on disk.
    pub fn reboot(&mut self) {
        let pins = count_hosts(self.dir.path());
        self.host = Namespace::new(self.path(&format!("host-{pins}.netns")));
        self.host.sh("ip link set lo up");
    }

    /// Another machine on a wire to this host: 10.213.200.1 here, 10.213.200.2 there.
    pub fn neighbour(&self) -> Namespace {
        let other = Namespace::new(self.path("neighbour.netns"));
        let path = other.path.display();
        self.host.sh(&format!(
            "exec 9<{path}
             ip link add up0 type veth peer name eth0
             ip link set eth0 netns /proc/self/fd/9
             ip addr add 10.213.200.1/24 dev up0
             ip link set up0 up
             ip route add default via 10.213.200.2"
        ));
        other.sh("ip link set lo up; ip addr add 10.213.200.2/24 dev eth0; ip link set eth0 up");
        other
    }

    /// Waits until the host is as it was: interfaces go after their pod's end.
    pub fn expect_traces(&self, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let traces = self.traces();
            if traces == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "left: {traces}\nwanted: {wanted}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// All that the network may leave on a host.
    pub fn traces(&self) -> String {
        let kernel = self
            .host
            .sh("ip -o link | cut -d: -f2; ip route | sed 's/ linkdown//'; nft list ruleset");
        let owed = list(&self.path("root/cni/owed"));
        let results = list(&self.path("root/cni/results"));
        let leases = list(&self.path("root/cni/networks/corten"));
        let leases: Vec<_> = leases.into_iter().filter(|name| name.starts_with("10.")).collect();
        format!("{kernel}\nowed {owed:?} results {results:?} leases {leases:?}")
    }
}

/// How many hosts there were.
fn count_hosts(dir: &Path) -> usize {
    list(dir).iter().filter(|name| name.starts_with("host")).count()
}

pub fn list(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A pod to be: an id and a namespace.
pub struct Pod {
    pub id: SandboxId,
    pub name: String,
    pub netns: Namespace,
    pub ports: Vec<PortMapping>,
}

impl Pod {
    pub fn map(mut self, protocol: Protocol, host_port: u16, container_port: u16) -> Self {
        let host_ip = String::new();
        self.ports.push(PortMapping { protocol, container_port, host_port, host_ip });
        self
    }

    pub fn at(mut self, host_ip: &str) -> Self {
        self.ports.last_mut().unwrap().host_ip = host_ip.to_owned();
        self
    }

    pub fn attach(&self) -> AttachRequest {
        AttachRequest {
            sandbox_id: self.id.clone(),
            netns: self.netns.path.clone(),
            namespace: "default".to_owned(),
            name: self.name.clone(),
            uid: format!("uid-{}", self.name),
            port_mappings: self.ports.clone(),
            dns: None,
            annotations: BTreeMap::new(),
            cgroup_parent: String::new(),
            hostname: self.name.clone(),
            handler: String::new(),
        }
    }

    pub fn detach(&self) -> DetachRequest {
        DetachRequest {
            sandbox_id: self.id.clone(),
            netns: Some(self.netns.path.clone()),
            namespace: "default".to_owned(),
            name: self.name.clone(),
            uid: format!("uid-{}", self.name),
        }
    }
}

/// Shows an error with all its causes, as the API layer does.
pub fn chain(error: &network::NetworkError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Opens the network with the lab's options.
pub fn open(options: NetworkOptions) -> std::sync::Arc<Network> {
    Network::new(options).expect("the network opens")
}
