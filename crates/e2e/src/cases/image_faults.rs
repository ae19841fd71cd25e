//! Registries that are down, empty or lie.

use anyhow::{Result, ensure};
use cri_client::Code;
use serde_json::{Value, json};
use testing::image::digest;
use testing::{Answer, Held, Liar};

use crate::case;
use crate::case::Case;
use crate::catalog::BUSYBOX;
use crate::context::{Context, code, equal, refusal};

pub(super) const CASES: &[Case] = &[
    case!("image_fault.not_in_the_registry", not_found),
    case!("image_fault.registry_is_down", down).differs("1.6 does not say RegistryUnavailable"),
    case!("image_fault.layer_has_another_digest", wrong_layer)
        .differs("1.6 goes on from the wrong bytes"),
    case!("image_fault.layer_has_another_diff_id", wrong_diff_id),
    case!("image_fault.layer_is_cut_off", short_layer),
    case!("image_fault.layer_is_not_an_archive", not_an_archive),
    case!("image_fault.manifest_has_another_digest", wrong_manifest),
    case!("image_fault.manifest_is_no_manifest", bad_manifest),
    case!("image_fault.configuration_has_another_digest", wrong_config),
    case!("image_fault.no_such_platform", no_platform),
    case!("image_fault.registry_answers_with_errors", server_errors),
    case!("image_fault.path_leaves_the_layer", escape),
    case!("image_fault.names_in_an_image_name_nothing", names),
];

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image as it is served, to be spoilt before it is.
pub(super) struct Served {
    layer: Vec<u8>,
    diff_id: String,
    kind: String,
    liar: Liar,
}

impl Served {
    pub(super) fn new(layer: Vec<u8>) -> Result<Self> {
        let (diff_id, kind) = (digest(&layer), LAYER.to_owned());
        Ok(Self { diff_id, layer, kind, liar: Liar::start()? })
    }

    /// One whose layer is compressed; what it should unpack to is not known.
    pub(super) fn compressed(layer: Vec<u8>) -> Result<Self> {
        Ok(Self { kind: format!("{LAYER}+gzip"), ..Self::new(layer)? })
    }

    /// Its layer does not come until this is dropped.
    pub(super) fn hold_layer(&self) -> Held {
        self.liar.hold(&format!("/v2/lies/blobs/{}", digest(&self.layer)))
    }

    pub(super) fn name(&self) -> String {
        format!("{}/lies:1", self.liar.address())
    }

    fn config(&self) -> Vec<u8> {
        let rootfs = json!({ "type": "layers", "diff_ids": [self.diff_id] });
        let config = json!({
            "os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs,
        });
        config.to_string().into_bytes()
    }

    fn manifest(&self) -> Vec<u8> {
        let descriptor = |kind: &str, bytes: &[u8]| -> Value {
            json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
        };
        let config = descriptor("application/vnd.oci.image.config.v1+json", &self.config());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": [descriptor(&self.kind, &self.layer)],
        });
        manifest.to_string().into_bytes()
    }

    /// Serves everything as it should be.
    pub(super) fn serve(&self) {
        let manifest = self.manifest();
        self.say_manifest("1", Answer::ok(MANIFEST, &manifest));
        self.say_manifest(&digest(&manifest), Answer::ok(MANIFEST, &manifest));
        self.say_blob(&self.config(), Answer::ok(LAYER, &self.config()));
        self.say_blob(&self.layer, Answer::ok(LAYER, &self.layer));
    }

    fn say_manifest(&self, reference: &str, answer: Answer) {
        self.liar.say(&format!("/v2/lies/manifests/{reference}"), answer);
    }

    fn say_blob(&self, blob: &[u8], answer: Answer) {
        self.liar.say(&format!("/v2/lies/blobs/{}", digest(blob)), answer);
    }

    /// The pull must fail and leave nothing that can be seen.
    async fn refused(&self, c: &Context) -> Result<String> {
        let name = self.name();
        let error = refusal(c.pull(&name).await)?.to_string();
        ensure!(c.image(&name).await?.is_none(), "the image is there");
        ensure!(!error.contains('\n'), "the error has more than a line: {error}");
        Ok(error)
    }
}

