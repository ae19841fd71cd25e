//! Writing, opening anew, and carrying on when the disk is full.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    Stream,
    line::{self, Pending},
    place::Place,
};

/// How much is gathered before it is written: one write for what one read brought.
const GATHER_BYTES: usize = 64 << 10;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to open the log {path}")]
pub struct LogError {
    /// The log.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// What to tell about a log whose disk does not take it. The container goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Why bytes are being dropped.
    pub message: String,
}

/// A container's log.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    place: Place,
    file: File,
    max_line: usize,
    stdout: Pending,
    stderr: Pending,
    dropped: u64,
    reason: String,
    /// A write ended in the middle of a line: the next one begins with its end.
    torn: bool,
}

impl LogWriter {
    /// Opens `file`, relative to `dir`, for appending.
    ///
    /// # Errors
    /// Fails where the path leaves the directory, leads through a link, or is not a
    /// regular file, and where the kernel refuses.
    pub fn open(dir: &Path, file: &Path, max_line: usize) -> Result<Self, LogError> {
        let path = dir.join(file);
        let opened = Place::open(dir, file).and_then(|place| Ok((place.append()?, place)));
        let (file, place) = opened.map_err(|source| LogError { path: path.clone(), source })?;
        Ok(Self {
            path,
            place,
            file,
            max_line: max_line.max(1),
            stdout: Pending::default(),
            stderr: Pending::default(),
            dropped: 0,
            reason: String::new(),
            torn: false,
        })
    }

