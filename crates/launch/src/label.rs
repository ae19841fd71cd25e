//! The SELinux label of what is mounted for a container (`linux.mountLabel`).
//!
//! Where SELinux is active a container may use only files of its own label. The root and what else
//! is mounted for it alone get it as a whole, by the option `context`; file systems of the kernel's
//! keep the labels that the policy gives them, and volumes those that they have. The caller has
//! taken the label out of the spec where SELinux is not active.

use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags, XattrFlags};

use crate::Step;
use crate::step::{Done, During};

/// The attribute of a file that holds its label.
const ATTRIBUTE: &std::ffi::CStr = c"security.selinux";

/// The mount label of a spec, where it has one.
pub(crate) fn of(spec: &Spec) -> Option<&str> {
    let label = spec.linux().as_ref()?.mount_label().as_deref()?;
    (!label.is_empty()).then_some(label)
}

/// How a new mount of a type gets the label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It has the policy's own.
    None,
    /// By the option `context` of the file system.
    Option,
    /// Its root gets it as a file would: the file system has no such option for a user.
    File,
}

/// As other runtimes do it for each type.
pub(crate) fn way(fs_type: &str) -> Way {
    match fs_type {
        "proc" | "sysfs" | "cgroup" | "cgroup2" | "bpf" | "securityfs" | "debugfs" | "tracefs" => {
            Way::None
        }
        "mqueue" => Way::File,
        _ => Way::Option,
    }
}

/// The options of a new mount, with that of the label; the spec's own `context` is kept.
pub(crate) fn with_option<'a>(
    fs_type: &str,
    mut data: Vec<(&'a str, Option<&'a str>)>,
    label: Option<&'a str>,
) -> Vec<(&'a str, Option<&'a str>)> {
    let given = data.iter().any(|(key, _)| *key == "context");
    if let (Some(_), Way::Option, false) = (label, way(fs_type), given) {
        data.push(("context", label));
    }
    data
}

/// The same in the text of mount(2), where commas of a level must not end the option.
pub(crate) fn as_text(label: Option<&str>) -> String {
    label.map(|label| format!(",context=\"{label}\"")).unwrap_or_default()
}

/// Gives the root of a mount the label where its type wants it so.
pub(crate) fn give_to_root(tree: &OwnedFd, fs_type: &str, label: Option<&str>, on: &Path) -> Done {
    let (Some(label), Way::File) = (label, way(fs_type)) else { return Ok(()) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(tree, ".", flags, Mode::empty())
        .and_then(|root| {
            rustix::fs::fsetxattr(root, ATTRIBUTE, label.as_bytes(), XattrFlags::empty())
        })
        .during_on(Step::Mount, "failed to label", on)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    fn spec(label: &str) -> Spec {
        let mut spec = Spec::default();
        let mut linux = oci_spec::runtime::Linux::default();
        linux.set_mount_label(Some(label.to_owned()));
        spec.set_linux(Some(linux));
        spec
    }

    /// The options that the kernel is given for each type of a container's mounts.
    #[test]
    fn what_is_mounted_for_the_container_is_labelled() {
        let spec = spec(LABEL);
        let label = of(&spec);
        assert_eq!(label, Some(LABEL));
        for fs_type in ["tmpfs", "devpts", "overlay", "ramfs"] {
            let data = with_option(fs_type, vec![("mode", Some("755"))], label);
            assert_eq!(data, [("mode", Some("755")), ("context", Some(LABEL))], "{fs_type}");
        }
        for fs_type in ["proc", "sysfs", "cgroup", "cgroup2", "mqueue"] {
            assert_eq!(with_option(fs_type, vec![("a", None)], label), [("a", None)], "{fs_type}");
        }
        assert_eq!(way("mqueue"), Way::File);
    }

    #[test]
    fn the_specs_own_option_is_kept() {
        let own = vec![("context", Some("another"))];
        assert_eq!(with_option("tmpfs", own.clone(), Some(LABEL)), own);
    }

    #[test]
    fn without_a_label_nothing_is_added() {
        assert_eq!(of(&Spec::default()), None);
        assert_eq!(of(&spec("")), None);
        assert_eq!(with_option("tmpfs", Vec::new(), None), []);
        assert_eq!(as_text(None), "");
    }

    #[test]
    fn commas_of_a_level_are_quoted() {
        let text = format!("lowerdir=3{}", as_text(Some(LABEL)));
        assert_eq!(text, format!("lowerdir=3,context=\"{LABEL}\""));
    }
}