/// A layer that no other case has: verified content is shared by its digest.
pub(super) fn archive(c: &Context) -> Result<Vec<u8>> {
    let mut layer = testing::image::LayerBuilder::new();
    layer.file("a/file", 0o644, c.directory()?.as_os_str().as_encoded_bytes())?;
    layer.finish()
}

async fn not_found(c: &Context) -> Result<()> {
    let error = refusal(c.pull("docker.io/e2e/none:1").await)?.to_string();
    ensure!(error.contains("e2e/none"), "the error does not say what: {error}");
    ensure!(c.image("docker.io/e2e/none:1").await?.is_none(), "the image is there");
    Ok(())
}

async fn down(c: &Context) -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let name = format!("{}/down:1", listener.local_addr()?);
    drop(listener);
    let result = c.pull(&name).await;
    let error = refusal(result)?;
    // The kubelet strips the code only if it is Unknown, and then looks at the start.
    let message = error.to_string();
    ensure!(message.contains("RegistryUnavailable: "), "the error is {message}");
    equal("the code", code::<()>(Err(error))?, Code::Unknown)
}

async fn wrong_layer(c: &Context) -> Result<()> {
    let served = Served::new(archive(c)?)?;
    served.serve();
    let mut other = served.layer.clone();
    other[600] ^= 1;
    served.say_blob(&served.layer, Answer::ok(LAYER, &other));
    served.refused(c).await?;
    // Told the truth afterwards, the same pull works: nothing of the lie was kept.
    served.serve();
    c.pull(&served.name()).await?;
    c.remove_image(&served.name()).await
}

async fn wrong_diff_id(c: &Context) -> Result<()> {
    let mut served = Served::new(archive(c)?)?;
    served.diff_id = digest(b"another");
    served.serve();
    served.refused(c).await?;
    Ok(())
}

async fn short_layer(c: &Context) -> Result<()> {
    let served = Served::new(archive(c)?)?;
    served.serve();
    let short = &served.layer[..700];
    served.say_blob(&served.layer, Answer::ok(LAYER, short));
    served.refused(c).await?;
    let length = Some(served.layer.len());
    served.say_blob(&served.layer, Answer { length, ..Answer::ok(LAYER, short) });
    served.refused(c).await?;
    Ok(())
}

async fn not_an_archive(c: &Context) -> Result<()> {
    let served = Served::new(vec![b'x'; 5000])?;
    served.serve();
    served.refused(c).await?;
    Ok(())
}

async fn wrong_manifest(c: &Context) -> Result<()> {
    let served = Served::new(archive(c)?)?;
    served.serve();
    let wanted = digest(b"another manifest");
    served.say_manifest(&wanted, Answer::ok(MANIFEST, &served.manifest()));
    let name = format!("{}/lies@{wanted}", served.liar.address());
    refusal(c.pull(&name).await)?;
    ensure!(c.image(&name).await?.is_none(), "the image is there");
    Ok(())
}

async fn bad_manifest(c: &Context) -> Result<()> {
    let served = Served::new(archive(c)?)?;
    for body in ["", "null", "[]", "{\"schemaVersion\":2}", "{", "\u{0}\u{1}"] {
        served.serve();
        served.say_manifest("1", Answer::ok(MANIFEST, body.as_bytes()));
        served.say_manifest(&digest(body.as_bytes()), Answer::ok(MANIFEST, body.as_bytes()));
        served.refused(c).await?;
    }
    Ok(())
}

async fn wrong_config(c: &Context) -> Result<()> {
    let served = Served::new(archive(c)?)?;
    served.serve();
    served.say_blob(&served.config(), Answer::ok(LAYER, b"{}"));
    served.refused(c).await?;
    Ok(())
}

async fn no_platform(c: &Context) -> Result<()> {
    let served = Served::new(archive(c)?)?;
    served.serve();
    let manifest = served.manifest();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{
        "mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len(),
        "platform": { "os": "linux", "architecture": "s390x" },
    }] });
    let index = index.to_string();
    served.say_manifest("1", Answer::ok(INDEX, index.as_bytes()));
    served.say_manifest(&digest(index.as_bytes()), Answer::ok(INDEX, index.as_bytes()));
    served.refused(c).await?;
    Ok(())
}

