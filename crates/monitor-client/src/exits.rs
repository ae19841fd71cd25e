//! Exit records that a dead monitor left.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use monitor_proto::{EXIT_RECORD_VERSION, EXITS_DIR, ExitRecord, MAX_EXIT_RECORD};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use types::ContainerId;

/// The most records that are read. A pod has a few containers, each removed before the next
/// attempt but one.
const MAX_RECORDS: usize = 4096;

/// What a state directory tells about exits.
#[derive(Debug, Default)]
pub struct ExitRecords {
    /// The exits.
    pub records: Vec<ExitRecord>,
    /// Files that bear a container's id and cannot be believed: that container ended, nobody
    /// knows how.
    pub unreadable: Vec<UnreadableExit>,
}

/// An exit record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableExit {
    /// The container.
    pub container: ContainerId,
    /// Why.
    pub reason: String,
}

/// Reads the exit records of a sandbox. Blocks for a few small reads.
///
/// # Errors
/// When the directory cannot be read; one that is not there has no records.
pub fn read_exit_records(state_dir: &Path) -> io::Result<ExitRecords> {
    let mut found = ExitRecords::default();
    let Some(dir) = open_exits(state_dir)? else { return Ok(found) };
    for entry in Dir::read_from(&dir)?.take(MAX_RECORDS) {
        let entry = entry?;
        // Files still being written have a dot in their names, which no id has.
        let Ok(name) = entry.file_name().to_str() else { continue };
        let Ok(container) = name.parse::<ContainerId>() else { continue };
        match read_record(&dir, &container) {
            Ok(record) => found.records.push(record),
            Err(reason) => found.unreadable.push(UnreadableExit { container, reason }),
        }
    }
    Ok(found)
}

/// Removes the exit record of a container whose monitor is dead; one that is not there is no error.
///
/// # Errors
/// The kernel's.
pub fn remove_exit_record(state_dir: &Path, container: &ContainerId) -> io::Result<()> {
    let Some(dir) = open_exits(state_dir)? else { return Ok(()) };
    match rustix::fs::unlinkat(&dir, container.as_str(), AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn open_exits(state_dir: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(state_dir.join(EXITS_DIR), flags, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn read_record(dir: &OwnedFd, container: &ContainerId) -> Result<ExitRecord, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, container.as_str(), flags, Mode::empty())
        .map_err(|errno| errno.to_string())?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| errno.to_string())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let limit = MAX_EXIT_RECORD as u64 + 1;
    File::from(file).take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > MAX_EXIT_RECORD {
        return Err("too long".to_owned());
    }
    let record: ExitRecord =
        serde_json::from_slice(&bytes).map_err(|error| format!("malformed: {error}"))?;
    if record.version > EXIT_RECORD_VERSION {
        return Err(format!("of version {}, which is newer than this program", record.version));
    }
    if record.container != *container {
        return Err("of another container".to_owned());
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use monitor_proto::Exit;

    use super::*;

    #[test]
    fn no_directory_means_no_records() {
        let dir = tempfile::tempdir().unwrap();
        let found = read_exit_records(dir.path()).unwrap();
        assert!(found.records.is_empty() && found.unreadable.is_empty());
    }

    #[test]
    fn good_records_are_read_and_bad_ones_named() {
        let dir = tempfile::tempdir().unwrap();
        let exits = dir.path().join(EXITS_DIR);
        std::fs::create_dir(&exits).unwrap();
        let good = ContainerId::random();
        let record = ExitRecord {
            version: 1,
            container: good.clone(),
            pid: 7,
            exit: Exit { code: 3, signal: None, oom_killed: false, finished_at_ns: 5 },
        };
        let text = serde_json::to_vec(&record).unwrap();
        std::fs::write(exits.join(good.as_str()), &text).unwrap();
        std::fs::write(exits.join(format!("{good}.new")), "half").unwrap();
        let newer =
            String::from_utf8(text.clone()).unwrap().replace("\"version\":1", "\"version\":9");
        let cases: [(&str, &[u8]); 5] = [
            ("empty", b""),
            ("truncated", &text[..text.len() / 2]),
            ("another's", &text),
            ("long", &[b' '; MAX_EXIT_RECORD + 1]),
            ("newer", newer.as_bytes()),
        ];
        for (_, content) in cases {
            std::fs::write(exits.join(ContainerId::random().as_str()), content).unwrap();
        }
        std::os::unix::fs::symlink(good.as_str(), exits.join(ContainerId::random().as_str()))
            .unwrap();
        std::fs::create_dir(exits.join(ContainerId::random().as_str())).unwrap();

        let found = read_exit_records(dir.path()).unwrap();
        assert_eq!(found.records, [record]);
        assert_eq!(found.unreadable.len(), cases.len() + 2);

        remove_exit_record(dir.path(), &good).unwrap();
        remove_exit_record(dir.path(), &good).unwrap();
        assert!(read_exit_records(dir.path()).unwrap().records.is_empty());
    }
}
