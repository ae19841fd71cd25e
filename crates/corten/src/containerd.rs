//! containerd's images, read from its directory: names and targets from its database,
//! blobs from its content store. They go out as an OCI layout, so the runtime verifies
//! every byte of it.
//!
//! The database is a bolt file. It is read as foreign bytes: every page and offset is
//! checked, and nothing that it says is followed twice.

mod bolt;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

/// Where containerd keeps what, below its directory.
const CONTENT: &str = "io.containerd.content.v1.content/blobs/sha256";
const DATABASE: &str = "io.containerd.metadata.v1.bolt/meta.db";

/// The most bytes of a manifest or index.
const MAX_MANIFEST: u64 = 4 << 20;
/// How deep indexes may lie in each other.
const MAX_DEPTH: usize = 4;
/// The most images that are taken.
const MAX_IMAGES: usize = 4096;

/// Which images of which store.
pub struct Store {
    pub dir: PathBuf,
    pub namespace: String,
    /// All where there are none.
    pub names: Vec<String>,
}

/// A pointer to a blob.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
}

impl Store {
    /// Writes the images as the tar stream of an OCI layout. Blobs that are not there, such
    /// as other machines' layers, are left out: the runtime takes what is whole.
    pub fn send(&self, to: &mut dyn Write) -> io::Result<()> {
        let images = self.images()?;
        let mut blobs = BTreeSet::new();
        let mut entries = Vec::new();
        for (name, target) in images {
            if !self.gather(&target, &mut blobs, 0)? {
                eprintln!("corten: warning: {name} is not whole there, and is left out");
                continue;
            }
            entries.push(entry(&name, &target));
        }
        if entries.is_empty() {
            return Err(io::Error::other("there is no image that is whole"));
        }
        let mut tar = tar::Builder::new(to);
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes)
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        add("index.json", index.to_string().as_bytes())?;
        for digest in &blobs {
            let path = self.blob(digest)?;
            tar.append_path_with_name(&path, format!("blobs/sha256/{}", hex(digest)?))?;
        }
        tar.finish()
    }

    /// Names and targets.
    fn images(&self) -> io::Result<Vec<(String, Descriptor)>> {
        let database = bolt::Database::open(&self.dir.join(DATABASE))?;
        let Some(images) = database.bucket(&["v1", &self.namespace, "images"])? else {
            return Err(io::Error::other(format!("there is no namespace \"{}\"", self.namespace)));
        };
        let mut found = Vec::new();
        for (name, value) in images.entries()?.into_iter().take(MAX_IMAGES) {
            let name = String::from_utf8_lossy(&name).into_owned();
            let bolt::Value::Bucket(image) = value else { continue };
            // Kept under its configuration's digest, too: that is no name.
            let wanted = self.names.is_empty() && !name.starts_with("sha256:");
            if !wanted && !self.names.contains(&name) {
                continue;
            }
            if let Some(target) = target(&image)? {
                found.push((name, target));
            }
        }
        if let Some(missing) = self.names.iter().find(|n| !found.iter().any(|(f, _)| f == *n)) {
            return Err(io::Error::other(format!("there is no image \"{missing}\"")));
        }
        Ok(found)
    }

    /// Gathers the blobs of what a descriptor leads to. Returns whether it is whole; of an
    /// index one whole image is enough.
    fn gather(
        &self,
        target: &Descriptor,
        blobs: &mut BTreeSet<String>,
        depth: usize,
    ) -> io::Result<bool> {
        if depth > MAX_DEPTH || !self.has(target)? {
            return Ok(false);
        }
        let mut text = Vec::new();
        File::open(self.blob(&target.digest)?)?.take(MAX_MANIFEST).read_to_end(&mut text)?;
        let document: Document = serde_json::from_slice(&text).unwrap_or_default();
        let mut own = BTreeSet::from([target.digest.clone()]);
        let mut whole = !document.manifests.is_empty() || document.config.is_some();
        if document.manifests.is_empty() {
            for part in document.config.iter().chain(&document.layers) {
                whole &= self.has(part)?;
                own.insert(part.digest.clone());
            }
        } else {
            let mut any = false;
            for part in &document.manifests {
                any |= self.gather(part, &mut own, depth + 1)?;
            }
            whole = any;
        }
        if whole {
            blobs.append(&mut own);
        }
        Ok(whole)
    }

    fn has(&self, blob: &Descriptor) -> io::Result<bool> {
        let meta = std::fs::metadata(self.blob(&blob.digest)?);
        Ok(meta.is_ok_and(|meta| meta.is_file() && meta.len() == blob.size))
    }

    fn blob(&self, digest: &str) -> io::Result<PathBuf> {
        Ok(self.dir.join(Path::new(CONTENT)).join(hex(digest)?))
    }
}

/// The digits of a digest, which become a file's name.
fn hex(digest: &str) -> io::Result<&str> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    let good = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    good.then_some(hex).ok_or_else(|| io::Error::other(format!("\"{digest}\" is no digest")))
}

/// `target` of an image: its digest, type and size, which is a varint.
fn target(image: &bolt::Bucket<'_>) -> io::Result<Option<Descriptor>> {
    let mut target = None;
    for (key, value) in image.entries()? {
        if let (b"target", bolt::Value::Bucket(bucket)) = (key.as_slice(), value) {
            target = Some(bucket);
        }
    }
    let Some(target) = target else { return Ok(None) };
    let mut found = Descriptor { media_type: String::new(), digest: String::new(), size: 0 };
    for (key, value) in target.entries()? {
        let bolt::Value::Bytes(bytes) = value else { continue };
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        match key.as_slice() {
            b"digest" => found.digest = text(),
            b"mediatype" => found.media_type = text(),
            b"size" => found.size = size(&bytes).unwrap_or(0),
            _ => {}
        }
    }
    Ok(hex(&found.digest).is_ok().then_some(found))
}

/// A signed number as Go writes it: zigzag, seven bits a byte, the lowest first.
fn size(bytes: &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f).checked_shl(u32::try_from(7 * at).ok()?)?;
        if byte & 0x80 == 0 {
            return (number & 1 == 0).then_some(number >> 1);
        }
    }
    None
}

fn entry(name: &str, target: &Descriptor) -> Value {
    json!({
        "mediaType": target.media_type,
        "digest": target.digest,
        "size": target.size,
        "annotations": {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_go_writes_them() {
        for (bytes, expected) in [
            (&[0x00][..], Some(0)),
            (&[0x02], Some(1)),
            (&[0xd0, 0x0f], Some(1000)),
            (&[0x01], None),
            (&[0x80], None),
            (&[], None),
            (&[0xff; 11], None),
        ] {
            assert_eq!(size(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn digests_are_no_paths() {
        for bad in ["", "sha256:", "sha256:../../etc/passwd", &format!("sha256:{}", "A".repeat(64))]
        {
            assert!(hex(bad).is_err(), "{bad}");
        }
    }
}