/// What an image may call itself: another that is there, and one that is not.
const TAKEN: [&str; 2] = [BUSYBOX, "docker.io/e2e/taken:latest"];

/// An image has the name that it was pulled by, whatever its index, its manifest and its
/// configuration say of themselves.
async fn names(c: &Context) -> Result<()> {
    let owner = c.pull(BUSYBOX).await?;
    for taken in TAKEN {
        let served = Served::new(archive(c)?)?;
        let annotations = json!({
            "org.opencontainers.image.ref.name": taken, "io.containerd.image.name": taken,
            "org.opencontainers.image.base.name": taken, "org.opencontainers.image.title": taken,
        });
        let mut config: Value = serde_json::from_slice(&served.config())?;
        config["config"] = json!({ "Image": taken, "Labels": annotations });
        config["RepoTags"] = json!([taken]);
        config["annotations"] = annotations.clone();
        let config = config.to_string().into_bytes();
        let mut manifest: Value = serde_json::from_slice(&served.manifest())?;
        manifest["annotations"] = annotations.clone();
        manifest["RepoTags"] = json!([taken]);
        manifest["config"]["digest"] = json!(digest(&config));
        manifest["config"]["size"] = json!(config.len());
        for part in ["config", "layers"] {
            let part = &mut manifest[part];
            let part = if part.is_array() { &mut part[0] } else { part };
            part["annotations"] = annotations.clone();
        }
        let manifest = manifest.to_string();
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX, "annotations": annotations, "manifests": [{
                "mediaType": MANIFEST, "digest": digest(manifest.as_bytes()),
                "size": manifest.len(), "annotations": annotations,
                "platform": { "os": "linux", "architecture": "amd64" },
            }],
        });
        let index = index.to_string();
        served.serve();
        served.say_blob(&config, Answer::ok(LAYER, &config));
        for (body, kind) in [(&index, INDEX), (&manifest, MANIFEST)] {
            served.say_manifest(&digest(body.as_bytes()), Answer::ok(kind, body.as_bytes()));
        }
        served.say_manifest("1", Answer::ok(INDEX, index.as_bytes()));

        let id = c.pull(&served.name()).await?;
        equal("its names", c.present(&id).await?.repo_tags, vec![served.name()])?;
        let named = |image: &&cri_proto::v1::Image| image.repo_tags.iter().any(|tag| tag == taken);
        let listed = c.runtime.images.images(None).await?;
        let named: Vec<_> = listed.iter().filter(named).map(|image| image.id.clone()).collect();
        let wanted = if taken == BUSYBOX { vec![owner.clone()] } else { Vec::new() };
        equal(taken, named, wanted)?;
        c.remove_image(&id).await?;
    }
    equal("the owner", c.present(BUSYBOX).await?.id, owner)
}

async fn server_errors(c: &Context) -> Result<()> {
    let served = Served::new(archive(c)?)?;
    for status in [401, 403, 500] {
        served.say_manifest("1", Answer::status(status));
        served.refused(c).await?;
    }
    Ok(())
}

async fn escape(c: &Context) -> Result<()> {
    let target = c.directory()?.join("escaped");
    let up =
        format!("{}{}", "../".repeat(20), target.display().to_string().trim_start_matches('/'));
    let mut layer = archive_with(&up, b"escaped");
    layer.extend([0; 1024]);
    let served = Served::new(layer)?;
    served.serve();
    // Refused, or kept inside: both are safe.
    let _ = c.pull(&served.name()).await;
    ensure!(!target.exists(), "the layer wrote to {}", target.display());
    c.remove_image(&served.name()).await
}

/// A tar header by hand: libraries refuse to write such a path.
fn archive_with(path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &path[..path.len().min(99)]);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut body = content.to_vec();
    body.resize(512, 0);
    [&header[..], &body].concat()
}
