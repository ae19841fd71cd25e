//! Loading from archives: OCI layouts (`oci-layout`, `index.json`, `blobs/`) as
//! directories and tar files, and what `docker save` writes (`manifest.json`).

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use types::{Digest, Image, ImageId};

use crate::{
    Images, LoadedImage, PullError,
    error::chain,
    layer::{self, Wanted, check_digest, digest_of},
    manifest::{self, Compression, Config, Descriptor, Document, Manifest},
    reference::{Reference, Version},
    spool::Spool,
};

/// The most entries of an archive.
const MAX_ENTRIES: usize = 100_000;
/// The most links that lead from one name in an archive to a file.
const MAX_LINKS: usize = 8;
/// The most images that one archive may bring.
const MAX_IMAGES: usize = 1024;
/// How deep indexes may lie in each other.
const MAX_DEPTH: usize = 3;

/// Where an archive's files are.
enum Archive {
    Directory(PathBuf),
    /// The archive, and where in it each file's bytes lie.
    Tar {
        file: File,
        entries: HashMap<String, Entry>,
    },
}

enum Entry {
    File { offset: u64, size: u64 },
    Link(String),
}

fn bad(what: impl Into<String>, reason: impl Into<String>) -> PullError {
    PullError::InvalidImage { what: what.into(), reason: reason.into() }
}

fn failed(what: &str) -> impl Fn(io::Error) -> PullError + '_ {
    move |error| PullError::InvalidImage { what: what.to_owned(), reason: chain(&error) }
}

/// An image of an archive that is ready to be added.
struct Ready {
    image: Image,
    names: Vec<String>,
}

impl Images {
    /// Loads all images of an archive.
    pub(crate) async fn load_from(
        self: &Arc<Self>,
        path: &Path,
    ) -> Result<Vec<LoadedImage>, PullError> {
        let (images, path) = (self.clone(), path.to_owned());
        let ready = tokio::task::spawn_blocking(move || {
            let mut archive = open(&images, &path)?;
            images.read_archive(&mut archive)
        })
        .await
        .map_err(|_| PullError::Aborted { reference: "the archive".to_owned() })??;
        let mut loaded = Vec::new();
        for (Ready { image, names }, _pin) in ready {
            loaded.push(LoadedImage { image: self.add(image).await?, names });
        }
        Ok(loaded)
    }

    fn read_archive(
        &self,
        archive: &mut Archive,
    ) -> Result<Vec<(Ready, snapshots::LayerPin)>, PullError> {
        if archive.has("oci-layout") {
            return self.read_layout(archive);
        }
        if archive.has("manifest.json") {
            return self.read_docker(archive);
        }
        Err(bad("the archive", "it is neither an OCI layout nor what docker save writes"))
    }

    fn read_layout(
        &self,
        archive: &mut Archive,
    ) -> Result<Vec<(Ready, snapshots::LayerPin)>, PullError> {
        let limit = self.limits.max_manifest_bytes;
        let bytes = archive.read("index.json", limit)?;
        let Document::Index(entries) = manifest::parse("index.json", &bytes, &self.limits)? else {
            return Err(bad("index.json", "it is no index"));
        };
        let mut ready: Vec<(Ready, snapshots::LayerPin)> = Vec::new();
        for entry in entries.iter().take(MAX_IMAGES) {
            // An entry for another machine is passed over, not an error.
            if entry.platform.as_ref().is_some_and(|p| self.options.platform.rank(p).is_none()) {
                continue;
            }
            let (found, manifest) = self.descend(archive, entry)?;
            let config =
                self.read_config(archive, &blob_path(manifest.config.digest), &manifest.config)?;
            let pin = self.snapshots.pin(&config.diff_ids);
            for wanted in self.layers(&manifest, &config)? {
                self.install(archive, &blob_path(wanted.descriptor.digest), &wanted)?;
            }
            ready.push((self.ready(&manifest, &config, found, &names_of(entry), true), pin));
        }
        Ok(ready)
    }

    /// Follows an entry to a manifest for this machine.
    fn descend(
        &self,
        archive: &mut Archive,
        entry: &Descriptor,
    ) -> Result<(Digest, Manifest), PullError> {
        let mut at = entry.clone();
        for _ in 0..MAX_DEPTH {
            let what = format!("manifest {}", at.digest);
            let bytes = archive.read(&blob_path(at.digest), self.limits.max_manifest_bytes)?;
            check_digest(what.clone(), at.digest, digest_of(&bytes))?;
            match manifest::parse(&what, &bytes, &self.limits)? {
                Document::Manifest(manifest) => return Ok((entry.digest, manifest)),
                Document::Index(entries) => {
                    at = manifest::choose(&what, &entries, &self.options.platform)?.clone();
                }
            }
        }
        Err(bad(format!("manifest {}", entry.digest), "its indexes are nested too deep"))
    }

