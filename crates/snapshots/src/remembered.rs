//! Small files of images that are read for each container, kept in memory: what layers hold does
//! not change as long as they are there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use types::DiffId;

/// How many files are kept: two for each of the images that a node starts containers of.
const MAX_FILES: usize = 128;
/// The longest file that is kept. An image's passwd has about one thousand bytes.
const MAX_FILE_BYTES: usize = 4 << 10;

/// A file's content, or that there is none.
pub(crate) type Content = Option<Arc<[u8]>>;

/// The files that were read, by layers and path.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    files: HashMap<Vec<DiffId>, Vec<(PathBuf, Content)>>,
    /// How many files there are.
    count: usize,
    /// How often all was forgotten.
    generation: u64,
}

impl Remembered {
    pub(crate) fn get(&self, layers: &[DiffId], path: &Path) -> Option<Content> {
        let files = self.files.get(layers)?;
        files.iter().find(|(known, _)| known == path).map(|(_, content)| content.clone())
    }

    /// What is to be told when something is kept that is read from now on.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Keeps a file, unless a layer went since the reading began.
    pub(crate) fn keep(&mut self, begun: u64, layers: &[DiffId], path: &Path, content: &Content) {
        let len = content.as_ref().map_or(0, |bytes| bytes.len());
        if begun != self.generation || len > MAX_FILE_BYTES || self.get(layers, path).is_some() {
            return;
        }
        if self.count == MAX_FILES {
            (self.files, self.count) = (HashMap::new(), 0);
        }
        self.count += 1;
        let files = self.files.entry(layers.to_vec()).or_default();
        files.push((path.to_owned(), content.clone()));
    }

    /// Forgets all: a layer goes, and may come again from another hand.
    pub(crate) fn forget(&mut self) {
        *self = Self { generation: self.generation + 1, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use types::Digest;

    use super::*;

    #[test]
    fn what_was_read_before_a_layer_went_is_not_kept() {
        let layers = [DiffId(Digest::from_bytes([1; 32]))];
        let (path, content): (_, Content) = (Path::new("etc/passwd"), Some(b"x".as_slice().into()));
        let mut files = Remembered::default();
        let begun = files.generation();
        files.forget();
        files.keep(begun, &layers, path, &content);
        assert_eq!(files.get(&layers, path), None);
        files.keep(files.generation(), &layers, path, &content);
        assert_eq!(files.get(&layers, path), Some(content.clone()));
        assert_eq!(files.get(&layers, Path::new("etc/group")), None);
        assert_eq!(files.get(&[], path), None);
        files.forget();
        assert_eq!(files.get(&layers, path), None);
    }

    #[test]
    fn it_has_a_bound() {
        let mut files = Remembered::default();
        let long: Content = Some(vec![0; MAX_FILE_BYTES + 1].into());
        files.keep(0, &[], Path::new("long"), &long);
        assert_eq!(files.get(&[], Path::new("long")), None);
        for n in 0..3 * MAX_FILES {
            files.keep(0, &[], Path::new(&n.to_string()), &None);
        }
        assert!(files.files.values().map(Vec::len).sum::<usize>() <= MAX_FILES);
        assert_eq!(files.get(&[], Path::new(&(3 * MAX_FILES - 1).to_string())), Some(None));
    }
}
