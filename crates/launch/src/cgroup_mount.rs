//! The container's view of its cgroups.
//!
//! On the v2 tree alone it is a cgroup2 mount in the container's cgroup namespace. On v1 and
//! hybrid machines it is a tmpfs with the container's own directory of each hierarchy bound below.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::io::Errno;
use sys::mount::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttr};
use sys::root::Missing;

use crate::mount_options::Options;
use crate::mounts::{HostView, open_target, set_attributes};
use crate::step::{Done, During};
use crate::{ChildFailure, Step, filesystem, label};

/// Mounts the cgroup view at the mount's destination.
pub(crate) fn mount(
    root: &OwnedFd,
    mount: &Mount,
    options: &Options,
    view: &HostView,
    spec: &Spec,
) -> Done {
    let destination = mount.destination();
    let hierarchies = hierarchies(view);
    match hierarchies.as_slice() {
        [] => Err(ChildFailure::new(Step::Mount, "no cgroup hierarchy is mounted on this machine")),
        [only] if only.is_v2 => {
            let tree = if has_cgroup_namespace(spec) {
                filesystem::new_mount("cgroup2", Some("cgroup"), &[])
            } else {
                filesystem::clone_path(&only.directory, false)
            };
            let tree = tree.during_on(Step::Mount, "failed to mount cgroup2 on", destination)?;
            set_attributes(&tree, options, destination)?;
            let target = open_target(root, destination, Missing::Directory)?;
            filesystem::attach(tree.as_fd(), target.as_fd()).during_on(
                Step::Mount,
                "failed to mount on",
                destination,
            )
        }
        many => mount_each(root, destination, options, many, label::of(spec)),
    }
}

/// One hierarchy and the container's directory in it.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// The last part of the host's mount point, such as `memory` or `cpu,cpuacct`.
    name: String,
    /// The controllers of a v1 hierarchy.
    controllers: Vec<String>,
    is_v2: bool,
    directory: PathBuf,
}

/// Joins the host's mounts with the child's own cgroups.
fn hierarchies(view: &HostView) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in view.cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let is_v2 = controllers.is_empty();
        let mounted = view.table.iter().find(|entry| match entry.fs_type.as_str() {
            "cgroup2" => is_v2,
            "cgroup" => {
                !is_v2 && controllers.split(',').all(|c| entry.options.split(',').any(|o| o == c))
            }
            _ => false,
        });
        let Some(mounted) = mounted else { continue };
        let Some(name) = mounted.target.file_name().map(|n| n.to_string_lossy().into_owned())
        else {
            continue;
        };
        let path = Path::new(path);
        let below = path.strip_prefix(&mounted.root).or_else(|_| path.strip_prefix("/"));
        let directory = mounted.target.join(below.unwrap_or(Path::new("")));
        let controllers = controllers.split(',').filter(|c| !c.contains('=') && !c.is_empty());
        let controllers = controllers.map(str::to_owned).collect();
        found.push(Hierarchy { name, controllers, is_v2, directory });
    }
    found
}

fn mount_each(
    root: &OwnedFd,
    destination: &Path,
    options: &Options,
    hierarchies: &[Hierarchy],
    label: Option<&str>,
) -> Done {
    let data = label::with_option("tmpfs", vec![("mode", Some("755"))], label);
    let base = filesystem::new_mount("tmpfs", Some("tmpfs"), &data).during_on(
        Step::Mount,
        "failed to mount tmpfs on",
        destination,
    )?;
    let target = open_target(root, destination, Missing::Directory)?;
    filesystem::attach(base.as_fd(), target.as_fd()).during_on(
        Step::Mount,
        "failed to mount on",
        destination,
    )?;
    for hierarchy in hierarchies {
        let place = destination.join(&hierarchy.name);
        let tree = filesystem::clone_path(&hierarchy.directory, false).during_on(
            Step::Mount,
            "failed to open the cgroup",
            &hierarchy.directory,
        )?;
        set_attributes(&tree, options, &place)?;
        let safe =
            MountAttr { set: ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC, ..MountAttr::default() };
        sys::mount::set_attributes(&tree, safe, false).during_on(
            Step::Mount,
            "failed to set the attributes of",
            &place,
        )?;
        // The base is ours and nobody else has seen it: names below it are what we make.
        let target = sys::root::ensure(&base, Path::new(&hierarchy.name), Missing::Directory)
            .during_on(Step::Mount, "failed to make the mount target", &place)?;
        filesystem::attach(tree.as_fd(), target.as_fd()).during_on(
            Step::Mount,
            "failed to mount on",
            &place,
        )?;
        link_controllers(&base, hierarchy, destination)?;
    }
    let mut attr = options.top;
    attr.set |= options.tree.set & ATTR_RDONLY;
    attr.propagation = None;
    sys::mount::set_attributes(&base, attr, false).during_on(
        Step::Mount,
        "failed to set the attributes of",
        destination,
    )
}

/// Where hierarchies carry several controllers, programs look for each by its own name.
fn link_controllers(base: &OwnedFd, hierarchy: &Hierarchy, destination: &Path) -> Done {
    for controller in hierarchy.controllers.iter().filter(|c| **c != hierarchy.name) {
        match rustix::fs::symlinkat(&hierarchy.name, base, controller) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(error).during_on(
                    Step::Mount,
                    "failed to link",
                    destination.join(controller),
                );
            }
        }
    }
    Ok(())
}

fn has_cgroup_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|n| n.typ() == LinuxNamespaceType::Cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount_table;

    fn view(table: &str, cgroups: &str) -> HostView {
        HostView { table: mount_table::parse(table), cgroups: cgroups.to_owned() }
    }

    #[test]
    fn hybrid_hierarchies_are_joined_with_their_mounts() {
        let view = view(
            "30 1 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             31 1 0:2 /outer /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             32 1 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             33 1 0:4 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n",
            "4:cpu,cpuacct:/p/c\n3:memory:/outer/p/c\n2:name=systemd:/s\n1:freezer:/f\n0::/p/c\n",
        );
        let found: Vec<_> = hierarchies(&view)
            .into_iter()
            .map(|h| (h.name, h.controllers.join(" "), h.directory))
            .collect();
        let dir = |path: &str| PathBuf::from("/sys/fs/cgroup").join(path);
        let expected = [
            ("cpu,cpuacct", "cpu cpuacct", dir("cpu,cpuacct/p/c")),
            ("memory", "memory", dir("memory/p/c")),
            ("systemd", "", dir("systemd/s")),
            ("unified", "", dir("unified/p/c")),
        ];
        let expected: Vec<_> =
            expected.into_iter().map(|(n, c, d)| (n.to_owned(), c.to_owned(), d)).collect();
        assert_eq!(found, expected);
    }
}
