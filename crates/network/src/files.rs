//! Writing and removing small files: whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::NetworkError;

/// What a file must outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strength {
    /// Our own death: the page cache holds it.
    Process,
    /// A power cut: it is synced before the call returns.
    Power,
}

/// Makes a directory of ours.
pub(crate) fn make_dir(path: &Path) -> Result<(), NetworkError> {
    fs::create_dir_all(path).map_err(|source| failed("make directory", path, source))
}

/// Writes aside and renames.
pub(crate) fn write(path: &Path, bytes: &[u8], strength: Strength) -> Result<(), NetworkError> {
    let aside = aside_of(path);
    write_aside(&aside, path, bytes, strength).map_err(|source| {
        let _ = fs::remove_file(&aside);
        failed("write", path, source)
    })
}

/// Removes, with what a crash left aside; what is not there is no error.
pub(crate) fn remove(path: &Path) -> Result<(), NetworkError> {
    remove_plain(&aside_of(path))?;
    remove_plain(path)
}

/// Removes what is never written aside; what is not there is no error.
pub(crate) fn remove_plain(path: &Path) -> Result<(), NetworkError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| failed("remove", path, source)),
    }
}

/// Appends to the name: names differ behind their last dot.
fn aside_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

pub(crate) fn failed(action: &'static str, path: &Path, source: io::Error) -> NetworkError {
    NetworkError::State { action, path: path.to_owned(), source }
}

fn write_aside(aside: &Path, path: &Path, bytes: &[u8], strength: Strength) -> io::Result<()> {
    let mut file = File::create(aside)?;
    file.write_all(bytes)?;
    if strength == Strength::Power {
        file.sync_all()?;
    }
    fs::rename(aside, path)?;
    if strength == Strength::Power
        && let Some(dir) = path.parent()
    {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}
