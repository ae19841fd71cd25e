//! What survives a process: records, the lock of a root directory, the boot's id.
//!
//! A record is one file, replaced as a whole by a rename, with its kind, its
//! format's version and a checksum in the first line:
//!
//! ```text
//! corten sandbox 1 sha256:6b86…
//! {"id":"…", …}
//! ```
//!
//! Removing a record needs no free disk block. A record that cannot be read is
//! reported with its name and never dropped, so that what it stands for can
//! still be listed and removed.
#![forbid(unsafe_code)]

mod boot;
mod lock;
mod private;
mod reserve;
mod store;
mod writable;

pub use boot::{BootError, boot_id, prepare_state_dir};
pub use lock::{LockError, RootLock};
pub use reserve::Reserve;
pub use store::{Damaged, Durability, Loaded, Store, StoreError};
pub use writable::{close_dir, try_writing};