    /// Takes a stream's bytes. `buffer` is scratch, shared by all logs of a process.
    /// Returns what to tell where the disk has begun not to take them.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], buffer: &mut Vec<u8>) -> Option<Trouble> {
        let now = now_ns();
        let mut trouble = None;
        for piece in bytes.chunks(GATHER_BYTES / 8) {
            let max = self.max_line;
            let pending = match stream {
                Stream::Stdout => &mut self.stdout,
                Stream::Stderr => &mut self.stderr,
            };
            pending.take(buffer, now, stream, piece, max);
            if buffer.len() >= GATHER_BYTES {
                trouble = self.flush(buffer).or(trouble);
            }
        }
        self.flush(buffer).or(trouble)
    }

    /// Writes what is left of a stream that has ended.
    pub fn finish(&mut self, stream: Stream, buffer: &mut Vec<u8>) -> Option<Trouble> {
        let pending = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        pending.finish(buffer, now_ns(), stream);
        self.flush(buffer)
    }

    /// Opens the file anew, after it was renamed. Lines that are whole are in the old one.
    ///
    /// # Errors
    /// The old file is then still written.
    pub fn reopen(&mut self) -> Result<(), LogError> {
        self.file =
            self.place.append().map_err(|source| LogError { path: self.path.clone(), source })?;
        self.torn = false;
        Ok(())
    }

    /// How many bytes of lines were dropped since the disk last took some.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn flush(&mut self, buffer: &mut Vec<u8>) -> Option<Trouble> {
        if buffer.is_empty() {
            return None;
        }
        let trouble = self.put(buffer);
        buffer.clear();
        buffer.shrink_to(GATHER_BYTES * 2);
        trouble
    }

    fn put(&mut self, lines: &[u8]) -> Option<Trouble> {
        if (self.dropped > 0 || self.torn) && self.mark().is_err() {
            self.dropped += lines.len() as u64;
            return None;
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return self.lose(rest, lines, &io::Error::from(io::ErrorKind::WriteZero)),
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.lose(rest, lines, &e),
            }
        }
        None
    }

    fn lose(&mut self, rest: &[u8], lines: &[u8], why: &io::Error) -> Option<Trouble> {
        let written = lines.len() - rest.len();
        self.torn = written > 0 && lines.get(written - 1) != Some(&b'\n');
        self.dropped += rest.len() as u64;
        self.reason = why.to_string();
        Some(Trouble { message: format!("{}: lines are dropped: {why}", self.path.display()) })
    }

    /// Says, once the disk takes lines again, how much is missing.
    fn mark(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        if self.torn {
            text.push(b'\n');
        }
        if self.dropped > 0 {
            let words = format!(
                "corten: {} bytes of the log were dropped here: {}",
                self.dropped, self.reason
            );
            line::push(&mut text, now_ns(), Stream::Stderr, true, words.as_bytes());
        }
        // One write: either it fits, or it is tried again with the next lines.
        if self.file.write(&text)? < text.len() {
            self.torn = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.torn = false;
        self.dropped = 0;
        Ok(())
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, os::unix::fs::symlink};

    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    use super::*;

    fn text(path: &Path) -> Vec<String> {
        fs::read_to_string(path).unwrap().lines().map(|l| l[31..].to_owned()).collect()
    }

    #[test]
    fn streams_are_told_apart_and_a_last_line_needs_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), Path::new("0.log"), 16).unwrap();
        let mut buffer = Vec::new();
        assert_eq!(log.write(Stream::Stdout, b"one\ntw", &mut buffer), None);
        assert_eq!(log.write(Stream::Stderr, b"err\n", &mut buffer), None);
        assert_eq!(log.write(Stream::Stdout, b"o", &mut buffer), None);
        assert_eq!(log.finish(Stream::Stdout, &mut buffer), None);
        assert_eq!(
            text(&dir.path().join("0.log")),
            ["stdout F one", "stderr F err", "stdout F two"]
        );
        let mode = fs::metadata(dir.path().join("0.log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn rotation_goes_on_in_the_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.old"));
        let mut log = LogWriter::open(dir.path(), Path::new("0.log"), 16).unwrap();
        let mut buffer = Vec::new();
        log.write(Stream::Stdout, b"a\n", &mut buffer);
        fs::rename(&path, &old).unwrap();
        log.write(Stream::Stdout, b"b\n", &mut buffer);
        log.reopen().unwrap();
        log.write(Stream::Stdout, b"c\n", &mut buffer);
        assert_eq!(text(&old), ["stdout F a", "stdout F b"]);
        assert_eq!(text(&path), ["stdout F c"]);
    }

    /// A log path comes from a client, and its place may be in others' hands (CVE-2025-0750).
    #[test]
    fn no_path_leads_out_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let canary = dir.path().join("canary");
        fs::write(&canary, "keep").unwrap();
        let logs = dir.path().join("logs");
        fs::create_dir(&logs).unwrap();
        symlink(&canary, logs.join("link")).unwrap();
        symlink(dir.path(), logs.join("up")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            logs.join("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for bad in
            ["../canary", "/etc/passwd", "", "a/../b", "link", "up/canary", "fifo", "no/such/dir"]
        {
            assert!(LogWriter::open(&logs, Path::new(bad), 16).is_err(), "{bad}");
        }
        assert_eq!(fs::read_to_string(&canary).unwrap(), "keep");
        // A failure to open anew leaves no new file.
        let mut log = LogWriter::open(&logs, Path::new("0.log"), 16).unwrap();
        fs::remove_file(logs.join("0.log")).unwrap();
        symlink(dir.path().join("new"), logs.join("0.log")).unwrap();
        assert!(log.reopen().is_err());
        assert!(!dir.path().join("new").exists());
    }

    #[test]
    fn a_full_disk_drops_counts_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        mount(c"log", dir.path(), c"tmpfs", MountFlags::empty(), c"size=64k").unwrap();
        let mut log = LogWriter::open(dir.path(), Path::new("0.log"), 1000).unwrap();
        let mut buffer = Vec::new();
        let line = [vec![b'x'; 500], vec![b'\n']].concat();
        let mut told = 0;
        for _ in 0..400 {
            told += usize::from(log.write(Stream::Stdout, &line, &mut buffer).is_some());
        }
        assert_eq!(told, 1, "it is told once, not for each line");
        assert!(log.dropped() > 100_000);
        fs::remove_file(dir.path().join("0.log")).unwrap();
        log.reopen().unwrap();
        assert_eq!(log.write(Stream::Stdout, b"after\n", &mut buffer), None);
        let now = text(&dir.path().join("0.log"));
        assert!(now[0].contains("bytes of the log were dropped here: No space left"), "{now:?}");
        assert_eq!(now[1], "stdout F after");
        assert_eq!(log.dropped(), 0);
        drop(log);
        unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    }
}
