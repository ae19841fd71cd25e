//! Which hierarchies the machine has, read from `/proc/self/mountinfo` (proc(5)).

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{CgroupError, CgroupPath, Mode};

/// The machine's hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Hierarchies of v1, each with its controllers.
    pub(crate) v1: Vec<Hierarchy>,
    /// Where the unified tree is.
    pub(crate) unified: Option<PathBuf>,
}

/// A hierarchy of v1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    /// `cpu`, `memory`, …; a hierarchy without controllers has its name: `name=systemd`.
    pub(crate) controllers: Vec<String>,
}

impl Layout {
    pub(crate) fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(path).map_err(|source| CgroupError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).ok_or(CgroupError::NoHierarchy)
    }

    /// Reads mounts of type `cgroup` and `cgroup2` whose root is the hierarchy's.
    pub(crate) fn parse(mountinfo: &str) -> Option<Self> {
        let mut layout = Self { v1: Vec::new(), unified: None };
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let mut mount = before.split(' ').skip(3);
            let (Some("/"), Some(target)) = (mount.next(), mount.next()) else { continue };
            let mut source = after.split(' ');
            let (kind, options) = (source.next(), source.nth(1).unwrap_or_default());
            match kind {
                Some("cgroup2") if layout.unified.is_none() => {
                    layout.unified = Some(unescape(target))
                }
                Some("cgroup") => layout.add_v1(unescape(target), options),
                _ => {}
            }
        }
        (layout.unified.is_some() || !layout.v1.is_empty()).then_some(layout)
    }

    fn add_v1(&mut self, mount: PathBuf, options: &str) {
        const NOT_CONTROLLERS: [&str; 6] =
            ["rw", "ro", "xattr", "noprefix", "clone_children", "release_agent"];
        let controllers: Vec<String> = options
            .split(',')
            .filter(|o| !NOT_CONTROLLERS.contains(&o.split('=').next().unwrap_or_default()))
            .map(str::to_owned)
            .collect();
        let known = self.v1.iter().any(|h| h.controllers == controllers);
        if !known && !controllers.is_empty() {
            self.v1.push(Hierarchy { mount, controllers });
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        let has_controllers =
            self.v1.iter().any(|h| h.controllers.iter().any(|c| !c.starts_with("name=")));
        match (&self.unified, has_controllers) {
            (Some(_), true) => Mode::Hybrid,
            (Some(_), false) => Mode::Unified,
            (None, _) => Mode::V1,
        }
    }

    /// The directory of `path` in the hierarchy of a v1 controller.
    pub(crate) fn v1_dir(&self, controller: &str, path: &CgroupPath) -> Option<PathBuf> {
        let hierarchy = self.v1.iter().find(|h| h.controllers.iter().any(|c| c == controller))?;
        Some(hierarchy.mount.join(path.relative()))
    }

    /// The directory of `path` in the unified tree.
    pub(crate) fn v2_dir(&self, path: &CgroupPath) -> Option<PathBuf> {
        Some(self.unified.as_ref()?.join(path.relative()))
    }

    /// The roots of all hierarchies, the unified tree's last.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|h| h.mount.as_path()).chain(self.unified.as_deref())
    }

    /// The directories of `path` in all hierarchies, the unified tree's last.
    pub(crate) fn dirs(&self, path: &CgroupPath) -> Vec<PathBuf> {
        self.roots().map(|root| root.join(path.relative())).collect()
    }
}

/// Undoes mountinfo's octal escapes of spaces, tabs, line ends and backslashes.
fn unescape(text: &str) -> PathBuf {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /other/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:32 /sub /part rw,relatime - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hierarchies_are_told_apart() {
        let layout = Layout::parse(HYBRID).unwrap();
        assert_eq!(layout.mode(), Mode::Hybrid);
        assert_eq!(layout.v1.len(), 3);
        let path: CgroupPath = "/a/b".parse().unwrap();
        assert_eq!(
            layout.v1_dir("cpuacct", &path).unwrap(),
            Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b")
        );
        assert_eq!(layout.v1_dir("devices", &path), None);
        assert_eq!(layout.dirs(&path).last().unwrap(), Path::new("/sys/fs/cgroup/unified/a/b"));
    }

    #[test]
    fn one_kind_alone_is_known() {
        let v2 = "25 20 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(Layout::parse(v2).unwrap().mode(), Mode::Unified);
        let v1 = "25 20 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";
        assert_eq!(Layout::parse(v1).unwrap().mode(), Mode::V1);
        assert_eq!(Layout::parse("nonsense\n1 2 3 4 - x"), None);
    }
}
