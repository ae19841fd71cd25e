//! Which of the pods' cgroups are ours.
//!
//! The kubelet makes the cgroup of a pod and removes it. One that nobody had made comes with
//! the first pod that names it, and goes with the last of those that do: each of them may
//! remove it once it is empty, and to each of them it is ours.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// The paths of the cgroups that pods are in and that we made.
#[derive(Debug, Default)]
pub(crate) struct Parents {
    ours: Mutex<BTreeSet<String>>,
}

impl Parents {
    /// Whether the cgroup of a pod that is being made is ours: nobody has made it, or we did
    /// for another pod. It is from then on.
    pub(crate) fn claim(&self, path: &str, exists: impl FnOnce() -> bool) -> bool {
        let mut ours = self.ours.lock();
        if ours.contains(path) {
            return true;
        }
        let claimed = !exists();
        if claimed {
            ours.insert(path.to_owned());
        }
        claimed
    }

    /// Takes in what the record of a pod of an earlier daemon says.
    pub(crate) fn adopt(&self, path: &str) {
        self.ours.lock().insert(path.to_owned());
    }

    /// Lets a pod's cgroup go: where it is gone, whoever makes it next owns it.
    pub(crate) fn leave(&self, path: &str, exists: impl FnOnce() -> bool) {
        let mut ours = self.ours.lock();
        if !exists() {
            ours.remove(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_what_nobody_else_made() {
        let parents = Parents::default();
        assert!(!parents.claim("/kubelet", || true));
        assert!(parents.claim("/ours", || false));
        assert!(parents.claim("/ours", || true), "for the second pod in it");
        parents.leave("/ours", || true);
        assert!(parents.claim("/ours", || true), "one pod has left, one is in it");
        parents.leave("/ours", || false);
        assert!(!parents.claim("/ours", || true), "it went, and somebody made it");
        parents.adopt("/ours");
        assert!(parents.claim("/ours", || true), "an earlier daemon made it");
    }
}
