//! CreateContainer, StartContainer and the deletion of a container.

use std::{path::PathBuf, sync::Arc};

use monitor_client::{
    CgroupPlacement, ContainerPid, Features, KillCgroup, LogTarget, Monitor, OomFile, Program,
    Rootfs, StartContainer, Started,
};
use tracing::{info, warn};
use types::{ContainerConfig, ContainerId, Image, PidMode};

use crate::{
    error::{Error, Result},
    image_volumes::{self, VolumeImages},
    record::{ContainerRecord, ContainerState, Exit, ImageRef, User},
    service::{blocking, container_key},
    spec,
    task::{PodTask, Slot},
};

impl PodTask {
    /// Makes a container: everything about it is checked, nothing of it runs.
    pub(crate) async fn create_container(
        &mut self,
        config: ContainerConfig,
    ) -> Result<ContainerId> {
        if !self.record.is_ready() {
            return Err(Error::WrongState(format!(
                "sandbox {} is not ready: a container cannot be made in it",
                self.id()
            )));
        }
        if let Some(existing) = self.same_name(&config).await? {
            return Ok(existing);
        }
        let image = self.image_of(&config)?;
        self.validate(&config)?;
        let id = ContainerId::random();
        crate::log::name_container(&id);
        let name = config.image.image.clone();
        let result = self.make(&id, config, &image).await.map_err(|error| match error {
            // It was removed since it was found.
            Error::Snapshot { source: snapshots::SnapshotError::MissingLayer(_), .. } => {
                Error::NoImage(name)
            }
            other => other,
        });
        if result.is_err()
            && let Err(error) = self.delete_files(&id).await
        {
            warn!(error = %telemetry::chain(&error), "undoing a failed creation is not complete");
        }
        result.map(|()| id)
    }

    /// Finds the container of that name. The same request again gets it, as long as
    /// it was not started; one that has ended makes way.
    async fn same_name(&mut self, config: &ContainerConfig) -> Result<Option<ContainerId>> {
        let same = |s: &&Slot| s.record.config.metadata == config.metadata;
        let Some(record) = self.containers.values().find(same).map(|s| s.record.clone()) else {
            return Ok(None);
        };
        match record.state {
            ContainerState::Created if record.config == *config => Ok(Some(record.id.clone())),
            ContainerState::Exited(_) | ContainerState::Unknown => {
                self.delete_container(&record.id).await?;
                Ok(None)
            }
            ContainerState::Created | ContainerState::Starting | ContainerState::Running { .. } => {
                Err(Error::NameTaken(format!(
                    "container {} is attempt {} of \"{}\" already: remove it first",
                    record.id, config.metadata.attempt, config.metadata.name
                )))
            }
        }
    }

    fn image_of(&self, config: &ContainerConfig) -> Result<Arc<Image>> {
        let name = &config.image.image;
        let images = &self.inner.services.images;
        let image = images.get(name).ok_or_else(|| Error::NoImage(name.clone()))?;
        // The kubelet asks by the id; what the pod's author wrote is beside it.
        let asked = match config.image.user_specified_image.as_str() {
            "" => name,
            written => written,
        };
        images.check_use(&image, asked).map_err(|e| Error::ImageDenied(e.to_string()))?;
        Ok(image)
    }

    fn validate(&self, config: &ContainerConfig) -> Result<()> {
        crate::selinux::check(&self.inner, config.security.selinux.as_ref())?;
        check_recursive(config, self.can_recursive_read_only()?)?;
        if self.inner.handler(&self.record.config)?.is_some() {
            let name = &self.record.config.runtime_handler;
            crate::handlers::check_mapped(name, &config.mounts, &config.security.namespaces)?;
        }
        if !config.log_path.is_empty() {
            check_log_path(&config.log_path)?;
        }
        Ok(())
    }

