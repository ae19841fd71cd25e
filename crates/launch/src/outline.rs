//! What an exec needs of its container's spec, which is long: the rest is skipped, not parsed.

use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespace};
use serde::Deserialize;
use serde::de::IgnoredAny;
use types::UserNamespace;

use crate::process::Filter;
use crate::step::Done;
use crate::{spec, user};

/// A spec's parts that matter to a further process.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Outline {
    #[serde(default)]
    process: Option<Process>,
    #[serde(default)]
    linux: Option<Linux>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    #[serde(default)]
    oom_score_adj: Option<i32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    #[serde(default)]
    namespaces: Option<Vec<LinuxNamespace>>,
    #[serde(default)]
    uid_mappings: Option<Vec<LinuxIdMapping>>,
    #[serde(default)]
    gid_mappings: Option<Vec<LinuxIdMapping>>,
    /// Whether there is a profile; what is in it has been compiled.
    #[serde(default)]
    seccomp: Option<IgnoredAny>,
}

impl Outline {
    /// The OOM score of the container's own process.
    pub(crate) fn oom_score_adj(&self) -> Option<i32> {
        self.process.as_ref()?.oom_score_adj
    }

    pub(crate) fn namespaces(&self) -> &[LinuxNamespace] {
        self.linux.as_ref().and_then(|linux| linux.namespaces.as_deref()).unwrap_or_default()
    }

    /// The ids that the spec says are mapped in its user namespace.
    pub(crate) fn mappings(&self) -> UserNamespace {
        let linux = self.linux.as_ref();
        let uids = linux.and_then(|linux| linux.uid_mappings.as_deref());
        let gids = linux.and_then(|linux| linux.gid_mappings.as_deref());
        UserNamespace {
            uids: user::mappings(uids.unwrap_or_default()),
            gids: user::mappings(gids.unwrap_or_default()),
        }
    }

    /// The container's filter: as the bundle has it, or compiled of the whole spec.
    pub(crate) fn filter(&self, bundle: &Path) -> Done<Option<Filter>> {
        if self.linux.as_ref().is_none_or(|linux| linux.seccomp.is_none()) {
            return Ok(None);
        }
        match Filter::compiled(bundle) {
            Some(filter) => Ok(Some(filter)),
            None => Filter::of(&spec::load_unchecked(bundle)?, bundle),
        }
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxNamespaceType, Spec};

    use super::*;

    #[test]
    fn it_says_what_the_whole_spec_says() {
        let text = r#"{
            "ociVersion": "1.1.0",
            "process": {
                "args": ["x"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "oomScoreAdj": -7
            },
            "linux": {
                "namespaces": [{"type": "user", "path": "/u"}, {"type": "mount"}],
                "uidMappings": [{"containerID": 0, "hostID": 70000, "size": 10}],
                "gidMappings": [{"containerID": 1, "hostID": 80000, "size": 20}],
                "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}
            }
        }"#;
        let outline: Outline = serde_json::from_str(text).unwrap();
        let spec: Spec = serde_json::from_str(text).unwrap();
        assert_eq!(outline.oom_score_adj(), Some(-7));
        assert_eq!(outline.mappings(), user::mappings_of(&spec));
        assert_eq!(outline.mappings().host_uid(3), Some(70_003));
        assert_eq!(outline.namespaces().len(), 2);
        assert_eq!(outline.namespaces()[0].typ(), LinuxNamespaceType::User);
        // The bundle has no compiled filter and no spec to compile one of: never without one.
        let empty = tempfile::tempdir().unwrap();
        assert!(outline.filter(empty.path()).is_err());
        std::fs::write(empty.path().join("config.json"), text).unwrap();
        assert!(outline.filter(empty.path()).unwrap().is_some());
    }

    #[test]
    fn what_is_missing_is_none() {
        for text in ["{}", r#"{"process": null, "linux": null}"#, r#"{"linux": {"seccomp": null}}"#]
        {
            let outline: Outline = serde_json::from_str(text).unwrap();
            assert_eq!((outline.oom_score_adj(), outline.namespaces().len()), (None, 0), "{text}");
            assert!(outline.filter(Path::new("/none")).unwrap().is_none(), "{text}");
        }
    }
}
