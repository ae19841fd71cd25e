//! The directory of configurations, read again when it has changed.
//!
//! Nothing depends on a watch that could be lost: whoever asks gets what is there, and unchanged
//! files (by name, inode, times and size) are not read twice. A file that was good and is being
//! written again counts with what it said before, until it has been broken for a while.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{NetworkList, config::Form};

/// The longest configuration that is read: real ones are below 10 KiB.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// How long a file that was good may be broken before it counts as broken: editors and
/// installers write within milliseconds.
const HALF_WRITTEN: Duration = Duration::from_secs(5);
/// The most files that are looked at, in each directory.
const MAX_FILES: usize = 256;
/// How often plugins are listed that vanish before they are read.
const TRIES: u32 = 5;
/// The most directories with plugins of networks that are looked at.
const MAX_DIRECTORIES: usize = 64;

/// What the directory holds.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// The first valid configuration by name order, and its file.
    pub(crate) selected: Option<(PathBuf, NetworkList)>,
    /// Files before it that are not valid, and why.
    pub(crate) invalid: Vec<(PathBuf, String)>,
    /// Why the directory cannot be read, if it is there.
    pub(crate) unreadable: Option<String>,
}

impl Loaded {
    /// Reports whether nobody has configured, or begun to configure, a network.
    pub(crate) fn is_blank(&self) -> bool {
        self.selected.is_none() && self.invalid.is_empty() && self.unreadable.is_none()
    }
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// The network to select, or empty for the first.
    wanted: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked_at: Option<Instant>,
    files: Files,
    loaded: Arc<Loaded>,
}

/// What the directory and those of networks in it hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Files {
    lists: Vec<Candidate>,
    /// Plugins of a network, in a directory of its name, and what is in such one's place.
    plugins: Vec<Candidate>,
}

/// A file that may be a configuration, and what tells a change of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    path: PathBuf,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Directory {
    /// Names the directory, and the network that is selected in it: empty for the first
    /// by the files' names.
    pub(crate) fn new(path: PathBuf, wanted: String) -> Self {
        Self { path, wanted, state: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what the directory held at most `max_age` ago.
    pub(crate) fn current(&self, max_age: Duration) -> Arc<Loaded> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = state.looked_at.is_some_and(|at| at.elapsed() < max_age);
        if !fresh {
            self.look(&mut state);
        }
        Arc::clone(&state.loaded)
    }

    fn look(&self, state: &mut State) {
        let first = state.looked_at.replace(Instant::now()).is_none();
        let files = match Files::list(&self.path) {
            Ok(files) => files,
            Err(error) => {
                let unreadable = Some(format!("{}: {error}", self.path.display()));
                state.files = Files::default();
                state.loaded = Arc::new(Loaded { unreadable, ..Loaded::default() });
                return;
            }
        };
        if first || files != state.files || state.loaded.unreadable.is_some() {
            let loaded = load(&files, &self.wanted);
            if let Some(file) = half_written(&loaded, &state.loaded, &files.plugins) {
                tracing::debug!(file = %file.display(), "a CNI configuration is being written");
                // Looked at again next time, with what it said before for now.
                state.files = Files::default();
                return;
            }
            report(&self.path, &loaded);
            state.loaded = Arc::new(loaded);
            state.files = files;
        }
    }
}

impl Candidate {
    fn new(path: PathBuf, metadata: &fs::Metadata) -> Self {
        Self {
            path,
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Looks at a file, or at a link to nowhere.
    fn of(path: PathBuf) -> Option<Self> {
        let metadata = fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path)).ok()?;
        Some(Self::new(path, &metadata))
    }
}

impl Files {
    fn list(dir: &Path) -> io::Result<Self> {
        // Read once: this is done for every pod.
        let entries = entries(dir)?;
        let lists = candidates_of(&entries, &["conf", "conflist", "json"]);
        let mut others = entries;
        others.retain(|path| !lists.iter().any(|list| list.path == *path));
        others.sort();
        others.truncate(MAX_FILES);
        // What is no directory is told where one is needed.
        let parts = |path: PathBuf| plugin_files(&path).unwrap_or_else(|_| vec![path]);
        let plugins = others.into_iter().flat_map(parts).filter_map(Candidate::of).collect();
        Ok(Self { lists, plugins })
    }
}