    async fn make(
        &mut self,
        id: &ContainerId,
        config: ContainerConfig,
        image: &Arc<Image>,
    ) -> Result<()> {
        let bundle = self.files.bundle(id);
        let user = self.record.config.security.namespaces.user.clone();
        let images = image_volumes::find(&self.inner, &config, user.as_ref())?;
        let mounted = self.mount_images(id, &config, &images, user.is_some()).await?;
        let built = spec::build(self, id, &mounted, image).await?;
        let record = ContainerRecord {
            id: id.clone(),
            sandbox_id: self.id().clone(),
            image: ImageRef {
                id: image.id,
                reference: image
                    .repo_digests
                    .first()
                    .cloned()
                    .unwrap_or_else(|| image.id.to_string()),
                name: image
                    .repo_tags
                    .first()
                    .cloned()
                    .unwrap_or_else(|| config.image.image.clone()),
                layers: image.layers.clone(),
            },
            created_at_ns: self.inner.clock.now_ns(),
            started_at_ns: 0,
            state: ContainerState::Created,
            log_path: self.log_path(&config),
            user: User {
                uid: built.user.uid,
                gid: built.user.gid,
                additional_gids: built.user.additional_gids.clone(),
            },
            stop_signal: container_spec::stop_signal(config.stop_signal, &image.config),
            cgroup: self.inner.leaf(&self.record.cgroup_parent, id.as_str()),
            net_devices: built.net_devices.clone(),
            removing: false,
            damage: String::new(),
            volume_images: images.iter().map(|(index, image)| (*index, image.id)).collect(),
            config,
        };
        let (inner, layers, key) = (self.inner.clone(), record.image.layers.clone(), id.clone());
        let spec::Built { config_json, process_json, filter, volumes, .. } = built;
        blocking(move || {
            crate::files::make_dir(&bundle.join("rootfs"))?;
            let filter = filter.iter().map(|filter| (launch::FILTER_FILE, filter.to_vec()));
            let texts = [(spec::SPEC_FILE, config_json), (spec::PROCESS_FILE, process_json)];
            for (file, text) in texts.into_iter().chain(filter) {
                let path = bundle.join(file);
                std::fs::write(&path, text).map_err(|source| Error::File {
                    what: "write",
                    path,
                    source,
                })?;
            }
            inner.services.snapshots.prepare_for(&key, &layers, user.as_ref()).map_err(
                |source| Error::Snapshot {
                    what: format!("prepare the root of container {key}"),
                    source,
                },
            )?;
            inner.make_volumes(&layers, &volumes, user.as_ref())
        })
        .await?;
        let record = Arc::new(record);
        self.inner.write_container(record.clone()).await?;
        self.inner.index.publish_container(record.clone());
        info!(name = %record.config.metadata.name, "created");
        self.containers.insert(id.clone(), Slot::new(record));
        Ok(())
    }

    async fn mount_images(
        &self,
        id: &ContainerId,
        config: &ContainerConfig,
        images: &VolumeImages,
        has_user_namespace: bool,
    ) -> Result<ContainerConfig> {
        let (inner, files, images) = (self.inner.clone(), self.files.clone(), images.clone());
        let (id, config) = (id.clone(), config.clone());
        blocking(move || {
            image_volumes::mount(&inner, &files, &id, &config, &images, has_user_namespace)
        })
        .await
    }

    fn log_path(&self, config: &ContainerConfig) -> String {
        let directory = &self.record.config.log_directory;
        if directory.is_empty() || config.log_path.is_empty() {
            return String::new();
        }
        PathBuf::from(directory).join(&config.log_path).to_string_lossy().into_owned()
    }

    /// Starts a container.
    pub(crate) async fn start_container(&mut self, id: &ContainerId) -> Result<()> {
        let Some(slot) = self.containers.get(id) else {
            return Err(Error::NoContainer(id.to_string()));
        };
        if slot.record.state != ContainerState::Created {
            return Err(Error::WrongState(format!(
                "container {id} is {}, it can be started only once",
                state_name(&slot.record.state)
            )));
        }
        if !self.record.is_ready() {
            return Err(Error::WrongState(format!(
                "sandbox {} is not ready: container {id} cannot be started",
                self.id()
            )));
        }
        self.start(id).await
    }

