//! The daemon's settings: one TOML schema, drop-in files, no unknown keys.
//!
//! `/etc/corten/config.toml` is read first, then `/etc/corten/conf.d/*.toml` in the
//! order of their names; a later file's key replaces an earlier one's, tables
//! are merged key by key. An unknown key is an error that names the file and the
//! line, so that a spelling mistake is not a setting silently ignored.
#![forbid(unsafe_code)]

mod load;
mod schema;

pub use load::{ConfigError, load, load_text, set, to_text};
pub use schema::{
    CgroupDriver, Cgroups, Config, Containers, Handler, Images, Log, LogFormat, Metrics,
    MetricsAddress, Monitor, Network, OrphanedExecs, Server, Streaming,
};

/// Where the settings are read from unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/corten/config.toml";
