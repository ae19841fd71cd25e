//! Sending an image archive or layout to the runtime, piece by piece.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::Context as _;
use indicatif::ProgressBar;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;

use crate::containerd;

/// The bytes of a piece: well below the receive limit, large enough to be cheap.
const PIECE_BYTES: usize = 256 * 1024;

/// How many pieces may wait to be sent.
const PIECES_WAITING: usize = 8;

/// The pieces of an archive, and the reading of them.
pub struct Pieces {
    pub receiver: Receiver<Vec<u8>>,
    /// Ends when everything was handed over. After a failure the stream of pieces
    /// is kept open in the result, so that a part is never taken for the whole.
    pub reader: JoinHandle<Result<(), Failed>>,
}

/// Reading failed; holds the stream of pieces open.
pub struct Failed {
    pub error: anyhow::Error,
    _open: Sender<Vec<u8>>,
}

/// Reads `source` in a thread of its own; `path` names it in errors.
pub fn send(source: Source, path: &Path, progress: ProgressBar) -> Pieces {
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    let show = path.display().to_string();
    let reader = tokio::task::spawn_blocking(move || {
        let mut pieces = Writer { sender: sender.clone(), begun: Vec::new(), progress };
        let result = source.send(&mut pieces).and_then(|()| pieces.flush());
        result.with_context(|| format!("failed to read {show}")).map_err(|error| {
            let _open = sender;
            Failed { error, _open }
        })
    });
    Pieces { receiver, reader }
}

/// What is read.
pub enum Source {
    Stdin,
    File(File),
    Layout(std::path::PathBuf),
    Containerd(containerd::Store),
}

impl Source {
    /// Opens `path`: a directory goes as a tar stream, `-` is standard input.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdin);
        }
        let failed = || format!("failed to read {}", path.display());
        let file = File::open(path).with_context(failed)?;
        if file.metadata().with_context(failed)?.is_dir() {
            return Ok(Self::Layout(path.to_owned()));
        }
        Ok(Self::File(file))
    }

    fn send(self, pieces: &mut Writer) -> io::Result<()> {
        match self {
            Self::Stdin => copy(&mut io::stdin().lock(), pieces),
            Self::File(mut file) => copy(&mut file, pieces),
            Self::Layout(dir) => {
                let mut tar = tar::Builder::new(pieces);
                tar.mode(tar::HeaderMode::Deterministic);
                tar.append_dir_all(".", dir)?;
                tar.finish()
            }
            Self::Containerd(store) => store.send(pieces),
        }
    }
}

fn copy(from: &mut impl Read, to: &mut Writer) -> io::Result<()> {
    io::copy(from, to).map(|_| ())
}

/// Cuts what is written into pieces.
struct Writer {
    sender: Sender<Vec<u8>>,
    begun: Vec<u8>,
    progress: ProgressBar,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        self.progress.inc(bytes.len() as u64);
        if self.begun.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.begun.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.begun);
        // The receiver goes when the call has ended; its error says why.
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(path: &Path) -> Vec<u8> {
        let source = Source::open(path).expect("open");
        let mut pieces = send(source, path, ProgressBar::hidden());
        let mut all = Vec::new();
        while let Some(piece) = pieces.receiver.recv().await {
            all.extend(piece);
        }
        assert!(pieces.reader.await.expect("reader").is_ok());
        all
    }

    #[tokio::test]
    async fn a_file_arrives_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.tar");
        let bytes: Vec<u8> =
            (0..PIECE_BYTES * 20 + 7).map(|i| u8::try_from(i % 251).expect("small")).collect();
        std::fs::write(&path, &bytes).expect("written");
        assert!(collect(&path).await == bytes);
        assert!(Source::open(&dir.path().join("none")).is_err());
    }

    #[tokio::test]
    async fn a_directory_arrives_as_tar() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).expect("made");
        std::fs::write(dir.path().join("oci-layout"), "{}").expect("written");
        std::fs::write(dir.path().join("blobs/sha256/abc"), "blob").expect("written");
        let bytes = collect(dir.path()).await;
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut names: Vec<_> = archive
            .entries()
            .expect("entries")
            .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        names.sort();
        assert_eq!(names, ["./", "blobs", "blobs/sha256", "blobs/sha256/abc", "oci-layout"]);
    }
}
