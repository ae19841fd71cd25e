//! Writing, opening anew, and carrying on when the disk is full.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Stream;
use crate::line::{Heads, Line, Pending};
use crate::place::Place;

/// How much is gathered before it is written: about what one read of a full pipe brings.
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

/// The memory in which lines are gathered: one for all logs of a process, of a fixed size once
/// it was used.
#[derive(Debug, Default)]
pub struct Scratch {
    lines: Vec<u8>,
}

/// How large a container's log may become. Then it is put aside as `NAME.1`, as the kubelet does it
/// earlier where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// The most bytes of one file.
    pub file_bytes: u64,
    /// The most files, the one that is written among them.
    pub files: u32,
}

/// A container's log.
#[derive(Debug)]
pub struct LogWriter {
    max_line: usize,
    stdout: Pending,
    stderr: Pending,
    sink: Sink,
}

impl LogWriter {
    /// Opens `file`, relative to `dir`, for appending. Directories between are made.
    ///
    /// # Errors
    /// Fails where the path leaves the directory, leads through a link, or is not a
    /// regular file, and where the kernel refuses.
    pub fn open(dir: &Path, file: &Path, max_line: usize) -> Result<Self, LogError> {
        let path = dir.join(file);
        let opened = Place::open(dir, file).and_then(|place| Ok((place.append()?, place)));
        let (file, place) = opened.map_err(|source| LogError { path: path.clone(), source })?;
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        let sink = Sink {
            path,
            place,
            file,
            size,
            cap: None,
            missing: 0,
            lost: 0,
            reason: String::new(),
            torn: false,
        };
        let (stdout, stderr) = (Pending::default(), Pending::default());
        Ok(Self { max_line: max_line.max(1), stdout, stderr, sink })
    }

    /// Keeps the log below a size.
    #[must_use]
    pub fn capped(mut self, cap: Option<Cap>) -> Self {
        self.sink.cap = cap;
        self
    }

    /// Takes a stream's bytes. Returns what to tell where the disk has begun not to take them.
    pub fn write(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        scratch: &mut Scratch,
    ) -> Option<Trouble> {
        let max = self.max_line;
        self.gather(stream, scratch, |pending, emit| pending.take(bytes, max, emit))
    }

    /// Writes what is left of a stream that has ended.
    pub fn finish(&mut self, stream: Stream, scratch: &mut Scratch) -> Option<Trouble> {
        self.gather(stream, scratch, |pending, emit| pending.finish(emit))
    }

    /// Opens the file anew, after it was renamed. Every line written so far is in the old file
    /// from its first to its last byte; one that is not complete will be in the new one.
    ///
    /// # Errors
    /// The old file is then still written, and there is no new one.
    pub fn reopen(&mut self) -> Result<(), LogError> {
        self.sink.reopen()
    }

    /// How many bytes never reached the log.
    pub fn dropped(&self) -> u64 {
        self.sink.lost
    }

