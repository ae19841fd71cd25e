//! Hosts and registries as they are configured, and proxies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    Bed,
    fake::{Fake, Reply},
    made::{self, Layer, Made},
};
use images::PullErrorKind as Kind;

fn image() -> Made {
    Made::new(&[Layer::file("f", "1")])
}

fn many_layers() -> Made {
    Made::new(&(0..20).map(|n| Layer::file("f", &n.to_string())).collect::<Vec<_>>())
}

/// A mirror that takes connections and says nothing costs its time-out once, and not
/// once a blob; the next pull does not ask it at all.
#[tokio::test]
async fn a_dead_mirror_costs_once() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (server, bed) = (
        Fake::new(),
        Bed::with(|options| options.network.progress_timeout = Duration::from_millis(300)),
    );
    server.push("a", "1", &many_layers());
    server.push("a", "2", &many_layers());
    let at = silent.local_addr().unwrap();
    let text = format!("server = \"http://{}\"\n[host.\"http://{at}\"]\n", server.address);
    bed.hosts("up.example", &text);
    let begun = Instant::now();
    bed.images.pull("up.example/a:1", None).await.unwrap();
    let first = begun.elapsed();
    silent.set_nonblocking(true).unwrap();
    let mut asked = 0;
    while silent.accept().is_ok() {
        asked += 1;
    }
    assert!((1..=2).contains(&asked), "{asked}");
    bed.images.pull("up.example/a:2", None).await.unwrap();
    assert!(silent.accept().is_err(), "it was asked again");
    assert_eq!(bed.images.counters().mirror_failures, 1);
    assert!(first < Duration::from_secs(20), "{first:?}");
}

#[tokio::test]
async fn headers_go_to_their_host_and_not_where_it_redirects() {
    let (fake, elsewhere, bed) = (Fake::new(), Fake::new(), Bed::new());
    let image = image();
    fake.push("a", "latest", &image);
    elsewhere.push("a", "latest", &image);
    let (to, layer) = (elsewhere.address, made::digest(&image.layers[0].stored));
    fake.first(move |asked| {
        let location = format!("http://{to}{}", asked.path);
        asked.path.contains(&layer).then(|| Reply::status(307).with("Location", &location))
    });
    let text = format!(
        "server = \"http://{}\"\n[header]\nx-secret = \"s\"\nx-two = [\"a\", \"b\"]\n",
        fake.address
    );
    bed.hosts("up.example", &text);
    bed.images.pull("up.example/a", None).await.unwrap();
    assert!(fake.asked().iter().all(|asked| asked.header("x-secret") == Some("s")));
    assert_eq!(elsewhere.asked().len(), 1);
    assert_eq!(elsewhere.asked()[0].header("x-secret"), None);
}

#[tokio::test]
async fn registries_conf_moves_blocks_and_falls_back() {
    let (fake, empty, bed) = (Fake::new(), Fake::new(), Bed::new());
    fake.push("moved/app", "v1", &image());
    bed.write(
        "registries.conf",
        &format!(
            "[[registry]]\nprefix = \"x.io/team\"\nlocation = \"{}/moved\"\n\
             [[registry.mirror]]\nlocation = \"{}/none\"\n\
             [[registry]]\nprefix = \"bad.io\"\nblocked = true\n",
            fake.address, empty.address
        ),
    );
    let pulled = bed.images.pull("x.io/team/app:v1", None).await.unwrap();
    assert_eq!(pulled.repo_tags, ["x.io/team/app:v1"], "the name stays what was asked for");
    assert!(empty.asked()[0].path.starts_with("/v2/none/app/manifests/"));
    assert!(fake.asked().iter().all(|asked| asked.path.starts_with("/v2/moved/app/")));
    let error = bed.images.pull("bad.io/a", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("blocked"), "{error}");
}

#[tokio::test]
async fn an_insecure_registry_is_asked_in_the_clear_at_last() {
    let (fake, bed) = (Fake::new(), Bed::new());
    fake.push("app", "v1", &image());
    // Not loopback by its name, so it would be asked by TLS alone.
    let host = format!("ip6-localhost.invalid:{}", fake.address.port());
    bed.write(
        "registries.conf",
        &format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n"),
    );
    let error = bed.images.pull(&format!("{host}/app:v1"), None).await.unwrap_err();
    // The name does not resolve: both ways were tried, and both are in the error.
    assert_eq!(error.kind(), Kind::RegistryUnavailable);
    assert!(error.to_string().contains("before that"), "{error}");
}