/// Directories in one, by name order; hidden ones are left out.
pub(super) fn directories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = entries(dir)?;
    entries.retain(|path| path.is_dir());
    entries.sort();
    entries.truncate(MAX_DIRECTORIES);
    Ok(entries)
}

/// What a directory holds that is not hidden; nothing where there is none.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let hidden = |path: &Path| path.file_name().is_some_and(|n| n.as_encoded_bytes()[0] == b'.');
    paths.retain(|path| !hidden(path));
    Ok(paths)
}

/// Picks files by name order; hidden ones are half-written ones.
fn candidates_of(entries: &[PathBuf], extensions: &[&str]) -> Vec<Candidate> {
    let mut files = Vec::new();
    for path in entries {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !extension.is_some_and(|extension| extensions.contains(&extension)) {
            continue;
        }
        // What vanishes meanwhile, or is a link to nowhere, is not there.
        let Ok(metadata) = fs::metadata(path) else { continue };
        if metadata.is_file() && files.len() < MAX_FILES {
            files.push(Candidate::new(path.clone(), &metadata));
        }
    }
    files.sort();
    files
}

/// Returns the file that was selected and has been broken only now, by itself or by one of its
/// plugins.
fn half_written(loaded: &Loaded, before: &Loaded, plugins: &[Candidate]) -> Option<PathBuf> {
    let (file, list) = before.selected.as_ref()?;
    let young = |path: &Path| {
        let age = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?.elapsed();
        Some(age.unwrap_or_default() < HALF_WRITTEN)
    };
    let broken = loaded.invalid.iter().any(|(invalid, _)| invalid == file);
    let of_it = plugins.iter().map(|plugin| plugin.path.as_path());
    let of_it = of_it.filter(|path| path.parent() == Some(&plugins_of(file, &list.name)));
    let some_young = || of_it.chain([file.as_path()]).any(|path| young(path) == Some(true));
    (broken && some_young()).then(|| file.clone())
}

/// The directory of a network's plugins, beside its file.
fn plugins_of(list: &Path, name: &str) -> PathBuf {
    list.with_file_name(name)
}

fn load(files: &Files, wanted: &str) -> Loaded {
    let mut loaded = Loaded::default();
    for file in &files.lists {
        let more = |name: &str| read_plugins(&plugins_of(&file.path, name));
        let list = file.path.extension().is_some_and(|extension| extension == "conflist");
        let form = if list { Form::List } else { Form::Plugin };
        let bytes = read(&file.path).map_err(|error| error.to_string());
        match bytes.and_then(|bytes| NetworkList::parse(&bytes, form, more)) {
            Ok(list) if !wanted.is_empty() && list.name != wanted => {}
            Ok(list) => {
                loaded.selected = Some((file.path.clone(), list));
                break;
            }
            Err(problem) => loaded.invalid.push((file.path.clone(), problem)),
        }
    }
    loaded
}

/// Reads the plugins of a network that have files of their own, by name order. One that
/// vanishes meanwhile is no longer there when they are listed again.
fn read_plugins(dir: &Path) -> Result<Vec<Value>, String> {
    let told = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let mut tries = 0;
    'again: loop {
        tries += 1;
        let mut plugins = Vec::new();
        for path in plugin_files(dir).map_err(|error| told(dir, error))? {
            let parsed = read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
            match parsed {
                Ok(plugin) => plugins.push(plugin),
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                    continue 'again;
                }
                Err(error) => return Err(told(&path, error)),
            }
        }
        return Ok(plugins);
    }
}