    async fn start(&mut self, id: &ContainerId) -> Result<()> {
        let group = self.make_cgroup(id);
        let starting = self.change_container(id, |r| r.state = ContainerState::Starting);
        // On disk before the process exists: after a crash it is not started again.
        let (group, ()) = tokio::join!(group, starting);
        let started = match group {
            Ok(group) => self.launch(id, group).await,
            Err(error) => Err(error),
        };
        let now = self.inner.clock.now_ns();
        match started {
            Ok(pid) => {
                self.change_container(id, |r| {
                    r.state = ContainerState::Running { pid };
                    r.started_at_ns = now;
                })
                .await;
                info!(pid, "started");
                Ok(())
            }
            Err(error) => {
                let message = telemetry::chain(&error);
                self.unmount_root(id).await;
                let exit = Exit::start_error(&message, now);
                self.change_container(id, |r| {
                    r.state = ContainerState::Exited(exit);
                    r.started_at_ns = now;
                })
                .await;
                if let Some(slot) = self.containers.get(id)
                    && let Err(undo) = self.inner.remove_cgroup(slot.record.cgroup.clone()).await
                {
                    warn!(error = %telemetry::chain(&undo), "the cgroup of a container that did not start remains");
                }
                Err(error)
            }
        }
    }

    /// Makes a container's cgroup; the task is not borrowed.
    fn make_cgroup(&self, id: &ContainerId) -> impl Future<Output = Result<spec::Group>> + use<> {
        let slot = self.containers.get(id).ok_or_else(|| Error::NoContainer(id.to_string()));
        let handler = self.inner.handler(&self.record.config).map(|handler| handler.is_some());
        let record = slot.map(|slot| slot.record.clone());
        let (inner, bundle) = (self.inner.clone(), self.files.bundle(id));
        async move {
            let (record, has_program) = (record?, handler?);
            spec::make_cgroup(&inner, &record, &bundle, has_program).await
        }
    }

    /// Has the monitor start the process in its cgroup; returns its number.
    async fn launch(&mut self, id: &ContainerId, group: spec::Group) -> Result<i32> {
        let holder = group.holder;
        let ready = match self.limit_pod().await {
            Ok(()) => self.take_devices(id).await,
            Err(error) => Err(error),
        };
        let started = match ready {
            Ok(()) => self.ask_to_start(id, group.placement, group.oom_files, group.kill).await,
            Err(error) => Err(error),
        };
        crate::run::release(holder).await;
        let started = started?;
        for notice in started.notices {
            warn!("{notice}");
        }
        Ok(started.pid)
    }

    /// Moves the network devices that a container is given into its pod's network.
    async fn take_devices(&self, id: &ContainerId) -> Result<()> {
        let devices = self.containers.get(id).map(|slot| slot.record.net_devices.clone());
        let devices = devices.filter(|devices| !devices.is_empty());
        let (Some(devices), Some(netns)) = (devices, &self.record.netns) else { return Ok(()) };
        self.inner
            .services
            .network
            .take_devices(netns, devices)
            .await
            .map_err(|source| Error::NetDevices { id: id.to_string(), source: source.into() })
    }

    async fn ask_to_start(
        &self,
        id: &ContainerId,
        cgroup: CgroupPlacement,
        oom_files: Vec<OomFile>,
        kill: KillCgroup,
    ) -> Result<Started> {
        let slot = self.containers.get(id).ok_or_else(|| Error::NoContainer(id.to_string()))?;
        let record = slot.record.clone();
        let monitor = self.handle.monitor().ok_or_else(|| {
            Error::WrongState(format!("the monitor of sandbox {} is dead", self.id()))
        })?;
        let bundle = self.files.bundle(id);
        let program = self.program(&monitor, &record.config)?;
        let active = self.inner.services.snapshots.get(id).ok_or_else(|| {
            Error::WrongState(format!("the root file system of container {id} is gone"))
        })?;
        let request = StartContainer {
            id: id.clone(),
            rootfs_target: bundle.join("rootfs"),
            bundle,
            rootfs: Rootfs::Overlay { lower: active.lower, upper: active.upper, work: active.work },
            pid: match &record.config.security.namespaces.pid {
                PidMode::Pod => ContainerPid::Pod,
                PidMode::Container => ContainerPid::New,
                PidMode::Node => ContainerPid::Host,
                PidMode::Target(target) => ContainerPid::Container(self.target(target)?),
            },
            cgroup,
            oom_files,
            kill,
            log: self.log_request(&record)?,
            tty: record.config.tty,
            stdin: record.config.stdin,
            stdin_once: record.config.stdin_once,
            program,
        };
        monitor
            .start_container(request)
            .await
            .map_err(|e| Error::Start { id: id.to_string(), message: telemetry::chain(&e) })
    }