    fn gather(
        &mut self,
        stream: Stream,
        scratch: &mut Scratch,
        lines: impl FnOnce(&mut Pending, &mut dyn FnMut(Line<'_>)),
    ) -> Option<Trouble> {
        let heads = Heads::new(now_ns(), stream);
        let pending = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let (sink, gathered, mut trouble) = (&mut self.sink, &mut scratch.lines, None);
        gathered.clear();
        gathered.reserve_exact(GATHER_BYTES);
        lines(pending, &mut |line| {
            let head = heads.of(line.whole);
            let length = head.len() + line.text[0].len() + line.text[1].len() + 1;
            if length > GATHER_BYTES - gathered.len() {
                trouble = sink.put_gathered(gathered).or(trouble.take());
            }
            let parts = [head, line.text[0], line.text[1], b"\n"];
            if length > GATHER_BYTES {
                trouble = sink.put(&parts).or(trouble.take());
            } else {
                parts.iter().for_each(|part| gathered.extend_from_slice(part));
            }
        });
        sink.put_gathered(gathered).or(trouble)
    }
}

/// The file, and what it did not take.
#[derive(Debug)]
struct Sink {
    path: PathBuf,
    place: Place,
    file: File,
    /// Its length as far as we know: others may have cut it.
    size: u64,
    cap: Option<Cap>,
    /// Bytes that are missing since the disk last took some.
    missing: u64,
    /// Bytes that are missing in all.
    lost: u64,
    /// Why they are.
    reason: String,
    /// The file ends in the middle of a line, which could not be taken back.
    torn: bool,
}

impl Sink {
    fn reopen(&mut self) -> Result<(), LogError> {
        let opened = self.place.append();
        self.file = opened.map_err(|source| LogError { path: self.path.clone(), source })?;
        self.torn = false;
        self.size = self.file.metadata().map_or(0, |metadata| metadata.len());
        Ok(())
    }

    /// Makes room for `length` bytes where the file would become too large.
    fn make_room(&mut self, length: usize) -> io::Result<()> {
        let Some(cap) = self.cap else { return Ok(()) };
        let fits = |size: u64| size == 0 || size.saturating_add(length as u64) <= cap.file_bytes;
        if fits(self.size) {
            return Ok(());
        }
        self.size = self.file.metadata()?.len();
        if fits(self.size) {
            return Ok(());
        }
        match self.place.rotate(cap.files.saturating_sub(1)) {
            // Who has renamed it is about to have it opened anew.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.reopen().map_err(|error| error.source)
    }

    fn put_gathered(&mut self, lines: &mut Vec<u8>) -> Option<Trouble> {
        let trouble = if lines.is_empty() { None } else { self.put(&[lines]) };
        lines.clear();
        trouble
    }

    /// Writes whole lines, given in parts; those that the disk does not take are dropped and
    /// counted.
    fn put(&mut self, parts: &[&[u8]]) -> Option<Trouble> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if let Err(error) = self.make_room(length) {
            let first = self.missing == 0;
            self.miss(length);
            self.reason = error.to_string();
            return first.then(|| self.trouble(&error));
        }
        if (self.missing > 0 || self.torn) && self.mark().is_err() {
            self.miss(length);
            return None;
        }
        let (written, result) = self.append(parts);
        let error = result.err()?;
        let tail = after_last_line(parts, written);
        self.take_back(tail);
        self.miss(length - written + tail);
        self.reason = error.to_string();
        Some(self.trouble(&error))
    }

    fn trouble(&self, error: &io::Error) -> Trouble {
        let path = self.path.display();
        Trouble { message: format!("{path}: lines are dropped: {error}") }
    }

    /// Writes until all is written or the kernel refuses; tells how much was.
    fn append(&mut self, parts: &[&[u8]]) -> (usize, io::Result<()>) {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let (mut rest, mut written) = (&mut slices[..], 0);
        // Slices with nothing in them would look like a file that takes nothing.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match self.file.write_vectored(rest) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    written += count;
                    self.size += count as u64;
                    IoSlice::advance_slices(&mut rest, count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Cuts the beginning of a line off the file's end. Nobody else appends to the file, so that
    /// the end is ours; its length is asked for, as somebody may have cut the file.
    fn take_back(&mut self, tail: usize) {
        if tail == 0 {
            return;
        }
        let cut = self
            .file
            .metadata()
            .and_then(|metadata| self.file.set_len(metadata.len().saturating_sub(tail as u64)));
        self.size = self.size.saturating_sub(tail as u64);
        self.torn = cut.is_err();
    }

    fn miss(&mut self, bytes: usize) {
        self.missing += bytes as u64;
        self.lost += bytes as u64;
    }

    /// Says, once the disk takes lines again, how much is missing.
    fn mark(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        if self.torn {
            text.push(b'\n');
        }
        if self.missing > 0 {
            text.extend_from_slice(Heads::new(now_ns(), Stream::Stderr).of(true));
            let (missing, reason) = (self.missing, &self.reason);
            let words = format!("corten: {missing} bytes of the log were dropped here: {reason}\n");
            text.extend_from_slice(words.as_bytes());
        }
        let (written, result) = self.append(&[&text]);
        if result.is_err() {
            self.take_back(after_last_line(&[&text], written));
            return result;
        }
        self.torn = false;
        self.missing = 0;
        Ok(())
    }
}

/// How many of the first `written` bytes belong to a line that is not complete in them.
fn after_last_line(parts: &[&[u8]], written: usize) -> usize {
    let (mut left, mut tail) = (written, 0);
    for part in parts {
        let taken = &part[..left.min(part.len())];
        left -= taken.len();
        match memchr::memrchr(b'\n', taken) {
            Some(at) => tail = taken.len() - at - 1,
            None => tail += taken.len(),
        }
    }
    tail
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

    use super::*;

    fn text(path: &Path) -> Vec<String> {
        fs::read_to_string(path).unwrap().lines().map(|l| l[31..].to_owned()).collect()
    }

    #[test]
    fn streams_are_told_apart_and_a_last_line_needs_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), Path::new("0.log"), 16).unwrap();
        let mut buffer = Scratch::default();
        assert_eq!(log.write(Stream::Stdout, b"one\ntw", &mut buffer), None);
        assert_eq!(log.write(Stream::Stderr, b"err\n", &mut buffer), None);
        assert_eq!(log.write(Stream::Stdout, b"o", &mut buffer), None);
        assert_eq!(log.finish(Stream::Stdout, &mut buffer), None);
        assert_eq!(
            text(&dir.path().join("0.log")),
            ["stdout F one", "stderr F err", "stdout P two"]
        );
        let mode = fs::metadata(dir.path().join("0.log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    /// The monitor's umask keeps its own files to itself; logs are for others to read.
    #[test]
    fn directories_are_made_and_the_mode_does_not_depend_on_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let opened = LogWriter::open(dir.path(), Path::new("a/b/0.log"), 16);
        rustix::process::umask(old);
        opened.unwrap();
        let mode =
            |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode("a"), mode("a/b"), mode("a/b/0.log")], [0o755, 0o755, 0o640]);
    }

    #[test]
    fn lines_longer_than_the_buffer_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let max = GATHER_BYTES * 2;
        let mut log = LogWriter::open(dir.path(), Path::new("0.log"), max).unwrap();
        let mut buffer = Scratch::default();
        let mut content = vec![b'x'; max + 1];
        content.push(b'\n');
        for piece in content.chunks(1000) {
            assert_eq!(log.write(Stream::Stdout, piece, &mut buffer), None);
        }
        let lines = text(&dir.path().join("0.log"));
        let lengths: Vec<usize> = lines.iter().map(|l| l.len() - "stdout P ".len()).collect();
        assert_eq!(lengths, [max, 1]);
        assert!(lines[0].starts_with("stdout P ") && lines[1].starts_with("stdout F "));
    }

