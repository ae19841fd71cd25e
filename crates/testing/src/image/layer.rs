//! Layers: tar archives in the form of the OCI image specification.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};

/// A layer that is being written. Parent directories come by themselves.
pub struct LayerBuilder {
    archive: Builder<Vec<u8>>,
    directories: BTreeSet<String>,
}

impl Default for LayerBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// Always this: the same content has the same digest in each run.
const TIME: u64 = 1_700_000_000;

impl LayerBuilder {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self { archive: Builder::new(Vec::new()), directories: BTreeSet::new() }
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// If the path cannot be written.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<&mut Self> {
        self.parents(path)?;
        if self.directories.insert(path.to_owned()) {
            self.entry(EntryType::Directory, &format!("{path}/"), mode, (0, 0), &[], None)?;
        }
        Ok(self)
    }

    /// Adds a file of root's.
    ///
    /// # Errors
    /// If the path cannot be written.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<&mut Self> {
        self.owned_file(path, mode, (0, 0), content)
    }

    /// Adds a file of a user and group.
    ///
    /// # Errors
    /// If the path cannot be written.
    pub fn owned_file(
        &mut self,
        path: &str,
        mode: u32,
        owner: (u64, u64),
        content: &[u8],
    ) -> Result<&mut Self> {
        self.parents(path)?;
        self.entry(EntryType::Regular, path, mode, owner, content, None)?;
        Ok(self)
    }

    /// Adds a file of this machine's.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn copy(&mut self, from: &Path, path: &str, mode: u32) -> Result<&mut Self> {
        let content =
            std::fs::read(from).with_context(|| format!("failed to read {}", from.display()))?;
        self.file(path, mode, &content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// If the path cannot be written.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        self.parents(path)?;
        self.entry(EntryType::Symlink, path, 0o777, (0, 0), &[], Some(target))?;
        Ok(self)
    }

    /// Adds a device: a character device, or a block device.
    ///
    /// # Errors
    /// If the path cannot be written.
    pub fn device(&mut self, path: &str, block: bool, number: (u32, u32)) -> Result<&mut Self> {
        self.parents(path)?;
        let mut header = Header::new_gnu();
        header.set_entry_type(if block { EntryType::Block } else { EntryType::Char });
        header.set_mode(0o666);
        header.set_mtime(TIME);
        header.set_size(0);
        let (major, minor) = number;
        header
            .set_device_major(major)
            .and_then(|()| header.set_device_minor(minor))
            .and_then(|()| self.archive.append_data(&mut header, path, &[][..]))
            .with_context(|| format!("failed to add {path} to the layer"))?;
        Ok(self)
    }

    /// Adds a pipe with a name.
    ///
    /// # Errors
    /// If the path cannot be written.
    pub fn fifo(&mut self, path: &str) -> Result<&mut Self> {
        self.parents(path)?;
        self.entry(EntryType::Fifo, path, 0o644, (0, 0), &[], None)?;
        Ok(self)
    }

    /// Adds a hard link to a file of this layer.
    ///
    /// # Errors
    /// If the path cannot be written.
    pub fn hardlink(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        self.parents(path)?;
        self.entry(EntryType::Link, path, 0o755, (0, 0), &[], Some(target))?;
        Ok(self)
    }

    /// Removes what a lower layer has at a path.
    ///
    /// # Errors
    /// If the path cannot be written.
    pub fn whiteout(&mut self, path: &str) -> Result<&mut Self> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() { String::new() } else { format!("{parent}/") };
        self.file(&format!("{parent}.wh.{name}"), 0o644, &[])
    }

    /// Removes all that lower layers have in a directory.
    ///
    /// # Errors
    /// If the path cannot be written.
    pub fn opaque(&mut self, directory: &str) -> Result<&mut Self> {
        self.file(&format!("{directory}/.wh..wh..opq"), 0o644, &[])
    }

    /// The archive.
    ///
    /// # Errors
    /// If its end cannot be written.
    pub fn finish(self) -> Result<Vec<u8>> {
        self.archive.into_inner().context("failed to end the layer")
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent, 0o755)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        kind: EntryType,
        path: &str,
        mode: u32,
        (user, group): (u64, u64),
        content: &[u8],
        target: Option<&str>,
    ) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(user);
        header.set_gid(group);
        header.set_mtime(TIME);
        header.set_size(content.len() as u64);
        match target {
            Some(target) => self.archive.append_link(&mut header, path, target),
            None => self.archive.append_data(&mut header, path, content),
        }
        .with_context(|| format!("failed to add {path} to the layer"))
    }
}
