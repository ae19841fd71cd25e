//! Against Debian's docker-registry, with images that skopeo pushes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use common::{
    Bed,
    made::{self, Layer, Made, OCI_MANIFEST},
};
use images::PullErrorKind;
use testing::{Ground, Registry, program::Program};

fn layout(dir: &Path, image: &Made) -> std::path::PathBuf {
    let mut entry = image.entry("amd64");
    entry["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "t" });
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(dir.join("index.json"), made::index(&[entry])).unwrap();
    let all = image.blobs.values().chain([&image.manifest]);
    for bytes in all {
        fs::write(blobs.join(&made::digest(bytes)[7..]), bytes).unwrap();
    }
    dir.to_owned()
}

#[tokio::test]
async fn images_come_from_a_real_registry_under_any_name() {
    let ground = Ground::new().unwrap();
    let registry = Registry::start(&ground).unwrap();
    let work = tempfile::tempdir().unwrap();
    let image = Made::with(&[Layer::file("f", "1"), Layer::file("g", "2")], "u", OCI_MANIFEST);
    let dir = layout(work.path(), &image);
    registry.push(&dir, "t", "library/busybox:1.36").unwrap();
    registry.push_as_docker(&dir, "t", "library/busybox:docker").unwrap();
    let bed = Bed::with(|options| options.certs_dirs = vec![registry.certs_dir().to_owned()]);

    let direct = format!("{}/library/busybox:1.36", registry.address());
    let pulled = bed.images.pull(&direct, None).await.unwrap();
    assert_eq!(pulled.id.to_string(), image.id());
    let pulled = bed.images.pull("busybox:1.36", None).await.unwrap();
    assert_eq!(pulled.repo_tags, [direct.clone(), "docker.io/library/busybox:1.36".into()]);
    let by_digest = format!("docker.io/library/busybox@{}", image.digest());
    assert!(pulled.repo_digests.contains(&by_digest));
    assert_eq!(bed.images.pull(&by_digest, None).await.unwrap(), pulled);
    let docker = bed.images.pull("docker.io/library/busybox:docker", None).await.unwrap();
    assert_eq!(docker.id, pulled.id);
    assert_eq!(bed.text(&docker, "g").as_deref(), Some("2"));

    let error = bed.images.pull("busybox:nope", None).await.unwrap_err();
    assert!(error.to_string().contains("manifest unknown"), "{error}");
    bed.images.remove(&direct).await.unwrap();
    assert!(bed.images.list().is_empty() && bed.snapshots.layers().is_empty());
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A registry that speaks TLS with a certificate of its own, in `dir/ca.pem`.
fn start_with_tls(ground: &Ground, dir: &Path, clients: bool) -> (Program, SocketAddr) {
    let (key, certificate) = (dir.join("key.pem"), dir.join("ca.pem"));
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args([
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate));
    serve_with_tls(ground, dir, clients)
}

/// The same with the certificate that lies there.
fn serve_with_tls(ground: &Ground, dir: &Path, clients: bool) -> (Program, SocketAddr) {
    let (key, certificate) = (dir.join("key.pem"), dir.join("ca.pem"));
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}/blobs}}}}\n\
         http: {{addr: \"{address}\", tls: {{certificate: {}, key: {}{}}}}}\n",
        dir.display(),
        certificate.display(),
        key.display(),
        match clients {
            true => format!(", clientcas: [{}]", dir.join("client.pem").display()),
            false => String::new(),
        }
    );
    fs::write(dir.join("registry.yml"), text).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(dir.join("registry.yml"));
    let mut program = Program::start(&mut command, &ground.log("tls-registry")).unwrap();
    let up = || TcpStream::connect(address).is_ok();
    program.until(Duration::from_secs(20), "the registry", up).unwrap();
    (program, address)
}

#[tokio::test]
async fn certificates_are_checked_as_configured() {
    let (ground, work) = (Ground::new().unwrap(), tempfile::tempdir().unwrap());
    let (_program, address) = start_with_tls(&ground, work.path(), false);
    let image = Made::with(&[Layer::file("f", "1")], "u", OCI_MANIFEST);
    let dir = layout(&work.path().join("layout"), &image);
    run(Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:t", dir.display()))
        .arg(format!("docker://{address}/app:1")));
    for (settings, good) in [
        ("", false),
        ("skip_verify = true", true),
        ("ca = \"ca.pem\"", true),
        ("ca = [\"ca.pem\"]", true),
    ] {
        let bed = Bed::new();
        bed.hosts("tls.example", &format!("server = \"https://{address}\"\n{settings}\n"));
        let place = bed.dir.path().join("certs.d/tls.example/ca.pem");
        fs::copy(work.path().join("ca.pem"), place).unwrap();
        match bed.images.pull("tls.example/app:1", None).await {
            Ok(pulled) => assert!(good && pulled.id.to_string() == image.id(), "{settings}"),
            Err(error) => {
                assert!(!good, "{settings}: {error}");
                assert_eq!(error.kind(), PullErrorKind::RegistryUnavailable, "{error}");
                assert!(error.to_string().contains("certificate"), "{error}");
            }
        }
    }
}