    /// The program that is to start it, where the handler has one.
    fn program(&self, monitor: &Monitor, config: &ContainerConfig) -> Result<Option<Program>> {
        let Some(handler) = self.inner.handler(&self.record.config)? else { return Ok(None) };
        let has = |wanted| monitor.features().has(wanted);
        let lacks = match has_mapped(config) {
            _ if !has(Features::PROGRAMS) => Some("runs no programs"),
            true if !has(Features::MAPPED_PROGRAMS) => Some("maps no owners for programs"),
            _ => None,
        };
        if let Some(lacks) = lacks {
            return Err(Error::WrongState(format!(
                "the monitor of sandbox {} is of an older version that {lacks}",
                self.id()
            )));
        }
        // Here and not by the program, which may see a copy of what the pod's directory holds.
        crate::files::make_dir(&self.files.program_root())?;
        let driver = self.inner.services.cgroups.driver();
        Ok(Some(handler.program(&self.files.program_root(), driver)))
    }

    /// Recursively read-only is what the kernel makes, or the handler's program.
    fn can_recursive_read_only(&self) -> Result<bool> {
        Ok(match self.inner.handler(&self.record.config)? {
            Some(handler) => handler.features.recursive_read_only,
            None => spec::supports_recursive_read_only(),
        })
    }

    /// Takes the root off that a program has run.
    pub(crate) async fn unmount_root(&self, id: &ContainerId) {
        let name = &self.record.config.runtime_handler;
        if name.is_empty() || name == crate::DEFAULT_HANDLER {
            return; // it was in the container's own mount namespace
        }
        let (files, own) = (self.files.clone(), id.clone());
        if let Err(error) = blocking(move || files.unmount_root(&own)).await {
            warn!(container = %id, error = %telemetry::chain(&error), "its root stays mounted for now");
        }
    }

    fn target(&self, id: &str) -> Result<ContainerId> {
        let running = |s: &&Slot| s.record.id.as_str().starts_with(id) && s.record.may_run();
        self.containers.values().find(running).map(|s| s.record.id.clone()).ok_or_else(|| {
            Error::Invalid(format!("the target container \"{id}\" does not run in this sandbox"))
        })
    }

    fn log_request(&self, record: &ContainerRecord) -> Result<Option<LogTarget>> {
        if record.log_path.is_empty() {
            return Ok(None);
        }
        let directory = PathBuf::from(&self.record.config.log_directory);
        let relative = PathBuf::from(&record.config.log_path);
        let parent = directory.join(relative.parent().unwrap_or(std::path::Path::new("")));
        crate::files::make_public_dir(&parent)?;
        Ok(Some(LogTarget {
            directory,
            file: relative,
            max_line: self.inner.options.max_log_line_bytes,
            max_bytes: self.inner.options.max_log_bytes,
            max_files: self.inner.options.max_log_files,
        }))
    }

    /// Changes a container's record, keeps it and publishes it.
    pub(crate) async fn change_container(
        &mut self,
        id: &ContainerId,
        change: impl FnOnce(&mut ContainerRecord),
    ) {
        let Some(slot) = self.containers.get_mut(id) else { return };
        let mut record = (*slot.record).clone();
        change(&mut record);
        slot.record = Arc::new(record);
        let record = slot.record.clone();
        self.inner.keep_container(&record).await;
        self.inner.index.publish_container(record);
    }

    /// Deletes a container that does not run.
    pub(crate) async fn delete_container(&mut self, id: &ContainerId) -> Result<()> {
        let Some(slot) = self.containers.get(id) else { return Ok(()) };
        let (cgroup, is_gone) = (slot.record.cgroup.clone(), slot.cgroup_is_gone);
        self.change_container(id, |r| r.removing = true).await;
        if !is_gone {
            self.inner.remove_cgroup(cgroup).await?;
        }
        self.delete_files(id).await?;
        self.containers.remove(id);
        self.inner.index.forget_container(id);
        info!(container = %id, "removed");
        Ok(())
    }

