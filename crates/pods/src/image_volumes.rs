//! Images that a container mounts: each is a read-only view of its layers, mounted below the
//! container's bundle and bound from there. What is not found or not possible is an error whose
//! text begins with the word that the kubelet looks for.
//!
//! ```text
//! hold the layers ─► mount the view ─► find the path in it ─► bind it (the launcher)
//! ```
//!
//! The view is undone with the bundle, before the layers are let go.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{MoveMountFlags, move_mount},
};
use types::{ContainerConfig, ContainerId, DiffId, Image, Mount, Propagation, UserNamespace};

use crate::{
    error::{Error, Result},
    files::PodFiles,
    service::Inner,
};

/// The images that a container mounts, by the number of the mount.
pub(crate) type VolumeImages = BTreeMap<usize, Arc<Image>>;

/// Finds the images that a container mounts, and refuses what cannot be of them.
pub(crate) fn find(
    inner: &Inner,
    config: &ContainerConfig,
    user: Option<&UserNamespace>,
) -> Result<VolumeImages> {
    let mut found = VolumeImages::new();
    for (index, mount) in config.mounts.iter().enumerate() {
        let Some(image) = &mount.image else {
            if !mount.image_sub_path.is_empty() {
                return Err(failed(mount, "it has a path in an image and no image"));
            }
            continue;
        };
        check(mount, user)?;
        let known = inner.services.images.get(&image.image);
        let known = known.ok_or_else(|| {
            failed(mount, format!("the image \"{}\" is not here: pull it first", image.image))
        })?;
        found.insert(index, known);
    }
    Ok(found)
}

fn check(mount: &Mount, user: Option<&UserNamespace>) -> Result<()> {
    if !mount.readonly {
        return Err(failed(mount, "an image can be mounted read-only only"));
    }
    if !mount.host_path.is_empty() {
        return Err(failed(mount, "it has a path of the host and an image"));
    }
    if mount.propagation != Propagation::Private {
        return Err(failed(mount, "an image has no mounts that could spread"));
    }
    if Path::new(&mount.image_sub_path).components().any(|c| c == std::path::Component::ParentDir) {
        return Err(failed(mount, "the path in the image leads out of it"));
    }
    // The view is mapped as a whole, for the pod.
    let asked = (&mount.uid_mappings, &mount.gid_mappings);
    let is_pods = user.is_some_and(|user| asked == (&user.uids, &user.gids));
    if (asked.0.is_empty() && asked.1.is_empty()) || is_pods {
        return Ok(());
    }
    Err(failed(mount, "the owners of an image are mapped as those of its pod"))
}

fn failed(mount: &Mount, why: impl Into<String>) -> Error {
    Error::ImageVolume { target: mount.container_path.clone(), why: why.into() }
}

/// Mounts the images of a container and returns its configuration as the specification is made of
/// it: with the paths at which they are.
pub(crate) fn mount(
    inner: &Inner,
    files: &PodFiles,
    id: &ContainerId,
    config: &ContainerConfig,
    images: &VolumeImages,
    has_user_namespace: bool,
) -> Result<ContainerConfig> {
    let mut config = config.clone();
    if images.is_empty() {
        return Ok(config);
    }
    let layers: Vec<DiffId> = images.values().flat_map(|image| image.layers.clone()).collect();
    inner.services.snapshots.hold(id, &layers).map_err(|source| Error::Snapshot {
        what: format!("hold the images of container {id}"),
        source,
    })?;
    let user = match has_user_namespace {
        true => Some(open(&files.user_ns())?),
        false => None,
    };
    for (index, image) in images {
        let Some(mount) = config.mounts.get_mut(*index) else { continue };
        let place = files.image_dir(id, *index);
        let path = mount_one(inner, &place, image, mount, user.as_ref())?;
        mount.host_path = path.to_string_lossy().into_owned();
        mount.uid_mappings.clear();
        mount.gid_mappings.clear();
    }
    Ok(config)
}

fn open(path: &Path) -> Result<OwnedFd> {
    let opened = File::open(path).map(OwnedFd::from);
    opened.map_err(|source| Error::File { what: "open", path: path.to_owned(), source })
}

fn mount_one(
    inner: &Inner,
    place: &Path,
    image: &Image,
    mount: &Mount,
    user: Option<&OwnedFd>,
) -> Result<PathBuf> {
    let snapshots = &inner.services.snapshots;
    let view = match user {
        None => snapshots.open_view(&image.layers),
        Some(user) => snapshots.open_mapped_view(&image.layers, user.as_fd()),
    };
    let view = view.map_err(|error| failed(mount, telemetry::chain(&error)))?;
    crate::files::make_dir(place)?;
    attach(&view, place).map_err(|source| {
        failed(mount, format!("failed to mount the image on {}: {source}", place.display()))
    })?;
    if mount.image_sub_path.is_empty() {
        return Ok(place.to_owned());
    }
    find_in(&view, place, Path::new(&mount.image_sub_path)).map_err(|source| {
        let (path, name) = (&mount.image_sub_path, &mount.image);
        let name = name.as_ref().map_or("", |image| image.image.as_str());
        failed(mount, format!("failed to find \"{path}\" in the image \"{name}\": {source}"))
    })
}

fn attach(view: &OwnedFd, place: &Path) -> std::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::open(place, flags, Mode::empty())?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(view, "", &target, "", flags)?)
}

/// The host's path of a path in a mounted image, whose links lead inside the image. It stays the
/// right one: nobody can write there.
fn find_in(view: &OwnedFd, place: &Path, path: &Path) -> std::io::Result<PathBuf> {
    let found = sys::root::open(view, path, OFlags::PATH)?;
    let real = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    let place = place.canonicalize()?;
    if real.starts_with(&place) {
        return Ok(real);
    }
    Err(std::io::Error::other(format!("it leads to {}", real.display())))
}

#[cfg(test)]
mod tests {
    use types::{IdMapping, ImageSpec};

    use super::*;

    fn volume() -> Mount {
        Mount {
            container_path: "/volume".to_owned(),
            readonly: true,
            image: Some(ImageSpec { image: "image".to_owned(), ..ImageSpec::default() }),
            ..Mount::default()
        }
    }

    #[test]
    fn what_cannot_be_of_an_image_is_refused_with_the_kubelets_word() {
        let ids = vec![IdMapping { host_id: 1000, container_id: 0, length: 10 }];
        let user = UserNamespace { uids: ids.clone(), gids: ids.clone() };
        let mapped = Mount { uid_mappings: ids.clone(), gid_mappings: ids, ..volume() };
        check(&volume(), None).unwrap();
        check(&mapped, Some(&user)).unwrap();
        check(&Mount { image_sub_path: "a/b".to_owned(), ..volume() }, None).unwrap();
        for bad in [
            Mount { readonly: false, ..volume() },
            Mount { host_path: "/x".to_owned(), ..volume() },
            Mount { propagation: Propagation::HostToContainer, ..volume() },
            Mount { image_sub_path: "a/../../b".to_owned(), ..volume() },
            mapped,
        ] {
            let error = check(&bad, None).unwrap_err().to_string();
            assert!(error.starts_with("ImageVolumeMountFailed: mount on /volume: "), "{error}");
        }
    }
}