/// A certificate that was good until some years ago.
fn make_expired(dir: &Path) {
    fs::create_dir_all(dir.join("new")).unwrap();
    fs::write(dir.join("index.txt"), "").unwrap();
    let config = "[ca]\ndefault_ca = own\n[own]\ndir = .\ndatabase = index.txt\nserial = serial\n\
                  new_certs_dir = new\ndefault_md = sha256\npolicy = any\nx509_extensions = names\n\
                  rand_serial = yes\n[any]\ncommonName = supplied\n\
                  [names]\nsubjectAltName = IP:127.0.0.1\nbasicConstraints = critical,CA:FALSE\n";
    fs::write(dir.join("ca.cnf"), config).unwrap();
    run(Command::new("openssl")
        .current_dir(dir)
        .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-subj", "/CN=test", "-keyout", "key.pem", "-out", "request.pem"]));
    run(Command::new("openssl")
        .current_dir(dir)
        .args(["ca", "-batch", "-config", "ca.cnf", "-selfsign", "-keyfile", "key.pem"])
        .args(["-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-notext"])
        .args(["-in", "request.pem", "-out", "ca.pem"]));
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_named() {
    let (ground, work) = (Ground::new().unwrap(), tempfile::tempdir().unwrap());
    make_expired(work.path());
    let (_program, address) = serve_with_tls(&ground, work.path(), false);
    let bed = Bed::new();
    let ca = work.path().join("ca.pem");
    let text = format!("server = \"https://{address}\"\nca = \"{}\"\n", ca.display());
    bed.hosts("tls.example", &text);
    let error = bed.images.pull("tls.example/app:1", None).await.unwrap_err();
    assert_eq!(error.kind(), PullErrorKind::RegistryUnavailable, "{error}");
    let text = error.to_string();
    assert!(text.contains("expired") && text.contains(&address.to_string()), "{text}");
}

/// Who has no certificate does not get in; how it is named is hosts.toml's or Docker's way.
#[tokio::test]
async fn our_own_certificate_is_shown() {
    let (ground, work) = (Ground::new().unwrap(), tempfile::tempdir().unwrap());
    run(Command::new("openssl")
        .current_dir(work.path())
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=node"])
        .args(["-keyout", "client.key", "-out", "client.pem"]));
    let (_program, address) = start_with_tls(&ground, work.path(), true);
    let file = |name: &str| work.path().join(name).display().to_string();
    let pair = format!("client = [[\"{}\", \"{}\"]]", file("client.pem"), file("client.key"));
    for (settings, good) in [("", false), (pair.as_str(), true)] {
        let bed = Bed::new();
        let text =
            format!("server = \"https://{address}\"\nca = \"{}\"\n{settings}\n", file("ca.pem"));
        bed.hosts("tls.example", &text);
        let error = bed.images.pull("tls.example/app:1", None).await.unwrap_err();
        // Let in, there is nothing there.
        let expected =
            if good { PullErrorKind::NotFound } else { PullErrorKind::RegistryUnavailable };
        assert_eq!(error.kind(), expected, "{error}");
    }
    let bed = Bed::new();
    let dir = bed.dir.path().join("certs.d").join(address.to_string());
    fs::create_dir_all(&dir).unwrap();
    for (from, to) in [("ca.pem", "ca.crt"), ("client.pem", "a.cert"), ("client.key", "a.key")] {
        fs::copy(work.path().join(from), dir.join(to)).unwrap();
    }
    // Without a hosts.toml a registry on loopback is spoken to in the clear, so by name.
    let text = format!(
        "server = \"https://{address}\"\nca = \"ca.crt\"\nclient = [\"a.cert\", \"a.key\"]\n"
    );
    fs::write(dir.join("hosts.toml"), text).unwrap();
    let error = bed.images.pull(&format!("{address}/app:1"), None).await.unwrap_err();
    assert!(error.to_string().contains("a.cert"), "there is no key in it: {error}");
}
