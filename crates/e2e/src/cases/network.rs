//! Addresses, names, ports.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{DnsConfig, PortMapping, Protocol};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use testing::wait::patient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::case;
use crate::case::Case;
use crate::catalog::WEB;
use crate::context::{Context, PATIENCE, Pod, equal, image_spec, strings, until};

pub(super) const CASES: &[Case] = &[
    case!("network.page_from_the_pods_address", page),
    case!("network.pods_reach_each_other", between_pods),
    case!("network.host_port", host_port),
    case!("network.host_port_of_one_address", host_address),
    case!("network.host_port_of_datagrams", host_port_udp),
    case!("network.addresses_are_different", addresses),
    case!("network.address_is_given_back", given_back),
    case!("network.resolver", resolver),
    case!("network.default_resolver_is_the_nodes", default_resolver),
    case!("network.hosts_has_localhost", hosts),
];

/// Runs the web server in a pod and gives its address once it answers.
pub(super) async fn web_server(c: &Context, pod: &Pod) -> Result<String> {
    let mut config = c.command(&[]);
    config.image = Some(image_spec(WEB));
    let id = c.run(pod, &config).await?;
    let address = c.address(pod).await?;
    until(PATIENCE, "the web server", || async {
        let status = c.status(&id).await?;
        ensure!(status.finished_at == 0, "it ended: {}", crate::logs::read(pod, &config)?.text());
        Ok(get(&format!("{address}:80")).await.ok())
    })
    .await?;
    Ok(address)
}

/// The page at an address.
pub(super) async fn get(address: &str) -> Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(patient(Duration::from_secs(5)), asked).await??;
    let (_, page) = answer.split_once("\r\n\r\n").context("not an answer")?;
    Ok(page.to_owned())
}

async fn page(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let address = web_server(c, &pod).await?;
    equal("the page", get(&format!("{address}:80")).await?, testing::image::PAGE)
}

async fn between_pods(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let address = web_server(c, &pod).await?;
    let other = c.plain_pod().await?;
    let config = c.script(&format!("wget -q -O - http://{address}/"));
    equal("the page", c.output(&other, &config).await?, testing::image::PAGE.trim_end())
}

/// A port of the node that nobody has.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn host_port(c: &Context) -> Result<()> {
    let port = free_port()?;
    let mut config = c.pod()?;
    config.port_mappings = vec![PortMapping {
        container_port: 80,
        host_port: i32::from(port),
        ..PortMapping::default()
    }];
    let pod = c.run_pod(config).await?;
    web_server(c, &pod).await?;
    equal("the page", get(&format!("127.0.0.1:{port}")).await?, testing::image::PAGE)?;
    c.clean_up().await?;
    ensure!(get(&format!("127.0.0.1:{port}")).await.is_err(), "the port is still open");
    Ok(())
}

/// A mapping of one address of the node is none of its others.
async fn host_address(c: &Context) -> Result<()> {
    let port = free_port()?;
    let mut config = c.pod()?;
    config.port_mappings = vec![PortMapping {
        container_port: 80,
        host_port: i32::from(port),
        host_ip: "127.0.0.1".to_owned(),
        ..PortMapping::default()
    }];
    let pod = c.run_pod(config).await?;
    web_server(c, &pod).await?;
    equal("the page", get(&format!("127.0.0.1:{port}")).await?, testing::image::PAGE)?;
    let bridge = format!("{}1", c.runtime.ground.subnet_prefix());
    for other in ["127.0.0.2", &bridge] {
        let refused = get(&format!("{other}:{port}")).await.is_err();
        ensure!(refused, "{other} has the port too");
    }
    c.clean_up().await
}

/// A mapping of datagrams is none of connections.
async fn host_port_udp(c: &Context) -> Result<()> {
    let port = free_port()?;
    let mut config = c.pod()?;
    config.port_mappings = vec![PortMapping {
        protocol: Protocol::Udp.into(),
        container_port: 53,
        host_port: i32::from(port),
        ..PortMapping::default()
    }];
    let pod = c.run_pod(config).await?;
    let marker = format!("/dev/null-{}", &pod.id[..12]);
    c.run(&pod, &c.command(&["tail", "-f", "/dev/null", &marker])).await?;
    let server = bind_in_network_of(crate::process::with_argument(&marker)?)?;
    let client = UdpSocket::bind("127.0.0.1:0").await?;
    client.connect(("127.0.0.1", port)).await?;
    let exchange = async {
        let mut buffer = [0; 16];
        client.send(b"question").await?;
        let (length, peer) = server.recv_from(&mut buffer).await?;
        equal("what the pod gets", &buffer[..length], &b"question"[..])?;
        server.send_to(b"answer", peer).await?;
        let length = client.recv(&mut buffer).await?;
        equal("what the node gets", &buffer[..length], &b"answer"[..])
    };
    tokio::time::timeout(patient(Duration::from_secs(5)), exchange).await??;
    ensure!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "connections are taken");
    drop(server);
    c.clean_up().await
}

/// A socket for names' questions in the network of a process: busybox has no such server.
fn bind_in_network_of(pid: u32) -> Result<UdpSocket> {
    let network = File::open(format!("/proc/{pid}/ns/net"))?;
    // A thread that ends takes the namespace with it.
    let bind = move || -> std::io::Result<std::net::UdpSocket> {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        let socket = std::net::UdpSocket::bind("0.0.0.0:53")?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let bound = std::thread::spawn(bind).join();
    let bound = bound.ok().context("the thread ended badly")?;
    Ok(UdpSocket::from_std(bound.context("failed to bind in the pod")?)?)
}

async fn addresses(c: &Context) -> Result<()> {
    let pods = (0..8).map(|_| async {
        let pod = c.plain_pod().await?;
        c.address(&pod).await
    });
    let addresses = futures_util::future::try_join_all(pods).await?;
    let different: BTreeSet<&String> = addresses.iter().collect();
    equal("the addresses", different.len(), addresses.len())
}

async fn given_back(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let address = c.address(&pod).await?;
    c.stop_pod(&pod.id).await?;
    let answers = TcpStream::connect(format!("{address}:80"));
    let answers = tokio::time::timeout(Duration::from_millis(500), answers).await;
    ensure!(!matches!(answers, Ok(Ok(_))), "it still answers");
    c.remove_pod(&pod.id).await
}

async fn resolver(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    config.dns_config = Some(DnsConfig {
        servers: strings(&["10.10.10.10", "10.10.10.11"]),
        searches: strings(&["google.com", "svc.cluster.local"]),
        options: strings(&["ndots:8", "timeout:2"]),
    });
    let pod = c.run_pod(config).await?;
    let text = c.output(&pod, &c.script("cat /etc/resolv.conf")).await?;
    let words: BTreeSet<&str> = text.lines().map(str::trim).collect();
    for wanted in [
        "nameserver 10.10.10.10",
        "nameserver 10.10.10.11",
        "search google.com svc.cluster.local",
        "options ndots:8 timeout:2",
    ] {
        ensure!(words.contains(wanted), "no {wanted:?} in {text:?}");
    }
    Ok(())
}

async fn default_resolver(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let text = c.output(&pod, &c.script("cat /etc/resolv.conf")).await?;
    let own = std::fs::read_to_string("/etc/resolv.conf")?;
    equal("the file", text.trim_end(), own.trim_end())
}

async fn hosts(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let text = c.output(&pod, &c.script("cat /etc/hosts")).await?;
    let found =
        text.lines().any(|line| line.starts_with("127.0.0.1") && line.contains("localhost"));
    ensure!(found, "no localhost in {text:?}");
    Ok(())
}