    async fn delete_files(&self, id: &ContainerId) -> Result<()> {
        let (inner, files, id, sandbox) =
            (self.inner.clone(), self.files.clone(), id.clone(), self.id().clone());
        blocking(move || {
            files.unmount_root(&id)?;
            files.unmount_images(&id)?;
            // Where the program could not delete it itself.
            crate::files::remove_dir(&files.program_root().join(id.as_str()))?;
            inner.services.snapshots.remove(&id).map_err(|source| Error::Snapshot {
                what: format!("remove the root of container {id}"),
                source,
            })?;
            crate::files::remove_dir(&files.bundle(&id))?;
            crate::files::remove_dir(&inner.volumes_dir(&id))?;
            inner.container_store.remove(&container_key(&sandbox, &id)).map_err(|source| {
                Error::Record { what: format!("the removal of container {id}"), source }
            })
        })
        .await
    }
}

/// Whether owners are mapped for a container: of all that it sees, or of a mount.
fn has_mapped(config: &ContainerConfig) -> bool {
    config.security.namespaces.user.is_some()
        || config.mounts.iter().any(|mount| !mount.uid_mappings.is_empty())
}

/// Refuses mounts that are to be read-only with all below them where the kernel cannot do it. What
/// contradicts itself is refused with the specification.
fn check_recursive(config: &ContainerConfig, is_supported: bool) -> Result<()> {
    match config.mounts.iter().find(|mount| mount.recursive_read_only) {
        Some(mount) if !is_supported => Err(Error::RecursiveReadOnly(format!(
            "the mount on {} is to be read-only with all below it, which this runtime handler cannot",
            mount.container_path
        ))),
        _ => Ok(()),
    }
}

fn check_log_path(path: &str) -> Result<()> {
    let bad = path.starts_with('/') || path.contains('\0') || path.split('/').any(|p| p == "..");
    if bad {
        return Err(Error::Invalid(format!(
            "log_path: \"{path}\" must be relative and stay in the log directory"
        )));
    }
    Ok(())
}

fn state_name(state: &ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Starting => "being started",
        ContainerState::Running { .. } => "running",
        ContainerState::Exited(_) => "exited",
        ContainerState::Unknown => "in an unknown state",
    }
}

impl Exit {
    /// A container whose process could not be started (containerd's code and reason).
    pub(crate) fn start_error(message: &str, now_ns: i64) -> Self {
        Self {
            code: 128,
            reason: "StartError".to_owned(),
            message: message.to_owned(),
            finished_at_ns: now_ns,
        }
    }

    /// A container of whose end no witness is left. A code is never invented: 255 is
    /// the one that the kubelet's other runtimes use for it.
    pub(crate) fn unknown(why: &str, now_ns: i64) -> Self {
        Self {
            code: 255,
            reason: "Unknown".to_owned(),
            message: why.to_owned(),
            finished_at_ns: now_ns,
        }
    }

    /// An end that the monitor saw.
    pub(crate) fn from_monitor(seen: &monitor_client::Exit, started_at_ns: i64) -> Self {
        let code = seen.signal.map_or(seen.code, |signal| 128 + signal);
        // Only a first process that was killed counts: a child's death is its own matter.
        let reason = match (seen.oom_killed && code == 137, code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            (false, _) => "Error",
        };
        Self {
            code,
            reason: reason.to_owned(),
            message: String::new(),
            finished_at_ns: seen.finished_at_ns.max(started_at_ns.saturating_add(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recursive_mounts_need_a_kernel_that_knows_them() {
        let config: ContainerConfig = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "c", "attempt": 0 },
            "image": {}, "command": [], "args": [], "working_dir": "", "envs": [],
            "mounts": [
                { "container_path": "/a" },
                { "container_path": "/b", "readonly": true, "recursive_read_only": true },
            ],
            "devices": [], "labels": {}, "annotations": {}, "log_path": "", "stdin": false,
            "stdin_once": false, "tty": false, "cdi_devices": [], "stop_signal": null,
            "resources": {}, "security": types::ContainerSecurity::default(),
        }))
        .unwrap();
        check_recursive(&config, true).unwrap();
        let error = check_recursive(&config, false).unwrap_err().to_string();
        assert!(error.starts_with("RROUnsupported: the mount on /b "), "{error}");
    }

    #[test]
    fn log_paths_that_leave_the_directory_are_refused() {
        for bad in ["/x", "../x", "a/../../x", "a\0b", ".."] {
            assert!(check_log_path(bad).is_err(), "{bad:?}");
        }
        check_log_path("name/0.log").unwrap();
    }
}
