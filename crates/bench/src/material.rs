//! Layers of this machine's own files: what compresses as real layers do.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use testing::image::LayerBuilder;

/// Where the files are taken from.
const PLACES: [&str; 4] = ["/usr/lib", "/usr/bin", "/usr/share", "/usr/sbin"];

/// Layers of about `bytes` each, of different files.
pub fn layers(count: usize, bytes: u64) -> Result<Vec<Vec<u8>>> {
    let mut files = PLACES.iter().flat_map(|place| files_below(Path::new(place)));
    let mut layers = Vec::new();
    for number in 0..count {
        let mut builder = LayerBuilder::new();
        let mut size = 0;
        while size < bytes {
            let Some((path, length)) = files.next() else { break };
            let name = format!("layer{number}{}", path.display());
            if builder.copy(&path, &name, 0o644).is_ok() {
                size += length;
            }
        }
        layers.push(builder.finish()?);
    }
    Ok(layers)
}

/// A layer of many small files, a hundred a directory.
pub fn small_files(count: usize) -> Result<Vec<u8>> {
    let mut builder = LayerBuilder::new();
    for number in 0..count {
        if number % 100 == 0 {
            builder.directory(&format!("d{}", number / 100), 0o755)?;
        }
        let content = format!("{number} ").repeat(40 + number % 400);
        builder.file(&format!("d{}/f{number}", number / 100), 0o644, content.as_bytes())?;
    }
    builder.finish()
}

/// Regular files, the directories' in the order of their names.
fn files_below(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => waiting.push(entry.path()),
                // A few giants would be all of it.
                Ok(meta) if meta.is_file() && meta.len() < 16 << 20 => {
                    found.push((entry.path(), meta.len()));
                }
                _ => {}
            }
        }
    }
    found
}
