//! Looking for damage, and repairing it.
//!
//! What is checked: that each image's layers are there, each with the files with which it
//! was sealed; where it is asked for, that the files' bytes make the stream that the
//! layer's diff ID names; that kept blobs are what their names say; that what images came
//! with is theirs. What is damaged is forgotten, so that the next pull fetches it anew:
//! nothing that is listed is damaged afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    os::fd::AsFd,
    sync::Arc,
    time::Instant,
};

use sha2::{Digest as _, Sha256};
use snapshots::LayerState;
use types::{DiffId, Digest, Image, ImageId};

use crate::{Images, PullError, counters::Counters, error::chain, layer::digest_of};

/// What is looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsckOptions {
    /// Whether files are read, and not only looked at.
    pub read: bool,
    /// Whether what is damaged is forgotten.
    pub repair: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `layer sha256:…`, `image sha256:…`, `blob sha256:…`.
    pub what: String,
    /// What is wrong with it.
    pub problem: String,
    /// What was done, or is to be done.
    pub action: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// How many images were looked at.
    pub images: usize,
    /// How many layers were looked at.
    pub layers: usize,
    /// How many of them were read and gave their diff ID's stream.
    pub layers_read: usize,
    /// How many blobs were read.
    pub blobs: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Images {
    /// Looks at everything that there is. Blocks, for as long as it takes to read it all.
    ///
    /// # Errors
    /// Fails where the disk does not let it look, or repair.
    pub fn fsck(&self, options: FsckOptions) -> Result<FsckReport, PullError> {
        let mut report = FsckReport::default();
        let mut users: BTreeMap<DiffId, BTreeSet<ImageId>> = BTreeMap::new();
        for image in self.list() {
            report.images += 1;
            self.check_documents(&image, options, &mut report);
            for layer in &image.layers {
                users.entry(*layer).or_default().insert(image.id);
            }
        }
        for layer in self.layers.snapshots().layers() {
            users.entry(layer).or_default();
        }
        for (layer, images) in users {
            report.layers += 1;
            if let Some(problem) = self.problem_of(layer, options.read, &mut report)? {
                let action = self.damaged(layer, images.len(), options.repair)?;
                report.findings.push(Finding { what: format!("layer {layer}"), problem, action });
            }
        }
        if options.read {
            self.check_blobs(options, &mut report);
        }
        if options.repair {
            self.collect();
        }
        Ok(report)
    }

    /// Looks at all layers after the machine went down without a word. Returns how many
    /// images are gone. Blocks.
    ///
    /// # Errors
    /// Fails where the disk does not let it look.
    pub fn verify(&self) -> Result<usize, PullError> {
        let layers = self.layers.snapshots().layers();
        let before = self.list().len();
        let damaged = self.look_at(&layers)?;
        for layer in damaged {
            self.forget(layer)?;
        }
        Ok(before.saturating_sub(self.list().len()))
    }

    /// Looks at layers by several threads: the disk has more than one hand.
    fn look_at(&self, layers: &[DiffId]) -> Result<Vec<DiffId>, PullError> {
        /// How many layers are looked at at a time.
        const THREADS: usize = 4;
        let share = layers.len().div_ceil(THREADS).max(1);
        std::thread::scope(|scope| {
            let shares: Vec<_> = layers
                .chunks(share)
                .map(|layers| {
                    scope.spawn(move || {
                        let mut damaged = Vec::new();
                        for layer in layers {
                            if let Some(problem) =
                                self.problem_of(*layer, false, &mut FsckReport::default())?
                            {
                                tracing::warn!(%layer, problem, "a layer is damaged");
                                damaged.push(*layer);
                            }
                        }
                        Ok(damaged)
                    })
                })
                .collect();
            let mut all = Vec::new();
            for share in shares {
                let died = PullError::Aborted { reference: "the look at the layers".to_owned() };
                all.extend(share.join().unwrap_or(Err(died))?);
            }
            Ok(all)
        })
    }

    /// Looks at those of the layers that are there and were not looked at lately, and
    /// forgets the damaged ones.
    pub(crate) fn forget_damaged(&self, layers: &[DiffId]) -> Result<(), PullError> {
        for layer in layers {
            let fresh = {
                let looked = self.looked_at.lock();
                looked.get(layer).is_some_and(|at| at.elapsed() < self.options.believed_for)
            };
            if fresh || !self.layers.has(layer) {
                continue;
            }
            if let Some(problem) = self.problem_of(*layer, false, &mut FsckReport::default())? {
                tracing::warn!(%layer, problem, "a layer is damaged and is fetched anew");
                self.forget(*layer)?;
            }
        }
        Ok(())
    }

    fn damaged(&self, layer: DiffId, images: usize, repair: bool) -> Result<String, PullError> {
        if !repair {
            return Ok(match images {
                0 => "no image needs it".to_owned(),
                images => format!("{images} images need it: repair, and pull them again"),
            });
        }
        let forgotten = self.forget(layer)?;
        Ok(match forgotten.len() {
            0 => "removed".to_owned(),
            _ => format!("removed, with {}: pull again", shown(&forgotten)),
        })
    }

    /// Forgets a damaged layer and the images that need it. Containers run on.
    fn forget(&self, layer: DiffId) -> Result<Vec<ImageId>, PullError> {
        let failed = |e: &(dyn std::error::Error + 'static)| {
            PullError::store(format!("forget layer {layer}"), e)
        };
        Counters::count(&self.counters.layers_damaged);
        let images = self.records.forget_with(layer).map_err(|e| failed(&e))?;
        self.layers.snapshots().forget_layer(&layer).map_err(|e| failed(&e))?;
        self.looked_at.lock().remove(&layer);
        Ok(images)
    }

    fn problem_of(
        &self,
        layer: DiffId,
        read: bool,
        report: &mut FsckReport,
    ) -> Result<Option<String>, PullError> {
        let failed = |e: &(dyn std::error::Error + 'static)| {
            PullError::store(format!("look at layer {layer}"), e)
        };
        match self.layers.snapshots().look_at_layer(&layer).map_err(|e| failed(&e))? {
            LayerState::Missing => return Ok(Some("it is not there".to_owned())),
            LayerState::Damaged(problem) => return Ok(Some(problem)),
            LayerState::Whole => {}
        }
        let mut looked = self.looked_at.lock();
        looked.retain(|layer, _| self.layers.has(layer));
        looked.insert(layer, Instant::now());
        drop(looked);
        if !read {
            return Ok(None);
        }
        match self.stream_digest(layer) {
            Ok(None) => Ok(None),
            Ok(Some(digest)) if digest == layer.0 => {
                report.layers_read += 1;
                Ok(None)
            }
            Ok(Some(digest)) => Ok(Some(format!("its files make {digest}"))),
            Err(error) => Ok(Some(format!("its files do not make its stream: {}", chain(&error)))),
        }
    }

    /// The digest of the stream that a layer's files make; `None` where what is needed for
    /// that was not kept.
    fn stream_digest(&self, layer: DiffId) -> io::Result<Option<Digest>> {
        let mut hash = Hash(Sha256::new());
        let wrote = self.write_layer(layer, &mut hash)?;
        Ok(wrote.then(|| Digest::from_bytes(hash.0.finalize().into())))
    }

    /// Writes the tar stream of a layer. `false` where what is needed for that was not
    /// kept.
    pub(crate) fn write_layer(&self, layer: DiffId, to: &mut dyn io::Write) -> io::Result<bool> {
        let snapshots = self.layers.snapshots();
        let Some(split) = snapshots.open_split(&layer).map_err(io::Error::other)? else {
            return Ok(false);
        };
        let dir = snapshots.open_layer(&layer).map_err(io::Error::other)?;
        let mut split = zstd::stream::read::Decoder::new(split)?;
        ::layers::rebuild(dir.as_fd(), &mut split, to)?;
        Ok(true)
    }

    fn check_documents(&self, image: &Arc<Image>, options: FsckOptions, report: &mut FsckReport) {
        let Some(documents) = self.documents.get(image.id) else { return };
        if digest_of(documents.config.as_bytes()) == image.id.0 {
            return;
        }
        let action = if options.repair {
            self.documents.remove(image.id);
            "removed: pull again to have it"
        } else {
            "repair, and pull it again"
        };
        report.findings.push(Finding {
            what: format!("image {}", image.id),
            problem: "its configuration on disk is another".to_owned(),
            action: action.to_owned(),
        });
    }

    fn check_blobs(&self, options: FsckOptions, report: &mut FsckReport) {
        for (digest, path) in self.content.blobs() {
            report.blobs += 1;
            let problem = match digest_of_file(&path) {
                Ok(actual) if actual == digest => continue,
                Ok(actual) => format!("it has the digest {actual}"),
                Err(error) => error.to_string(),
            };
            let action = if options.repair {
                self.content.discard(&path);
                "removed"
            } else {
                "repair removes it"
            };
            report.findings.push(Finding {
                what: format!("blob {digest}"),
                problem,
                action: action.to_owned(),
            });
        }
    }
}

fn shown(images: &[ImageId]) -> String {
    images.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn digest_of_file(path: &std::path::Path) -> io::Result<Digest> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            count => hash.update(&buffer[..count]),
        }
    }
}

struct Hash(Sha256);

impl io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