    fn read_config(
        &self,
        archive: &mut Archive,
        path: &str,
        descriptor: &Descriptor,
    ) -> Result<Config, PullError> {
        let what = format!("configuration {}", descriptor.digest);
        let bytes = archive.read(path, self.limits.max_config_bytes)?;
        check_digest(what.clone(), descriptor.digest, digest_of(&bytes))?;
        manifest::parse_config(&what, &bytes)
    }

    fn install(&self, archive: &mut Archive, path: &str, wanted: &Wanted) -> Result<(), PullError> {
        if self.snapshots.has_layer(&wanted.diff_id) {
            return Ok(());
        }
        let source = archive.open(path)?;
        layer::install(&self.snapshots, wanted, source)
    }

    fn ready(
        &self,
        manifest: &Manifest,
        config: &Config,
        digest: Digest,
        names: &[String],
        by_digest: bool,
    ) -> Ready {
        let references: Vec<Reference> = names.iter().filter_map(|n| n.parse().ok()).collect();
        let repo_tags: Vec<String> = references
            .iter()
            .filter(|r| matches!(r.version(), Version::Tag(_)))
            .map(ToString::to_string)
            .collect();
        let repo_digests = match by_digest {
            true => references.iter().map(|r| r.at_digest(digest)).collect(),
            false => Vec::new(),
        };
        let size: u64 = manifest.layers.iter().map(|l| l.size).sum();
        Ready {
            names: references.iter().map(ToString::to_string).collect(),
            image: Image {
                id: ImageId(manifest.config.digest),
                repo_tags,
                repo_digests,
                manifest: digest,
                size_bytes: size.saturating_add(manifest.config.size),
                layers: config.diff_ids.clone(),
                config: config.image.clone(),
                created_at_ns: crate::now_ns(),
                pinned: false,
            },
        }
    }

    /// `docker save` has no manifests: sizes and digests are computed from the files.
    fn read_docker(
        &self,
        archive: &mut Archive,
    ) -> Result<Vec<(Ready, snapshots::LayerPin)>, PullError> {
        let bytes = archive.read("manifest.json", self.limits.max_manifest_bytes)?;
        let saved: Vec<Saved> =
            serde_json::from_slice(&bytes).map_err(|e| bad("manifest.json", e.to_string()))?;
        let mut ready: Vec<(Ready, snapshots::LayerPin)> = Vec::new();
        for one in saved.into_iter().take(MAX_IMAGES) {
            let text = archive.read(&one.config, self.limits.max_config_bytes)?;
            let config = manifest::parse_config(&one.config, &text)?;
            let pin = self.snapshots.pin(&config.diff_ids);
            let manifest = Manifest {
                config: descriptor(digest_of(&text), text.len() as u64, String::new()),
                layers: one
                    .layers
                    .iter()
                    .map(|path| archive.describe(path))
                    .collect::<Result<_, _>>()?,
            };
            for (wanted, path) in self.layers(&manifest, &config)?.iter().zip(&one.layers) {
                self.install(archive, path, wanted)?;
            }
            let id = manifest.config.digest;
            ready.push((
                self.ready(&manifest, &config, id, &one.repo_tags.unwrap_or_default(), false),
                pin,
            ));
        }
        Ok(ready)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn descriptor(digest: Digest, size: u64, media_type: String) -> Descriptor {
    Descriptor { media_type, digest, size, platform: None, annotations: None }
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The names of an entry. `ref.name` is often only a tag, which names no image.
fn names_of(entry: &Descriptor) -> Vec<String> {
    let Some(annotations) = &entry.annotations else { return Vec::new() };
    let full = annotations.get("io.containerd.image.name").cloned();
    let short = annotations
        .get("org.opencontainers.image.ref.name")
        .filter(|name| name.contains(['/', ':']))
        .cloned();
    full.or(short).into_iter().collect()
}

fn open(images: &Images, path: &Path) -> Result<Archive, PullError> {
    let what = path.display().to_string();
    if path.is_dir() {
        return Ok(Archive::Directory(path.to_owned()));
    }
    let file = File::open(path).map_err(failed(&what))?;
    let file = decompressed(images, file).map_err(failed("the archive"))?;
    index(file)
}

/// A compressed archive is spooled in the clear: its parts are read in any order.
fn decompressed(images: &Images, mut file: File) -> io::Result<File> {
    let mut head = [0; 4];
    let n = file.read(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let reader: Box<dyn Read> = if head[..n].starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else if head[..n] == [0x28, 0xb5, 0x2f, 0xfd] {
        Box::new(zstd::stream::read::Decoder::new(file)?)
    } else {
        return Ok(file);
    };
    let spool = Spool::new(&images.options.root)?;
    let mut plain =
        File::options().read(true).write(true).create(true).truncate(true).open(spool.path())?;
    let limit = images.limits.max_layer_bytes;
    if io::copy(&mut reader.take(limit), &mut plain)? == limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any image"));
    }
    // The file lives on as long as it is open; its name goes with the spool.
    Ok(plain)
}

fn index(mut file: File) -> Result<Archive, PullError> {
    let failed = failed("the archive");
    file.seek(SeekFrom::Start(0)).map_err(&failed)?;
    let mut entries = HashMap::new();
    let mut archive = tar::Archive::new(&file);
    for entry in archive.entries_with_seek().map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        if entries.len() >= MAX_ENTRIES {
            return Err(PullError::LimitExceeded {
                what: "the number of files of the archive".to_owned(),
                limit: MAX_ENTRIES.to_string(),
            });
        }
        let Some(name) = entry.path().ok().and_then(|p| plain_name(&p)) else { continue };
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let place = Entry::File { offset: entry.raw_file_position(), size: entry.size() };
            entries.insert(name, place);
        } else if kind.is_symlink() || kind.is_hard_link() {
            let Some(target) = entry.link_name().ok().flatten() else { continue };
            let base = if kind.is_symlink() {
                Path::new(&name).parent().unwrap_or(Path::new(""))
            } else {
                Path::new("")
            };
            if let Some(target) = plain_name(&base.join(target)) {
                entries.insert(name, Entry::Link(target));
            }
        }
    }
    drop(archive);
    Ok(Archive::Tar { file, entries })
}

/// A name without `.` and `..`; one that leads out of the archive is none.
fn plain_name(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

impl Archive {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(dir) => dir.join(name).is_file(),
            Self::Tar { entries, .. } => entries.contains_key(name),
        }
    }