    /// However many lines one read brings, memory does not grow.
    #[test]
    fn many_short_lines_fit_in_the_buffer() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), Path::new("0.log"), 16).unwrap();
        let mut buffer = Scratch::default();
        log.write(Stream::Stdout, &[b'\n'; GATHER_BYTES], &mut buffer);
        assert_eq!(buffer.lines.capacity(), GATHER_BYTES);
        assert_eq!(text(&dir.path().join("0.log")).len(), GATHER_BYTES);
    }

    #[test]
    fn rotation_goes_on_in_the_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.old"));
        let mut log = LogWriter::open(dir.path(), Path::new("0.log"), 16).unwrap();
        let mut buffer = Scratch::default();
        log.write(Stream::Stdout, b"a\n", &mut buffer);
        fs::rename(&path, &old).unwrap();
        log.write(Stream::Stdout, b"b\n", &mut buffer);
        log.reopen().unwrap();
        log.write(Stream::Stdout, b"c\n", &mut buffer);
        assert_eq!(text(&old), ["stdout F a", "stdout F b"]);
        assert_eq!(text(&path), ["stdout F c"]);
    }

    /// However much is written, the files are few and small, and hold the last lines in order.
    #[test]
    fn a_capped_log_rotates_itself() {
        let dir = tempfile::tempdir().unwrap();
        for (files, name) in [(3, "sub/0.log"), (1, "1.log")] {
            let cap = Cap { file_bytes: 4096, files };
            let log = LogWriter::open(dir.path(), Path::new(name), 1000).unwrap();
            let (mut log, mut buffer) = (log.capped(Some(cap)), Scratch::default());
            for number in 0..1000 {
                let line = format!("{number}\n");
                assert_eq!(log.write(Stream::Stdout, line.as_bytes(), &mut buffer), None);
            }
            let path = dir.path().join(name);
            let mut all = Vec::new();
            for number in (0..=files).rev() {
                let aside = match number {
                    0 => path.clone(),
                    _ => path.with_extension(format!("log.{number}")),
                };
                assert_eq!(aside.exists(), number < files, "{}", aside.display());
                if aside.exists() {
                    assert!(fs::metadata(&aside).unwrap().len() <= 4096);
                    all.extend(text(&aside));
                }
            }
            let first = 1000 - all.len();
            let wanted: Vec<_> = (first..1000).map(|n| format!("stdout F {n}")).collect();
            assert_eq!(all, wanted);
            assert_eq!(log.dropped(), 0);
        }
        // A directory of that name is in the way: lines are dropped and counted, once told.
        let log = LogWriter::open(dir.path(), Path::new("2.log"), 1000).unwrap();
        fs::create_dir(dir.path().join("2.log.1")).unwrap();
        let mut log = log.capped(Some(Cap { file_bytes: 100, files: 2 }));
        let mut buffer = Scratch::default();
        let mut told = 0;
        for _ in 0..10 {
            told += usize::from(log.write(Stream::Stdout, b"line\n", &mut buffer).is_some());
        }
        assert_eq!((told, log.dropped()), (1, 8 * 45));
        assert!(fs::metadata(dir.path().join("2.log")).unwrap().len() <= 100);
        fs::remove_dir(dir.path().join("2.log.1")).unwrap();
        assert_eq!(log.write(Stream::Stdout, b"after\n", &mut buffer), None);
        assert!(text(&dir.path().join("2.log")).last().unwrap().ends_with("after"));
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
        for bad in [
            "../canary",
            "/etc/passwd",
            "",
            "a/../b",
            "link",
            "up/canary",
            "fifo",
            "fifo/x",
            "up/new/0.log",
        ] {
            assert!(LogWriter::open(&logs, Path::new(bad), 16).is_err(), "{bad}");
        }
        assert_eq!(fs::read_to_string(&canary).unwrap(), "keep");
        assert!(!dir.path().join("new").exists());
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
        let path = dir.path().join("0.log");
        let mut log = LogWriter::open(dir.path(), Path::new("0.log"), 1000).unwrap();
        let mut buffer = Scratch::default();
        let line = [vec![b'x'; 500], vec![b'\n']].concat();
        let mut told = 0;
        for _ in 0..400 {
            told += usize::from(log.write(Stream::Stdout, &line, &mut buffer).is_some());
        }
        assert_eq!(told, 1, "it is told once, not for each line");
        assert!(log.dropped() > 100_000);
        let whole = text(&path);
        assert!(whole.iter().all(|l| l.len() == "stdout F ".len() + 500), "no line is torn");
        let dropped = log.dropped();
        assert_eq!(dropped, (400 - whole.len() as u64) * (40 + 501), "every byte is counted");
        mount_remount(dir.path(), MountFlags::empty(), c"size=1m").unwrap();
        assert_eq!(log.write(Stream::Stdout, b"after\n", &mut buffer), None);
        let now = text(&path);
        let mark = &now[whole.len()];
        let words = format!("{dropped} bytes of the log were dropped here: No space left");
        assert!(mark.starts_with("stderr F corten: ") && mark.contains(&words), "{mark}");
        assert_eq!(now[whole.len() + 1..], ["stdout F after"]);
        drop(log);
        unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    }
}
