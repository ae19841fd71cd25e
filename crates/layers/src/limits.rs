//! What one layer may cost.

/// Limits of one layer. The defaults admit every layer that is known to be in use,
/// with room, and stop the made-up ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the stream. Each costs an inode and at most some hundred bytes of
    /// memory; the largest real layers have some 400,000.
    pub max_entries: u64,
    /// Bytes of the uncompressed stream, and of what its sparse files claim to be.
    /// Layers with models in them reach 30 GiB.
    pub max_bytes: u64,
    /// Bytes of a path (`PATH_MAX` is 4096, its NUL included).
    pub max_path: usize,
    /// Components of a path: the deepest real trees have about 60.
    pub max_depth: usize,
    /// Bytes of one extended header. It is held in memory; those of real layers stay
    /// below 64 KiB, which is also the kernel's limit of one attribute.
    pub max_extended_header: usize,
    /// Bytes of one extended attribute's value (`XATTR_SIZE_MAX`).
    pub max_xattr_value: usize,
    /// Extended attributes of one entry: ext4 holds a few dozen.
    pub max_xattrs: usize,
    /// Data segments of one sparse file.
    pub max_sparse_segments: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 1 << 20,
            max_bytes: 64 << 30,
            max_path: 4095,
            max_depth: 256,
            max_extended_header: 1 << 20,
            max_xattr_value: 64 << 10,
            max_xattrs: 128,
            max_sparse_segments: 16 << 10,
        }
    }
}