/// Lists what must be plugins, links to nowhere too.
fn plugin_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = entries(dir)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    files.retain(|path| !path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()));
    files.sort();
    files.truncate(MAX_FILES);
    Ok(files)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe would be waited for.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    let long = u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES);
    if long {
        return Err(io::Error::other(format!("longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

fn report(dir: &Path, loaded: &Loaded) {
    for (file, problem) in &loaded.invalid {
        tracing::warn!(file = %file.display(), problem, "CNI configuration is not valid");
    }
    match &loaded.selected {
        Some((file, list)) => {
            tracing::info!(file = %file.display(), network = list.name, "CNI configuration read");
        }
        None => tracing::info!(dir = %dir.display(), "no CNI configuration"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(name: &str) -> String {
        format!(r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{{"type":"ptp"}}]}}"#)
    }

    fn selected(directory: &Directory) -> Option<String> {
        let loaded = directory.current(Duration::ZERO);
        loaded.selected.as_ref().map(|(_, list)| list.name.clone())
    }

    #[test]
    fn the_first_valid_file_by_name_is_selected() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let directory = Directory::new(dir.path().to_owned(), String::new());
        assert!(directory.current(Duration::ZERO).is_blank());
        write("30-c.conflist", &conf("c"));
        write("20-b.conf", r#"{"cniVersion":"0.3.1","name":"b","type":"ptp"}"#);
        write("05-readme.txt", &conf("text"));
        write(".01-swap.conflist", &conf("hidden"));
        fs::create_dir(dir.path().join("00-dir.conflist")).unwrap();
        assert_eq!(selected(&directory).as_deref(), Some("b"));
        write("10-a.conflist", &conf("a")[..20]);
        assert_eq!(selected(&directory).as_deref(), Some("b"));
        let loaded = directory.current(Duration::ZERO);
        assert!(loaded.invalid[0].0.ends_with("10-a.conflist"), "{loaded:?}");
        write("10-a.conflist", &conf("a"));
        assert_eq!(selected(&directory).as_deref(), Some("a"));
    }

    #[test]
    fn plugins_in_a_directory_of_the_networks_name_are_added() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let directory = Directory::new(dir.path().to_owned(), String::new());
        let kinds = || {
            let loaded = directory.current(Duration::ZERO);
            let (_, list) = loaded.selected.as_ref()?;
            Some(
                list.plugins.iter().map(|plugin| plugin.kind.clone()).collect::<Vec<_>>().join(" "),
            )
        };
        write("10-a.conflist", &conf("a"));
        write("20-b.conflist", &conf("b"));
        assert_eq!(kinds().as_deref(), Some("ptp"));
        for name in ["a", "b"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        write("b/10-x.conf", r#"{"type":"of-another"}"#);
        write("a/20-z.conf", r#"{"type":"z"}"#);
        write("a/10-y.conf", r#"{"type":"y"}"#);
        write("a/.11-swap.conf", "{");
        write("a/12-list.conflist", "{");
        assert_eq!(kinds().as_deref(), Some("ptp y z"));
        // Half written it keeps what it said.
        write("a/20-z.conf", "{");
        assert_eq!(kinds().as_deref(), Some("ptp y z"));
        let old = std::time::SystemTime::now() - 2 * HALF_WRITTEN;
        for name in ["a/20-z.conf", "a/10-y.conf", "10-a.conflist"] {
            let file = File::options().append(true).open(dir.path().join(name)).unwrap();
            file.set_modified(old).unwrap();
        }
        assert_eq!(kinds().as_deref(), Some("ptp of-another"));
        let loaded = directory.current(Duration::ZERO);
        assert!(loaded.invalid[0].1.contains("20-z.conf: EOF"), "{loaded:?}");
        write("a/20-z.conf", r#"{"no":"type"}"#);
        let file = File::options().append(true).open(dir.path().join("a/20-z.conf")).unwrap();
        file.set_modified(old).unwrap();
        assert_eq!(kinds().as_deref(), Some("ptp of-another"));
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        assert_eq!(kinds().as_deref(), Some("ptp"));
        // A file in the directory's place is no directory that is not there.
        let problem = || directory.current(Duration::ZERO).invalid[0].1.clone();
        let refuse = |broken: &str, wanted: &str| {
            assert_eq!(kinds().as_deref(), Some("ptp of-another"), "{broken}");
            assert!(problem().contains(wanted), "{broken}: {}", problem());
        };
        fs::write(dir.path().join("a"), "a file").unwrap();
        refuse("a file", "Not a directory");
        fs::remove_file(dir.path().join("a")).unwrap();
        fs::create_dir_all(dir.path().join("a/dir.conf")).unwrap();
        assert_eq!(kinds().as_deref(), Some("ptp"));
        std::os::unix::fs::symlink("nowhere", dir.path().join("a/10-link.conf")).unwrap();
        refuse("a link to nowhere", "10-link.conf: No such file");
    }

    #[test]
    fn a_plugin_that_vanishes_while_it_is_read_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/10-stays.conf"), r#"{"type":"stays"}"#).unwrap();
        let other = dir.path().join("a/20-other.conf");
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let aside = dir.path().join("aside");
                fs::write(&aside, r#"{"type":"other"}"#).unwrap();
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::rename(&aside, &other).unwrap();
                    fs::rename(&other, &aside).unwrap();
                    // Seldom enough that it does not vanish at every try.
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let read: Vec<_> = (0..2000).map(|_| read_plugins(&dir.path().join("a"))).collect();
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            for plugins in read {
                let plugins = plugins.unwrap();
                assert_eq!(plugins[0]["type"], "stays");
            }
        });
    }

    #[test]
    fn a_directory_that_comes_back_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net.d");
        let directory = Directory::new(path.clone(), String::new());
        for name in ["one", "two"] {
            assert_eq!(selected(&directory), None);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("10.conflist"), conf(name)).unwrap();
            assert_eq!(selected(&directory).as_deref(), Some(name));
            fs::remove_dir_all(&path).unwrap();
        }
        assert!(directory.current(Duration::ZERO).is_blank());
    }

    #[test]
    fn a_network_is_selected_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(dir.path().join(format!("{name}.conflist")), conf(name)).unwrap();
        }
        let directory = |wanted: &str| Directory::new(dir.path().to_owned(), wanted.to_owned());
        assert_eq!(selected(&directory("b")).as_deref(), Some("b"));
        assert_eq!(selected(&directory("x")), None);
    }

    #[test]
    fn a_file_that_is_being_written_again_keeps_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("10.conflist");
        fs::write(&file, conf("old")).unwrap();
        fs::write(dir.path().join("20.conflist"), conf("other")).unwrap();
        let directory = Directory::new(dir.path().to_owned(), String::new());
        assert_eq!(selected(&directory).as_deref(), Some("old"));
        fs::write(&file, &conf("new")[..30]).unwrap();
        assert_eq!(selected(&directory).as_deref(), Some("old"));
        fs::write(&file, conf("new")).unwrap();
        assert_eq!(selected(&directory).as_deref(), Some("new"));
        // Broken for good.
        fs::write(&file, "{").unwrap();
        let old = std::time::SystemTime::now() - 2 * HALF_WRITTEN;
        File::options().append(true).open(&file).unwrap().set_modified(old).unwrap();
        assert_eq!(selected(&directory).as_deref(), Some("other"));
    }

    #[test]
    fn a_recent_answer_is_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().to_owned(), String::new());
        assert_eq!(selected(&directory), None);
        fs::write(dir.path().join("1.conflist"), conf("a")).unwrap();
        assert!(directory.current(Duration::from_secs(3600)).is_blank());
        assert_eq!(selected(&directory).as_deref(), Some("a"));
    }

    #[test]
    fn a_huge_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("1.conflist")).unwrap();
        file.set_len(MAX_FILE_BYTES + 1).unwrap();
        let loaded = Directory::new(dir.path().to_owned(), String::new()).current(Duration::ZERO);
        assert!(loaded.invalid[0].1.contains("longer"), "{loaded:?}");
    }
}
