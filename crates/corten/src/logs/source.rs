//! A log file that may grow, be renamed or be cut while it is read.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::sink::Sink;
use super::tail;

/// The longest line taken: runtimes write parts of some 16 KiB.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// How much is read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// A log file and how far it was read.
pub struct Source {
    path: PathBuf,
    file: File,
    /// The line that is not whole yet.
    begun: Vec<u8>,
    /// Whether the rest of the current line is thrown away.
    skipping: bool,
    chunk: Vec<u8>,
}

impl Source {
    /// Opens the file at its last `tail` lines, or its beginning.
    pub fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if let Some(lines) = tail {
            let start = tail::start(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        let chunk = vec![0; CHUNK_BYTES];
        Ok(Self { path: path.to_owned(), file, begun: Vec::new(), skipping: false, chunk })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shows all whole lines up to the end of the file as it is now.
    pub fn drain(&mut self, sink: &mut Sink<'_, '_>) -> io::Result<()> {
        self.begin_again_if_cut()?;
        while !sink.is_full() {
            let n = self.file.read(&mut self.chunk)?;
            if n == 0 {
                break;
            }
            self.take(n, sink)?;
        }
        sink.flush()
    }

    /// Shows the last line although it has no newline: nobody will add one.
    pub fn end(&mut self, sink: &mut Sink<'_, '_>) -> io::Result<()> {
        let line = std::mem::take(&mut self.begun);
        if !line.is_empty() && !self.skipping && !sink.is_full() {
            sink.line(&line)?;
        }
        Ok(())
    }

    /// The file that took this one's place, if there is one that was written to.
    ///
    /// An empty one does not count yet: the runtime writes to the old file until
    /// it begins with the new one.
    pub fn successor(&self) -> io::Result<Option<Self>> {
        let old = self.file.metadata()?;
        let new = match fs::metadata(&self.path) {
            Ok(new) => new,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if (new.dev(), new.ino()) == (old.dev(), old.ino()) || new.len() == 0 {
            return Ok(None);
        }
        Self::open(&self.path, None).map(Some)
    }

    fn take(&mut self, n: usize, sink: &mut Sink<'_, '_>) -> io::Result<()> {
        let mut rest = &self.chunk[..n];
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let (piece, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.begun.is_empty() {
                sink.line(piece)?;
            } else {
                self.begun.extend_from_slice(piece);
                sink.line(&self.begun)?;
                self.begun.clear();
            }
            if sink.is_full() {
                return Ok(());
            }
        }
        if self.skipping {
            return Ok(());
        }
        self.begun.extend_from_slice(rest);
        if self.begun.len() > MAX_LINE_BYTES {
            self.begun.clear();
            self.skipping = true;
            sink.skipped();
        }
        Ok(())
    }

    /// A file that became shorter was cut by somebody, and grows from there.
    fn begin_again_if_cut(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.file.stream_position()? {
            self.file.rewind()?;
            self.begun.clear();
            self.skipping = false;
        }
        Ok(())
    }
}
