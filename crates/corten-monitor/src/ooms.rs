//! Kills for want of memory, also where the cgroup that counted them is gone.
//!
//! systemd removes a scope as soon as nothing runs in it, maybe before its counter was
//! read here. On v2 the cgroup above has counted too, and what neither the other
//! containers nor those before have to do with it is the kill of the one that ended.

use std::fs;
use std::path::PathBuf;

use monitor_proto::{OomFile, OomFileKind};
use types::ContainerId;

use crate::monitor::Monitor;

/// What is known of the kills in the cgroup above the containers'.
#[derive(Debug, Default)]
pub(crate) struct Ooms {
    /// The count when the first container began.
    first: Option<u64>,
    /// Kills of containers that have ended.
    explained: u64,
}

impl Ooms {
    /// A container begins.
    fn begin(&mut self, total: Option<u64>) {
        self.first = self.first.or(total);
    }

    /// A container has ended: tells whether something in it was killed. `own` is its count,
    /// `others` that of the containers that run.
    fn end(&mut self, own: Option<u64>, others: u64, total: Option<u64>) -> bool {
        let counted = || {
            let before = self.first?.saturating_add(self.explained).saturating_add(others);
            Some(total?.saturating_sub(before))
        };
        let kills = own.or_else(counted).unwrap_or(0);
        self.explained = self.explained.saturating_add(kills);
        kills > 0
    }
}

impl Monitor {
    /// Takes note of what was counted before a container begins.
    pub(crate) fn begin_counting(&mut self, files: &[OomFile]) {
        if let Some(above) = files.iter().find_map(above) {
            self.ooms.entry(above.clone()).or_default().begin(count_in(&above));
        }
    }

    /// Tells whether the kernel has killed in a container that has ended.
    pub(crate) fn has_oom_kills(&mut self, id: &ContainerId) -> bool {
        let Some(files) = self.containers.get(id).map(|container| container.oom_files.clone())
        else {
            return false;
        };
        let own = own_count(&files);
        let Some(above) = files.iter().find_map(above) else {
            return own.is_some_and(|count| count > 0);
        };
        let others = self.containers.iter().filter(|(other, c)| *other != id && c.lives());
        let others = others.filter_map(|(_, c)| own_count(&c.oom_files)).sum();
        let total = count_in(&above);
        self.ooms.entry(above).or_default().end(own, others, total)
    }
}

fn own_count(files: &[OomFile]) -> Option<u64> {
    files.iter().find_map(|file| count_in(&file.path))
}

/// The file of the cgroup above, which on v2 counts what is below.
fn above(file: &OomFile) -> Option<PathBuf> {
    match file.kind {
        OomFileKind::V1OomControl => None,
        OomFileKind::V2Events => Some(file.path.parent()?.parent()?.join(file.path.file_name()?)),
    }
}

fn count_in(path: &PathBuf) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_where_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for (text, expected) in [
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", Some(3)),
            ("low 0\noom 1\noom_kill 0\noom_group_kill 0\n", Some(0)),
            ("oom_kill x\n", None),
            ("nonsense", None),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(count_in(&path), expected, "{text}");
        }
        assert_eq!(count_in(&dir.path().join("none")), None);
    }

    #[test]
    fn only_v2_counts_above() {
        let file = |kind| OomFile { path: "/a/b/memory.events".into(), kind };
        assert_eq!(above(&file(OomFileKind::V2Events)), Some("/a/memory.events".into()));
        assert_eq!(above(&file(OomFileKind::V1OomControl)), None);
    }

    #[test]
    fn kills_of_a_cgroup_that_is_gone_are_what_is_left_over() {
        let mut ooms = Ooms::default();
        ooms.begin(Some(5));
        // One whose own count can be read.
        assert!(ooms.end(Some(2), 0, Some(7)));
        // One that is gone, beside one that runs and had a kill.
        assert!(!ooms.end(None, 1, Some(8)));
        assert!(ooms.end(None, 1, Some(9)));
        // What was explained is not told again.
        assert!(!ooms.end(None, 1, Some(9)));
        ooms.begin(Some(9));
        assert!(ooms.end(None, 0, Some(10)));
        // Nothing can be read.
        assert!(!ooms.end(None, 0, None));
    }
}
