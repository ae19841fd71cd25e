//! Why a device cannot be had.

use std::path::PathBuf;

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// A name that is none.
    #[error("CDI device \"{name}\" is not of the form vendor.com/class=name")]
    Name {
        /// What was asked for, cut and escaped.
        name: String,
    },
    /// An annotation whose key names nobody.
    #[error("annotation \"{key}\" names no CDI plugin")]
    Annotation {
        /// The key, cut and escaped.
        key: String,
    },
    /// More devices than a container may ask for.
    #[error("{count} CDI devices are more than {limit}")]
    TooMany {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// No file defines it.
    #[error("CDI device {name} is not known: no specification in {} defines it{}", shown(.dirs), note(.broken))]
    Unknown {
        /// The device.
        name: String,
        /// Where was looked.
        dirs: Vec<PathBuf>,
        /// Files that could not be used, and why.
        broken: Vec<String>,
    },
    /// Two files of one directory define it.
    #[error("CDI device {name} is defined by both {} and {}", .first.display(), .second.display())]
    Conflict {
        /// The device.
        name: String,
        /// The one.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
}

fn shown(dirs: &[PathBuf]) -> String {
    let names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    if names.is_empty() { "any directory".to_owned() } else { names.join(", ") }
}

/// The vendor's broken file is the likely cause.
fn note(broken: &[String]) -> String {
    if broken.is_empty() { String::new() } else { format!(" ({})", broken.join("; ")) }
}
