//! The images that the cases use, in a registry on loopback.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use testing::image::{Compression, Image, LayerBuilder, Layout, busybox, web_server};
use testing::{Ground, Registry};

/// What most containers run.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
/// A web server on port 80.
pub const WEB: &str = "docker.io/library/nginx:latest";

/// The registry with all images, and the images for cases that need their bytes.
pub struct Catalog {
    /// The registry.
    pub registry: Registry,
    /// Busybox.
    pub busybox: Image,
}

impl Catalog {
    /// Takes the images from a directory to which they were saved.
    ///
    /// # Errors
    /// If the registry does not start.
    pub fn open(ground: &Ground, saved: &Path) -> Result<Self> {
        Ok(Self { registry: Registry::start_with(ground, Some(saved))?, busybox: busybox()? })
    }

    /// Builds the images and pushes them.
    ///
    /// # Errors
    /// If a package or program is missing.
    pub fn build(ground: &Ground) -> Result<Self> {
        let registry = Registry::start(ground)?;
        let busybox = busybox()?;
        let mut publisher =
            Publisher { registry: &registry, layout: Layout::new(&ground.make("layout")?)? };
        publisher.push(&busybox, &["e2e-test-images/busybox:1.29-2", "library/busybox:latest"])?;
        publisher.push(&pause(&busybox), &["pause:3.6"])?;
        publisher.push(&web_server(&busybox)?, &["library/nginx:latest"])?;
        publisher.named(&busybox)?;
        publisher.users(&busybox)?;
        publisher.forms(&busybox)?;
        Ok(Self { registry, busybox })
    }
}

struct Publisher<'a> {
    registry: &'a Registry,
    layout: Layout,
}

impl Publisher<'_> {
    fn push(&mut self, image: &Image, names: &[&str]) -> Result<()> {
        for name in names {
            let tag = name.replace(['/', ':'], "-");
            self.layout.add(&tag, image)?;
            self.registry.push(self.layout.path(), &tag, name)?;
        }
        Ok(())
    }

    /// Images that differ in a label only, one set a case.
    fn named(&mut self, base: &Image) -> Result<()> {
        let labelled = |label: &str| base.with("Labels", json!({ "of": label }));
        for (label, names) in [
            ("tag", &["e2e/tag:test"][..]),
            ("latest", &["e2e/latest:latest"]),
            ("digest", &["e2e/digest:unused"]),
            ("status", &["e2e/status:1"]),
            ("tags", &["e2e/tags:1", "e2e/tags:2", "e2e/tags:3"]),
            ("one", &["e2e/one:latest"]),
            ("two", &["e2e/two:latest"]),
            ("three", &["e2e/three:latest"]),
            ("shared", &["e2e/shared:1"]),
            ("parallel", &["e2e/parallel:1"]),
            ("again", &["e2e/again:1"]),
            ("reference", &["e2e/reference:1"]),
            ("used", &["e2e/used:1"]),
            ("moving", &["e2e/moving:1"]),
            ("many", &["e2e/many:1"]),
        ] {
            self.push(&labelled(label), names)?;
        }
        Ok(())
    }

    fn users(&mut self, base: &Image) -> Result<()> {
        for (name, user) in [
            ("e2e/user-uid:1", "1002"),
            ("e2e/user-name:1", "www-data"),
            ("e2e/user-uid-group:1", "1003:users"),
            ("e2e/user-name-group:1", "www-data:www-data"),
            ("e2e/user-groups:1", "default-user"),
        ] {
            self.push(&base.with("User", json!(user)), &[name])?;
        }
        let config = base
            .with("Entrypoint", json!(["/bin/echo", "entry"]))
            .with("Cmd", json!(["command"]))
            .with("Env", json!(["PATH=/bin", "FROM_IMAGE=yes", "BOTH=image"]))
            .with("WorkingDir", json!("/srv/made"));
        self.push(&config, &["e2e/config:1"])?;
        self.push(&base.with("StopSignal", json!("SIGUSR1")), &["e2e/stop-signal:1"])
    }

    /// One image in all the forms that registries have.
    fn forms(&mut self, base: &Image) -> Result<()> {
        let labelled = |label: &str| base.with("Labels", json!({ "of": label }));
        let zstd = labelled("zstd").stored(Compression::Zstd);
        self.push(&zstd, &["e2e/zstd:1"])?;
        self.push(&labelled("plain").stored(Compression::Plain), &["e2e/plain:1"])?;
        self.push(&layered(base)?, &["e2e/layered:1"])?;

        self.layout.add("docker", &labelled("docker"))?;
        self.registry.push_as_docker(self.layout.path(), "docker", "e2e/docker:1")?;

        let other = Image { architecture: "s390x".to_owned(), ..labelled("other platform") };
        self.layout.add_index("index", &[other, labelled("this platform")])?;
        self.registry.push(self.layout.path(), "index", "e2e/index:1")
    }
}

/// Containerd wants a program that does nothing but reap. A shell that waits does;
/// there is no `sleep` in it, which cases look for.
fn pause(base: &Image) -> Image {
    let script = "tail -f /dev/null & while :; do wait; done";
    base.with("Entrypoint", json!(["/bin/sh", "-c", script])).with("Cmd", json!(null))
}

/// Layers that take away from and replace each other.
fn layered(base: &Image) -> Result<Image> {
    let mut lower = LayerBuilder::new();
    lower.file("data/kept", 0o644, b"lower")?.file("data/gone", 0o644, b"lower")?;
    lower.file("data/changed", 0o644, b"lower")?.file("data/tree/gone/deep", 0o644, b"lower")?;
    lower.file("data/opaque/gone", 0o644, b"lower")?;
    lower.file("data/opaque/sub/gone", 0o644, b"lower")?;
    lower.file("data/becomes-directory", 0o644, b"lower")?;
    lower.file("data/becomes-file/gone", 0o644, b"lower")?;
    let mut upper = LayerBuilder::new();
    upper.whiteout("data/gone")?.whiteout("data/tree/gone")?;
    upper.file("data/changed", 0o600, b"upper")?;
    upper.opaque("data/opaque")?.file("data/opaque/new", 0o644, b"upper")?;
    upper.whiteout("data/becomes-directory")?;
    upper.file("data/becomes-file", 0o644, b"upper")?;
    let mut top = LayerBuilder::new();
    top.file("data/becomes-directory/new", 0o644, b"top")?;
    top.owned_file("data/owned", 0o4755, (1000, 50_000), b"top")?;
    top.symlink("data/link", "/data/kept")?;
    let image = base.with_layer(lower.finish()?).with_layer(upper.finish()?);
    Ok(image.with_layer(top.finish()?))
}
