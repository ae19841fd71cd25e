//! Where cgroups are.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::CgroupError;

/// The longest path of a cgroup (the kernel's `PATH_MAX` less room for the mount
/// point and a file's name).
const MAX_PATH: usize = 3072;

/// The longest name of a cgroup (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// We do, in the file system.
    Cgroupfs,
    /// systemd does.
    Systemd,
}

impl Driver {
    /// Returns the name that the kubelet knows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// The path of a cgroup in its hierarchies: absolute, normal, not the root.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Makes the path of `leaf` below `parent`. An empty parent is the root.
    ///
    /// # Errors
    /// Fails where the parent is not absolute or either has parts that are no names.
    pub fn new(parent: &str, leaf: &str) -> Result<Self, CgroupError> {
        let bad = |reason| CgroupError::BadPath { path: cut(&format!("{parent}/{leaf}")), reason };
        if !parent.is_empty() && !parent.starts_with('/') {
            return Err(bad("the parent is not absolute"));
        }
        if leaf.is_empty() || leaf.contains('/') {
            return Err(bad("the last part is no name"));
        }
        let mut path = String::new();
        for part in parent.split('/').chain([leaf]).filter(|p| !p.is_empty()) {
            if matches!(part, "." | "..") {
                return Err(bad("it has a part \".\" or \"..\""));
            }
            if part.len() > MAX_NAME {
                return Err(bad("it has a part longer than 255 bytes"));
            }
            if part.chars().any(char::is_control) {
                return Err(bad("it has control characters"));
            }
            path.push('/');
            path.push_str(part);
        }
        if path.len() > MAX_PATH {
            return Err(bad("it is too long"));
        }
        Ok(Self(path))
    }

    /// Returns the path, with its first slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path without its first slash, to join to a mount point.
    pub(crate) fn relative(&self) -> &str {
        &self.0[1..]
    }
}

impl FromStr for CgroupPath {
    type Err = CgroupError;

    fn from_str(text: &str) -> Result<Self, CgroupError> {
        match text.rsplit_once('/') {
            Some((parent, leaf)) if text.starts_with('/') => Self::new(parent, leaf),
            _ => Err(CgroupError::BadPath { path: cut(text), reason: "the path is not absolute" }),
        }
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = CgroupError;

    fn try_from(text: String) -> Result<Self, CgroupError> {
        text.parse()
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> Self {
        path.0
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks a sandbox's `cgroup_parent` for the driver in use: the kubelet sends
/// `/kubepods/…` for cgroupfs, and `kubepods-….slice` for systemd. An empty one is
/// fine: the caller has a default.
///
/// # Errors
/// Fails where it is in the other driver's form, or no path at all.
pub fn validate_parent(driver: Driver, parent: &str) -> Result<(), CgroupError> {
    let last = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let wrong = |other: Driver| CgroupError::WrongDriver {
        parent: cut(parent),
        driver: driver.name(),
        other: other.name(),
    };
    match driver {
        _ if parent.is_empty() => Ok(()),
        Driver::Cgroupfs if last.ends_with(".slice") => Err(wrong(Driver::Systemd)),
        Driver::Cgroupfs => CgroupPath::new(parent, "leaf").map(|_| ()),
        Driver::Systemd if last.ends_with(".slice") => crate::unit::slice_path(parent).map(|_| ()),
        Driver::Systemd => Err(wrong(Driver::Cgroupfs)),
    }
}

/// Cuts foreign text to a length that can be logged.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normal() {
        for (parent, leaf, path) in [
            ("", "x", "/x"),
            ("/", "x", "/x"),
            ("/kubepods//burstable/", "x", "/kubepods/burstable/x"),
        ] {
            let made = CgroupPath::new(parent, leaf).unwrap();
            assert_eq!(made.as_str(), path);
            assert_eq!(path.parse::<CgroupPath>().unwrap(), made);
        }
    }

    #[test]
    fn bad_paths_are_refused() {
        let long = "a".repeat(256);
        let deep = "/aaaaaaaa".repeat(400);
        for (parent, leaf) in [
            ("kubepods", "x"),
            ("/a/../b", "x"),
            ("/a/./b", "x"),
            ("/a", ".."),
            ("/a", ""),
            ("/a", "b/c"),
            ("/a\nb", "x"),
            ("/a", &long),
            (&deep, "x"),
        ] {
            assert!(CgroupPath::new(parent, leaf).is_err(), "{parent} {leaf}");
        }
        for bad in ["", "/", "x", "../x", "/x/", "/x/.."] {
            assert!(bad.parse::<CgroupPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_parent_of_the_other_driver_is_refused() {
        assert!(validate_parent(Driver::Cgroupfs, "").is_ok());
        assert!(validate_parent(Driver::Cgroupfs, "/kubepods/burstable/pod1").is_ok());
        assert!(validate_parent(Driver::Systemd, "kubepods-pod1.slice").is_ok());
        assert!(validate_parent(Driver::Cgroupfs, "relative").is_err());
        for (driver, parent) in [
            (Driver::Cgroupfs, "kubepods-pod1.slice"),
            (Driver::Cgroupfs, "/kubepods.slice/kubepods-pod1.slice/"),
            (Driver::Systemd, "/kubepods/pod1"),
        ] {
            let error = validate_parent(driver, parent).unwrap_err();
            assert!(matches!(error, CgroupError::WrongDriver { .. }), "{error}");
        }
    }
}