    /// Opens a file of the archive.
    fn open(&mut self, name: &str) -> Result<Box<dyn Read + '_>, PullError> {
        let plain = plain_name(Path::new(name))
            .ok_or_else(|| bad(name, "the name leads out of the archive"))?;
        match self {
            Self::Directory(dir) => {
                let path = dir.join(&plain);
                let meta = fs::symlink_metadata(&path).map_err(failed(name))?;
                if !meta.is_file() {
                    return Err(bad(name, "it is no regular file"));
                }
                Ok(Box::new(File::open(&path).map_err(failed(name))?))
            }
            Self::Tar { file, entries } => {
                let (offset, size) = locate(entries, &plain)
                    .ok_or_else(|| bad(name, "the archive does not have it"))?;
                file.seek(SeekFrom::Start(offset)).map_err(failed(name))?;
                Ok(Box::new(file.take(size)))
            }
        }
    }

    fn read(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, PullError> {
        let mut bytes = Vec::new();
        self.open(name)?
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(failed(name))?;
        if bytes.len() as u64 > limit {
            return Err(PullError::LimitExceeded {
                what: name.to_owned(),
                limit: format!("{limit} bytes"),
            });
        }
        Ok(bytes)
    }

    /// The digest, size and kind of a layer's file.
    fn describe(&mut self, name: &str) -> Result<Descriptor, PullError> {
        use sha2::Digest as _;
        let mut source = self.open(name)?;
        let mut head = Vec::new();
        source.by_ref().take(4).read_to_end(&mut head).map_err(failed(name))?;
        let compression = match head.as_slice() {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
            _ => Compression::None,
        };
        let mut hash = sha2::Sha256::new();
        hash.update(&head);
        let mut size = head.len() as u64;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = source.read(&mut buffer).map_err(failed(name))?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            size += n as u64;
        }
        let suffix = match compression {
            Compression::None => "",
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
        };
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        Ok(descriptor(Digest::from_bytes(hash.finalize().into()), size, media_type))
    }
}

fn locate(entries: &HashMap<String, Entry>, name: &str) -> Option<(u64, u64)> {
    let mut name = name;
    for _ in 0..MAX_LINKS {
        match entries.get(name)? {
            Entry::File { offset, size } => return Some((*offset, *size)),
            Entry::Link(target) => name = target,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_archive() {
        for (text, expected) in [
            ("a/b", Some("a/b")),
            ("./a/../b", Some("b")),
            ("../a", None),
            ("a/../../b", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(plain_name(Path::new(text)).as_deref(), expected, "{text}");
        }
    }
}