#[tokio::test]
async fn short_names_are_looked_up_in_their_registries() {
    let (first, second, bed) = (Fake::new(), Fake::new(), Bed::new());
    second.push("app", "v1", &image());
    second.push("team/tool", "latest", &image());
    bed.write(
        "registries.conf",
        &format!(
            "unqualified-search-registries = [\"{}\", \"{}\"]\nshort-name-mode = \"permissive\"\n\
             [aliases]\ntool = \"{}/team/tool\"\n",
            first.address, second.address, second.address
        ),
    );
    let pulled = bed.images.pull("app:v1", None).await.unwrap();
    assert_eq!(pulled.repo_tags, [second.name("app:v1")]);
    assert_eq!(first.count("/manifests/v1"), 1);
    assert_eq!(bed.images.get("app:v1").unwrap().id, pulled.id);
    bed.images.pull("tool", None).await.unwrap();
    assert!(bed.images.get("tool").is_some());
    bed.images.remove("app:v1").await.unwrap();
    assert!(bed.images.list().is_empty());
    let bed = Bed::new();
    bed.write("registries.conf", "unqualified-search-registries = [\"a.io\", \"b.io\"]\n");
    let error = bed.images.pull("app", None).await.unwrap_err();
    assert!(error.to_string().contains("a.io, b.io"), "{error}");
}

/// The environment is read when a client is made, so this runs as a program of its own.
#[tokio::test]
async fn proxies_come_from_the_environment() {
    let proxy = Arc::new(Fake::new());
    proxy.push("a", "latest", &image());
    let program = std::env::current_exe().unwrap();
    let run = |no_proxy: &str| {
        std::process::Command::new(&program)
            .args(["--exact", "behind_a_proxy", "--ignored", "--nocapture"])
            .env("http_proxy", format!("http://{}", proxy.address))
            .env("no_proxy", no_proxy)
            .output()
            .unwrap()
    };
    let through = run("");
    assert!(through.status.success(), "{}", String::from_utf8_lossy(&through.stderr));
    // A proxy is asked for the whole URL.
    assert!(proxy.asked().iter().any(|asked| asked.path.contains("registry.invalid")));
    let before = proxy.asked().len();
    assert!(!run("registry.invalid").status.success());
    assert_eq!(proxy.asked().len(), before);
    // A proxy that is dead is a registry that is not there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = std::process::Command::new(&program)
        .args(["--exact", "behind_a_proxy", "--ignored", "--nocapture"])
        .env("http_proxy", format!("http://{free}"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&dead.stderr).into_owned();
    assert!(!dead.status.success() && said.contains("RegistryUnavailable"), "{said}");
    assert!(said.contains("registry.invalid") && said.contains("refused"), "{said}");
}

/// A host that does not take connections costs its own time, and no more.
#[tokio::test]
async fn each_host_has_its_own_time_to_be_dialled() {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    // A queue of connections that is full: whoever comes after gets no answer.
    let full = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&full, &std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    listen(&full, 0).unwrap();
    let full = TcpListener::from(full);
    let at = full.local_addr().unwrap();
    let _waiting: Vec<_> = (0..4)
        .map(|_| std::net::TcpStream::connect_timeout(&at, Duration::from_millis(200)))
        .collect();
    for (settings, least, most) in [("200ms", 150, 8000), ("1s", 900, 15_000)] {
        let bed = Bed::with(|options| options.network.attempts = 1);
        bed.hosts(
            "up.example",
            &format!("server = \"http://{at}\"\ndial_timeout = \"{settings}\"\n"),
        );
        let begun = Instant::now();
        let error = bed.images.pull("up.example/a", None).await.unwrap_err();
        let took = begun.elapsed();
        assert_eq!(error.kind(), Kind::RegistryUnavailable, "{error}");
        assert!(error.to_string().contains(&at.to_string()), "{error}");
        let range = Duration::from_millis(least)..Duration::from_millis(most);
        assert!(range.contains(&took), "{settings}: {took:?}");
    }
}

#[tokio::test]
#[ignore = "run by proxies_come_from_the_environment"]
async fn behind_a_proxy() {
    let bed = Bed::new();
    bed.hosts("registry.invalid", "server = \"http://registry.invalid\"");
    bed.images.pull("registry.invalid/a", None).await.unwrap();
}
